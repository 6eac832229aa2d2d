"""``curvekit demo``: models to try in a browser, side by side."""

from __future__ import annotations

import argparse
import os
import signal

from curvekit.cli.addresses import add_address
from curvekit.cli.flags import Commands, add_plugin, command
from curvekit.cli.printing import say


def add(commands: Commands) -> None:
    each = command(
        commands,
        "demo",
        run,
        "try models in a browser, side by side, their tokens coloured by probability",
        "  curvekit demo mini\n  curvekit demo runs/curve runs/gpt2 --port 0",
    )
    add_address(each, 7860, "the password of the user `curvekit`")
    each.add_argument("--prompt", default="The river", help="what stands in the field at first (default: %(default)s)")
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.serving import running

    key = running.key_of(arguments.host, arguments.key_file, os.environ)
    with running.extra():
        from curvekit.serving.gradio_demo import demo, launch
    bound = running.listening(arguments.host, arguments.port)
    url = running.address(bound)
    voices = running.gathered(arguments.models)
    bound.close()  # Gradio binds by number alone
    blocks = demo(voices, prompt=arguments.prompt)

    port = int(url.rpartition(":")[2])
    auth = ("curvekit", key) if key else None
    launch(blocks, server_name=arguments.host, server_port=port, auth=auth, prevent_thread_lock=True)
    say(f"curvekit: {url} shows {', '.join(voices)}; Ctrl-C ends it" + ("; the user is curvekit" if key else ""))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    try:
        blocks.block_thread()
    finally:
        blocks.close()
