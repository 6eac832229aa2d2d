"""What flags are made of: a command among the others, and the kinds of value that its flags take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Commands = argparse._SubParsersAction  # what the program's parser adds its commands to
Run = Callable[[argparse.Namespace], int | None]


def command(
    commands: Commands, name: str, run: Run, purpose: str, examples: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """A command with its help; ``main`` calls ``run`` with what was given, and flags are added to what returns.

    Args:
        purpose: a sentence without its capital and full stop, for the list of commands and the command's own help.
        examples: command lines, each indented by two spaces.
        usage: where argparse's own would list every setting of a run.
    """
    each: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=usage,
    )
    each.set_defaults(run=run)
    return each


class Pairs(argparse.Action):
    """``degree=3 window=centred`` or one JSON object, as a dictionary."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        pairs = dict(getattr(namespace, self.dest, {}))
        for text in values:
            name, equals, value = text.partition("=")
            if text.startswith("{"):
                if not isinstance(parsed := _parsed(text), dict):
                    parser.error(f"argument {option}: {text!r} is no JSON object; quote the names in it")
                pairs |= parsed
            elif equals:
                pairs[name] = _parsed(value)
            else:
                parser.error(f"argument {option}: {text!r} is not name=value")
        setattr(namespace, self.dest, pairs)


def _parsed(text: str) -> Any:
    """A JSON value, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def path(text: str) -> Path:
    return Path(text).expanduser()


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def listed(words: Sequence[str]) -> list[str]:
    """``gpt2,curve`` and ``gpt2 curve`` alike."""
    return [part for word in words for part in word.replace(",", " ").split()]
