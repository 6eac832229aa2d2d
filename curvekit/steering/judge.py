r"""The judge: a classifier of words and pairs of words that knows nothing of any language model, nor of its states.

    p(a | x) = softmax(W f(x) + b)_a,    f(x)_j = 1 where the j-th n-gram stands in x, over the root of how many do

with words and pairs of words in lower case that stand in two training rows or more. W minimises the cross-entropy plus
``decay / 2 * ||W||^2``, whose one optimum L-BFGS finds. It judges only what it was not trained on: its accuracy is that
on held-out rows, and belongs beside every figure that it gives.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, sparse, special

from curvekit.errors import CurvekitError, pick

LEAST = 4  # rows of each label
_WORD = re.compile(r"\w+|[^\w\s]")


def ngrams(text: str) -> set[str]:
    """The words and pairs of words of a text, in lower case."""
    words = _WORD.findall(text.lower())
    return {*words, *map(" ".join, itertools.pairwise(words))}


@dataclass
class Judge:
    """``weight`` ``[labels, n-grams]``, ``bias`` ``[labels]``, the place of each n-gram, and the labels' names."""

    weight: np.ndarray
    bias: np.ndarray
    vocabulary: dict[str, int]
    labels: tuple[str, ...]

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str], decay: float = 1e-5) -> Judge:
        """Train on labelled texts.

        Raises:
            CurvekitError: fewer than two labels, or a label with fewer than :data:`LEAST` rows.
        """
        counts = Counter(labels)
        if len(counts) < 2 or min(counts.values()) < LEAST:
            raise CurvekitError(
                f"a judge needs two labels or more with {LEAST} rows each, and the rows have "
                f"{dict(counts.most_common())}; give more rows"
            )
        names = tuple(sorted(counts))
        seen = Counter(gram for text in texts for gram in ngrams(text))
        vocabulary = {gram: place for place, gram in enumerate(sorted(g for g, n in seen.items() if n > 1))}
        judge = cls(np.zeros((len(names), len(vocabulary))), np.zeros(len(names)), vocabulary, names)
        features = judge.features(texts)
        targets = np.array([names.index(label) for label in labels])
        shape = judge.weight.shape

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = flat[: judge.weight.size].reshape(shape), flat[judge.weight.size :]
            log_odds = special.log_softmax(features @ weight.T + bias, axis=1)
            value = -log_odds[np.arange(len(targets)), targets].mean() + decay / 2 * (weight**2).sum()
            slope = np.exp(log_odds)
            slope[np.arange(len(targets)), targets] -= 1
            slope /= len(targets)
            return value, np.concatenate([((features.T @ slope).T + decay * weight).ravel(), slope.sum(0)])

        start = np.zeros(judge.weight.size + len(names))
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
        judge.weight, judge.bias = found[: judge.weight.size].reshape(shape), found[judge.weight.size :]
        return judge

    def features(self, texts: Sequence[str]) -> Any:
        """f of each text: a sparse matrix ``[texts, n-grams]``."""
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            places = [self.vocabulary[gram] for gram in ngrams(text) if gram in self.vocabulary]
            rows += [row] * len(places)
            columns += places
            values += [max(len(places), 1) ** -0.5] * len(places)
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), len(self.vocabulary)))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """p(label | text): ``[texts, labels]``."""
        return special.softmax(self.features(texts) @ self.weight.T + self.bias, axis=1)

    def verdicts(self, texts: Sequence[str], label: str) -> np.ndarray:
        """Whether each text is found to have the label: ``[texts]`` of booleans."""
        return self.probabilities(texts).argmax(1) == self.labels.index(pick(label, self.labels, "label"))

    def accuracy(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """The share of texts whose label it finds."""
        found = self.probabilities(texts).argmax(1)
        return float(np.mean([self.labels[place] == label for place, label in zip(found, labels, strict=True)]))
