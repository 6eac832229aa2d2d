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

from curvekit.errors import CurvekitError

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
    return write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinity are refused: JSON has neither."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: float | None) -> float | None:
    """The number, or None in the place of a NaN or an infinity, as JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Read a JSON file that holds an object, or a value of another ``kind``.

    Raises:
        CurvekitError: there is no such file, or it is not whole JSON, or holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CurvekitError(f"there is no {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CurvekitError(f"{path} is not whole JSON ({error}); restore it") from error
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror or error}; name a file that can be read") from error
    if not isinstance(value, kind):
        wanted = "list" if kind is list else "object"
        raise CurvekitError(f"{path} holds {str(value)[:40]!r}, not a JSON {wanted}; restore it or name another file")
    return value


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


def read_jsonl(path: str | Path) -> list[dict]:
    """Read JSON lines; a last line that was cut off by a kill is left out.

    Raises:
        CurvekitError: a line before the last is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    # Not splitlines(): it also breaks at the separators that Unicode has besides, which a text may hold.
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CurvekitError(f"{path} cannot be read as JSON lines ({error}); restore it") from error
    rows: list[dict] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise CurvekitError(f"{path}, line {number}, is not JSON ({error})") from error
    return rows
