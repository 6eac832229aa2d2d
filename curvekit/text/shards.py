"""A corpus cut into tokens once and for all: shards on the disk, an index, and runs that read them memory-mapped.

A prepared corpus is a folder::

    index.json          what it was made of, and of each shard its documents, tokens and digest
    train/00000.safetensors, ...    token streams as ``curvekit.text.packing`` writes them, in the corpus's order
    validation.jsonl, test.jsonl    the held-out texts as they are, for scores a word and a byte

Where a shard ends depends on the texts alone and not on how many processes cut them, so the order is always the same:
block ``i`` of the shards is block ``i`` of the stream that ``pack`` would write of the whole corpus.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from tqdm import tqdm

from curvekit.errors import CurvekitError
from curvekit.files import read_json, read_jsonl, write_json, write_jsonl
from curvekit.ownership import MARKER, Kind, json_with, mark, marker, require
from curvekit.text.corpora import Revision, corpus_revision, load_corpus, text_revision
from curvekit.text.documents import Announce, as_dataset
from curvekit.text.packing import is_stream, is_whole, opened, pack, tokenizer_fingerprint, too_short

CHARACTERS = 2**25  # of a shard, some 33 MB of English; its last document may go beyond
_READ = 64  # documents that are read from the disk at a time
INDEX = {
    "corpus": str,
    "tokenizer": str,
    "texts": str,
    "tokens": int,
    "documents": int,
    "shards": [{"file": str, "tokens": int, "documents": int}],
    "held_out": {"validation": str, "test": str},
}
PREPARED = Kind(
    "prepared",
    "a prepared corpus",
    {
        "index.json": json_with("shards", "tokenizer"),
        "train": lambda path: path.is_dir() and all(map(is_stream, path.glob("[0-9]*.safetensors"))),
    },
    proofs=("index.json",),
)


def prepare(
    corpus: DatasetDict, name: str, tokenizer: Any, folder: str | Path, workers: int = 1, announce: Announce = print
) -> dict[str, Any]:
    """Write a corpus into ``folder`` as shards of tokens; after a kill, what is whole is kept and the rest goes on.

    Memory does not grow with the corpus where it is memory-mapped, as every large one is.

    Args:
        corpus: what ``load_corpus`` gave.
        name: of the corpus, for the index.
        tokenizer: of the base that will be trained.
        workers: processes that tokenise; they read ranges of documents, and none waits for another.

    Returns:
        the index.

    Raises:
        CurvekitError: the folder holds something else or another corpus, or cannot be written.
    """
    folder = Path(folder)
    require(folder, PREPARED)
    texts, revision = corpus["train"], Revision()
    ranges = list(_ranges(texts, revision))
    made = {"corpus": name, "tokenizer": tokenizer_fingerprint(tokenizer), "texts": str(revision)}
    if (folder / "index.json").exists():
        known = read_json(folder / "index.json", shape=INDEX)
        if other := [key for key, value in made.items() if known[key] != value]:
            raise CurvekitError(f"{folder} was prepared with another {other[0]}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for place, kind in ((folder, PREPARED.name), (folder / "train", "tokens")):
        place.mkdir(exist_ok=True)
        if not marker(place):
            mark(place, kind)
    jobs = [
        (number, begin, end, folder / "train" / f"{number:05}.safetensors")
        for number, (begin, end) in enumerate(ranges)
    ]
    shards = list(tqdm(_cut_all(jobs, texts, tokenizer, workers), "preparing", len(jobs), unit=" shards", disable=None))
    for split in ("validation", "test"):
        write_jsonl(folder / f"{split}.jsonl", ({"text": text} for text in corpus[split]["text"]))
    index = made | {
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "shards": shards,
        "held_out": {split: text_revision(corpus[split]["text"]) for split in ("validation", "test")},
    }
    write_json(folder / "index.json", index)  # last: with it the folder is whole
    announce(f"{folder}: {index['documents']:,} documents, {index['tokens']:,} tokens in {len(shards)} shards")
    return index


def _ranges(texts: Dataset, revision: Revision) -> Iterator[tuple[int, int]]:
    """The first document of each shard and the one behind its last; on the way, the revision of all."""
    begin, size = 0, 0
    for number, text in enumerate(_texts(texts, 0, len(texts))):
        revision.add(text)
        size += len(text)
        if size >= CHARACTERS:
            yield begin, number + 1
            begin, size = number + 1, 0
    if begin < len(texts):
        yield begin, len(texts)


def _texts(rows: Dataset, begin: int, end: int) -> Iterator[str]:
    for start in range(begin, end, _READ):
        yield from rows[start : min(end, start + _READ)]["text"]


class _Range:
    """Some documents of a dataset, as often as they are asked for."""

    def __init__(self, rows: Dataset, begin: int, end: int) -> None:
        self.rows, self.begin, self.end = rows, begin, end

    def __iter__(self) -> Iterator[str]:
        return _texts(self.rows, self.begin, self.end)


_shared: dict[str, Any] = {}  # what the workers have from the process that they were forked from


def _cut(job: tuple[int, int, int, Path]) -> dict[str, Any]:
    """Write one shard, or find it whole."""
    _, begin, end, path = job
    packed = pack(_Range(_shared["texts"], begin, end), _shared["tokenizer"], 2, path, progress=False)
    return {"file": f"train/{path.name}", "tokens": packed.tokens, "documents": end - begin}


def _cut_all(
    jobs: Sequence[tuple[int, int, int, Path]], texts: Dataset, tokenizer: Any, workers: int
) -> Iterator[dict[str, Any]]:
    """Each job's shard, in order."""
    _shared.update(texts=texts, tokenizer=tokenizer)
    try:
        if workers == 1 or len(jobs) == 1:
            yield from map(_cut, jobs)
            return
        if "fork" not in multiprocessing.get_all_start_methods():
            raise CurvekitError("this system cannot fork processes; prepare with one worker")
        before = os.environ.get("TOKENIZERS_PARALLELISM")
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process is one thread, and forking is safe
        try:
            with multiprocessing.get_context("fork").Pool(min(workers, len(jobs))) as pool:
                yield from pool.imap(_cut, jobs)
        finally:
            os.environ.pop("TOKENIZERS_PARALLELISM")
            if before is not None:
                os.environ["TOKENIZERS_PARALLELISM"] = before
    finally:
        _shared.clear()


class ShardedBlocks(torch.utils.data.Dataset):
    """Blocks of the shards' tokens, one stream from the first to the last: items are those of ``PackedBlocks``."""

    def __init__(self, paths: Sequence[Path], block_size: int) -> None:
        self.paths, self.block_size = list(paths), block_size
        self._open()
        if self.tokens < block_size:
            raise too_short(self.tokens, block_size, "the prepared corpus")

    def _open(self) -> None:
        self.streams = [opened(path)[0] for path in self.paths]
        self.ends = np.cumsum([len(stream) for stream in self.streams])

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "block_size": self.block_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    def __len__(self) -> int:
        return self.tokens // self.block_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        begin = range(len(self))[index] * self.block_size
        parts, wanted = [], self.block_size
        shard = int(np.searchsorted(self.ends, begin, side="right"))
        inside = begin - (int(self.ends[shard - 1]) if shard else 0)
        while wanted:
            parts.append(self.streams[shard][inside : inside + wanted].astype(np.int64))
            wanted, inside, shard = wanted - len(parts[-1]), 0, shard + 1
        ids = torch.from_numpy(np.concatenate(parts))
        return {"input_ids": ids, "labels": ids.clone()}


class PreparedCorpus(DatasetDict):
    """A prepared corpus where a corpus is wanted: held-out texts as they are, and what trains as blocks.

    Attributes:
        folder: where it lies.
        index: see :data:`INDEX`.
    """

    folder: Path
    index: dict[str, Any]

    def blocks(self, tokenizer: Any, block_size: int) -> ShardedBlocks:
        """What trains, in blocks.

        Raises:
            CurvekitError: another tokeniser than the corpus was cut with, or a shard that is missing or cut off.
        """
        if tokenizer_fingerprint(tokenizer) != self.index["tokenizer"]:
            raise CurvekitError(
                f"{self.folder} was cut by another tokeniser than the base's; prepare the corpus for this base"
            )
        paths = [self.folder / shard["file"] for shard in self.index["shards"]]
        if bad := next((path for path in paths if not is_whole(path)), None):
            raise CurvekitError(f"{bad} is missing or not whole; give the command that prepared {self.folder} again")
        blocks = ShardedBlocks(paths, block_size)
        if blocks.tokens != self.index["tokens"]:
            raise CurvekitError(f"the shards of {self.folder} are not those of its index; prepare it again")
        return blocks


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder holds a prepared corpus, whole or not yet."""
    return Path(folder).is_dir() and (Path(folder) / MARKER).exists() and marker(Path(folder)).get("kind") == "prepared"


def open_corpus(
    name: str,
    data_dir: str | Path | None = None,
    *,
    codes: str | None = None,
    announce: Callable[[str], object] = print,
) -> DatasetDict:
    """A prepared corpus by its folder, or what ``load_corpus`` gives.

    Raises:
        CurvekitError: as ``load_corpus``; or the folder was not prepared to its end, or codes are asked for it.
    """
    if not is_prepared(name):
        return load_corpus(name, data_dir, codes=codes, announce=announce)
    folder = Path(name)
    if codes is not None:
        raise CurvekitError(f"codes is {codes!r}, and {folder} was cut without codes; name the corpus itself")
    if not (folder / "index.json").exists():
        raise CurvekitError(f"{folder} was not prepared to its end; give the command that prepares it again")
    index = read_json(folder / "index.json", shape=INDEX)
    held_out = {
        split: as_dataset([row["text"] for row in read_jsonl(folder / f"{split}.jsonl", {"text": str})])
        for split in ("validation", "test")
    }
    if {split: text_revision(rows["text"]) for split, rows in held_out.items()} != index["held_out"]:
        raise CurvekitError(f"the held-out texts of {folder} have changed; give the command that prepared it again")
    corpus = PreparedCorpus({"train": as_dataset([]), **held_out})
    corpus.folder, corpus.index = folder, index
    announce(f"{folder}: {index['documents']:,} documents of {index['corpus']}, {index['tokens']:,} tokens, prepared")
    return corpus


def revisions(corpus: DatasetDict) -> dict[str, str]:
    """The revision of each split: of a prepared corpus, that of the texts it was cut from."""
    if isinstance(corpus, PreparedCorpus):
        return {"train": corpus.index["texts"], **corpus.index["held_out"]}
    return corpus_revision(corpus)
