"""Shapes of what is read from disk: where a saved value is checked against what is expected, by file and field.

A shape is a type (``int``, ``float``, which an integer fits too, ``str``, ``bool``, ``dict``, ``list``), ``None``, a
tuple of shapes of which one must fit, ``[shape]`` for a list of any length, ``{str: shape}`` for an object with any
names, or an object by its fields, of which :class:`Maybe` marks those that may be missing; others may be there::

    {"recipe": str, "rows": [{"perplexity": (float, None), "note": Maybe(str)}]}
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from curvekit.errors import CurvekitError

DEEPEST = 64  # lists and objects within one another
_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object", list: "a list",
    None: "null",
}  # fmt: skip


class Maybe(NamedTuple):
    """A field that may be missing."""

    shape: Any


def require(value: Any, shape: Any, source: object) -> Any:
    """Return ``value`` if it has the shape.

    Raises:
        CurvekitError: ``runs/a/metrics.json: leaks is 3; expected true or false``, about the first that has not.
    """
    if fault := _fault(value, shape, ""):
        raise CurvekitError(f"{source}: {fault}; restore the file, or make it again")
    return value


def too_deep(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether lists and objects lie within one another more than ``deepest`` times; not a recursion itself."""
    level = [value]
    for _ in range(deepest + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
    return True


def _fault(value: Any, shape: Any, field: str) -> str | None:
    if isinstance(shape, tuple) and not isinstance(shape, Maybe):
        faults = [_fault(value, each, field) for each in shape]
        if None in faults:
            return None
        inner = [
            fault
            for fault, each in zip(faults, shape, strict=True)
            if isinstance(each, dict | list) and isinstance(value, type(each))
        ]
        return inner[0] if inner else _unlike(value, shape, field)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _unlike(value, (list,), field)
        return next((f for i, each in enumerate(value) if (f := _fault(each, shape[0], f"{field}[{i}]"))), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _unlike(value, (dict,), field)
        for name, inside in shape.items():
            if name is str:
                for key, each in value.items():
                    if fault := _fault(each, inside, _joined(field, key)):
                        return fault
            elif name in value:
                inside = inside.shape if isinstance(inside, Maybe) else inside
                if fault := _fault(value[name], inside, _joined(field, name)):
                    return fault
            elif not isinstance(inside, Maybe):
                return f"it has no field {_joined(field, name)!r}"
        return None
    return None if _is(value, shape) else _unlike(value, (shape,), field)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if kind is float:
        return _is(value, int) or (isinstance(value, float) and math.isfinite(value))
    if kind is str:
        return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, kind)


def _unlike(value: Any, kinds: tuple, field: str) -> str:
    wanted = [_WORDS[dict if isinstance(k, dict) else list if isinstance(k, list) else k] for k in kinds]
    said = ascii(value)
    said = said if len(said) <= 40 else f"{said[:37]}..."
    return f"{field or 'it'} is {said}; expected {' or '.join(wanted)}"


def _joined(field: str, name: object) -> str:
    return f"{field}.{name}" if field else str(name)
