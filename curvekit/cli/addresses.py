"""The flags of what listens on a port: its models, its address, and the key that others need."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import path


def add_address(command: argparse.ArgumentParser, port: int, holds: str) -> None:
    """Add them to a command.

    Args:
        port: the default.
        holds: what the key's file holds.
    """
    command.add_argument("models", nargs="+", metavar="MODEL", help="a base, a run's folder or a saved model's folder")
    command.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: %(default)s: this machine)"
    )
    command.add_argument("--port", type=int, default=port, metavar="N", help="0: a free one (default: %(default)s)")
    command.add_argument("--key-file", type=path, metavar="FILE", help=f"holds {holds}; or CURVEKIT_API_KEY")
