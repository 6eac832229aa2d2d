"""``curvekit demo``: models to try in a browser, side by side."""

from __future__ import annotations

import argparse
import os

from curvekit.cli.flags import Commands, add_plugin, command, path
from curvekit.cli.printing import say


def add(commands: Commands) -> None:
    each = command(
        commands,
        "demo",
        run,
        "try models in a browser, side by side, their tokens coloured by probability",
        "  curvekit demo mini\n  curvekit demo runs/curve runs/gpt2 --port 0",
    )
    each.add_argument("models", nargs="+", metavar="MODEL", help="a base, a run's folder or a saved model's folder")
    each.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: %(default)s: this machine)"
    )
    each.add_argument("--port", type=int, default=7860, metavar="N", help="0: a free one (default: %(default)s)")
    each.add_argument("--prompt", default="The river", help="what stands in the field at first (default: %(default)s)")
    each.add_argument(
        "--key-file", type=path, metavar="FILE", help="holds the password of the user `curvekit`; or CURVEKIT_API_KEY"
    )
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.serving import running

    key = running.key_of(arguments.host, arguments.key_file, os.environ)
    try:
        from curvekit.serving.gradio_demo import demo, launch
    except ImportError as error:
        raise running.needs_extra() from error
    bound = running.listening(arguments.host, arguments.port)
    url = running.address(bound)
    voices = running.gathered(arguments.models)
    bound.close()  # Gradio binds by number alone
    blocks = demo(voices, prompt=arguments.prompt)

    port = int(url.rpartition(":")[2])
    auth = ("curvekit", key) if key else None
    launch(blocks, server_name=arguments.host, server_port=port, auth=auth, prevent_thread_lock=True)
    say(f"curvekit: {url} shows {', '.join(voices)}; Ctrl-C ends it" + ("; the user is curvekit" if key else ""))
    try:
        blocks.block_thread()
    finally:
        blocks.close()
