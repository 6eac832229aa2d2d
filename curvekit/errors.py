"""What a user can mend: one exception with one clear sentence, and the nearest names for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CurvekitError(ValueError):
    """A wrong input. The message says what was seen, what was expected and what to do.

    The command line prints it as ``curvekit: error: ...`` and exits with status 2.
    """


def pick(name: str, options: Iterable[str], what: str) -> str:
    """Return ``name`` if it is one of ``options``; otherwise raise with the nearest names.

    Raises:
        CurvekitError: ``unknown recipe 'curv'; did you mean 'curve'? (known: gpt2, curve, ...)``
    """
    known = list(options)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    raise CurvekitError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")
