"""A setting: a field of a dataclass whose notes make the flag, the notebook's parameter and the check of its value.

:class:`Settings` is what the dataclasses of such fields share.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any, Self, get_type_hints

from curvekit.errors import CurvekitError, pick, require_type
from curvekit.files import as_typed, checked_path


def notes(
    help: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    result: bool = True,
) -> dict[str, Any]:
    """What the command line's help, the notebooks and ``validate`` say of a setting.

    ``result`` is False for one that changes no figure of the run: a run may go on with another value.
    """
    return {"help": help, "choices": choices, "least": least, "most": most, "result": result}


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field with its default and its notes."""
    return field(default=default, metadata=notes(help, **more))


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: not where a file's name holds bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check(name: str, value: Any, hint: Any, notes: Mapping[str, Any]) -> None:
    """Check a value's type, choice and range."""
    require_type(name, value, hint)
    if value is None:
        return
    if isinstance(value, str) and not _is_unicode(value):
        raise CurvekitError(f"{name} is {value!r}, which is no Unicode and cannot be written down; rename it")
    if notes["choices"]:
        pick(str(value), notes["choices"], name)
    least, most = notes["least"], notes["most"]
    if isinstance(value, str):
        checked_path(value, name)
    if isinstance(value, int) and abs(value) >= 2**31 and most is None:
        raise CurvekitError(f"{name} is {short(value)}; give a number below 2^31")
    if isinstance(value, int | float):
        if value != value or (least is not None and value < least) or value == float("inf"):
            raise CurvekitError(f"{name} is {short(value)}; give {least} or more")
        if most is not None and value > most:
            raise CurvekitError(f"{name} is {short(value)}; give at most {most}")


def short(value: float) -> str:
    """A number as it is written, or of how many bits it is: Python does not write those of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"
    return str(value)


class Settings:
    """What a dataclass of :func:`setting` fields can do, whatever they are."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings by name, as in ``config.json``.

        Raises:
            CurvekitError: a name that is no setting, with the nearest ones, or a value that no run can have.
        """
        known = [each.name for each in _fields(cls)]
        return cls(**{pick(name, known, "setting"): value for name, value in values.items()}).checked()

    def to_dict(self) -> dict[str, Any]:
        own: Any = self
        return asdict(own)

    def checked(self) -> Self:
        """Return itself if every value by itself has the type, the choice and the range of its setting.

        Raises:
            CurvekitError: one sentence about the first that has not.
        """
        own: Any = type(self)
        hints = _hints(own)
        for each in _fields(self):
            check(each.name, getattr(self, each.name), hints[each.name], each.metadata)
        return self

    def fingerprint(self) -> str:
        """12 hexadecimal digits of the settings that change the result; what is local by its path as given."""
        return hashlib.sha256(json.dumps(self.results(), sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, other: Self) -> list[str]:
        """``steps is 300, not 400`` for every setting that makes ``other`` another run."""
        mine, theirs = self.results(), other.results()
        return [f"{name} is {mine[name]!r}, not {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]

    def flags(self, usual: Mapping[str, Any]) -> list[str]:
        """The words of a command line that set what is not as usual; files and folders by their names."""
        unusual = {name: value for name, value in self.results().items() if name not in usual or value != usual[name]}
        return as_flags({name: as_typed(value) for name, value in unusual.items()})

    def results(self) -> dict[str, Any]:
        """The settings that change the result: not the data folder, the checkpoints, nor who is told of it."""
        return {each.name: getattr(self, each.name) for each in _fields(self) if each.metadata["result"]}


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these settings; what is None, and so left open, has none."""
    words: list[str] = []
    for name, value in settings.items():
        if value is None:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, dict):
            words += [f"{key}={each if _is_plain(each) else json.dumps(each)}" for key, each in value.items()]
        elif value is not True:
            words.append("false" if value is False else str(value))
    return words


def _is_plain(value: Any) -> bool:
    """Whether a value is a string that is read as itself, and not as the JSON that it may be."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return True
    return False


def _fields(of: Any) -> tuple[Any, ...]:
    return fields(of)


@functools.cache
def _hints(of: type) -> dict[str, Any]:
    return get_type_hints(of)
