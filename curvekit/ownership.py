"""Ownership: what is provably curvekit's own, and how it is replaced so that the old or the new is always whole.

A folder proves itself by a marker that names its kind, and every file in it that a command would write over by its
own content; both, because a marker says nothing of what was put beside it later. What is older than the markers is
known by its content alone. Whatever proves nothing is another's, and is named before the first byte is written.

A folder that is written as a whole is *sealed*: its marker holds the SHA-256 of each of its files, so that what was
changed since, by a person or by a disk, is found out.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.files import LEFT, hold, read_json, write_json

MARKER = ".curvekit.json"
VERSION = 1
_BESIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.curvekit-(part|new|old)")  # the names that ``replaced`` uses
Shape = Callable[[Path], bool]  # whether a file or folder has the content that curvekit writes under its name


@dataclass(frozen=True)
class Kind:
    """A kind of folder: ``run``, ``report``, ``base``.

    Attributes:
        name: what the marker says.
        called: in a sentence, such as ``a run's folder``.
        files: patterns of the names that are written over or deleted in it, and the shape that they must have.
        proofs: those of them of which one that is there tells the kind, where there is no marker.
    """

    name: str
    called: str
    files: Mapping[str, Shape] = field(repr=False)
    proofs: tuple[str, ...] = ()


# What a folder is


def mark(folder: Path, kind: str, files: Mapping[str, str] | None = None) -> None:
    """Write the marker: the folder is curvekit's, of this kind; ``files`` are the digests of a sealed one."""
    write_json(folder / MARKER, {"kind": kind, "version": VERSION} | ({"files": files} if files is not None else {}))


def marker(folder: Path) -> dict[str, Any]:
    """What the marker says; empty where there is none, or one of something else."""
    try:
        found = read_json(folder / MARKER)
    except CurvekitError:
        return {}
    return found if isinstance(found.get("kind"), str) and found.get("version") == VERSION else {}


def is_ours(folder: Path, kind: str | None = None) -> bool:
    """Whether a folder is marked, as of ``kind`` if one is given, or was killed before it could be: it is empty, or has
    only what was left of its marker, which is the first that is written."""
    if found := marker(folder):
        return kind in (None, found["kind"])
    return all((left := LEFT.fullmatch(path.name)) is not None and left[1] == MARKER for path in folder.iterdir())


def require(folder: str | Path, kind: Kind) -> None:
    """Return where a folder of ``kind`` may be written: there is none, it is empty, or it is curvekit's own.

    Raises:
        CurvekitError: it is a file; it holds a file of another's under a name that would be written over; or
            nothing in it shows that it is of this kind.
    """
    folder = Path(folder)
    marked = marker(folder).get("kind")
    if marked not in (None, kind.name):
        raise CurvekitError(f"{folder} is curvekit's, but a {marked}'s and not {kind.called}; choose another folder")
    require_files(folder, kind.files)
    if not folder.exists() or marked or any(path for pattern in kind.proofs for path in folder.glob(pattern)):
        return
    if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise CurvekitError(f"{folder} is no {kind.called[2:]}, it holds {others[0]}; choose a new or empty one")


def require_files(folder: str | Path, files: Mapping[str, Shape]) -> None:
    """Refuse every file of another's in ``folder`` that has one of the names, so that nothing writes over it.

    Raises:
        CurvekitError: the first one; or the folder, or one that it is to lie in, is a file.
    """
    folder = Path(folder)
    try:
        str(folder).encode()
        there = next(each for each in (folder, *folder.parents) if each.exists())
    except (OSError, ValueError) as error:  # too long, not UTF-8, or with a NUL
        raise CurvekitError(f"{str(folder)[:80]!r} cannot be a folder's name ({error}); choose another") from error
    if not there.is_dir():
        raise CurvekitError(f"{there} is a file; name a folder")
    for pattern, shape in files.items():
        for path in sorted(folder.glob(pattern)):
            require_file(path, shape)


def require_file(path: str | Path, shape: Shape) -> None:
    """Return where a file may be written: there is none, or it is curvekit's own.

    Raises:
        CurvekitError: it is another's.
    """
    path = Path(path)
    if os.path.lexists(path) and not _has(path, shape):
        raise CurvekitError(f"{path} is not curvekit's own and would be written over; move it, or choose another place")


def _has(path: Path, shape: Shape) -> bool:
    try:
        return shape(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


# Shapes


def json_with(*keys: str, only: bool = False) -> Shape:
    """A JSON object that has these keys, and with ``only`` no other."""
    return lambda path: path.is_file() and _keys(read_json(path), keys, only)


def rows_with(*keys: str) -> Shape:
    """JSON lines whose first one has these keys; or an empty file."""

    def shape(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            first = file.readline(1 << 22)
        return not first or _keys(json.loads(first), keys, False)

    return shape


def text_with(*pieces: str) -> Shape:
    """A text that has each of these pieces."""

    def shape(path: Path) -> bool:
        text = path.read_text(encoding="utf-8", errors="replace")
        return all(piece in text for piece in pieces)

    return shape


def empty_file(path: Path) -> bool:
    """A file without content, such as a lock."""
    return path.is_file() and not path.stat().st_size


def _keys(found: Any, keys: tuple[str, ...], only: bool) -> bool:
    return isinstance(found, dict) and set(keys) <= set(found) and (not only or set(found) == set(keys))


# Seals


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, kind: str) -> None:
    """Write the marker with the digest of every file: the last thing that is written to a folder."""
    mark(folder, kind, {path.relative_to(folder).as_posix(): digest(path) for path in _files(folder)})


def broken(folder: Path, *, only: bool = False) -> str | None:
    """What in a sealed folder is not as it was sealed, or None; with ``only`` also what was not there then.

    A folder without a seal is not known to be broken.
    """
    files = marker(folder).get("files")
    if not isinstance(files, dict):
        return None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if digest(path) != expected:
            return f"{name} was changed after it was written"
    if only and (others := sorted({p.relative_to(folder).as_posix() for p in _files(folder)} - files.keys())):
        return f"{others[0]} was put there later"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MARKER)


# Replacing


@contextmanager
def replaced(folder: str | Path, kind: str) -> Iterator[Path]:
    """A folder to write to, which is sealed and stands in the other's place when all is written, and only then.

    Who calls it has found out that the other is curvekit's own. A kill at any moment leaves the old folder or the
    new one, whole, or what :func:`recover` makes it of; an error leaves the old one.

    Raises:
        CurvekitError: another process is at it.
    """
    folder = Path(os.path.abspath(folder))
    with created(folder.parent):
        recover(folder)
        stem = f".{folder.name}.{secrets.token_hex(4)}.curvekit-"
        part, new, old = (folder.with_name(stem + age) for age in ("part", "new", "old"))
        try:
            part.mkdir()
            with hold(part):
                mark(part, kind)
                yield part
                seal(part, kind)
                part.rename(new)  # from here on it is whole
                if folder.exists():
                    if not marker(folder):
                        mark(folder, kind)  # else nobody would know whose the old one is
                    folder.rename(old)
                new.rename(folder)
                if old.exists():
                    _discard(old)
        except BaseException:
            recover(folder)
            raise


def recover(folder: str | Path) -> None:
    """Clean up after a kill in :func:`replaced`: the folder is whole, old or new, and nothing is left beside it.

    Only folders with the names and the marker that it gives are touched.

    Raises:
        CurvekitError: another process is writing the folder now.
    """
    folder = Path(os.path.abspath(folder))
    left = {path: age for path, age in _beside(folder) if _is_left(path)}
    for path in left:
        with hold(path) as held:
            if not held:
                raise CurvekitError(f"another process is writing {folder}; wait for it or choose another folder")
    for path, age in sorted(left.items(), key=lambda each: each[1]):  # new before old
        if age != "part" and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            path.rename(folder)
        else:
            _discard(path)


def _beside(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if (found := _BESIDE.fullmatch(path.name)) and found[1] == folder.name:
            yield path, found[2]


def _is_left(path: Path) -> bool:
    """Whether a folder is one of ours: marked, or killed before it could be."""
    return path.is_dir() and not path.is_symlink() and is_ours(path)


def _discard(path: Path) -> None:
    """Delete a folder of ours: first its claim to be whole, last its marker."""
    if not path.name.endswith("part"):
        path = path.rename(path.with_name(path.name.rpartition("-")[0] + "-part"))
    for inside in path.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        elif inside.name != MARKER:
            inside.unlink()
    (path / MARKER).unlink(missing_ok=True)
    path.rmdir()


@contextmanager
def created(folder: Path) -> Iterator[Path]:
    """The folder, made where it is missing; if an error comes, what was made and is empty still goes again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


# The system's folder for temporary things


class Scratch:
    """A temporary folder, ``name``, that goes with this object; if the process is killed, with the next of its kind.

    As ``tempfile.TemporaryDirectory``, which a kill leaves behind.
    """

    def __init__(self, folder: str | None = None) -> None:
        for left in Path(folder or tempfile.gettempdir()).glob("curvekit-scratch-*"):
            with contextlib.suppress(OSError, AttributeError):  # a system without user numbers
                if left.stat().st_uid == os.getuid() and marker(left).get("kind") == "scratch":
                    with hold(left) as free:
                        if free:
                            shutil.rmtree(left, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix="curvekit-scratch-", dir=folder)
        self.name = self._folder.name
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(hold(Path(self.name)))  # the system lets go of it when the process ends
        mark(Path(self.name), "scratch")

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder now."""
        self._stack.close()
        self._folder.cleanup()
