"""Held-out documents scored by all processes of a run together, with the figures of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curvekit.evaluation.frequency import FrequencyScore, sum_of
from curvekit.evaluation.metrics import LanguageModelScore, TokenScores, score_documents, short_hash
from curvekit.training.processes import gather, in_step, place

_COUNTS = ("tokens", "correct", "words", "bytes")


def shared_score(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    counts: np.ndarray,
    keep_tokens: int,
    progress: bool,
    **options: Any,
) -> tuple[LanguageModelScore, FrequencyScore]:
    """As :func:`curvekit.evaluation.metrics.score_documents`, also by frequency; each process scores a share.

    Documents are dealt out from the longest on, each to who has least so far.

    Args:
        counts: ``[vocabulary]``, how often the training text has each token.

    Raises:
        CurvekitError: as ``score_documents``.
    """
    here = place()
    texts = list(texts)
    frequency = FrequencyScore(len(texts))
    shares = deal([len(text) for text in texts], here.world)
    alone = here.world == 1 or not all(any(texts[i].strip() for i in each) for each in shares)  # too few for all
    own = list(range(len(texts))) if alone else shares[here.rank]

    def by_count(scores: TokenScores) -> None:
        frequency.add(scores._replace(document=own[scores.document]), counts[scores.ids])

    with in_step():
        score = score_documents(
            model,
            tokenizer,
            [texts[i] for i in own],
            keep_tokens=sum(i < keep_tokens for i in own),  # the first documents' tokens are kept, and they stand first
            progress=progress,
            on_tokens=by_count,
            **options,
        )
    if alone:
        return score, frequency
    parts = [LanguageModelScore.from_dict(each) for each in gather(score.to_dict())]
    order = np.argsort(np.concatenate([np.array(each, np.int64) for each in shares]))
    joined = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in ("nll", *_COUNTS)}
    tokens = {
        i: each
        for share, part in zip(shares, parts, strict=True)
        for i, each in zip(share, part.token_nll, strict=False)
    }
    signature = parts[0].signature | {"documents": len(texts), "texts": short_hash(*texts)}
    whole = LanguageModelScore(
        **joined,
        leaks=any(part.leaks for part in parts),
        signature=signature,
        token_nll=[tokens[i] for i in sorted(tokens)],
    )
    return whole, sum_of([FrequencyScore.from_dict(each) for each in gather(frequency.to_dict())])


def deal(sizes: Sequence[int], world: int) -> list[list[int]]:
    """Indices for each process, in order: the longest first to who has least."""
    shares: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += sizes[i] + 1
    return [sorted(share) for share in shares]
