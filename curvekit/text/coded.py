"""Documents with their control codes: what a document's code is, read from a column, a folder or a file's name.

===================  =================================================================================================
``column:a,b``       the words in the columns ``a`` and ``b`` of a table, in this order
``folder``           the name of the folder that a file lies in
``file``             the name of a file, without its ending; ``file:_`` what stands in it before the first ``_``
===================  =================================================================================================

A row of a table is a document. A text file is cut at ends of lines into passages of 800 characters or more, so that
each begins with its code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError
from curvekit.text.codes import checked_code, coded
from curvekit.text.labelled import _word, read_rows
from curvekit.text.tables import TABLES, Empty

PASSAGE = 800  # characters, about a training block of 256 tokens
_CODED = re.compile(r"\[([^\[\]\n]+)\] ?")
_KINDS = "column:NAME, folder, file, or file:SEPARATOR"


def checked_source(source: str) -> tuple[str, str]:
    """The kind of a source of codes and what stands behind its colon.

    Raises:
        CurvekitError: it is none of those at the head of this room.
    """
    kind, _, rest = source.partition(":")
    if (kind == "column") != bool(rest and kind == "column") or kind not in ("column", "folder", "file"):
        raise CurvekitError(f"codes is {source!r}; give {_KINDS}")
    if kind == "folder" and rest:
        raise CurvekitError(f"codes is {source!r}, and a folder has one name; give 'folder'")
    return kind, rest


def read_coded(paths: Iterable[Path], source: str) -> Iterator[str]:
    """The documents of files, each after its codes.

    Raises:
        CurvekitError: a code that cannot stand in brackets, a table without the column, or columns asked of a text.
    """
    kind, rest = checked_source(source)
    for path in paths:
        if kind == "column":
            yield from _rows(path, [name.strip() for name in rest.split(",")])
            continue
        name = path.resolve().parent.name if kind == "folder" else path.stem
        code = checked_code(name.split(rest)[0] if rest else name, f"the code of {path}")
        yield from (coded(text, [code]) for text in _texts(path))


def _rows(path: Path, columns: list[str]) -> Iterator[str]:
    if path.suffix.lower() not in TABLES:
        raise CurvekitError(f"codes come from columns, and {path} is a text; give 'file' or 'folder', or a table")
    for number, row in enumerate(read_rows(path, ("text", *columns)), start=1):
        codes = [
            checked_code(word, f"the code of row {number:,} of {path}") for n in columns if (word := _word(row[n]))
        ]
        if isinstance(row["text"], str) and row["text"].strip() and codes:
            yield coded(row["text"].strip(), codes)


def _texts(path: Path) -> Iterator[str]:
    if path.suffix.lower() in TABLES:
        yield from (row["text"].strip() for row in read_rows(path, ("text",)) if isinstance(row["text"], str))
        return
    passage: list[str] = []
    size = 0
    for line in read_lines(path):
        passage.append(line)
        size += len(line)
        if size >= PASSAGE:
            yield "".join(passage).strip()
            passage, size = [], 0
    if text := "".join(passage).strip():
        yield text


def most_codes(source: str) -> int:
    """How many codes a document of this source can have."""
    kind, rest = checked_source(source)
    return len(rest.split(",")) if kind == "column" else 1


def parted(text: str, most: int) -> tuple[list[str], str]:
    """The codes that stand before a document, so many at most, and the document without them."""
    codes: list[str] = []
    while len(codes) < most and (found := _CODED.match(text)):
        codes.append(found[1])
        text = text[found.end() :]
    return codes, text


def codes_of(texts: Iterable[str], most: int) -> list[str]:
    """The codes that stand before documents, sorted.

    Raises:
        CurvekitError: there are none.
    """
    found = {code for text in texts for code in parted(text, most)[0]}
    if not found:
        raise Empty("no document has a code; name another source of codes")
    return sorted(found)


def dropped(texts: Iterable[str], share: float, most: int) -> list[str]:
    """The documents, so large a share of them without their codes; which ones follows from their texts."""

    def chosen(text: str) -> bool:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < share * 2**32

    return [parted(text, most)[1] if chosen(text) else text for text in texts]
