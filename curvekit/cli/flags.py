"""What flags are made of: a command among the others, and the kinds of value that its flags take."""

from __future__ import annotations

import argparse
import copy
import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from curvekit.errors import CurvekitError
from curvekit.files import checked_path
from curvekit.shapes import DEEPEST, too_deep

Commands = argparse._SubParsersAction  # what the program's parser adds its commands to
Run = Callable[[argparse.Namespace], int | None]


_BEHIND = "\0"  # marks, while it is parsed, a word that stands behind `--`; no argument can hold it
_LONGEST = 400  # characters of an error that may be the user's own text


class Parser(argparse.ArgumentParser):
    """A parser that takes flags, arguments and ``--`` in any order, ``_`` for ``-``, and names what a flag is near to.

    What it cannot take ends with its own usage, which is that of the command.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers is not None or self._within:  # the program itself hands on to its commands
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            given, behind = self._spelt(list(args or []))
            found, extras = self._mixed(given, behind, namespace)
            first = extras[0].partition("=")[0] if extras else ""
            if first in self._option_string_actions and extras == behind[len(behind) - len(extras) :]:
                # all that could be an argument is there already, so flags go on behind it
                found, extras = self._mixed([*given, *self._spelt(extras)[0]], behind[: -len(extras)], namespace)
        finally:
            self._within = False
        if extras:
            self._refuse(extras)
        return found, []

    _within = False

    def _mixed(self, given: list[str], behind: list[str], namespace: Any) -> tuple[Any, list[str]]:
        found, extras = self.parse_known_intermixed_args(
            [*given, *(_BEHIND + word for word in behind)], copy.copy(namespace)
        )
        return found, [word.removeprefix(_BEHIND) for word in extras]

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        get: Any = super()
        return get._get_value(action, arg_string.removeprefix(_BEHIND))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            near = difflib.get_close_matches(str(value), known, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            told = f"there is no {_cut(str(value))!r}{hint} (choose from {', '.join(known)})"
            raise argparse.ArgumentError(action, told)

    def _spelt(self, words: list[str]) -> tuple[list[str], list[str]]:
        """The words before ``--``, their flags in our spelling, and the words behind it."""
        cut = words.index("--") if "--" in words else len(words)
        known = self._option_string_actions
        given = []
        for word in words[:cut]:
            name, equals, value = word.partition("=")
            dashed = name.replace("_", "-")
            given.append(f"{dashed}{equals}{value}" if name not in known and dashed in known else word)
        return given, words[cut + 1 :]

    def _refuse(self, extras: list[str]) -> NoReturn:
        flags = [word.partition("=")[0] for word in extras if word.startswith("-") and len(word) > 1]
        if not flags:
            self.error(f"{_cut(extras[0])!r} is one argument too many; quote a text of several words")
        near = difflib.get_close_matches(flags[0].replace("_", "-"), list(self._option_string_actions), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        self.error(f"there is no flag {_cut(flags[0])}{hint} (see {self.prog} --help)")

    def error(self, message: str) -> NoReturn:
        super().error(_cut(message, _LONGEST))


def _cut(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 20]}...{text[-17:]}"


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
            try:
                if text.startswith("{"):
                    if not isinstance(parsed := _parsed(text), dict):
                        parser.error(f"argument {option}: {text!r} is no JSON object; quote the names in it")
                    pairs |= parsed
                elif equals:
                    pairs[name] = _parsed(value)
                else:
                    parser.error(f"argument {option}: {text!r} is not name=value")
            except CurvekitError as error:
                parser.error(f"argument {option}: {error}; write it shorter")
        setattr(namespace, self.dest, pairs)


def _parsed(text: str) -> Any:
    """A JSON value, else the text itself."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists within lists
        raise CurvekitError("it is nested too deeply, or holds a number of thousands of digits") from error
    if too_deep(value):
        raise CurvekitError(f"it is nested more than {DEEPEST} times")
    return value


def add_plugin(each: argparse.ArgumentParser) -> None:
    """``--plugin FILE``, which ``main`` runs before the command."""
    each.add_argument(
        "--plugin",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that registers recipes, normalisers or blends of your own; it is run, so know it",
    )


def path(text: str) -> Path:
    try:
        return checked_path(text)
    except CurvekitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on, below 2^31")
    return number


def listed(words: Sequence[str]) -> list[str]:
    """``gpt2,curve`` and ``gpt2 curve`` alike."""
    return [part for word in words for part in word.replace(",", " ").split()]
