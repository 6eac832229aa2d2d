"""Text corpora, by name or by path: train, validation and test splits of one document a row.

A name is looked up in ``data_dir`` (or ``CURVEKIT_DATA``), then in the local cache of the hub, then on the
hub. What is named explicitly is never replaced: a ``data_dir`` that lacks the corpus is an error, not a download.

A source without splits gets reproducible ones. Independent documents (articles, lines, rows, files) go 80/10/10
by the hash of their text, so that equal ones stay on one side; a running text goes 90/5/5 from front to back.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import itertools
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from curvekit import documents, hub, pydocs
from curvekit.documents import SUFFIXES, TABLES, UNITS, as_dataset
from curvekit.errors import CurvekitError, pick

CORPORA = {
    "wikitext-103": "WikiText-103, raw: 28,475 articles for training, 60 for validation, 60 for testing",
    "wikitext-2": "WikiText-2, raw: 600 articles for training, validation and testing as in WikiText-103",
    "openwebtext": "the first 100,000 web pages of OpenWebText, streamed from the hub",
    "shakespeare": "tiny Shakespeare, 1.1 MB",
    "pydocs": "the documentation of this Python installation, about 2.5 MB, without a network",
    "pydocs-all": "pydocs and the docstrings of every installed package, tens of MB, without a network",
}
SPLITS = ("train", "validation", "test")

_OPENWEBTEXT_DOCUMENTS = 100_000
_INSTEAD = "give a data_dir that holds it, or take corpus pydocs, which needs no network"
_SPLIT_NAMES = {split: split for split in SPLITS} | dict.fromkeys(("valid", "val", "dev"), "validation")
_SPLIT = re.compile(rf"(?:wiki\.)?({'|'.join(_SPLIT_NAMES)})(?:-\d+-of-(\d+))?")
_log = logging.getLogger(__name__)

Announce = Callable[[str], object]


class _Place(NamedTuple):
    """Where a corpus lives on the hub: data files only, never a loading script."""

    repository: str
    folder: str
    revision: str = "main"


_HUB = {
    "wikitext-103": _Place("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikitext-2": _Place("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "shakespeare": _Place("karpathy/tiny_shakespeare", "default", "refs/convert/parquet"),
}


def load_corpus(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    *,
    document: str = "auto",
    announce: Announce = _log.info,
) -> DatasetDict:
    """Return the splits ``train``, ``validation`` and ``test`` of a corpus, each with one column ``text``.

    Args:
        name_or_path: a name of ``CORPORA``; or a .txt, .jsonl, .csv or .parquet file; or a folder with train,
            validation and test files; or a folder of texts. A folder that bears a corpus's name: ``./name``.
        data_dir: the corpus's folder, or a folder that holds it as a sub-folder. Default: CURVEKIT_DATA.
        document: what one document is in the text files of a path: ``auto``, ``article``, ``passage``,
            ``paragraph``, ``line`` or ``file``, as ``curvekit.documents`` says. In a folder without splits,
            ``auto`` takes every text whole.
        announce: is told in a sentence what was loaded from where, and why not from elsewhere.

    Raises:
        CurvekitError: an unknown name; a missing, empty, binary, cut-off or non-UTF-8 file; no column ``text``;
            a missing split; fewer than three documents to split; a hub without an answer in five seconds.
    """
    name = str(name_or_path)
    pick(document, UNITS, "document unit")
    folder = Path(data_dir).expanduser() if data_dir else None
    if folder and not folder.exists():
        raise CurvekitError(f"there is no data folder {folder}; name an existing one, or leave data_dir out")
    if name in CORPORA:
        if document != "auto":
            raise CurvekitError(f"corpus {name!r} has documents of its own; leave document={document!r} out")
        corpus, source = _load_named(name, folder, announce)
    else:
        path = _existing_path(name, folder or _environment_folder())
        corpus, source = _load_path(path, document), str(path.resolve())
    sizes = ", ".join(f"{corpus[split].num_rows:,} {split}" for split in SPLITS)
    announce(f"corpus {name}: {sizes} documents, from {source}")
    return corpus


def corpus_revision(corpus: DatasetDict) -> dict[str, str]:
    """``text_revision`` of each split."""
    return {split: text_revision(dataset["text"]) for split, dataset in corpus.items()}


def text_revision(texts: Iterable[str]) -> str:
    """The ``Revision`` of all texts, as 12 hexadecimal digits."""
    revision = Revision()
    for text in texts:
        revision.add(text)
    return str(revision)


class Revision:
    """A running SHA-256 of texts, each after its length, so that it tells where one ends and the next begins."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self._digest.update(len(encoded).to_bytes(8, "little"))
        self._digest.update(encoded)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:12]


def _load_named(name: str, data_dir: Path | None, announce: Announce) -> tuple[DatasetDict, str]:
    if name.startswith("pydocs"):
        if data_dir:
            raise CurvekitError(f"{name} is documentation on this machine; leave data_dir={str(data_dir)!r} out")
        return _load_pydocs(name), f"Python {platform.python_version()} on this machine"
    folder, source = _data_folder(name, data_dir, announce), "the data folder"
    if folder is None and name == "openwebtext":
        return _load_openwebtext(), "the hub, streamed once and kept in the local cache"
    if folder is None:
        folder, source = _hub_folder(name)
    if name == "shakespeare":
        return _load_shakespeare(folder), f"{source}, {folder}"
    unit = "article" if name.startswith("wikitext") else "auto"
    return _load_splits(folder, unit), f"{source}, {folder}"


def _environment_folder() -> Path | None:
    value = os.environ.get("CURVEKIT_DATA")
    return Path(value).expanduser() if value else None


def _data_folder(name: str, data_dir: Path | None, announce: Announce) -> Path | None:
    """The corpus's folder in ``data_dir`` or CURVEKIT_DATA; None where neither names one that holds it."""
    root = data_dir or _environment_folder()
    if root is None:
        return None
    another = root.resolve().name.removesuffix("-raw-v1") in CORPORA.keys() - {name}
    for folder in (root / name, root / f"{name}-raw-v1", *([] if another else [root])):
        if _split_files(folder) or (name == "shakespeare" and (folder / "input.txt").exists()):
            return folder
    files = "input.txt" if name == "shakespeare" else "train, valid and test files (.txt, .raw, .parquet)"
    problem = f"{root} does not hold {name}: expected {files} there or in {root / name}"
    if data_dir:
        raise CurvekitError(f"{problem}; name its folder, or leave data_dir out to use the cache or the hub")
    announce(f"CURVEKIT_DATA={problem}; looking in the local cache and on the hub instead")
    return None


def _hub_folder(name: str) -> tuple[Path, str]:
    """The corpus's data files in the local cache of the hub, downloaded where they are not there yet."""
    repository, folder, revision = _HUB[name]

    def copy(local: bool) -> Path:
        asked = partial(snapshot_download, repository, repo_type="dataset", revision=revision)
        return Path(asked(allow_patterns=f"{folder}/*", local_files_only=local)) / folder

    try:
        cached = copy(local=True)
        _require_all(_split_files(cached), cached)
        return cached, "the local cache of the hub"
    except (LocalEntryNotFoundError, CurvekitError):
        pass  # nothing there, or a download that was broken off
    hub.require(f"corpus {name}", _INSTEAD)
    try:
        return copy(local=False), "the hub"
    except Exception as error:
        raise CurvekitError(f"cannot fetch corpus {name} from the hub's {repository}: {error}") from error


def _load_openwebtext() -> DatasetDict:
    def texts() -> Iterator[str]:
        hub.require("corpus openwebtext", _INSTEAD)
        stream = load_dataset("Skylion007/openwebtext", split="train", streaming=True)
        for row in itertools.islice(stream, _OPENWEBTEXT_DOCUMENTS):
            yield row["text"]

    pages = _cached(texts, f"openwebtext-{_OPENWEBTEXT_DOCUMENTS}")
    return _split_by_hash(pages, "openwebtext", held_out=0.005)


def _load_pydocs(name: str) -> DatasetDict:
    # It takes seconds, with every package minutes: read once for each set of versions and each way of reading.
    everything = name == "pydocs-all"
    versions = (f"{package.name}=={package.version}" for package in importlib.metadata.distributions())
    reader = Path(pydocs.__file__).read_text(encoding="utf-8")
    key = text_revision([sys.version, sys.base_prefix, reader, *(sorted(versions) if everything else ())])
    texts = partial(pydocs.python_documentation, installed_packages=everything)
    return _split_by_hash(_cached(texts, f"{name}-{key}"), "the documentation of this Python")


def _cached(texts: Callable[[], Iterable[str]], key: str) -> Dataset:
    """``texts()``, called the first time only, as a memory-mapped dataset in the cache of ``datasets``."""

    def rows() -> Iterator[dict[str, str]]:
        yield from ({"text": text} for text in texts())

    try:
        with documents.quiet_in_logs():
            return Dataset.from_generator(rows, features=documents.FEATURES, fingerprint=key)
    except (DatasetGenerationError, OSError) as error:
        if isinstance(error.__cause__, CurvekitError):
            raise error.__cause__ from None
        reason = error.__cause__ or error
        raise CurvekitError(
            f"cannot read {key} into the cache of datasets ({reason}); "
            "try again, or set HF_DATASETS_CACHE to a folder with room"
        ) from error


def _load_shakespeare(folder: Path) -> DatasetDict:
    if (folder / "input.txt").exists():
        return _split_text(folder / "input.txt", "passage")
    parts = _load_splits(folder, "file")  # cut anew, so that both sources give the same splits
    whole = "".join(text for split in SPLITS for text in parts[split]["text"])
    return _split_in_order(list(documents.passages(io.StringIO(whole))), str(folder))


def _existing_path(name: str, data_dir: Path | None) -> Path:
    candidates = [Path(name).expanduser(), *([data_dir / name] if data_dir else [])] if name else []
    for path in candidates:
        if path.is_dir() or (path.suffix in SUFFIXES and path.exists()):
            return path
        if path.exists():
            raise CurvekitError(f"{path} is none of {', '.join(SUFFIXES)}; convert it, or name a folder")
    if "/" in name or os.sep in name or name.startswith((".", "~")) or Path(name).suffix in SUFFIXES:
        raise CurvekitError(
            f"there is no file or folder {name!r}; name an existing one or a corpus ({', '.join(CORPORA)})"
        )
    return Path(pick(name, CORPORA, "corpus"))  # raises with the nearest names


def _load_path(path: Path, unit: str) -> DatasetDict:
    if path.is_dir():
        if _split_files(path):
            return _load_splits(path, unit)
        seen = (file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        files = sorted(file for file in seen if "/." not in f"/{file.relative_to(path).as_posix()}")
        if not files:
            raise CurvekitError(f"{path} holds no file of {', '.join(SUFFIXES)}; name a folder that does")
        texts = documents.read_files(files, "file" if unit == "auto" else unit)
        return _split_by_hash(texts, str(path))
    if path.suffix in TABLES:
        return _split_by_hash(documents.read_table(path, unit), str(path))
    return _split_text(path, unit)


def _split_text(path: Path, unit: str) -> DatasetDict:
    natural = documents.natural_unit(path) if unit == "auto" else unit
    texts = documents.read_text(path, natural)
    if natural not in ("passage", "file") and (unit != "auto" or len(set(texts)) >= 3):
        return _split_by_hash(as_dataset(texts), str(path))
    if natural != "passage" or len(texts) < 3:
        texts = documents.pieces("".join(documents.read_lines(path)))
    corpus = _split_in_order(texts, str(path))
    if unit == "file":
        return DatasetDict({split: as_dataset(["".join(corpus[split]["text"])]) for split in SPLITS})
    return corpus


def _load_splits(folder: Path, unit: str) -> DatasetDict:
    splits = _split_files(folder)
    _require_all(splits, folder)
    return DatasetDict({split: documents.read_files(splits[split], unit) for split in SPLITS})


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split: train.txt, wiki.valid.raw, test-00000-of-00001.parquet, train/anything.jsonl."""
    found: dict[str, list[Path]] = {}
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        named = path.stem if path.parent == folder else path.parent.name
        if path.suffix in SUFFIXES and path.is_file() and (match := _SPLIT.fullmatch(named)):
            found.setdefault(_SPLIT_NAMES[match[1]], []).append(path)
    return found


def _require_all(splits: dict[str, list[Path]], folder: Path) -> None:
    there = ", ".join(str(path.relative_to(folder)) for files in splits.values() for path in files) or "none"
    if missing := [split for split in SPLITS if split not in splits]:
        raise CurvekitError(
            f"{folder} has no {' and no '.join(missing)} file (split files there: {there}); "
            "add it, or name one file to have it split"
        )
    for split, files in splits.items():
        shards = [match[2] or "1" for file in files if (match := _SPLIT.fullmatch(file.stem))]
        if any(int(count) != len(files) for count in shards):
            raise CurvekitError(f"{folder} should have one {split} file or all its shards; it has {there}")


def _split_by_hash(rows: Dataset, source: str, held_out: float = 0.1) -> DatasetDict:
    """Validation and test get the ``held_out`` share of the distinct documents each, the rest trains."""
    digests = [hashlib.sha256(text.encode()).digest() for text in rows["text"]]
    distinct = sorted(set(digests))
    count = _held_out(len(distinct), held_out, source)
    place = dict.fromkeys(distinct[:count], "test") | dict.fromkeys(distinct[count : 2 * count], "validation")
    chosen: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, digest in enumerate(digests):
        chosen[place.get(digest, "train")].append(row)
    return DatasetDict({split: rows.select(chosen[split]) for split in SPLITS})


def _split_in_order(texts: list[str], source: str, held_out: float = 0.05) -> DatasetDict:
    """Validation and test get the ``held_out`` share each from the end of a running text."""
    count = _held_out(len(texts), held_out, source)
    parts = texts[: -2 * count], texts[-2 * count : -count], texts[-count:]
    return DatasetDict({split: as_dataset(part) for split, part in zip(SPLITS, parts, strict=True)})


def _held_out(count: int, share: float, source: str) -> int:
    if count < 3:
        raise CurvekitError(
            f"{source} has {count} distinct document{'s' * (count != 1)}, and three splits need three or more; "
            "add text, or give a folder with train, validation and test files"
        )
    return max(1, round(share * count))
