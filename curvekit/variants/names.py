"""Names of what a user registers: what they may look like, which are taken, and the source that stands behind each."""

from __future__ import annotations

import hashlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from curvekit.errors import CurvekitError, first_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
_TREATED = ("flash", "paged")  # transformers takes an attention with such a name for one of another kind


def check_name(name: str, what: str, taken: Iterable[str], own: Iterable[str], replace: bool) -> None:
    """Return if ``name`` can be given to ``what``.

    Args:
        taken: names that are in use; of them ``own`` are the user's, which ``replace`` frees.

    Raises:
        CurvekitError: it is taken, or is no name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CurvekitError(
            f"the {what} is called {name!r}; a name has at most 40 letters, digits and signs of '_.+-' and begins with "
            "a letter or a digit"
        )
    if name in set(own):
        if not replace:
            raise CurvekitError(
                f"the {what} {name!r} is registered already; give replace=True to put this one in its place"
            )
    elif name in set(taken):
        raise CurvekitError(f"the name {name!r} of the {what} is taken; choose another")


def check_part_name(name: str, what: str, taken: Iterable[str], own: Iterable[str], replace: bool) -> None:
    """As :func:`check_name`, of a normaliser, whose name transformers reads too."""
    check_name(name, what, taken, own, replace)
    if treated := [word for word in _TREATED if word in name]:
        raise CurvekitError(f"the {what} is called {name!r}, and transformers reads something into {treated[0]!r}; "
                            "choose another name")  # fmt: skip


def digits(*functions: Any) -> str:
    """12 hexadecimal digits of the source of functions or classes; of their names where there is no source."""
    digest = hashlib.sha256()
    for function in functions:
        text = _source(function)
        if text is None and isinstance(function, type):  # of a class of a notebook's Python knows the methods alone
            text = "".join(filter(None, map(_source, vars(function).values()))) or None
        text = repr(getattr(function, "__qualname__", type(function).__qualname__)) if text is None else text
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:12]


def _source(function: Any) -> str | None:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return None


def called(function: Callable[..., Any], what: str, *arguments: Any, **others: Any) -> Any:
    """What a user's function returns.

    Raises:
        CurvekitError: it raised something, which is told with the file and the line.
    """
    try:
        return function(*arguments, **others)
    except CurvekitError:
        raise
    except Exception as error:
        raise CurvekitError(f"{what} failed at {place(error)}: {type(error).__name__}: {first_line(error)}") from error


def place(error: BaseException, file: str | None = None) -> str:
    """Where an error came from, ``my_recipe.py, line 7``: the last line of ``file``, or of no library."""
    if isinstance(error, SyntaxError) and error.lineno is not None and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if (each.filename == file if file else _is_users(each.filename))]
    last = (own or list(frames))[-1]
    return f"{_short(last.filename)}, line {last.lineno}"


def _is_users(file: str) -> bool:
    return not re.search(r"site-packages|[/\\]curvekit[/\\]\w+[/\\]?\w*\.py$", file)


def _short(file: str) -> str:
    """A file's last part; a notebook's cell has a number for a name."""
    name = re.split(r"[/\\]", file)[-1]
    return "the notebook" if re.fullmatch(r"\d+\.py", name) or name.startswith("<") else name
