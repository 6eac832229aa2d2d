"""Documents that stand in two splits, word for word or nearly: found, and taken out of the one that trains.

A model that has read a test document scores itself on its memory. The held-out copy is the one that stays: the
splits for evaluation are small and fixed, and a figure is comparable only where they do not change.

Documents are compared by their words, in lower case and without punctuation, so that neither typography nor spaces
hide a copy. Two are **exact** duplicates where all words agree. They are **near** ones where, with S(x) the set of
runs of five words in x,

    overlap(a, b) = |S(a) & S(b)| / min(|S(a)|, |S(b)|)  >=  1/2

so that a story inside a longer book counts as well. Below ``LEAST`` runs only exact ones count: two short
sentences may agree by chance. Unlike Jaccard's index under MinHash (Broder 1997; Lee et al. 2022) this is
computed exactly, against an index of the held-out runs alone: time grows with the documents, memory with what is
held out. Scripts that write no spaces are compared by runs of five clauses.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from datasets import DatasetDict
from tqdm import tqdm

WORDS = 5  # in a run
OVERLAP = 0.5
LEAST = 20  # runs, which is 24 words

_OWNERS = 16  # documents that an index remembers of one run: what more of them share is a formula, not a copy
_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Duplicate(NamedTuple):
    """``texts[text]`` repeats ``held_out[held_out]``; ``exact``: in the same words, no more and no less."""

    text: int
    held_out: int
    overlap: float
    exact: bool


class Removed(NamedTuple):
    """A document of ``split`` that was taken out, and the one that it repeats."""

    split: str
    row: int
    kept_split: str
    kept_row: int
    overlap: float
    exact: bool
    characters: int


@dataclass
class DuplicateReport:
    """What ``remove_duplicates`` took out, in words as ``str(report)``."""

    removed: list[Removed] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        for split in dict.fromkeys(each.split for each in self.removed):
            found = [each for each in self.removed if each.split == split]
            exact, characters = sum(each.exact for each in found), sum(each.characters for each in found)
            parts.append(f"{len(found):,} {split} documents ({exact:,} exact, {characters:,} characters)")
        return f"{' and '.join(parts)} left out as duplicates of held-out ones" if parts else "no duplicates"


def remove_duplicates(corpus: DatasetDict, known: DuplicateReport | None = None) -> tuple[DatasetDict, DuplicateReport]:
    """The corpus without training documents that validation or test hold, and without validation ones of test.

    Copies within one split stay. The order of the others does not change. A split of which every document repeats a
    held-out one is empty afterwards. What is ``known`` of the same corpus from before is not searched again.
    """
    report = search_splits(corpus) if known is None else known
    kept = DatasetDict(corpus)
    for split, rows in corpus.items():
        gone = {each.row for each in report.removed if each.split == split}
        if gone:
            kept[split] = rows.select([row for row in range(rows.num_rows) if row not in gone])
    return kept, report


def search_splits(corpus: DatasetDict) -> DuplicateReport:
    """What :func:`remove_duplicates` takes out: first of validation what test holds, then of train what either does."""
    removed: list[Removed] = []
    held_out: list[tuple[str, int]] = []
    texts: list[str] = []
    for split in (split for split in ("test", "validation", "train") if split in corpus):
        rows = corpus[split]["text"]
        found = find_duplicates(rows, texts) if texts else []
        removed += [
            Removed(split, each.text, *held_out[each.held_out], each.overlap, each.exact, len(rows[each.text]))
            for each in found
        ]
        if split != "train":
            gone = {each.text for each in found}
            held_out += [(split, row) for row in range(len(rows)) if row not in gone]
            texts += [text for row, text in enumerate(rows) if row not in gone]
    return DuplicateReport(removed)


def find_duplicates(texts: Iterable[str], held_out: Sequence[str]) -> list[Duplicate]:
    """Each text that repeats a held-out one, with the one it overlaps most; both may be any sequences of strings.

    A core reads 2 MB (short documents) to 8 MB (long ones) of ``texts`` a second; they are read once and not kept.
    """
    index = _Index(held_out)
    watched = tqdm(texts, "comparing with held-out documents", unit=" documents", leave=False, disable=None, delay=2)
    found = (index.find(number, text) for number, text in enumerate(watched))
    return [each for each in found if each is not None]


def find_repeats(texts: Sequence[str]) -> list[Duplicate]:
    """Each text that repeats an earlier one of the same: the one it overlaps most is its ``held_out``."""
    index = _Index(texts)
    found = (index.find(number, text, before=number) for number, text in enumerate(texts))
    return [each for each in found if each is not None]


def overlap(a: str, b: str) -> float:
    """The formula as it reads, on sets; ``find_duplicates`` is the fast one."""
    first, second = (
        {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)} for words in map(_words, (a, b))
    )
    return len(first & second) / max(1, min(len(first), len(second)))


class _Index:
    """The held-out documents by what they say: ``whole`` by all their words, ``runs`` by runs of five."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.whole: dict[bytes, int] = {}
        sets = []
        for number, text in enumerate(texts):
            numbers = _numbers(text)
            self.whole.setdefault(_digest(text, numbers), number)
            sets.append(_runs(numbers))
        self.sizes = np.array([len(runs) for runs in sets], np.int64)
        near = [number for number, size in enumerate(self.sizes) if size >= LEAST]
        runs = np.concatenate([sets[number] for number in near] or [np.empty(0, np.uint64)])
        del sets  # of a large corpus these are millions of numbers, of which each copy counts
        order = np.argsort(runs, kind="stable")
        self.owners = np.repeat(np.array(near, np.int32), self.sizes[near])[order]
        runs = runs[order]
        del order
        self.begins = np.flatnonzero(np.diff(runs, prepend=~runs[:1]))
        self.runs = runs[self.begins]
        self.counts = np.minimum(np.diff(self.begins, append=len(runs)), _OWNERS).astype(np.int8)

    def find(self, number: int, text: str, before: int | None = None) -> Duplicate | None:
        """The held-out document that a text repeats; of those ``before`` a number alone."""
        numbers = _numbers(text)
        same = self.whole.get(_digest(text, numbers))
        if same is not None and (before is None or same < before):
            return Duplicate(number, same, 1.0, True)
        runs = _runs(numbers)
        if len(runs) < LEAST or not len(self.runs):
            return None
        places = np.minimum(np.searchsorted(self.runs, runs), len(self.runs) - 1)
        places = places[self.runs[places] == runs]
        if len(places) < OVERLAP * LEAST:
            return None
        shares = [
            self.owners[self.begins[more] + k] for k in range(_OWNERS) if len(more := places[self.counts[places] > k])
        ]
        owners = np.concatenate(shares)
        owners, shared = np.unique(owners if before is None else owners[owners < before], return_counts=True)
        if not len(owners):
            return None
        overlaps = shared / np.minimum(self.sizes[owners], len(runs))
        best = int(overlaps.argmax())
        if overlaps[best] < OVERLAP:
            return None
        return Duplicate(number, int(owners[best]), float(overlaps[best]), False)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _numbers(text: str) -> np.ndarray:
    """The words as numbers of 64 bits, the same in every process."""
    words = _words(text)
    return np.fromiter(map(_number, words), np.uint64, len(words))


@lru_cache(2**20)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _digest(text: str, numbers: np.ndarray) -> bytes:
    return hashlib.blake2b(numbers.tobytes() or text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _runs(numbers: np.ndarray) -> np.ndarray:
    """The set of runs of five words, each as one number, in order."""
    runs = np.zeros(max(0, len(numbers) - WORDS + 1), np.uint64)
    for place in range(WORDS):
        runs = runs * _MULTIPLIER + numbers[place : place + len(runs)]
    return np.unique(runs)
