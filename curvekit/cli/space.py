"""``curvekit space``: a run as a folder that is a Hugging Face Space."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path


def add(commands: Commands) -> None:
    each = command(
        commands,
        "space",
        run,
        "write a folder that is a Hugging Face Space of a run",
        "  curvekit space runs/curve spaces/curve\n  cd spaces/curve && python app.py",
    )
    each.add_argument("model", metavar="RUN", help="a run's folder, a saved model's folder, or a base")
    each.add_argument("folder", type=path, metavar="FOLDER", help="a new one")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.serving.running import extra

    with extra():
        import curvekit.serving.gradio_demo  # noqa: F401  the Space is made of it
    from curvekit.serving.spaces import space

    print(space(arguments.model, arguments.folder))
