"""Control codes: the words that stand before a document and say what kind it is, in training and in generation.

A code is plain text in brackets, so that every tokeniser writes it and no embedding must be new::

    [jane-austen] It is a truth universally acknowledged ...
    [jane-austen] [letters] My dear sister ...

Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation" (2019).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from curvekit.errors import CurvekitError

LONGEST = 64  # characters of a code
_CODE = re.compile(r"[^\[\]\s](?:[^\[\]\n\r\t]*[^\[\]\s])?")


def checked_code(code: str, what: str = "the code") -> str:
    """A code that can stand in brackets.

    Raises:
        CurvekitError: it is empty, too long, or holds a bracket or a line's end.
    """
    if not isinstance(code, str) or len(code) > LONGEST or not _CODE.fullmatch(code):
        raise CurvekitError(
            f"{what} is {str(code)[:80]!r}; give 1 to {LONGEST} characters without brackets, line ends and outer spaces"
        )
    return code


def header(codes: Sequence[str]) -> str:
    """What stands before a document with these codes: ``[first] [second]``; nothing where there are none."""
    return " ".join(f"[{code}]" for code in codes)


def joined(before: str, text: str) -> str:
    """A text after what precedes it, with one space between them."""
    return f"{before} {text}" if before and text and not text[0].isspace() else f"{before}{text}"


def coded(text: str, codes: Sequence[str]) -> str:
    """A document after its codes."""
    return joined(header(codes), text)
