"""A setting: a field of a dataclass whose notes make the flag, the notebook's parameter and the check of its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from curvekit.errors import CurvekitError, pick, require_type
from curvekit.files import checked_path


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
