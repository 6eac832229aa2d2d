r"""Normalisers of a user's own: a function from scores to weights in softmax's place, checked, and run in attention.

    y_i = sum_j w_ij v_j,        w_i = f(s_i),        s_ij = scale q_i . k_j, and -inf where i may not see j.

``f`` is all there is to write. It is run as it reads, which stores the scores; a fused form beside it is taken where no
weights are asked for, after it was compared with the formula. What a normaliser must keep is tested when it is
registered: its weights have the shape of the scores, are finite and have a gradient, and those of one query depend on
that query's scores of keys that it may see, and on nothing else: not on later queries, nor on how many keys are hidden.
Otherwise it would see the future, or generate other texts with a cache than without.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from curvekit.attention import announce, announce_own, forget, implementation
from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C, VARIANTS, softemax
from curvekit.recipes import ATTENTIONS, FIXED_SINKS, OWN_PARTS
from curvekit.variants.names import called, check_part_name, digits

Function = Callable[[Tensor], Tensor]
ROUNDING = 1e-5  # of the largest weight, or output
SIZES = (0.1, 1.0, 10.0)  # of the scores that a normaliser is tried with


class Normaliser(NamedTuple):
    """A registered function, and its fused form or None."""

    name: str
    function: Function
    fused: Callable[..., Tensor] | None = None


NORMALISERS: dict[str, Normaliser] = {}
_told: set[str] = set()


def register_normaliser(
    name: str, function: Function, fused: Callable[..., Tensor] | None = None, *, replace: bool = False
) -> None:
    """Add a normaliser: recipes then name it as ``attention``, transformers' models as ``softemax-NAME``.

    Args:
        name: what it is called from now on.
        function: scores ``[batch, heads, queries, keys]`` in float32 (tests also ask for float64), -inf at keys that
            may not be seen, to weights of the same shape, 0 there. A row that sees nothing does not reach it, and its
            weights are 0. It runs as it is written, and says once how much slower than softmax that is.
        fused: the same as one kernel, ``fused(query, key, value, mask, is_causal, scale)`` to
            ``[batch, heads, queries, width]``, as ``torch.nn.functional.scaled_dot_product_attention`` has them: the
            mask boolean (True: seen) or additive or None, keys already repeated for grouped queries.
        replace: put it in the place of one that is registered under this name.

    Raises:
        CurvekitError: the name is taken; the function fails, returns another shape, weights that are not finite or
            have no finite gradient, or sees the future; the fused form computes something else.
    """
    check_part_name(name, "normaliser", {*ATTENTIONS, *VARIANTS, *OWN_PARTS}, NORMALISERS, replace)
    entry = Normaliser(name, function, fused)
    for size in SIZES:
        _check_weights(entry, size)
    if fused is not None:
        _check_fused(entry)
    NORMALISERS[name], ATTENTIONS[name] = entry, name
    FIXED_SINKS.add(name)
    OWN_PARTS[name] = digits(function)
    _told.discard(name)
    announce_own(name, functools.partial(attend, name))
    announce(_formula_name(name), functools.partial(_formula, name))


def drop(name: str) -> None:
    """Take a normaliser away again."""
    if NORMALISERS.pop(name, None) is not None:
        FIXED_SINKS.discard(name)
        forget(implementation(name), _formula_name(name))
        for registry in (ATTENTIONS, OWN_PARTS):
            registry.pop(name, None)


def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    by_formula: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention under a registered normaliser; arguments as :func:`curvekit.attention.eager_softemax_attention`.

    Returns:
        output ``[batch, heads, queries, width]``, and by the formula the weights.
    """
    entry = NORMALISERS[name]
    if entry.fused is None and name not in _told and not torch.compiler.is_compiling():
        _told.add(name)
        times = slowdown(name, device=query.device)
        warnings.warn(
            f"the normaliser {name!r} has no fused form and runs by its formula: {times:.1f} times as long as softmax "
            "at 512 tokens, forward and backward, with memory that grows with their square",
            stacklevel=2,
        )
    return _attend(
        entry, query, key, value, mask=mask, is_causal=is_causal, scale=scale, dropout=dropout, by_formula=by_formula
    )


def _attend(
    entry: Normaliser,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    by_formula: bool = False,
) -> tuple[Tensor, Tensor | None]:
    groups, queries, keys = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    seen = mask if mask is None or mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    if entry.fused is not None and not dropout and not by_formula:
        if mask is None or seen is None:
            return entry.fused(query, key, value, None, is_causal, scale), None
        empty = ~seen.any(-1, keepdim=True)  # (..., queries, 1)
        mask = seen | empty if mask.dtype == torch.bool else mask.masked_fill(empty, 0.0).to(query.dtype)
        return entry.fused(query, key, value, mask, is_causal, scale).masked_fill(empty, 0.0), None
    scores = query @ key.transpose(-1, -2) * scale  # (batch, heads, queries, keys)
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if is_causal:
        seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
    elif mask is not None and seen is not None and mask.dtype != torch.bool:
        scores = scores + mask.masked_fill(~seen, 0.0)
    weights = _normalised(entry.function, scores, seen).to(value.dtype)
    return nn.functional.dropout(weights, dropout) @ value, weights


def _normalised(function: Function, scores: Tensor, seen: Tensor | None) -> Tensor:
    """The function's weights where keys may be seen, and a row of zeros where none may."""
    if seen is None:
        return function(scores)
    empty = ~seen.any(-1, keepdim=True)
    return function(scores.masked_fill(~(seen | empty), -math.inf)).masked_fill(empty, 0.0)


def weights_of(scores: Tensor, name: str, log_sink: float | Tensor = LOG_C) -> Tensor:
    """A row's weights, of scores that are -inf at hidden keys, under any member of the family or registered one."""
    if name in NORMALISERS:
        return _normalised(NORMALISERS[name].function, scores, scores != -math.inf)
    return softemax(scores, variant=name, log_sink=log_sink)


def slowdown(
    name: str,
    tokens: int = 512,
    heads: int = 8,
    width: int = 64,
    repeats: int = 5,
    device: str | torch.device = "cpu",
) -> float:
    """How many times as long as softmax it takes, forward and backward: the median over interleaved pairs.

    Raises:
        CurvekitError: no normaliser of this name is registered.
    """
    if name not in NORMALISERS:
        raise CurvekitError(f"no normaliser {name!r} is registered (registered: {', '.join(NORMALISERS) or 'none'})")
    entry = NORMALISERS[name]
    generator = torch.Generator().manual_seed(0)
    device = torch.device(device)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        drawn = [torch.randn(1, heads, tokens, width, generator=generator) for _ in range(3)]
        inputs = [each.to(device).requires_grad_() for each in drawn]

        def seconds(forward: Callable[..., Tensor]) -> float:
            begun = time.perf_counter()
            torch.autograd.grad(forward(*inputs).sum(), inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begun

        own = lambda q, k, v: _attend(entry, q, k, v, is_causal=True)[0]  # noqa: E731
        softmax = functools.partial(nn.functional.scaled_dot_product_attention, is_causal=True)
        pairs = [(seconds(own), seconds(softmax)) for _ in range(repeats + 1)][1:]  # the first is cold
    return statistics.median(ours / theirs for ours, theirs in pairs)


# -- what a normaliser must keep -----------------------------------------------------------------------------------


def _check_weights(entry: Normaliser, size: float) -> None:
    """Try the function on causal scores of a size; refuse what attention cannot be built on."""
    who = f"the normaliser {entry.name!r}"
    generator = torch.Generator().manual_seed(0)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    scores = (size * torch.randn(2, 3, 6, 6, generator=generator)).masked_fill(hidden, -math.inf)  # (B, H, Q, K)
    run = functools.partial(called, entry.function, who)
    given = scores.clone().requires_grad_()
    weights = run(given)
    if not isinstance(weights, Tensor) or weights.shape != scores.shape:
        found = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise CurvekitError(f"{who} gave {found} of scores {list(scores.shape)}; return a weight for every score")
    if weights.dtype != scores.dtype:
        raise CurvekitError(f"{who} gave {weights.dtype} of scores in {scores.dtype}; keep their type")
    if not weights.isfinite().all():
        where = "at hidden keys, whose score is -inf" if weights[..., ~hidden].isfinite().all() else "at keys it sees"
        raise CurvekitError(f"{who} gives weights that are not numbers (NaN or infinite) {where}; mend it, for example "
                            "with torch.where")  # fmt: skip
    weights, bound = weights.detach(), ROUNDING * max(weights.detach().abs().max().item(), 1e-3)
    if (leak := weights[..., hidden].abs().max().item()) > 0:
        raise CurvekitError(f"{who} sees the future: it gives a key that is hidden (its score is -inf) the weight "
                            f"{leak:.2g}, which must be 0")  # fmt: skip
    apart = lambda a, b: (a - b).abs().max().item()  # noqa: E731
    if apart(run(scores), weights) > bound:
        raise CurvekitError(f"{who} gives other weights of the same scores when called again; leave chance out of it")
    for i in range(6):
        row = run(scores[:1, :, i : i + 1])
        if row.shape != (1, 3, 1, 6) or (change := apart(row, weights[:1, :, i : i + 1])) > bound:
            later = apart(run(scores[:, :, : i + 1])[:, :, i], weights[:, :, i]) > bound
            told = "sees the future: the weights of a query depend on the scores of later queries" if later else (
                "mixes queries: the weights of one depend on the scores of others, or of other texts in the batch"
            )  # fmt: skip
            raise CurvekitError(f"{who} {told} (change {change:.2g}); normalise over the last dimension alone")
    longer = nn.functional.pad(scores, (0, 3), value=-math.inf)
    if (change := apart(run(longer)[..., :6], weights)) > bound:
        raise CurvekitError(
            f"{who} sees the future: its weights change by {change:.2g} when more keys are hidden; count those that are"
            " seen, (scores > -math.inf).sum(-1, keepdim=True)"
        )
    if given.requires_grad and (made := run(given)).requires_grad:
        (gradient,) = torch.autograd.grad((made * torch.randn(made.shape, generator=generator)).sum(), given)
        if not gradient.isfinite().all():
            raise CurvekitError(f"{who} has a gradient that is not a number (NaN or infinite); where a score is -inf, "
                                "replace it with torch.where before the operation that has none")  # fmt: skip


def _check_fused(entry: Normaliser) -> None:
    """Compare the fused form with the formula, causal and under a mask with an empty row, gradients included."""
    who = f"the fused form of the normaliser {entry.name!r}"
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 1, 5, 5, generator=generator) > 0.4
    mask[0, 0, 2] = False
    added = torch.zeros(2, 1, 5, 5).masked_fill(~mask, -math.inf)
    settings: tuple[dict[str, Any], ...] = ({"is_causal": True}, {"mask": mask}, {"mask": added})
    for given in settings:
        inputs = [torch.randn(2, 3, 5, 8, generator=generator).requires_grad_() for _ in range(3)]
        found = []
        for by_formula in (True, False):
            output = called(_attend, who, entry, *inputs, by_formula=by_formula, **given)[0]
            if not isinstance(output, Tensor) or output.shape != inputs[0].shape:
                shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise CurvekitError(f"{who} gave {shape} of queries {list(inputs[0].shape)}; return an output a query")
            found.append([output, *torch.autograd.grad(output.square().sum(), inputs, allow_unused=True)])
        for a, b in zip(*found, strict=True):
            if a is None or b is None or not (a - b).abs().max() <= 1e-4 * max(a.abs().max().item(), 1.0):
                how = "under a mask" if "mask" in given else "causally"
                change = "no gradient" if a is None or b is None else f"change {(a - b).abs().max().item():.2g}"
                raise CurvekitError(f"{who} computes something else than its formula {how} ({change}); mend it or "
                                    "leave it out")  # fmt: skip


# -- the formula in float64, for the conformance line --------------------------------------------------------------


def _formula_name(name: str) -> str:
    return f"formula-{implementation(name)}"


def _formula(
    name: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface by the function as it reads, in float64: ``[batch, queries, heads, width]``."""
    q, k, v = query.double(), key.double(), value.double()
    bare = Normaliser(name, NORMALISERS[name].function)
    if attention_mask is None:
        queries, keys = q.shape[2], k.shape[2]
        attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    output = _attend(bare, q, k, v, mask=attention_mask, scale=scaling)[0]
    return output.to(query.dtype).transpose(1, 2), None
