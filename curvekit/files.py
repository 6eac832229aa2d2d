"""Small files written whole or not at all: text, JSON and JSON lines."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from curvekit.errors import CurvekitError


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Call ``write`` with a new file beside ``path``, then move it into place.

    A reader sees the old file or the new one, never a part; a failure leaves the old one untouched.

    Raises:
        CurvekitError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        raise CurvekitError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()  # once, at the beginning: it can only be read by setting it, which other threads would notice


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
