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
from collections.abc import Iterable, Iterator
from pathlib import Path

from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError
from curvekit.text.codes import checked_code, coded, header
from curvekit.text.labelled import _word, read_rows
from curvekit.text.tables import TABLES, Empty

PASSAGE = 800  # characters, about a training block of 256 tokens
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


def codes_of(texts: Iterable[str]) -> list[str]:
    """The codes that stand before documents, sorted.

    Raises:
        CurvekitError: there are none.
    """
    found: set[str] = set()
    for text in texts:
        while text.startswith("[") and "]" in text:
            code, _, text = text[1:].partition("]")
            if header([code]) != f"[{code}]" or "\n" in code or not code.strip():
                break
            found.add(code)
            text = text[1:] if text.startswith(" [") else ""
    if not found:
        raise Empty("no document has a code")
    return sorted(found)


def bare(text: str) -> str:
    """A document without its codes."""
    while text.startswith("[") and "]" in text:
        text = text.partition("]")[2].removeprefix(" ")
    return text


def dropped(texts: Iterable[str], share: float) -> list[str]:
    """The documents, so large a share of them without codes; which ones follows from their texts."""

    def chosen(text: str) -> bool:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < share * 2**32

    return [bare(text) if chosen(text) else text for text in texts]
