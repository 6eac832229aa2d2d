"""Small files written whole or not at all: text, JSON and JSON lines."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError, first_line
from curvekit.shapes import DEEPEST, require, too_deep

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on the file systems in use

LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.curvekit")  # what a file is called while it is written


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Call ``write`` with a new file beside ``path``, then move it into place.

    A reader sees the old file or the new one, never a part; a failure leaves the old one untouched. What a kill
    leaves beside it goes the next time that ``path`` is written.

    Raises:
        CurvekitError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.curvekit")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left(path)
        file = temporary.open("x+b")
        with hold(temporary):
            with file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise CurvekitError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or free some space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _clear_left(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.curvekit"):
        if (found := LEFT.fullmatch(left.name)) and found[1] == path.name and left.is_file():
            with hold(left) as free, contextlib.suppress(OSError):
                if free:
                    left.unlink()


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Hold a file or folder as long as it is written; False where another process, or thread, holds it.

    The lock is the operating system's: it ends with the process, however that ends. Where the system has none,
    nothing is held.
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        yield True
        return
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            pass
        yield held
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically."""
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CurvekitError(
            f"cannot write {path}: {error.object[error.start]!r} is half of a character; put '\\ufffd' in its place"
        ) from error
    return write_atomically(path, lambda file: file.write(encoded))


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinity are refused: JSON has neither."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: float | None) -> float | None:
    """The number, or None in the place of a NaN or an infinity, as JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None


def read_json(path: str | Path, kind: type = dict, shape: Any = None) -> Any:
    """Read a JSON file that holds an object, or a value of another ``kind``, and has a ``shape`` if one is given.

    Raises:
        CurvekitError: there is no such file, or it is not whole JSON, or holds something else, with the field.
    """
    if not present(path):
        raise CurvekitError(f"there is no {path}")
    value = parse_json(read_whole(path), path)
    if not isinstance(value, kind):
        wanted = "list" if kind is list else "object"
        raise CurvekitError(f"{path} holds {ascii(value)[:40]!r}, not a JSON {wanted}; restore it or name another file")
    return value if shape is None else require(value, shape, path)


def parse_json(text: str, source: object) -> Any:
    """A JSON value of a text that ``source`` is the name of.

    Raises:
        CurvekitError: it is not whole, is nested more than :data:`curvekit.shapes.DEEPEST` times, or holds a number
            that no field can have.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise CurvekitError(f"{source} is not whole JSON ({reason}); restore it") from error
    if too_deep(value):
        raise CurvekitError(f"{source} is nested more than {DEEPEST} times; write it flatter")
    return value


def present(path: str | Path) -> bool:
    """Whether something of this name is there; a name that no file can have is not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def held_results(path: Path, shape: Any, settings: dict[str, Any], **empty: Any) -> dict[str, Any]:
    """What a file of results holds, to go on with; where there is none ``settings`` and ``empty``, to begin with.

    A setting that the file does not name, since it is older than that, is taken to be the same.

    Raises:
        CurvekitError: it is of other settings, or not of that shape.
    """
    if not path.exists():
        return settings | empty
    held: dict[str, Any] = read_json(path, shape=shape)
    if other := next((name for name, value in settings.items() if held.get(name, value) != value), None):
        raise CurvekitError(
            f"{path} was measured with {other} {held[other]!r}, not {settings[other]!r}; choose another folder"
        )
    return settings | held


def by_name(value: Any) -> Any:
    """A file or folder of this machine by its name, for what others read; any other value as it is."""
    local = isinstance(value, str) and ("/" in value or "\\" in value) and present(value)
    return Path(value).name if local else value


def as_typed(value: Any) -> Any:
    """As :func:`by_name`, for a command line that others shall type: ``path/to/NAME``."""
    name = by_name(value)
    return value if name == value else f"path/to/{name}"


def checked_path(text: str | Path, what: str = "the path") -> Path:
    """A path with ``~`` expanded, if a file can have this name.

    Raises:
        CurvekitError: it is longer than a name may be, no text, or the home of a user that is not there.
    """
    text = str(text)
    shown = ascii(text) if len(text) <= 60 else f"{text[:57]!a}..."
    try:
        size = max((len(part.encode()) for part in text.split("/")), default=0)
    except UnicodeEncodeError as error:
        raise CurvekitError(f"{what} {shown} is not UTF-8; give it in UTF-8, or rename the file") from error
    if "\0" in text:
        raise CurvekitError(f"{what} {shown} holds a NUL, which no name can; leave it out")
    if size > LONGEST_NAME or len(text.encode()) > LONGEST_PATH:
        raise CurvekitError(
            f"{what} {shown} has a name of {size:,} bytes, longer than a file's may be; "
            f"give at most {LONGEST_NAME} bytes a name and {LONGEST_PATH:,} in all"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise CurvekitError(f"{what} {shown} names a home folder that is not there; write the path out") from error


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write one JSON object a line, atomically."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: str | Path, row: dict) -> None:
    """Append one JSON object as a line, in a single write."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CurvekitError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def read_jsonl(path: str | Path, shape: Any = None, whole: bool = True) -> list[dict]:
    """Read JSON lines; a last line that was cut off by a kill is left out, and unless ``whole`` all from a damaged one.

    Raises:
        CurvekitError: a line before the last is not JSON, or one is no object, or not of the ``shape``, with the field.
    """
    path = Path(path)
    if not present(path):
        return []
    # Not splitlines(): it also breaks at the separators that Unicode has besides, which a text may hold.
    try:
        lines = read_whole(path).removesuffix("\n").split("\n")
    except CurvekitError:
        if whole or not path.is_file():
            raise
        return []
    rows: list[dict] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(line, dict if shape is None else shape, f"{path}, line {number}"))
        except CurvekitError as error:
            if whole and not (number == len(lines) and isinstance(error.__cause__, json.JSONDecodeError)):
                raise
            break
    return rows


def _row(line: str, shape: Any, source: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CurvekitError(f"{source}, is not JSON ({first_line(error)}); mend or remove the line") from error
    if too_deep(row):
        raise CurvekitError(f"{source}, is nested more than {DEEPEST} times; remove it")
    return require(row, shape, source)
