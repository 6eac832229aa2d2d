"""Folders made once in the user's cache: whole or not at all, by one process at a time, checked at every opening.

A folder is made under a hidden name beside its place, its record (sizes, times, SHA-256 of every file) is written
last, and one rename puts it there. Whatever a kill leaves under a hidden name is removed by the next process that
holds the lock; a folder whose files are no longer those of its record is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json

RECORD = "made.json"


def root() -> Path:
    """Where bases are kept: ``$XDG_CACHE_HOME/curvekit/bases``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curvekit" / "bases"


def say(text: str) -> None:
    """A line on standard error."""
    print(f"curvekit: {text}", file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(source: Path) -> str:
    """The SHA-256 of ``source``; a file that a folder here was made from is known by its path, size and time."""
    seen = _origin(source)
    for record in sorted(root().glob(f"[!.]*/{RECORD}")):
        with suppress(CurvekitError):
            known = read_json(record).get("source")
            if isinstance(known, dict) and known | seen == known and isinstance(known.get("sha256"), str):
                return known["sha256"]
    return sha256(source)


def folder(name: str, source: Path, version: int, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` made from ``source`` by ``make(empty folder)``, or the one that is there and whole.

    ``version`` is that of what ``make`` writes: a folder of another is made anew.

    Raises:
        CurvekitError: the cache cannot be written or the disk is full; or what ``make`` raises. Nothing is left then.
    """
    place = root() / name
    if _whole(place, version) and not _leftovers(place):
        return place
    try:
        root().mkdir(parents=True, exist_ok=True)
        with _alone(place):
            for old in _leftovers(place):
                shutil.rmtree(old)
            if not _whole(place, version):  # the process that held the lock may have made it
                _make(place, source, version, make)
    except OSError as error:
        raise CurvekitError(
            f"cannot write {place} ({error.strerror or error}); free some space there, or set XDG_CACHE_HOME to "
            "another folder"
        ) from error
    return place


def require_space(folder: Path, needed: int) -> None:
    """Return when ``needed`` bytes are free where ``folder`` lies.

    Raises:
        CurvekitError: they are not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CurvekitError(
            f"{folder.parent} has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are needed; free some space "
            "there, or set XDG_CACHE_HOME to another folder"
        )


def _make(place: Path, source: Path, version: int, make: Callable[[Path], None]) -> None:
    new = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        make(new)
        files = {path.name: _seen(path) | {"sha256": sha256(path)} for path in sorted(new.iterdir())}
        for file in files:
            _flush(new / file)
        origin = _origin(source) | {"sha256": digest(source)}
        write_json(new / RECORD, {"version": version, "source": origin, "files": files})
        new.chmod(0o755)
        if place.exists():  # of another version, or no longer whole: out of the way under a name that is cleaned up
            say(f"{place} is not whole, or of another version; it is made anew")
            place.rename(Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.")) / "old")
        new.rename(place)
    finally:
        for old in _leftovers(place):
            shutil.rmtree(old, ignore_errors=True)


def _whole(place: Path, version: int) -> bool:
    """Whether every file is as recorded: its size, and its SHA-256 where its time is another."""
    try:
        record = read_json(place / RECORD)
        if record["version"] != version:
            return False
        touched = False
        for name, known in record["files"].items():
            path = place / name
            seen = _seen(path)
            if seen["size"] != known["size"]:
                return False
            if seen["mtime_ns"] != known["mtime_ns"]:  # copied, or changed
                if sha256(path) != known["sha256"]:
                    return False
                known |= seen
                touched = True
    except (CurvekitError, OSError, KeyError, TypeError, AttributeError):
        return False
    if touched:
        with suppress(CurvekitError):  # a cache that may only be read is digested each time
            write_json(place / RECORD, record)
    return True


def _origin(source: Path) -> dict[str, Any]:
    return {"path": str(source.resolve())} | _seen(source)


def _seen(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _flush(path: Path) -> None:
    """Have a file on the disk before the record that vouches for it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leftovers(place: Path) -> list[Path]:
    return [path for path in place.parent.glob(f".{place.name}.*") if path.is_dir()]


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a place; the system lets go of it when its holder dies."""
    lock = FileLock(place.parent / f".{place.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process makes {place}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
