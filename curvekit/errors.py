"""What a user can mend: one exception with one clear sentence, and the nearest names for a misspelt one."""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, Union, get_args, get_origin


class CurvekitError(ValueError):
    """A wrong input. The message says what was seen, what was expected and what to do.

    The command line prints it as ``curvekit: error: ...`` and exits with status 2.
    """


def as_command(main: Callable[[], object]) -> None:
    """Run the ``main`` of a module that ``python -m`` starts: what cannot work ends as it does in ``curvekit``."""
    try:
        main()
    except CurvekitError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or what kind it is where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping", list: "a list",
}  # fmt: skip


def require_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not what its annotation says; a whole number is a number too, true and false are not.

    Raises:
        CurvekitError: ``degree is 2.5; give a whole number``
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = tuple(get_origin(kind) or kind for kind in kinds)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        raise CurvekitError(f"{name} is {value!r}; give {_WORDS[kinds[0]]}")


def pick(name: str, options: Iterable[str], what: str) -> str:
    """Return ``name`` if it is one of ``options``; otherwise raise with the nearest names.

    Raises:
        CurvekitError: ``unknown recipe 'curv'; did you mean 'curve'? (known: gpt2, curve, ...)``
    """
    known = list(options)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise CurvekitError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def not_whole(what: str, folder: object, error: Exception) -> str:
    """What is said of a saved part that cannot be read."""
    reason = first_line(error)
    return f"the {what} in {folder} is not whole ({reason}); restore it, or delete the run's folder and train it again"
