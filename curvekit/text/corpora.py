"""Text corpora, by name or by path: train, validation and test splits of one document a row.

A name is looked up in ``data_dir`` (or ``CURVEKIT_DATA``), then in the local cache of the hub, then on the
hub. What is named explicitly is never replaced: a ``data_dir`` that lacks the corpus is an error, not a download.

A source without splits gets reproducible ones: 90 % train, and of the 10 % held out half is for validation and half
for the test. Independent documents (articles, stories, lines, rows, files) are divided by the hash of their text: the
place of a document depends on its own words, so that equal ones stay on one side and, unless a split would be empty,
further ones move none; a running text is divided from front to back. Where documents were divided here, those that
train and nearly repeat a held-out one are left out, as ``curvekit.text.duplicates`` says and ``announce`` is told.
Published
test sets are never changed: they must stay comparable. A folder with training and test files alone gets its validation
split from the training text, by the same rules. Files with a further word in their names, such as ``test_modern``
beside ``test``, are further tests, which :func:`further_splits` names.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import itertools
import logging
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from curvekit.bases import hub
from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError, pick
from curvekit.files import checked_path, read_json, write_json
from curvekit.ownership import marker
from curvekit.text import documents, duplicates, pycode, pydocs
from curvekit.text.coded import checked_source, read_coded
from curvekit.text.documents import SUFFIXES, UNITS, Announce, as_dataset, suffix
from curvekit.text.duplicates import DuplicateReport, Removed, remove_duplicates, search_splits
from curvekit.text.scripts import require_script
from curvekit.text.stories import FORM
from curvekit.text.tables import TABLES

CORPORA = {
    "wikitext-103": "WikiText-103, raw: 28,475 articles for training, 60 for validation, 60 for testing",
    "wikitext-2": "WikiText-2, raw: 600 articles for training, validation and testing as in WikiText-103",
    "openwebtext": "the first 100,000 web pages of OpenWebText, streamed from the hub",
    "shakespeare": "tiny Shakespeare, 1.1 MB",
    "stories": "short stories from a file stories.txt of your own, one a line; no hub has them",
    "pydocs": "the documentation of this Python installation, about 2.5 MB, without a network",
    "pycode": "the Python source of this installation's standard library, about 9 MB, without a network",
    "pycode-all": "pycode and the source of every installed package, without a network",
    "pydocs-all": "pydocs and the docstrings of every installed package, tens of MB, without a network",
}
SPLITS = ("train", "validation", "test")

_OPENWEBTEXT_DOCUMENTS = 100_000
_LARGE = 2**20  # characters, from which looking for duplicates takes longer than looking it up
_HELD_OUT = 0.05  # of the documents, for validation and for the test each
_FILES = {"shakespeare": "input.txt", "stories": "stories.txt"}  # corpora that may be one file
_INSTEAD = "give a data_dir that holds it, or take corpus pydocs, which needs no network"
_SPLIT_NAMES = {  # the words by which the hub's own loader finds splits
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_WORD = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLAIN = re.compile(rf"(?:wiki\.)?({'|'.join(_SPLIT_NAMES)})", re.IGNORECASE)  # a name that says nothing else
_SHARD = re.compile(r"(.*?)[-_. ]*(\d+)(?:-of-(\d+))?")
_log = logging.getLogger(__name__)


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
    codes: str | None = None,
    announce: Announce = _log.info,
) -> DatasetDict:
    """Return the splits ``train``, ``validation`` and ``test`` of a corpus, each with one column ``text``.

    Args:
        name_or_path: a name of ``CORPORA``; or a .txt, .jsonl, .csv or .parquet file; or a folder with train,
            validation and test files; or a folder of texts. A folder that bears a corpus's name: ``./name``.
        data_dir: the corpus's folder, or a folder that holds it as a sub-folder. Default: CURVEKIT_DATA, which is the
            latter.
        document: what one document is in the text files of a path: ``auto``, ``article``, ``passage``,
            ``paragraph``, ``line``, ``file`` or ``story``, as ``curvekit.text.documents`` says. In a folder without
            splits, ``auto`` takes every text whole, and files of stories story by story.
        codes: what the control code before each document is, see :mod:`curvekit.text.coded`; default: there is none.
        announce: is told in a sentence what was loaded from where, and why not from elsewhere; what was cut from
            stories; and what was left out as a duplicate.

    Raises:
        CurvekitError: an unknown name; a missing, empty, binary, cut-off or non-UTF-8 file; no column ``text``;
            a missing split; fewer than three documents to split; or a hub without an answer in a few seconds.
    """
    name = str(name_or_path)
    pick(document, UNITS, "document unit")
    folder = checked_path(data_dir, "data_dir") if data_dir else None
    if folder and not folder.exists():
        raise CurvekitError(f"there is no data folder {folder}; name an existing one, or leave data_dir out")
    if codes is not None:
        checked_source(codes)
        if name in CORPORA:
            raise CurvekitError(f"codes is {codes!r}, and the corpus {name!r} has none; name a file or a folder")
        path = existing_path(name, data_dir)
        corpus, source = _load_coded(path, codes, announce), str(path.resolve())
    elif name in CORPORA:
        if document != "auto":
            raise CurvekitError(f"corpus {name!r} has documents of its own; leave document={document!r} out")
        corpus, source = _load_named(name, folder, announce)
    else:
        path = existing_path(name, data_dir)
        if marker(path).get("kind") == "prepared":
            raise CurvekitError(f"{path} was prepared for training and holds no texts to train on; name its corpus")
        corpus, source = _load_path(path, document, announce), str(path.resolve())
        for split in SPLITS:
            require_script(path.resolve(), corpus[split]["text"])
    sizes = ", ".join(f"{corpus[split].num_rows:,} {split}" for split in SPLITS)
    announce(f"corpus {name}: {sizes} documents, from {source}")
    return corpus


def corpus_revision(corpus: DatasetDict) -> dict[str, str]:
    """``text_revision`` of each split; of rows with a source and a target, of both."""
    return {
        split: text_revision(itertools.chain.from_iterable(zip(*map(rows.__getitem__, rows.column_names), strict=True)))
        for split, rows in corpus.items()
    }


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
        return _load_pydocs(name, announce), f"Python {platform.python_version()} on this machine"
    if name.startswith("pycode"):
        if data_dir:
            raise CurvekitError(f"{name} is source code on this machine; leave data_dir={str(data_dir)!r} out")
        return _load_pycode(name, announce), f"Python {platform.python_version()} on this machine"
    folder, source = _data_folder(name, data_dir, announce), "the data folder"
    if folder is None and name == "openwebtext":
        return _load_openwebtext(), "the hub, streamed once and kept in the local cache"
    if folder is None:
        folder, source = _hub_folder(name)
    if name == "shakespeare":
        return _load_shakespeare(folder, announce), f"{source}, {folder}"
    if name == "stories" and not _split_files(folder):
        return _split_text(folder / _FILES[name], "story", announce), f"{source}, {folder}"
    units = {"wikitext-2": "article", "wikitext-103": "article", "stories": "story"}
    return _load_splits(folder, units.get(name, "auto"), announce), f"{source}, {folder}"


def _environment_folder() -> Path | None:
    value = os.environ.get("CURVEKIT_DATA")
    return checked_path(value, "CURVEKIT_DATA") if value else None


def _data_folder(name: str, data_dir: Path | None, announce: Announce) -> Path | None:
    """The corpus's folder in ``data_dir`` or CURVEKIT_DATA; None where neither names one that holds it."""
    root = data_dir or _environment_folder()
    if root is None:
        return None
    here = root.resolve().name.removesuffix("-raw-v1")
    # data_dir is given for this corpus; CURVEKIT_DATA serves all names, and train.txt there does not say whose it is.
    itself = here == name or (data_dir and here not in CORPORA) or (name in _FILES and (root / _FILES[name]).exists())
    for folder in (root / name, root / f"{name}-raw-v1", *([root] if itself else [])):
        if _split_files(folder) or (name in _FILES and (folder / _FILES[name]).exists()):
            return folder
    files = _FILES.get(name, "train, valid and test files (.txt, .raw, .parquet)")
    problem = f"{root} does not hold {name}: expected {files}"
    if data_dir:
        problem += f" there or in {root / name}"
        raise CurvekitError(f"{problem}; name its folder, or leave data_dir out to use the cache or the hub")
    announce(f"CURVEKIT_DATA={problem} in {root / name}; looking in the local cache and on the hub instead")
    return None


def _hub_folder(name: str) -> tuple[Path, str]:
    """The corpus's data files in the local cache of the hub, downloaded where they are not there yet."""
    if name not in _HUB:
        raise CurvekitError(
            f"corpus {name} is on no hub; put a file {_FILES[name]}, one story a line in the form {FORM}, into a "
            "folder and name that as data_dir (public-domain stories are at Standard Ebooks and Project Gutenberg)"
        )
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

    pages = documents.cached(texts, f"openwebtext-{_OPENWEBTEXT_DOCUMENTS}")
    return _split_by_hash(pages, "openwebtext", held_out=0.005)  # its makers have left near-duplicates out


def _installation(reader: str, everything: bool) -> str:
    """What an installation's texts follow from. They take seconds to read, with every package minutes."""
    versions = (f"{package.name}=={package.version}" for package in importlib.metadata.distributions())
    way = Path(reader).read_text(encoding="utf-8")
    return text_revision([sys.version, sys.base_prefix, way, *(sorted(versions) if everything else ())])


def _load_pycode(name: str, announce: Announce) -> DatasetDict:
    everything = name == "pycode-all"
    key = _installation(pycode.__file__, everything)
    divided = cache(lambda: pycode.split_packages(pycode.python_source(everything)))

    def texts(split: str) -> Iterator[str]:
        yield from divided()[split]

    corpus = DatasetDict({split: documents.cached(partial(texts, split), f"{name}-{split}-{key}") for split in SPLITS})
    cleaned, report = remove_duplicates(corpus, _duplicates(corpus))
    if report.removed:
        announce(f"{name}: {report}")
    return cleaned


def _load_pydocs(name: str, announce: Announce) -> DatasetDict:
    everything = name == "pydocs-all"
    key = _installation(pydocs.__file__, everything)
    texts = partial(pydocs.python_documentation, installed_packages=everything)
    return _divide(documents.cached(texts, f"{name}-{key}"), "the documentation of this Python", announce)


def _load_shakespeare(folder: Path, announce: Announce) -> DatasetDict:
    if (folder / "input.txt").exists():
        return _split_text(folder / "input.txt", "passage", announce)
    parts = _load_splits(folder, "file", announce)  # cut anew, so that both sources give the same splits
    whole = "".join(text for split in SPLITS for text in parts[split]["text"])
    return _split_in_order(as_dataset(documents.passages(io.StringIO(whole))), str(folder))


def existing_path(name: str, data_dir: str | Path | None = None) -> Path:
    """The file or folder of this name in ``data_dir``, else here, else in CURVEKIT_DATA.

    Raises:
        CurvekitError: it is in none of them, or is no kind of file that is read.
    """
    given = checked_path(data_dir, "data_dir") if data_dir else None
    roots = [root for root in (given, Path(), _environment_folder()) if root is not None]
    for path in (root / checked_path(name, "the corpus") for root in roots if name):
        if path.is_dir() or (suffix(path) in SUFFIXES and path.exists()):
            return path
        if path.exists():
            raise CurvekitError(f"{path} is none of {', '.join(SUFFIXES)}; convert it, or name a folder")
    if "/" in name or os.sep in name or name.startswith((".", "~")) or suffix(Path(name)) in SUFFIXES:
        raise CurvekitError(
            f"there is no file or folder {name!r}; name an existing one or a corpus ({', '.join(CORPORA)})"
        )
    return Path(pick(name, CORPORA, "corpus"))  # raises with the nearest names


def _load_path(path: Path, unit: str, announce: Announce) -> DatasetDict:
    if path.is_dir():
        if _split_files(path):
            return _load_splits(path, unit, announce)
        seen = _visible(path)
        files = [file for file in seen if suffix(file) in SUFFIXES]
        if not files:
            raise CurvekitError(f"{path} holds no file of {', '.join(SUFFIXES)}; name a folder that does")
        if others := [file.name for file in seen if suffix(file) not in SUFFIXES]:
            announce(f"{path}: {len(others):,} files that are none of {', '.join(SUFFIXES)} left out ({_some(others)})")
        if named := [str(file.relative_to(path)) for file in files if _words(file.relative_to(path))]:
            announce(
                f"{path}: some names hold train, valid or test ({_some(named)}), but no file or folder of each is "
                "there: they were joined and are split anew; name them train, validation and test to keep them apart"
            )
        if len(files) == 1 and suffix(files[0]) not in TABLES:
            return _split_text(files[0], unit, announce)
        units = [_folder_unit(file) if unit == "auto" else unit for file in files]
        return _divide(documents.read_each(list(zip(files, units, strict=True)), announce), str(path), announce)
    if suffix(path) in TABLES:
        return _divide(documents.read_table(path, unit, announce), str(path), announce)
    return _split_text(path, unit, announce)


def _load_coded(path: Path, codes: str, announce: Announce) -> DatasetDict:
    """A file or a folder, each of whose documents follows its control codes."""
    if path.is_dir() and (splits := _split_files(path)):
        _require_all(splits, path)
        return DatasetDict({split: as_dataset(read_coded(splits[split], codes)) for split in SPLITS})
    files = [file for file in _visible(path) if suffix(file) in SUFFIXES] if path.is_dir() else [path]
    rows = as_dataset(read_coded(files, codes))
    if not rows.num_rows:
        raise CurvekitError(f"{path} holds no document with a code of {codes!r}; name another source of codes")
    return _divide(rows, str(path), announce)


def _visible(folder: Path) -> list[Path]:
    """The files below a folder that are not hidden."""
    inside = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in inside if "/." not in f"/{file.relative_to(folder).as_posix()}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _folder_unit(path: Path) -> str:
    """A text of a folder is one document, but stories are told apart."""
    if suffix(path) in TABLES:
        return "auto"
    return "story" if documents.natural_unit(path) == "story" else "file"


def _split_text(path: Path, unit: str, announce: Announce) -> DatasetDict:
    natural = documents.natural_unit(path) if unit == "auto" else unit
    rows = documents.read_text(path, natural, announce)
    independent = natural not in ("passage", "file") and (unit != "auto" or _three_differ(rows["text"]))
    if natural == "story" or independent:
        return _divide(rows, str(path), announce)
    if natural != "passage" or rows.num_rows < 3:
        rows = as_dataset(documents.pieces("".join(documents.unmarked(read_lines(path)))))
    corpus = _split_in_order(rows, str(path))
    if unit == "file":
        return DatasetDict({split: as_dataset(["".join(corpus[split]["text"])]) for split in SPLITS})
    return corpus


def further_splits(path: str | Path, data_dir: str | Path | None = None) -> dict[str, Path]:
    """Held-out files of a folder beside its splits, by their names: ``{"test_modern": folder / "test_modern.txt"}``."""
    if str(path) in CORPORA:
        return {}
    folder = existing_path(str(path), data_dir)
    if not folder.is_dir():
        return {}
    used = {file for files in _split_files(folder).values() for file in files}
    further = (file for file in folder.glob("[!.]*") if suffix(file) in SUFFIXES and file not in used)
    return {file.stem: file for file in sorted(further) if _words(Path(file.name)) - {"train"}}


def _load_splits(folder: Path, unit: str, announce: Announce) -> DatasetDict:
    splits = _split_files(folder)
    without = splits.keys() == {"train", "test"}
    _require_all(splits | ({"validation": []} if without else {}), folder)
    used = {path for files in splits.values() for path in files}
    if others := [str(file.relative_to(folder)) for file in _visible(folder) if file not in used]:
        announce(f"{folder}: {len(others):,} files that belong to no split left out ({_some(others)})")
    read = {split: documents.read_files(files, unit, announce) for split, files in splits.items()}
    if without:
        read |= _set_apart(read["train"], splits["train"][0], folder, announce)
    return DatasetDict({split: read[split] for split in SPLITS})


def _set_apart(rows: Dataset, file: Path, folder: Path, announce: Announce) -> dict[str, Dataset]:
    """A validation split out of training documents: the end of a running text, else those with the lowest hashes."""
    _require_three(rows.num_rows, str(folder))
    held_out = max(1, round(_HELD_OUT * rows.num_rows))
    if suffix(file) not in TABLES and documents.natural_unit(file) == "passage":
        cut = rows.num_rows - held_out
        parts = {"train": rows.select(range(cut)), "validation": rows.select(range(cut, rows.num_rows))}
    else:
        divided = _split_by_hash(rows, str(folder))
        train = concatenate_datasets([divided["train"], divided["test"]])
        cleaned, _ = remove_duplicates(DatasetDict(train=train, validation=divided["validation"]))
        parts = {"validation": divided["validation"], "train": cleaned["train"] if cleaned["train"].num_rows else train}
    announce(f"{folder} has no validation file: {parts['validation'].num_rows:,} training documents were set apart")
    return parts


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split; none where their names are no splits.

    A name tells by a word of it, whatever the case: train.txt, My_Train.TXT, wiki.valid.raw,
    test-00000-of-00001.parquet; or a folder's does: train/anything.jsonl, Test/a/b.txt. Where other texts lie beside
    and not all three are there, only names that say nothing else count: "A Test of Time.txt" is a book.
    """
    found: dict[str, list[Path]] = {}
    plain, others = False, False
    for path in sorted(folder.glob("[!.]*")):
        words = _words(path.relative_to(folder))
        files = [path] if path.is_file() else _visible(path) if path.is_dir() and len(words) == 1 else []
        texts = [file for file in files if suffix(file) in SUFFIXES]
        if len(words) != 1:
            others = others or bool(texts)
        elif texts:
            found.setdefault(words.pop(), []).extend(texts)
            name = path.name if path.is_dir() else path.stem
            numbered = _SHARD.fullmatch(name)
            plain = plain or bool(_PLAIN.fullmatch(numbered[1] if numbered else name))
    for split, files in found.items():  # test_modern.txt beside test.txt is a further test
        alone = [file for file in files if file.parent == folder and _PLAIN.fullmatch(file.stem)]
        if len(alone) == 1 and not any(_SHARD.fullmatch(file.stem) for file in files):
            found[split] = alone
    return found if plain or len(found) == 3 or (len(found) == 2 and not others) else {}


def _words(place: Path) -> set[str]:
    """The splits that the name of a file, or of the first folder above it, holds as a word."""
    name = place.stem if len(place.parts) == 1 and suffix(place) in SUFFIXES else place.parts[0]
    words = (word.lower() for word in _WORD.findall(_HUMP.sub(" ", name)))
    return {_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES}


def _require_all(splits: dict[str, list[Path]], folder: Path) -> None:
    there = ", ".join(str(path.relative_to(folder)) for files in splits.values() for path in files) or "none"
    if missing := [split for split in SPLITS if split not in splits]:
        raise CurvekitError(
            f"{folder} has no {' and no '.join(missing)} file (split files there: {there}); "
            "add it, or name one file to have it split"
        )
    for split, files in splits.items():
        shards = [_SHARD.fullmatch(file.stem) for file in files if file.parent == folder]
        names = {(match[1], match[3]) if match else None for match in shards}
        whole = all(match is None or match[3] is None or int(match[3]) == len(files) for match in shards)
        if len(names) > 1 or (names == {None} and len(files) > 1) or not whole:
            raise CurvekitError(f"{folder} should have one {split} file or all its shards; it has {there}")


def _divide(rows: Dataset, source: str, announce: Announce) -> DatasetDict:
    """Splits of independent documents, of which none that trains repeats a held-out one."""
    corpus = _split_by_hash(rows, source)
    cleaned, report = remove_duplicates(corpus, _duplicates(corpus))
    for split in (split for split in SPLITS if not cleaned[split].num_rows):
        announce(f"{source}: every {split} document repeats a held-out one; they were kept, or there would be none")
        cleaned[split] = corpus[split]
        report.removed = [each for each in report.removed if each.split != split]
    if report.removed:
        announce(f"{source}: {report}")
    return cleaned


def _duplicates(corpus: DatasetDict) -> DuplicateReport:
    """What :func:`search_splits` finds; of a large corpus once, and from the cache of ``datasets`` after."""
    if sum(len(text) for rows in corpus.values() for text in rows["text"]) < _LARGE:
        return search_splits(corpus)
    method = Path(duplicates.__file__).read_text(encoding="utf-8")
    key = text_revision([method, *corpus_revision(corpus).values()])
    path = Path(datasets.config.HF_DATASETS_CACHE) / f"curvekit-duplicates-{key}.json"
    with contextlib.suppress(CurvekitError, OSError, TypeError):  # not there yet, not readable, or something else
        return DuplicateReport([Removed(*row) for row in read_json(path, list)])
    report = search_splits(corpus)
    with contextlib.suppress(CurvekitError):  # a cache that cannot be written costs time, nothing else
        write_json(path, report.removed)
    return report


def _split_by_hash(rows: Dataset, source: str, held_out: float = _HELD_OUT) -> DatasetDict:
    """Hashes in the lowest ``held_out`` share of all go to validation, in the next to the test, the rest trains.

    Each split has one document at least, however few there are.
    """
    hashes = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in rows["text"])
    places = np.fromiter((int.from_bytes(digest[:8], "big") for digest in hashes), np.uint64, rows.num_rows)
    distinct = np.unique(places)
    _require_three(len(distinct), source)
    first, second = (int((distinct < int(share * 2**64)).sum()) for share in (held_out, 2 * held_out))
    first = min(max(first, 1), len(distinct) - 2)
    second = min(max(second, first + 1), len(distinct) - 1)
    parts = np.searchsorted(distinct[[first, second]], places, side="right")
    numbers = {"train": 2, "validation": 0, "test": 1}
    return DatasetDict({split: rows.select(np.flatnonzero(parts == numbers[split])) for split in SPLITS})


def _three_differ(texts: Iterable[str]) -> bool:
    seen: set[str] = set()
    for text in texts:
        seen.add(text)
        if len(seen) == 3:
            return True
    return False


def _split_in_order(rows: Dataset, source: str) -> DatasetDict:
    """Validation and test get the same share each from the end of a running text."""
    _require_three(rows.num_rows, source)
    held_out = max(1, round(_HELD_OUT * rows.num_rows))
    ends = (0, rows.num_rows - 2 * held_out, rows.num_rows - held_out, rows.num_rows)
    return DatasetDict({split: rows.select(range(*ends[i : i + 2])) for i, split in enumerate(SPLITS)})


def _require_three(count: int, source: str) -> None:
    if count < 3:
        raise CurvekitError(
            f"{source} has {count} distinct document{'s' * (count != 1)}, and three splits need three or more; "
            "add text, or give a folder with train, validation and test files"
        )
