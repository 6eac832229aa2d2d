"""The two ways to ask for a perplexity: of a whole text in one pass, and of each word from the words before it alone.

Of a causal model both are the same. Of one that looks ahead the first measures copying; the second is all that there is
when a text is being written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from curvekit.causality import warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import LanguageModelScore, short_hash, signed
from curvekit.generation.streams import positions_of
from curvekit.modes import evaluating
from curvekit.text.tokenization import encodable, start_token


class BothWays(NamedTuple):
    """Scores of the same tokens: ``looking`` from one pass over all of them, ``blind`` each from its prefix alone."""

    looking: LanguageModelScore
    blind: LanguageModelScore

    @property
    def tax(self) -> float:
        """The factor by which perplexity is too low when the model may look: blind over looking, 1 without a leak."""
        return self.blind.perplexity / self.looking.perplexity


def score_both_ways(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    tokens: int = 128,
    batch_size: int = 16,
    signature: Mapping[str, Any] | None = None,
) -> BothWays:
    """Score the first ``tokens`` of every text that has so many, after one end-of-text token.

    With ids ``x_0 .. x_T`` of a text and the model's probabilities p, in nats,

        looking = -sum_t log p(x_t at position t - 1 | x_0 .. x_T),    blind = -sum_t log p(x_t | x_0 .. x_{t-1})

    The latter takes ``tokens`` passes over growing beginnings, without a cache, of which a model that looks ahead has
    none.

    Raises:
        CurvekitError: no text is long enough, or the model has fewer positions.
    """
    most = positions_of(model)
    if not 0 < tokens < most:
        raise CurvekitError(f"tokens is {tokens}; give 1 to {most - 1}, the model's positions without the first")
    streams = [
        [start_token(tokenizer), *ids[:tokens]]
        for ids in tokenizer(list(encodable(texts)), add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= tokens
    ]
    if not streams:
        raise CurvekitError(f"none of the {len(texts)} texts has {tokens} tokens; give fewer tokens or longer texts")
    leaks = warn_if_leaking(model)
    device = next(model.parameters()).device
    nats: list[list[float]] = [[], []]
    hits: list[list[int]] = [[], []]
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(streams), batch_size):
            ids = torch.tensor(streams[first : first + batch_size], device=device)
            whole = model(ids, use_cache=False).logits[:, :-1]
            alone = [model(ids[:, :end], use_cache=False).logits[:, -1] for end in range(1, ids.shape[1])]
            for way, logits in enumerate((whole, torch.stack(alone, dim=1))):
                losses, correct = _scored(logits.float(), ids[:, 1:])
                nats[way] += losses.tolist()
                hits[way] += correct.tolist()
    shown = [str(tokenizer.decode(stream[1:])) for stream in streams]
    scores = [
        LanguageModelScore(
            nll=np.array(nll),
            tokens=np.full(len(streams), tokens),
            correct=np.array(correct),
            words=np.array([len(text.split()) for text in shown]),
            bytes=np.array([len(text.encode()) for text in shown]),
            leaks=leaks and way == "the whole text in one pass",
            signature=signed(
                model, tokenizer, leaks, signature, documents=len(streams), texts=short_hash(*shown), context=tokens,
                way=way,
            ),
        )
        for nll, correct, way in zip(nats, hits, ("the whole text in one pass", "each prefix alone"), strict=True)
    ]  # fmt: skip
    return BothWays(*scores)


def _scored(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Nats, and how often the model ranked the true token first, of each row."""
    losses = F.cross_entropy(logits.transpose(1, 2), truth, reduction="none").double().sum(1)
    return losses, (logits.argmax(-1) == truth).sum(1)
