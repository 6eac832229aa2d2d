"""Rows with a label: two columns of a table, as texts and the words that say what kind each is."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet

from curvekit.decoding import even, read_lines
from curvekit.errors import CurvekitError, first_line
from curvekit.files import checked_path
from curvekit.text.tables import TABLES, Empty, _json_rows


class Labelled(NamedTuple):
    """A text and its label."""

    text: str
    label: str


def read_labelled(path: str | Path, label: str = "label", text: str = "text") -> list[Labelled]:
    """The rows of a table that have a text and a label.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.
        label, text: names of columns; a label that is a number or a list of one word counts as its words.

    Raises:
        CurvekitError: there is no such file or column, or no row has both.
    """
    path = checked_path(path, "the table")
    rows = [
        Labelled(even(str(row[text])), word)
        for row in read_rows(path, (text, label))
        if isinstance(row[text], str) and row[text].strip() and (word := _word(row[label]))
    ]
    if not rows:
        raise Empty(f"{path} has no row with {text!r} and {label!r}; name the columns that hold text and label")
    return rows


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table, those columns of them; None where a row lacks one.

    Raises:
        CurvekitError: there is no such file, it is cut off, or no row has one of the columns.
    """
    ending = path.suffix.lower()
    if not path.is_file() or ending not in TABLES:
        raise CurvekitError(f"there is no table {path}; name a file of {', '.join(TABLES)}")
    seen: set[str] = set()
    names: dict[str, None] = {}
    for row in {".csv": _csv, ".parquet": _parquet}.get(ending, _json)(path):
        names |= dict.fromkeys(list(row)[:20])
        seen |= {name for name in columns if row.get(name) is not None}
        yield {name: row.get(name) for name in columns}
    if missing := [name for name in columns if name not in seen]:
        raise CurvekitError(
            f"{path} has no column {missing[0]!r} (columns: {', '.join(map(repr, list(names)[:20]))}); name one of them"
        )


def _json(path: Path) -> Iterator[dict[str, Any]]:
    for place, row in _json_rows(path):
        if not isinstance(row, dict):
            raise CurvekitError(f"{path}, {place}, is no object with columns; mend it or take it out")
        yield row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(line if line.endswith("\n") else f"{line}\n" for line in read_lines(path))
    except csv.Error as error:
        raise CurvekitError(f"{path} is cut off or is not csv ({error}); restore or convert the file") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CurvekitError(f"{path} is cut off or is not parquet ({first_line(error)}); restore it") from error


def _word(value: Any) -> str:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if value is None or isinstance(value, bool | list | dict):
        return "" if value is None or not isinstance(value, bool) else str(value).lower()
    return str(value).strip()


def halves(rows: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Two parts of about the same size that share no text: each row goes by the hash of its text."""
    parts: tuple[list[Labelled], list[Labelled]] = ([], [])
    for row in rows:
        digest = hashlib.sha256(" ".join(row.text.lower().split()).encode()).digest()
        parts[digest[0] % 2].append(row)
    return parts


def first_of_each(rows: Sequence[Labelled], most: int) -> list[Labelled]:
    """The first rows of each label, so many at most, in their order."""
    counts: dict[str, int] = {}
    kept = []
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + 1
        if counts[row.label] <= most:
            kept.append(row)
    return kept
