"""One column of a table, ``text`` or another, row by row and as strings, whatever else JSON, CSV or Parquet holds.

Every row comes out, as its text or as None where it has none, so that a caller can count what it leaves out. Only
that column is looked at: no other column can make a file unreadable, and a date or a number in a CSV stays what is
written there. Marks and line ends inside of a text are those of ``curvekit.decoding``.

==========  ==================================================================================================
.jsonl      an object a line; a string is its own ``text``
.json       the same, or one array of objects, or objects over several lines
.csv        a header, then rows; fields separated by commas and quoted by ``"``
.parquet    any string type of Arrow, dictionaries of them included
==========  ==================================================================================================
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from curvekit.decoding import even, open_regular, read_lines, read_whole
from curvekit.errors import CurvekitError, first_line

TABLES = (".jsonl", ".json", ".csv", ".parquet")

_SPACE = re.compile(r"[ \t\n]*")
_NAMES = {bool: "bool", int: "int64", float: "double", list: "list", dict: "object", type(None): "null"}
_DIGITS = 4000  # of a number in another column, above which Python refuses to read it
_SHOWN = 12  # columns that a message names
csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 KB a cell, is less than a book


class Empty(CurvekitError):
    """A file without any text."""


def read_texts(path: Path, column: str = "text") -> Iterator[str | None]:
    """The text of every row under ``column``, None where a row has none.

    Raises:
        Empty: the file has no row.
        CurvekitError: it is cut off, has no such column or two, or one that holds something else than strings.
    """
    ending = path.suffix.lower()
    reader = {".csv": _csv, ".parquet": _parquet}.get(ending, _json)
    rows = 0
    try:
        with open_regular(path) as file:
            if not file.read(1):
                raise Empty(f"{path} is empty; name a file with documents")
        for text in reader(path, column):
            rows += 1
            yield text
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror or error}; name a file that can be read") from error
    if not rows:
        raise Empty(f"{path} is empty: it has no row; name a file with documents")


def _text(value: Any, path: Path, place: str, column: str) -> str | None:
    """A value of the column as a text."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise CurvekitError(
            f"the column {column!r} of {path} holds {_NAMES.get(type(value), type(value).__name__)}, expected strings: "
            f"{place} has {_short(value)}; write it as a string or leave it out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CurvekitError(
            f"{path}, {place}, is no Unicode: character {error.start + 1:,} of its text is {value[error.start]!r}, "
            "half of a surrogate pair; mend it, or put '\\ufffd' in its place"
        ) from error
    return even(value)


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:37]}..."


def _no_column(path: Path, names: list[str], column: str) -> CurvekitError:
    shown = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    advice = "rename the one with the documents" if column == "text" else "name one that is there"
    return CurvekitError(f"{path} has no column {column!r} (columns: {shown}); {advice}")


def _broken(path: Path, reason: str) -> CurvekitError:
    return CurvekitError(
        f"{path} is cut off or is not {path.suffix[1:].lower()} ({reason}); restore or convert the file"
    )


# JSON


def _json(path: Path, column: str) -> Iterator[str | None]:
    names: dict[str, None] = {}
    found = False
    for place, row in _json_rows(path):
        if isinstance(row, dict):
            found = found or column in row
            if not found and len(names) <= _SHOWN:
                names |= dict.fromkeys(row)
            yield _text(row.get(column), path, place, column)
        elif row is None or (isinstance(row, str) and column == "text"):
            found = found or row is not None
            yield _text(row, path, place, column)
        else:
            kind = _NAMES.get(type(row), type(row).__name__)
            raise CurvekitError(
                f"{path}, {place}, holds {kind}, expected an object with {column!r}; mend it or take it out"
            )
    if names and not found:
        raise _no_column(path, list(names), column)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value with its place; a line at a time where every line is one."""
    begun = False
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            break
        try:
            row = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            if not begun and isinstance(error, json.JSONDecodeError):
                break  # an object over several lines
            raise _broken(path, f"line {number:,}: {_reason(error)}") from error
        begun = True
        yield f"line {number:,}", row
    else:
        return
    text = read_whole(path)
    try:
        for start, row in _values(text):
            yield f"line {text.count(chr(10), 0, start) + 1:,}", row
    except (ValueError, RecursionError) as error:
        if isinstance(error, CurvekitError):
            raise
        where = f"line {error.lineno:,}: " if isinstance(error, json.JSONDecodeError) else ""
        raise _broken(path, f"{where}{_reason(error)}") from error


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """The values of a text, and the elements of its arrays, each with where it begins."""
    place, inside = _skip(text, 0), False
    while place < len(text):
        if not inside and text[place] == "[":
            place, inside = _skip(text, place + 1), True
            if text[place : place + 1] == "]":
                place, inside = _skip(text, place + 1), False
            continue
        start = place
        value, place = _DECODER.raw_decode(text, place)
        yield start, value
        place = _skip(text, place)
        if inside:
            mark = text[place : place + 1]
            if mark not in (",", "]") or not mark:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            place, inside = _skip(text, place + 1), mark == ","
    if inside:
        raise json.JSONDecodeError("Expecting ']'", text, place)


def _skip(text: str, place: int) -> int:
    return _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)


_DECODER = json.JSONDecoder(strict=False, parse_int=lambda digits: int(digits) if len(digits) < _DIGITS else 0)


# CSV

_END = "\0end"  # no text holds a NUL, so this is read only by us


def _csv(path: Path, wanted: str) -> Iterator[str | None]:
    def lines() -> Iterator[str]:
        yield from (line if line.endswith("\n") else f"{line}\n" for line in read_lines(path))
        yield f"{_END}\n"

    column: int | None = None
    names: list[str] = []
    begins = 1
    reader = csv.reader(lines())
    try:
        for row in reader:
            if row and row[-1].endswith(f"{_END}\n"):
                raise _broken(path, f"line {begins:,}: a quoted field does not end")
            if row == [_END]:
                break
            if row and column is None:
                names, column = row, _column(path, row, wanted)
            elif row:
                if any(row[len(names) :]):
                    raise CurvekitError(
                        f"{path} has more fields in its rows than names in its header (line {begins:,} has {len(row)}, "
                        f"the header {len(names)}); quote texts with commas"
                    )
                assert column is not None
                yield _text(row[column] if column < len(row) else None, path, f"line {begins:,}", wanted)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise _broken(path, f"line {reader.line_num:,}: {error}") from error


def _column(path: Path, names: list[str], wanted: str) -> int:
    if wanted not in names:
        raise _no_column(path, names, wanted)
    if names.count(wanted) > 1:
        raise CurvekitError(f"{path} has two columns {wanted!r}; rename the one without the documents")
    return names.index(wanted)


# Parquet


def _parquet(path: Path, wanted: str) -> Iterator[str | None]:
    rows = 0
    with open_regular(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            schema = table.schema_arrow
            _column(path, schema.names, wanted)
            kind = schema.field(wanted).type
            if not _is_string(kind):
                raise CurvekitError(f"the column {wanted!r} of {path} holds {kind}, expected strings; convert it")
            for batch in table.iter_batches(columns=[wanted]):
                column = batch.column(wanted)
                for number in range(len(column)):
                    rows += 1
                    yield _text(column[number].as_py(), path, f"row {rows:,}", wanted)
        except UnicodeDecodeError as error:
            raise CurvekitError(f"{path}, row {rows:,}, is not UTF-8 ({error.reason}); write it anew") from error
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            if isinstance(error, CurvekitError):
                raise
            raise _broken(path, first_line(error)) from error


def _is_string(kind: Any) -> bool:
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    kinds = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    return pyarrow.types.is_null(kind) or any(each(kind) for each in kinds)
