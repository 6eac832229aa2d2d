"""On which tokens a model is good: its loss by how often the training text has them, and how well it knows that.

A mean over all tokens is a mean over the frequent ones: a few hundred kinds make up half of any text. So every scored
token also falls into a bin of its count in the training text, and a difference between two models is tested bin by bin
on the same documents. Beside it stands the calibration: of the tokens that were given 70 %, do 70 % come?

    expected calibration error = sum_b |hits_b - sum of confidences_b| / N       over 15 bins of confidence (Guo 2017)
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import LanguageModelScore, TokenScores
from curvekit.evaluation.significance import SAMPLES, PairedDifference, paired_bootstrap
from curvekit.shapes import require

FREQUENCY_BINS = (1, 10, 100, 1_000, 10_000, 100_000)  # how often the training text has it
CONFIDENCE_BINS = 15
FREQUENCY = {
    "edges": [int],
    "nll": [[(float, None)]],
    "tokens": [[int]],
    "correct": [[int]],
    "confidence": [float],
    "hits": [int],
    "held": [int],
}
_WORD = re.compile(r"\w+")


@dataclass(eq=False)
class FrequencyScore:
    """Sums by document and bin of frequency, and by bin of confidence.

    Attributes:
        edges: lowest count of each bin but the first, whose tokens the training text lacks.
        nll, tokens, correct: ``[documents, bins]``; nats, scored tokens, those ranked first.
        confidence, hits, held: ``[15]``; of the tokens whose highest probability falls there its sum, how often it
            was right, and how many they are.
    """

    documents: int
    edges: tuple[int, ...] = FREQUENCY_BINS
    nll: np.ndarray = field(init=False)
    tokens: np.ndarray = field(init=False)
    correct: np.ndarray = field(init=False)
    confidence: np.ndarray = field(init=False)
    hits: np.ndarray = field(init=False)
    held: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.documents, len(self.edges) + 1)
        self.nll = np.zeros(shape)
        self.tokens, self.correct = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.confidence = np.zeros(CONFIDENCE_BINS)
        self.hits, self.held = np.zeros(CONFIDENCE_BINS, np.int64), np.zeros(CONFIDENCE_BINS, np.int64)

    def add(self, scores: TokenScores, counts: np.ndarray) -> None:
        """Take in the tokens of a window, of which the training text has each ``counts`` times; below 0: left out."""
        kept = counts >= 0
        where = np.digitize(counts[kept], self.edges)
        bins = len(self.edges) + 1
        self.nll[scores.document] += np.bincount(where, scores.nll[kept], bins)
        self.tokens[scores.document] += np.bincount(where, minlength=bins)
        self.correct[scores.document] += np.bincount(where, scores.hits[kept], bins).astype(np.int64)
        at = np.minimum((scores.confidences[kept] * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        self.confidence += np.bincount(at, scores.confidences[kept], CONFIDENCE_BINS)
        self.hits += np.bincount(at, scores.hits[kept], CONFIDENCE_BINS).astype(np.int64)
        self.held += np.bincount(at, minlength=CONFIDENCE_BINS)

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0 to 1."""
        return float(np.abs(self.hits - self.confidence).sum() / max(1, self.held.sum()))

    def labels(self) -> list[str]:
        """``never``, ``1 to 9``, ``10 to 99``, ..."""
        later = [f"{a:,} to {b - 1:,}" if b - a > 1 else f"{a:,}" for a, b in itertools.pairwise(self.edges)]
        return ["never", *later, f"{self.edges[-1]:,} or more"]

    def rows(self) -> list[dict[str, Any]]:
        """For each bin that has tokens ``label``, ``tokens``, ``loss`` in nats a token, ``accuracy``."""
        totals = zip(self.labels(), self.nll.sum(0), self.tokens.sum(0), self.correct.sum(0), strict=True)
        return [
            {"label": label, "tokens": int(n), "loss": float(nll / n), "accuracy": float(right / n)}
            for label, nll, n, right in totals
            if n
        ]

    def as_score(self, bins: Sequence[int]) -> LanguageModelScore:
        """The score of some bins alone."""
        tokens = self.tokens[:, bins].sum(1)
        return LanguageModelScore(
            self.nll[:, bins].sum(1), tokens, self.correct[:, bins].sum(1), np.zeros_like(tokens), np.zeros_like(tokens)
        )

    def to_dict(self) -> dict[str, Any]:
        return {name: list(self.edges) if name == "edges" else getattr(self, name).tolist() for name in FREQUENCY}

    @classmethod
    def from_dict(cls, value: dict[str, Any], source: object = "this score") -> FrequencyScore:
        """Undo ``to_dict``.

        Raises:
            CurvekitError: it holds something else, with the field.
        """
        require(value, FREQUENCY, source)
        made = cls(len(value["nll"]), tuple(value["edges"]))
        for name in ("nll", "tokens", "correct", "confidence", "hits", "held"):
            found = np.array(value[name], getattr(made, name).dtype).reshape(-1)
            if found.size != getattr(made, name).size:
                raise CurvekitError(f"{source}: {name} has {found.size} figures, expected {getattr(made, name).size}")
            setattr(made, name, found.reshape(getattr(made, name).shape))
        return made


def sum_of(parts: Sequence[FrequencyScore]) -> FrequencyScore:
    """The score of all tokens of several, which share their documents and bins."""
    whole = FrequencyScore(parts[0].documents, parts[0].edges)
    for name in ("nll", "tokens", "correct", "confidence", "hits", "held"):
        setattr(whole, name, sum(getattr(part, name) for part in parts))
    return whole


def by_bin(
    a: Sequence[FrequencyScore], b: Sequence[FrequencyScore], least: int = 50, samples: int = SAMPLES
) -> list[tuple[str, int, PairedDifference]]:
    """For each bin its label, its tokens, and loss of a minus loss of b; one score a seed, in the same order.

    Bins of fewer than ``least`` tokens are left out: an interval over them would say nothing.
    """
    if a[0].edges != b[0].edges:
        raise CurvekitError(f"the bins {a[0].edges} and {b[0].edges} differ; score both with the same")
    found = []
    for number, label in enumerate(a[0].labels()):
        tokens = int(a[0].tokens[:, number].sum())
        if tokens >= least:
            ours, theirs = ([each.as_score([number]) for each in side] for side in (a, b))
            found.append((label, tokens, paired_bootstrap(ours, theirs, samples=samples)))
    return found


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often texts have each word, in lower case."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.lower()))
    return counts


def counts_of_words(text: str, offsets: Sequence[tuple[int, int]], counts: Counter[str]) -> np.ndarray:
    """For each token, given by where it stands in the text, the count of the word it is a part of; -1: of none.

    A rare word is cut into frequent pieces, so that its tokens may be common where it is not.
    """
    of_place = np.full(len(text) + 1, -1, np.int64)
    lower = text.lower()
    if len(lower) != len(text):  # a letter whose small form is two: places would move
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    for word in _WORD.finditer(lower):
        of_place[word.start() : word.end()] = counts[word[0]]
    ends = np.array([end - 1 for _, end in offsets], np.int64)
    return of_place[ends]
