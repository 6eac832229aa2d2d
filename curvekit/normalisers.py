r"""SoftEMax: the normaliser that takes the place of softmax, and the family that holds it and its relatives.

One formula has every member,

    w_j = exp(s x_j - L),        L = log(a sum_k exp(s x_k) + exp(b)),

with a sign s, a switch a that is 0 or 1, and a *sink* b, the score of a key that is always there and whose value
is zero. The published SoftEMax divides by the constant C = 1 + e^e; the stable one adds C to softmax's
denominator instead, so that it equals the published one while the sum of exponentials is far below C (few keys
with low scores) and softmax when it is far above, and overflows nowhere.

===============  ==  =  ===========================  ==============================================
member            s  a  exp(b)                       what it is
===============  ==  =  ===========================  ==============================================
``softmax``       1  1  0                            the usual one
``stable``        1  1  C (or any ``log_sink``)      SoftEMax; weights in (0, 1), row sum below 1
``softmax1``      1  1  1                            "off by one" attention
``published``     1  0  C (or any ``log_sink``)      exp(x) / C, no distribution; overflows
``inverse``      -1  0  C                            exp(-x) / C
``plus``          1  0  1 + C                        exp(x) / (1 + C)
``plus-inverse`` -1  0  1 + C                        exp(-x) / (1 + C)
===============  ==  =  ===========================  ==============================================

Sources: the constants and the four constant members are the published SoftEMax; ``softmax1`` is E. Miller,
"Attention is off by one" (2023); a learned sink for each head is that of gpt-oss (2025); a learned constant
denominator is ConSmax (2024).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from curvekit.errors import CurvekitError, pick

LOG_C: float = math.log(1.0 + math.exp(math.e))
"""log C, where C = 1 + e^e = 16.154262241479262 is the published constant."""


class Member(NamedTuple):
    """A member of the family: its sign s, its switch a, and how its sink b comes from ``log_sink``."""

    sign: int
    sums_keys: bool
    sink: str  # "log_sink", "log(1 + sink)", "zero" or "none"


MEMBERS: dict[str, Member] = {
    "softmax": Member(1, True, "none"),
    "stable": Member(1, True, "log_sink"),
    "softmax1": Member(1, True, "zero"),
    "published": Member(1, False, "log_sink"),
    "inverse": Member(-1, False, "log_sink"),
    "plus": Member(1, False, "log(1 + sink)"),
    "plus-inverse": Member(-1, False, "log(1 + sink)"),
}
VARIANTS: tuple[str, ...] = tuple(MEMBERS)


def resolve_sink(variant: str, log_sink: float | Tensor = LOG_C) -> float | Tensor:
    """Return the sink b of a member.

    Raises:
        CurvekitError: the member is unknown, or has a fixed sink and another was asked for.
    """
    member = MEMBERS[pick(variant, VARIANTS, "SoftEMax variant")]
    if member.sink in ("none", "zero"):
        if isinstance(log_sink, Tensor) or log_sink != LOG_C:
            raise CurvekitError(f"{variant!r} has a fixed sink; use variant='stable' with log_sink={log_sink!r}")
        return -math.inf if member.sink == "none" else 0.0
    if member.sink == "log_sink":
        return log_sink
    if isinstance(log_sink, Tensor):
        return torch.nn.functional.softplus(log_sink)
    return math.log1p(math.exp(log_sink))


class _SoftEMaxFunction(torch.autograd.Function):
    """w = exp(s x - L) and its exact gradients, in terms of w alone:

    dx_j = s w_j (g_j - a sum_k w_k g_k),     db = -exp(b - L) sum_k w_k g_k.
    """

    @staticmethod
    def forward(ctx, x: Tensor, sink: Tensor, dim: int, sign: int, sums_keys: bool) -> Tensor:
        scores, sink_shape = sign * x, sink.shape
        if sums_keys:
            # Scores and sink are taken relative to the row's largest score: L itself would lose the small
            # differences beside a large maximum. A row that sees nothing has no maximum, and needs none.
            peak = scores.amax(dim, keepdim=True)
            peak = peak.masked_fill(peak == -math.inf, 0.0)
            scores, sink = scores - peak, sink - peak
            normaliser = torch.logaddexp(torch.logsumexp(scores, dim, keepdim=True), sink)
            # Softmax's empty row has L = -inf; like every other member's, its weights are zero, not NaN.
            normaliser = normaliser.masked_fill(normaliser == -math.inf, 0.0)
        else:
            normaliser = sink
        weights = torch.exp(scores - normaliser)
        ctx.save_for_backward(weights, torch.exp(sink - normaliser))
        ctx.sink_shape, ctx.dim, ctx.sign, ctx.sums_keys = sink_shape, dim, sign, sums_keys
        return weights

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (gradient,) = gradients
        weights, sink_weight = ctx.saved_tensors
        if torch.is_grad_enabled() and ctx.sums_keys:  # for a second derivative: what autograd knows it to depend on
            sink_weight = 1 - weights.sum(ctx.dim, keepdim=True)
        weighted = weights * gradient
        total = weighted.sum(ctx.dim, keepdim=True)
        d_x = ctx.sign * (weighted - weights * total if ctx.sums_keys else weighted)
        d_sink = (-sink_weight * total).sum_to_size(ctx.sink_shape) if ctx.needs_input_grad[1] else None
        return d_x, d_sink, None, None, None


def check_mask(mask: Tensor | None) -> None:
    """Refuse a mask of zeros and ones in integers: is a 1 seen, or added to the score?"""
    if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
        raise CurvekitError(f"the mask is {mask.dtype}; give a boolean one (True: seen), or one to add to the scores")


def softemax(
    x: Tensor,
    dim: int = -1,
    variant: str = "stable",
    log_sink: float | Tensor = LOG_C,
    mask: Tensor | None = None,
) -> Tensor:
    r"""SoftEMax over one dimension: ``w_j = exp(s x_j - L)``, ``L = log(a sum_k exp(s x_k) + exp(b))``.

    The row sum is ``S / (S + exp(b))`` with ``S = sum_k exp(x_k)`` for the members with a = 1: below 1 always,
    and as near to 1 as softmax when the scores are large. For the members with a = 0 it is ``S / exp(b)``, which
    grows with the number of keys and overflows (float32 above x = 88 + b, float16 above 11 + b).

    Args:
        x: scores, any shape, any floating type. Half-precision scores are normalised in float32.
        dim: the dimension of the keys.
        variant: a name of :data:`VARIANTS`.
        log_sink: the sink's score: a number, or a tensor that broadcasts against ``x`` with ``dim`` reduced to 1
            (a learned sink); ``-inf`` makes ``stable`` softmax exactly. Default log C.
        mask: which keys may be seen: a boolean tensor (True: seen) or an additive one, broadcast against ``x``.
            A row that sees nothing is all zeros and passes no gradient.

    Returns:
        The weights, with the shape and the type of ``x``.

    Raises:
        CurvekitError: unknown variant, a sink given to a member that has a fixed one, integer scores or mask.

    Example:
        >>> softemax(torch.tensor([0.5, 1.0, 1.5]), variant="published")
        tensor([0.1021, 0.1683, 0.2774])
        >>> softemax(torch.tensor([0.5, 1.0, 1.5]))
        tensor([0.0659, 0.1087, 0.1792])

    Source: see the head of this module.
    """
    if not x.is_floating_point():
        raise CurvekitError(f"softemax takes floating-point scores, not {x.dtype}; convert them with .float()")
    check_mask(mask)
    if x.shape[dim] == 0:
        return torch.zeros_like(x)
    sink = resolve_sink(variant, log_sink)
    member = MEMBERS[variant]
    scores = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if mask is not None:
        hidden = ~mask if mask.dtype == torch.bool else mask == -math.inf
        if mask.dtype != torch.bool:
            scores = scores + member.sign * mask.masked_fill(hidden, 0.0)
        scores = scores.masked_fill(hidden, -member.sign * math.inf)
    sink = on_device(sink, scores.dtype, scores.device)
    return _SoftEMaxFunction.apply(scores, sink, dim, member.sign, member.sums_keys).to(x.dtype)


def on_device(number: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor there, without a copy that would wait for a GPU (and that a CUDA graph cannot hold)."""
    if isinstance(number, Tensor):
        return number.to(device, dtype)
    return torch.full((), number, dtype=dtype, device=device)


class SoftEMax(nn.Module):
    """:func:`softemax` as a module, optionally with a learned sink for each head.

    Args:
        variant: a name of :data:`VARIANTS`.
        dim: the dimension of the keys.
        log_sink: the sink's score; with ``heads``, where the learned sinks start.
        heads: learn one sink for each of so many heads; scores are then ``[..., heads, queries, keys]`` and
            ``dim`` is -1.

    Raises:
        CurvekitError: unknown variant; learned sinks asked of a member that has a fixed one, or over another
            dimension than the last.
    """

    def __init__(
        self, variant: str = "stable", dim: int = -1, log_sink: float = LOG_C, heads: int | None = None
    ) -> None:
        super().__init__()
        resolve_sink(variant, log_sink)
        self.variant, self.dim, self.heads = variant, dim, heads
        if heads is None:
            self.log_sink: float | nn.Parameter = log_sink
            return
        if dim != -1 or MEMBERS[variant].sink in ("none", "zero"):
            raise CurvekitError(
                f"learned sinks need dim=-1 and a member with a free sink, not dim={dim} and {variant!r}; "
                "use SoftEMax('stable', heads=...)"
            )
        self.log_sink = nn.Parameter(torch.full((heads,), float(log_sink)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        sink = self.log_sink.view(-1, 1, 1) if isinstance(self.log_sink, Tensor) else self.log_sink
        return softemax(x, self.dim, self.variant, sink, mask)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}, dim={self.dim}, heads={self.heads}"
