"""What a model's heads look at: the scores behind its attention weights, and a row of them under any normaliser.

transformers hands out attention weights. Softmax's weights have lost how high the scores were, on which the sink's
share depends, so here the model runs its own attention and hands out the scores in place of the weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel, PreTrainedTokenizerBase

from curvekit.attention import announce, implementation
from curvekit.errors import CurvekitError
from curvekit.modes import evaluating
from curvekit.normalisers import LOG_C, MEMBERS, VARIANTS
from curvekit.text.tokenization import start_token
from curvekit.variants.normalisers import NORMALISERS, weights_of

OWN = "the model's own"


@dataclass(frozen=True)
class Attention:
    """The attention of one text.

    Attributes:
        tokens: (T,) the strings of its tokens.
        cut: how many tokens were left out before them.
        member: the member of the SoftEMax family, or the registered normaliser, that the model normalises with.
        scores: ``[layers, heads, T, T]``, -inf where nothing may be seen; None where the model's attention cannot be
            exchanged.
        weights: ``[layers, heads, T, T]``, as the model computes them.
        log_sinks: ``[layers, heads]`` where the model has learned them, else None.
    """

    tokens: list[str]
    cut: int
    member: str
    scores: Tensor | None
    weights: Tensor
    log_sinks: Tensor | None = None

    def rows(self, layer: int, head: int, position: int, members: Sequence[str]) -> dict[str, Tensor]:
        """The weights of one reading position, (position + 1,), under the model's own normaliser and under others.

        All come from the same scores. A model without scores has its own row only, as :data:`OWN`.
        """
        own = self.weights[layer, head, position, : position + 1]
        if self.scores is None:
            return {OWN: own}
        x = self.scores[layer, head, position, : position + 1]
        return {self.member: own} | {name: weights_of(x, name) for name in members if name != self.member}


def sink_shares(rows: Mapping[str, Tensor]) -> dict[str, float | None]:
    """What each row leaves to its sink, ``1 - sum``; None for a constant denominator or a registered normaliser."""
    summing = {name: MEMBERS[name].sums_keys if name in MEMBERS else name not in NORMALISERS for name in rows}
    return {name: max(0.0, 1 - float(row.sum())) if summing[name] else None for name, row in rows.items()}


@torch.no_grad()
def attention_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str | Sequence[int], most: int = 32
) -> Attention:
    """Run a model over the last ``most`` tokens of a text, behind end-of-text, and keep its attention.

    Token ids in the place of a text are taken as they are, all of them.

    Raises:
        CurvekitError: the model exposes no attentions.
    """
    if isinstance(text, str):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        kept = [start_token(tokenizer), *ids[-(most - 1) :]]
        cut = len(ids) - len(kept) + 1
    else:
        kept, cut = list(text), 0
    tokens = [str(tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in kept]
    batch = torch.tensor([kept], device=model.device)  # (1, T)
    before = model.config._attn_implementation
    members = _MEMBER_OF | {implementation(name): name for name in NORMALISERS}
    own = before if before in members else "sdpa"
    announce(_inspected(own), functools.partial(_hand_out_scores, own=own))
    exchangeable = bool(getattr(model, "_supports_attention_backend", False))
    try:
        model.config._attn_implementation = _inspected(own) if exchangeable else "eager"
        with evaluating(model):
            given = model(batch, output_attentions=True, use_cache=False).attentions
    finally:
        model.config._attn_implementation = before
    if not given or any(each is None for each in given):
        raise CurvekitError(f"{type(model).__name__} exposes no attentions; choose a model that does")
    read = torch.stack([each[0] for each in given]).float().cpu()  # (layers, heads, T, T)
    member = members.get(own, "softmax")
    if not exchangeable:
        return Attention(tokens, cut, member, None, read)
    sinks: list[Tensor] = [sink for name, sink in model.named_parameters() if name.rpartition(".")[2] == "log_sink"]
    learned = torch.stack(sinks).float().cpu() if sinks else None  # (layers, heads)
    sink: Any = getattr(model.config, "log_sink", LOG_C) if learned is None else learned[..., None, None]
    return Attention(tokens, cut, member, read, weights_of(read, member, sink), learned)


_MEMBER_OF = {implementation(variant): variant for variant in VARIANTS}  # transformers' name -> member


def _inspected(own: str) -> str:
    return f"inspected-{own}"


def _hand_out_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    own: str = "sdpa",
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The attention registered as ``own``, with its scores ``[batch, heads, queries, keys]`` for weights."""
    output = AttentionInterface()[own](module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    elif attention_mask.dtype == torch.bool:
        seen = attention_mask
    else:
        seen = attention_mask > torch.finfo(attention_mask.dtype).min
        scores = scores + attention_mask.masked_fill(~seen, 0.0)
    return output, scores.masked_fill(~seen, -math.inf)
