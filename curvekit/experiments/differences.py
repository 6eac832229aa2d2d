"""Where two recipes differ: the losses of single tokens as the mean over seeds, and their differences by group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from scipy.stats import t

from curvekit.training.runs import Run

LEAST = 30  # tokens in a group that is shown


def token_losses(runs: Sequence[Run]) -> tuple[list[list[str]], list[np.ndarray]]:
    """Of the test documents that one recipe's runs kept: their tokens, and their losses as the mean over seeds.

    Returns:
        for each document its (T,) strings, and its (T,) losses in nats.
    """
    kept = [run.scores("test").token_nll for run in runs]
    losses = [np.mean([document["nll"] for document in documents], axis=0) for documents in zip(*kept, strict=True)]
    return [document["tokens"] for document in kept[0]], losses


def frequencies(tokenizer: Any, texts: Iterable[str], documents: int = 2000) -> Counter[str]:
    """How often each token, as a string, occurs in the first documents of a training set."""
    ids: Counter[int] = Counter()
    for text in islice(texts, documents):
        ids.update(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    found: Counter[str] = Counter()
    for token, count in ids.items():
        found[tokenizer.decode([token])] += count
    return found


def by_group(
    differences: Sequence[np.ndarray], keys: Sequence[Sequence[float]], edges: Sequence[float], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean difference of the tokens whose key lies in ``[edges[g], edges[g + 1])``, with a 95 % interval.

    Tokens of one document resemble each other. The mean is therefore taken as a ratio of sums over documents, its
    variance from the documents' residuals, and Student's t has one degree of freedom less than there are documents.
    Groups of fewer than 30 tokens, or from fewer than two documents, are left out.

    Args:
        differences: for each document (T,) nats.
        keys: for each document (T,) what its tokens are grouped by.
        edges: (G + 1,) ascending.
        labels: (G,)

    Returns:
        rows ``label``, ``difference``, ``low``, ``high``, ``tokens``, for ``figures.difference_by_group``.
    """
    rows = []
    for label, low, high in zip(labels, edges[:-1], edges[1:], strict=True):
        inside = [(np.asarray(key) >= low) & (np.asarray(key) < high) for key in keys]
        chosen = [values[mask] for values, mask in zip(differences, inside, strict=True) if mask.any()]
        tokens, documents = sum(map(len, chosen)), len(chosen)
        if tokens < LEAST or documents < 2:
            continue
        mean = sum(float(values.sum()) for values in chosen) / tokens
        residuals = np.array([float((values - mean).sum()) for values in chosen])
        error = math.sqrt(float((residuals**2).sum()) * documents / (documents - 1)) / tokens
        reach = float(t.ppf(0.975, documents - 1)) * error
        rows.append({"label": label, "difference": mean, "low": mean - reach, "high": mean + reach, "tokens": tokens})
    return rows
