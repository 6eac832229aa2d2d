"""The program ``curvekit``: its commands under one parser, and how each of them ends.

A command is a room of this wing with two functions: ``add(commands)`` declares its flags and its help,
``run(arguments)`` does what it is for. Heavy modules load inside ``run``, and help costs nothing. What ``evaluate``,
``generate`` and ``compare`` print on standard output can go into a file; what else there is to say goes to standard
error. Exit status: 0; 1 where ``check`` finds a difference; 2 for an input that cannot work, in one sentence; 130 when
stopped by Ctrl-C; 141 when nobody reads on.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from curvekit import __version__
from curvekit.cli.flags import Parser
from curvekit.errors import CurvekitError
from curvekit.training.processes import LostProcess, place

COMMANDS = (  # each a room of this wing; in this order they stand in the help
    "report",
    "train",
    "pretrain",
    "prepare",
    "search",
    "prefer",
    "constitution",
    "card",
    "explore",
    "evaluate",
    "generate",
    "chat",
    "attribute",
    "vector",
    "steering",
    "fewshot",
    "compare",
    "rank",
    "zoo",
    "check",
    "merge",
    "serve",
    "demo",
    "space",
    "bench",
)
# What lies outside a program: its message says more than a traceback.
_SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


def parser() -> argparse.ArgumentParser:
    """The command line, with every command and its help."""
    whole = Parser(
        prog="curvekit",
        description="Fine-tune GPT-2 with curve embeddings and SoftEMax attention, and compare the recipes honestly.",
        epilog="examples:\n"
        "  curvekit report                                        four recipes on pydocs, as a report\n"
        "  curvekit train --recipe curve --out runs/curve         one run\n"
        "  curvekit evaluate runs/curve --corpus pydocs           its perplexity, with a signature\n"
        "  curvekit generate runs/curve 'The curve runs through'  what it writes\n"
        "  curvekit compare runs/gpt2 runs/curve                  is the difference one?\n\n"
        "`curvekit COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"curvekit {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"curvekit.cli.{name}").add(commands)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    _never_fail_on_a_character()
    argv = sys.argv[1:] if argv is None else argv
    try:
        for number, word in enumerate(argv, start=1):
            _require_utf8(number, word)
        arguments = parser().parse_args(argv)
        arguments.argv = list(argv)
        if place().world > 1 and not getattr(arguments, "many", False):
            raise CurvekitError(f"{argv[0]} is the work of one process; start it without a launcher")
        with _plain_warnings():
            _load_plugins(arguments)
            status = arguments.run(arguments)
            if sys.stdout is not None:  # closed by who called
                sys.stdout.flush()
    except CurvekitError as error:
        return _failed(error)
    except BrokenPipeError:
        # The reader has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("curvekit: stopped", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not _no_memory(error):
            raise
        return _failed("memory ran out; lower batch_size, block_size or the sizes of the model")
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        where = error.filename or "standard output"
        return _failed(f"{where}: {error.strerror}; check its permissions and the free space")
    return status or 0


def _load_plugins(arguments: argparse.Namespace) -> None:
    if files := getattr(arguments, "plugin", []):
        from curvekit.variants.plugins import load_plugin

        for file in files:
            load_plugin(file)


def _never_fail_on_a_character() -> None:
    """Write what a terminal or a file's encoding lacks as an escape: no command fails at its end on a letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_utf8(number: int, word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError as error:
        shown = ascii(word) if len(word) <= 60 else f"{word[:57]!a}..."
        raise CurvekitError(
            f"argument {number}, {shown}, is not UTF-8; give it in UTF-8, or rename the file"
        ) from error


def _no_memory(error: BaseException) -> bool:
    """Whether this is what Python and torch raise when memory runs out."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def _failed(error: object) -> int:
    if place().first or isinstance(error, LostProcess):  # of several processes one talks, unless it is gone
        print(f"curvekit: error: {error}", file=sys.stderr, flush=True)
    return 2


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line of its words, without the line of source that raised it."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        print(f"curvekit: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.showwarning = show
        yield
