"""Rows to examples: a task's JSONL files, or its data on the hub, checked row by row, in splits that share nothing.

A task's folder holds ``train.jsonl`` and ``test.jsonl``, and perhaps ``validation.jsonl`` (or ``dev``, ``valid``).
Where there is no validation, a part of the training rows is held out by the hash of the field that groups them, so
that questions on one paragraph stay on one side. One file without splits is divided in the same way. A test row that
stands in the training rows, with the same words asked, is counted and left out: it would measure memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError
from curvekit.files import checked_path, parse_json
from curvekit.text.documents import Announce
from curvekit.text.tasks import Example, Task

SPLITS = ("train", "validation", "test")
_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
_HELD_OUT = 0.1  # of what is divided here, for validation and for the test each
_LABELS = 50  # most answers of a choice
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskRows:
    """The examples of a task by split, and what was left out of its test.

    ``left_out`` test rows stood in the training rows; ``source`` says where the rows came from.
    """

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    left_out: int = 0
    source: str = ""
    revision: dict[str, str] = field(default_factory=dict)

    def split(self, name: str) -> list[Example]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def load_rows(
    task: Task, where: str | Path | None = None, data_dir: str | Path | None = None, announce: Announce = _log.info
) -> TaskRows:
    """The rows of a task.

    Args:
        task: an entry, or one of a user's own rows.
        where: the file or folder of own rows; None for an entry, which ``data_dir``, ``CURVEKIT_DATA`` or the hub has.
        data_dir: the task's folder, or one that holds it by its name.
        announce: is told what was read from where, and what was left out.

    Raises:
        CurvekitError: there are no such files; a row that is no JSON object or that the task cannot take, by file,
            line and key; no hub.
    """
    files, source = _files(task, where, data_dir)
    if files:
        parts = {split: read_rows(task, path) for split, path in files.items()}
    elif task.here is not None:
        made = (task.example(row, f"row {number:,}") for number, row in enumerate(task.here(), start=1))
        parts, source = {"all": list(made)}, "this machine"
    else:
        parts, source = _from_hub(task), f"the hub's {task.hub.repository}" if task.hub else ""
    if "all" in parts:
        parts["train"], parts["test"] = _divide(task, parts.pop("all"), "test")
    if "validation" not in parts:
        parts["train"], parts["validation"] = _divide(task, parts.get("train", []), "validation")
    if task.kind == "choice" and not task.labels:
        known = sorted({example.target for example in parts["train"]})
        if len(known) > _LABELS:
            raise CurvekitError(
                f"{source} has {len(known)} different answers, too many to choose from; judge it as 'answer'"
            )
        task = replace(task, labels=tuple(known))
        for number, example in enumerate(parts["test"], start=1):
            if example.target not in known:
                raise CurvekitError(
                    f"{source}: test row {number} has the answer {example.target[:40]!r}, which no training row has "
                    f"({', '.join(map(repr, known))}); mend it, or add a training row"
                )
    asked = {_digest(example.source) for split in ("train", "validation") for example in parts[split]}
    test = [example for example in parts["test"] if _digest(example.source) not in asked]
    left_out = len(parts["test"]) - len(test)
    if left_out:
        announce(f"{task.name}: {left_out:,} of {len(parts['test']):,} test rows stand in the training rows: left out")
    if not test:
        raise CurvekitError(
            f"{source} has no test row that is not in the training rows ({left_out:,} are); give a test of other rows"
        )
    parts["test"] = test
    sizes = ", ".join(f"{len(parts[split]):,} {split}" for split in SPLITS)
    announce(f"task {task.name}: {sizes} rows, from {source}")
    revision = {split: _revision(parts[split]) for split in SPLITS}
    return TaskRows(task, parts["train"], parts["validation"], test, left_out, source, revision)


def read_rows(task: Task, path: Path) -> list[Example]:
    """The examples of one JSONL file.

    Raises:
        CurvekitError: it is empty, a line is no JSON object, or a row is not one that the task takes.
    """
    found = []
    try:
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                place = f"{path}, line {number:,},"
                row = parse_json(line, place)
                if not isinstance(row, dict):
                    raise CurvekitError(f"{place} is {ascii(row)[:40]}; expected a JSON object")
                found.append(task.example(row, place))
    except FileNotFoundError as error:
        raise CurvekitError(f"there is no file {path}; name an existing one") from error
    if not found:
        raise CurvekitError(f"{path} is empty; give a file with rows")
    return found


def _files(task: Task, where: str | Path | None, data_dir: str | Path | None) -> tuple[dict[str, Path], str]:
    """The file of each split, or one of ``all``; none where only the hub is left."""
    if where is not None:
        path = checked_path(where, "the task")
        if data_dir and not path.exists() and not path.is_absolute():
            path = checked_path(data_dir, "data_dir") / path
        if path.is_file():
            return {"all": path}, str(path)
        if not path.is_dir():
            raise CurvekitError(f"there is no file or folder {path}; name one with rows, or a task")
        return _splits_in(path), str(path)
    own = checked_path(data_dir, "data_dir") if data_dir else None
    if own is not None and not own.exists():
        raise CurvekitError(f"there is no data folder {own}; name an existing one, or leave data_dir out")
    environment = os.environ.get("CURVEKIT_DATA")
    roots = [own] if own is not None else [checked_path(environment, "CURVEKIT_DATA")] if environment else []
    for root in roots:
        for folder in (root / task.name, root / "tasks" / task.name, root):
            if any((folder / f"{name}.jsonl").is_file() for name in _NAMES["test"]):
                return _splits_in(folder), str(folder)
    if own is not None and task.here is not None:
        raise CurvekitError(f"{task.name} is made on this machine; leave data_dir={str(own)!r} out")
    if own is not None:
        raise CurvekitError(
            f"{own} does not hold {task.name}: expected train.jsonl and test.jsonl there or in {own / task.name}; "
            "name its folder"
        )
    return {}, ""


def _splits_in(folder: Path) -> dict[str, Path]:
    found = {
        split: path
        for split, names in _NAMES.items()
        if (path := next((p for name in names if (p := folder / f"{name}.jsonl").is_file()), None))
    }
    if missing := [split for split in ("train", "test") if split not in found]:
        raise CurvekitError(f"{folder} has no {missing[0]}.jsonl; give train.jsonl and test.jsonl")
    return found


def _from_hub(task: Task) -> dict[str, list[Example]]:
    if task.hub is None:
        raise CurvekitError(
            f"the task {task.name} is on no hub; give a data_dir with its train.jsonl and test.jsonl "
            f"(rows of {', '.join(task.keys)})"
        )
    from datasets import load_dataset

    from curvekit.bases import hub

    hub.require(f"the task {task.name}", "give a data_dir with its train.jsonl and test.jsonl")
    place, parts = task.hub, {}
    for ours, theirs in place.splits.items():
        try:
            rows = load_dataset(place.repository, place.config, split=theirs, revision=place.revision)
        except Exception as error:
            raise CurvekitError(f"cannot fetch {task.name} from the hub's {place.repository}: {error}") from error
        taken = (task.example(place.row(row), f"{ours} row {number:,}") for number, row in enumerate(rows, start=1))
        parts[ours] = list(taken)
    return parts


def _divide(task: Task, examples: Sequence[Example], name: str) -> tuple[list[Example], list[Example]]:
    """The examples in two parts, by the hash of what groups them, or of what is asked; no group is in both."""

    def key(example: Example) -> str:
        return example.fields.get(task.group or "", example.source)

    def place(group: str) -> int:
        return int(hashlib.sha256(f"{name}\0{group}".encode("utf-8", "surrogatepass")).hexdigest()[:8], 16)

    groups = sorted({key(example) for example in examples}, key=place)
    if len(groups) < 2:
        raise CurvekitError(
            f"{task.name} has {len(examples)} rows that ask one thing, too few to hold a {name} out; give further rows"
        )
    held_out = {group for group in groups if place(group) < _HELD_OUT * 2**32} or set(groups[:1])
    if len(held_out) == len(groups):
        held_out = set(groups[:1])
    rest = [example for example in examples if key(example) not in held_out]
    return rest, [example for example in examples if key(example) in held_out]


def _digest(text: str) -> bytes:
    """What is asked by its words: neither typography nor case hides a copy."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()) or [text]
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _revision(examples: Iterable[Example]) -> str:
    """12 hexadecimal digits of what is asked and of all right answers."""
    digest = hashlib.sha256()
    for example in examples:
        for text in (*(turn.text for turn in example.turns), *example.references):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:12]


def as_texts(examples: Iterable[Example]) -> list[str]:
    """Each example as one text, what is asked and what is answered, for what reads a corpus."""
    return [f"{example.source} {example.target}" for example in examples]
