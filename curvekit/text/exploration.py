"""What a corpus is made of, before anything is trained on it: lengths, characters, words, repeats, what its ends say.

Everything is counted on the documents as a run would read them. Nothing is drawn here; the pictures are in
``curvekit.figures.corpora``.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from curvekit.bases.tokenizer import base_tokenizer
from curvekit.files import read_jsonl
from curvekit.text.corpora import CORPORA, SPLITS, existing_path, load_corpus
from curvekit.text.documents import Announce, as_dataset
from curvekit.text.duplicates import find_duplicates, find_repeats
from curvekit.text.scripts import scripts, what_is_wrong
from curvekit.text.stories import RULES, cut_trailer
from curvekit.text.tokenization import run_tokenizer

WORD = re.compile(r"\w+(?:['’-]\w+)*")
LOOKED_AT = 20_000  # documents of a split that are compared with one another and searched for trailers, at most
SHOWN = 280  # characters of an example
_CUT = 100_000  # characters that a tokeniser is measured on


@dataclass
class Split:
    """The figures of one split.

    Attributes:
        documents, characters, words, bytes: how many.
        lengths: words of each document, int64 (documents,).
        repeats: documents that repeat an earlier one of the same split, exactly and nearly.
        leaked: documents that a held-out split holds too, exactly and nearly; of the training split alone.
    """

    documents: int
    characters: int
    words: int
    bytes: int
    lengths: np.ndarray
    repeats: tuple[int, int] = (0, 0)
    leaked: tuple[int, int] = (0, 0)


@dataclass
class Exploration:
    """What :func:`explore` found.

    Attributes:
        name: of the corpus. ``told``: what was said while it was read.
        splits: by name.
        characters: each character with its count. ``scripts``: letters of each script.
        wrong: what is no text -> its count and where one stands.
        words: each word of the training split, in lower case, with its count.
        unseen: share of the test split's words that the training split lacks, of all and of all different ones.
        tokens: tokeniser -> ``per_word``, ``per_character``, ``bytes_per_token``, ``cut`` (share of words in pieces).
        trailers: rule -> documents that end in what it names.
        examples: title -> the beginning of a document.
    """

    name: str
    told: list[str]
    splits: dict[str, Split]
    characters: Counter[str]
    scripts: Counter[str]
    wrong: dict[str, tuple[int, str]]
    words: Counter[str]
    unseen: tuple[float, float]
    tokens: dict[str, dict[str, float]] = field(default_factory=dict)
    trailers: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def rare_characters(self) -> list[tuple[str, int]]:
        """Characters that stand in the corpus fewer than ten times, the rarest first."""
        return sorted(((c, n) for c, n in self.characters.items() if n < 10), key=lambda each: (each[1], each[0]))

    def zipf(self) -> tuple[np.ndarray, float, float]:
        """Counts of words from the commonest down, Zipf's exponent, and the share of words that occur once.

        The exponent is the slope of log count over log rank, at 64 ranks from 10 to 10,000 in equal steps of the
        logarithm: the commonest words and those of a few occurrences bend off.
        """
        counts = np.array(sorted(self.words.values(), reverse=True), np.float64)
        ranks = np.unique(np.geomspace(10, min(10_000, max(len(counts), 11)), 64).astype(int))
        ranks = ranks[ranks <= len(counts)]
        slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0] if len(ranks) > 2 else np.nan
        return counts, -float(slope), float((counts == 1).mean()) if len(counts) else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        counts, exponent, once = self.zipf()
        quantiles = (0, 0.25, 0.5, 0.75, 0.95, 1)
        return {
            "corpus": self.name,
            "told": self.told,
            "splits": {
                name: {
                    "documents": each.documents, "characters": each.characters, "words": each.words,
                    "bytes": each.bytes, "words_a_document": [float(np.quantile(each.lengths, q)) for q in quantiles],
                    "repeats": list(each.repeats), "leaked": list(each.leaked),
                }
                for name, each in self.splits.items()
            },
            "characters": len(self.characters), "rare_characters": len(self.rare_characters),
            "scripts": dict(self.scripts.most_common()), "wrong": {name: n for name, (n, _) in self.wrong.items()},
            "different_words": len(counts), "zipf_exponent": exponent if exponent == exponent else None,
            "words_once": once, "unseen_words": list(self.unseen), "tokens": self.tokens, "trailers": self.trailers,
        }  # fmt: skip


def tokenizers_by_name(names: Sequence[str], vocabulary: int = 8192) -> dict[str, Callable[[Iterable[str]], Any]]:
    """For each name what makes its tokeniser from training texts: a base's own, ``characters`` or ``bpe`` learned.

    Raises:
        CurvekitError: as :func:`curvekit.bases.tokenizer.base_tokenizer`.
    """
    learned = ("characters", "bpe")
    known = {name: base_tokenizer(name) for name in names if name not in learned}
    return {
        name: (lambda texts, name=name: known.get(name) or run_tokenizer(name, "mini", texts, vocabulary))  # type: ignore[misc]
        for name in names
    }


def explore(
    name: str | Path,
    data_dir: str | Path | None = None,
    tokenizers: Mapping[str, Callable[[Iterable[str]], Any]] | None = None,
    seed: int = 0,
    announce: Announce = lambda text: None,
) -> Exploration:
    """Look at a corpus, or at a task's folder of rows, and count.

    Args:
        name, data_dir: as :func:`curvekit.text.load_corpus`; or a folder of JSON lines without a column ``text``,
            whose fields are joined.
        tokenizers: :func:`tokenizers_by_name`; measured on the first 100,000 characters of the test split.
        seed: of the examples.
        announce: is told what the reading says, and of how many documents only the first were compared.

    Raises:
        CurvekitError: as :func:`curvekit.text.load_corpus`.
    """
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        announce(text)

    corpus = read_anything(name, data_dir, tell)
    splits: dict[str, Split] = {}
    characters: Counter[str] = Counter()
    where: dict[str, tuple[str, int]] = {}
    words: dict[str, Counter[str]] = {}
    for split, rows in corpus.items():
        words[split], lengths, sizes = Counter(), [], [0, 0]
        for number, text in enumerate(rows["text"]):
            found = WORD.findall(text.lower())
            words[split].update(found)
            lengths.append(len(found))
            own = Counter(text)
            characters.update(own)
            sizes[0] += len(text)
            sizes[1] += len(text.encode("utf-8", "surrogatepass"))
            for character in own:
                if character not in where and what_is_wrong(character):
                    where[character] = split, number
        splits[split] = Split(rows.num_rows, sizes[0], sum(lengths), sizes[1], np.array(lengths, np.int64))
        if rows.num_rows > LOOKED_AT:
            tell(f"{split}: the first {LOOKED_AT:,} of {rows.num_rows:,} documents were compared with one another")
        splits[split].repeats = _sides(find_repeats(rows["text"][:LOOKED_AT]))
    if "train" in corpus:
        held_out = [text for split in corpus if split != "train" for text in corpus[split]["text"]]
        splits["train"].leaked = _sides(find_duplicates(corpus["train"]["text"], held_out)) if held_out else (0, 0)
    last = "test" if "test" in corpus else next(iter(corpus))
    trained = words.get("train", Counter())
    lacking = {word: n for word, n in words[last].items() if word not in trained}
    unseen = (sum(lacking.values()) / max(1, sum(words[last].values())), len(lacking) / max(1, len(words[last])))
    every = [text for rows in corpus.values() for text in rows["text"][:LOOKED_AT]]
    return Exploration(
        name=Path(name).name,
        told=told,
        splits=splits,
        characters=characters,
        scripts=scripts(characters),
        wrong=_wrong(characters, where, corpus),
        words=trained or words[last],
        unseen=unseen,
        tokens={
            key: measure_tokenizer(make(corpus[next(iter(corpus))]["text"]), _beginning(corpus[last]["text"]))
            for key, make in (tokenizers or {}).items()
        },
        trailers=_trailers(every),
        examples=_examples(every, random.Random(seed)),
    )


def read_anything(
    name: str | Path, data_dir: str | Path | None = None, announce: Announce = lambda _: None
) -> DatasetDict:
    """A corpus, or the rows of a task as texts.

    A task's folder holds ``train.jsonl``, ``test.jsonl`` and the like, whose rows have no ``text``: then a document is
    what the row's strings say, one after another, its identifiers left out.
    """
    if str(name) not in CORPORA and (path := existing_path(str(name), data_dir)).is_dir():
        files = sorted(path.glob("[!.]*.jsonl"))
        rows = {file.stem: read_jsonl(file) for file in files}
        if files and not any("text" in row for each in rows.values() for row in each[:1]):
            named = {"dev": "validation", "valid": "validation"}
            splits = {named.get(stem, stem): as_dataset(map(_said, each)) for stem, each in rows.items() if each}
            sizes = ", ".join(f"{each.num_rows:,} {split}" for split, each in splits.items())
            announce(f"{path}: {sizes} rows, the strings of each joined")
            return DatasetDict({split: splits[split] for split in sorted(splits, key=lambda s: (*SPLITS, s).index(s))})
    return load_corpus(name, data_dir, announce=announce)


def _said(row: Mapping[str, Any]) -> str:
    return "\n".join(_strings({key: value for key, value in row.items() if key not in ("id", "source", "services")}))


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key != "role":
                yield from _strings(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _strings(each)


def measure_tokenizer(tokenizer: Any, text: str) -> dict[str, float]:
    """What a tokeniser makes of a text: tokens a word and a character, bytes a token, the share of words it cuts.

    Words are those between spaces; where a script writes none, tokens a character is the figure to look at.
    """
    words = text.split()
    tokens = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    sample = words[:: max(1, len(words) // 2_000)]
    pieces = [len(ids) for ids in tokenizer([f" {w}" for w in sample], add_special_tokens=False)["input_ids"]]
    return {
        "per_word": tokens / max(1, len(words)),
        "per_character": tokens / max(1, len(text)),
        "bytes_per_token": len(text.encode()) / max(1, tokens),
        "cut": float(np.mean(np.array(pieces) > 1)) if pieces else 0.0,
    }


def _beginning(texts: Iterable[str]) -> str:
    parts, size = [], 0
    for text in texts:
        parts.append(text[: _CUT - size])
        size += len(parts[-1])
        if size >= _CUT:
            break
    return "\n".join(parts)


def _sides(found: Sequence[Any]) -> tuple[int, int]:
    exact = sum(each.exact for each in found)
    return exact, len(found) - exact


def _wrong(
    characters: Mapping[str, int], where: Mapping[str, tuple[str, int]], corpus: Mapping[str, Dataset]
) -> dict[str, tuple[int, str]]:
    """For each kind of wrong character how many there are, and the text around one."""
    found: dict[str, tuple[int, str]] = {}
    for character, (split, number) in where.items():
        kind = what_is_wrong(character) or ""
        text = corpus[split][number]["text"]
        place = text.index(character)
        around = text[max(0, place - 30) : place + 30]
        before = found.get(kind, (0, around))
        found[kind] = before[0] + characters[character], before[1]
    return found


def _trailers(texts: Iterable[str]) -> dict[str, int]:
    """How many documents of several lines end in what a rule of stories names."""
    found = Counter(rule for text in texts if "\n" in text for rule in {cut.rule for cut in cut_trailer(text)[1]})
    return {rule: found[rule] for rule in RULES if found[rule]}


def _examples(texts: Sequence[str], dice: random.Random) -> dict[str, str]:
    """The beginnings of the shortest document, of the longest, and of three others."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    chosen = {"the shortest": order[0], "the longest": order[-1]}
    between = order[1:-1]
    chosen |= {f"document {i + 1:,}": i for i in sorted(dice.sample(between, min(3, len(between))))}
    return {title: texts[i][:SHOWN] + ("…" if len(texts[i]) > SHOWN else "") for title, i in chosen.items()}
