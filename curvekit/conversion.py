r"""Conversion: a model that was pretrained with softmax becomes a SoftEMax model without a jump.

Adding a constant o to all scores of a head changes nothing in softmax; in SoftEMax it moves the sink to b = log C - o.
So a head may begin with a sink so low that it takes no more than a given share of any query's attention,

    exp(b - L_i) = sigmoid(b - lse_i) <= share for all i:    b = min_i lse_i + logit(share),

with ``lse_i = log sum_j exp(s_ij)``,

found for each head from a few texts, and learn it from there. (A bound on the mean over queries is not enough: a head
whose scores are high most of the time gets a high sink, which then takes the few queries that matter.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from curvekit.attention import _forward as attend
from curvekit.errors import CurvekitError
from curvekit.modes import evaluating

RECORDING = "curvekit-recording"


def sinks_for(lse: Tensor, share: float) -> Tensor:
    """The sinks b that take at most ``share`` of any query's attention: ``max_i sigmoid(b - lse_i) = share``.

    Args:
        lse: ``[heads, queries]``.
        share: in (0, 1).

    Returns:
        ``[heads]``.
    """
    return lse.amin(-1) + torch.tensor(share, dtype=lse.dtype).logit()


@torch.no_grad()
def calibrate(model: Any, input_ids: Tensor, share: float = 0.05) -> Tensor:
    """Set the learned sinks of a model with ``attention="sink"`` from the scores that softmax has on ``input_ids``.

    Args:
        model: a model of this kit, causal or its base.
        input_ids: ``[batch, time]``, text like that which it was pretrained on.
        share: what a head's sink takes at most of any position's attention, the first one's too: it sees itself alone,
            and where it holds a model's attention sink, all others build on it.

    Returns:
        The sinks ``[layers, heads]``.

    Raises:
        CurvekitError: the model has no learned sinks, or the share is not between 0 and 1.
    """
    if model.config.attention != "sink":
        raise CurvekitError(f"the attention is {model.config.attention!r}; only learned sinks (sink) are calibrated")
    if not 0 < share < 1:
        raise CurvekitError(f"share is {share}; give more than 0 and less than 1")
    modules = [each for each in model.modules() if isinstance(getattr(each, "log_sink", None), nn.Parameter)]
    seen: dict[nn.Module, Tensor] = {}
    before = model.config._attn_implementation
    model.config._attn_implementation = RECORDING
    try:
        with evaluating(model):
            for module in modules:
                module.recorded = seen
            (getattr(model, "base_model", model))(input_ids, use_cache=False)
    finally:
        model.config._attn_implementation = before
        for module in modules:
            del module.recorded
    found = torch.stack([sinks_for(seen[module], share) for module in modules])
    for module, sinks in zip(modules, found, strict=True):
        module.get_parameter("log_sink").copy_(sinks)
    return found


def _recording(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: softmax, which notes each query's log-sum-exp, by the formula."""
    groups = query.shape[1] // key.shape[1]
    scale = kwargs.get("scaling")
    scores = query @ key.repeat_interleave(groups, 1).mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask >= 0
    lse = scores.float().masked_fill(~seen, -torch.inf).logsumexp(-1)
    module.recorded[module] = lse.transpose(0, 1).flatten(1)  # type: ignore[index,operator]
    own = module._parameters.pop("log_sink")
    try:
        return attend(module, query, key, value, attention_mask, variant="softmax", **kwargs)
    finally:
        module._parameters["log_sink"] = own


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(RECORDING, _recording)
    AttentionMaskInterface.register(RECORDING, sdpa_mask)


_register()
