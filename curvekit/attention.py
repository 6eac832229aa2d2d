r"""SoftEMax attention: the formula as it reads, and the same at the speed of flash attention.

With scores s_ij = scale q_i . k_j and the normaliser of :mod:`curvekit.normalisers`,

    y_i = sum_j exp(s_ij - L_i) v_j,        L_i = log(a sum_j exp(s_ij) + exp(b)).

Every member differs from softmax only in L. A flash kernel returns softmax's output O and its log-sum-exp, so

    forward:   L = logaddexp(log a + lse, b),      Y = O exp(lse - L)
    backward:  the kernel's own, given Y and L in place of O and lse.

The backward is exact: the kernel recomputes exp(s - L), which is the SoftEMax weight, and rowsum(dY * Y), which is
the term that a = 1 needs. For a = 0 that term is absent, and passing zeros for Y removes it. A sink's gradient is
db = -sum_i exp(b - L_i) (dY_i . Y_i). No score matrix is ever stored: memory is linear in the sequence length.

Importing this module registers every member with transformers, for all models that honour its attention interface:

    AutoModelForCausalLM.from_pretrained(..., attn_implementation="softemax")

A model whose attention modules carry a tensor ``log_sink`` with one entry for each head uses it as learned sinks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C, MEMBERS, VARIANTS, check_mask, on_device, resolve_sink, softemax

_aten = torch.ops.aten


def softemax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    variant: str = "stable",
    log_sink: float | Tensor = LOG_C,
    fused: bool = True,
) -> Tensor:
    r"""Attention normalised by SoftEMax: ``y_i = sum_j exp(s_ij - L_i) v_j``, ``s_ij = scale q_i . k_j``.

    Agrees with :func:`eager_softemax_attention` to rounding, at the cost of
    ``torch.nn.functional.scaled_dot_product_attention``, with memory linear in the sequence length. Inputs that no
    fused kernel takes (values of another width, other devices), and what is exported (``torch.export``, ONNX), are
    computed by the formula; so is the backward of a mask that learns, such as T5's position bias, whose gradient is as
    large as the scores.

    Args:
        query: ``[batch, heads, queries, width]``.
        key, value: ``[batch, key heads, keys, width]``; heads is a multiple of key heads (grouped queries).
        mask: boolean (True: seen) or additive, broadcast against ``[batch, heads, queries, keys]``. A query that
            sees nothing gives zeros and passes no gradient (of ``softmax`` only where the mask is -inf, as torch has
            it: its smallest finite number spreads softmax's weight evenly).
        is_causal: query i sees keys 0..i, as in torch's own attention; not together with ``mask``.
        scale: factor of the scores; default ``width ** -0.5``.
        variant: a name of :data:`curvekit.normalisers.VARIANTS`.
        log_sink: the sink's score, a number or a tensor ``[heads]``.
        fused: False computes by the formula.

    Returns:
        ``[batch, heads, queries, width]``, in the type of ``query``.

    Raises:
        CurvekitError: unknown variant, both a mask and ``is_causal``, or head counts that do not divide.
    """
    _check(query, key, mask, is_causal)
    if torch.is_autocast_enabled(query.device.type):  # as for torch's own; rotary positions leave q and k in float32
        lower = torch.get_autocast_dtype(query.device.type)
        query, key, value = (x if x.dtype == torch.float64 else x.to(lower) for x in (query, key, value))
    sink = resolve_sink(variant, log_sink)
    if variant == "softmax" and fused:
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        return nn.functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=is_causal, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()  # to where our operators are unknown
    learned = mask is not None and mask.requires_grad and torch.is_grad_enabled()
    alike = query.shape[1] == key.shape[1] and not torch.compiler.is_compiling()
    usable = fused and not exporting and (alike or not learned)
    kernel = _kernel(query, key, value, mask, is_causal) if usable else None
    if kernel is None:
        return eager_softemax_attention(
            query, key, value, mask=mask, is_causal=is_causal, scale=scale, variant=variant, log_sink=log_sink
        )[0]
    member = MEMBERS[variant]
    scale = member.sign * (query.shape[-1] ** -0.5 if scale is None else scale)
    if scale < 0:  # the kernels mask before they scale
        query, scale = -query, -scale
    if mask is not None:
        mask = _additive(mask, query)
    if kernel != "cpu":  # which shares key heads among query heads by itself
        key, value = _repeat_heads(query, key, value)
    compiling = torch.compiler.is_compiling()
    given = (x for x in (query, key, value, sink) if isinstance(x, Tensor))
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    if not (compiling or differentiated):  # one query's attention takes no longer than a few operators
        output, lse = _softmax_kernel(query, key, value, mask, is_causal, scale)
        return _share_with_sink(output, lse, sink, member.sums_keys, query)
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    sink = on_device(sink, precision, query.device).expand(query.shape[1])
    if learned:
        return _Biased.apply(query, key, value, sink, mask, scale, member.sums_keys)
    inputs = query, key, value, sink, mask, is_causal, scale, member.sums_keys
    return torch.ops.curvekit.softemax_flash(*inputs)[0] if compiling else _Flash.apply(*inputs)


def eager_softemax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    variant: str = "stable",
    log_sink: float | Tensor = LOG_C,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The formula as it reads: ``weights = softemax(scale Q K^T + mask)``, ``output = dropout(weights) V``.

    Arguments as in :func:`softemax_attention`. Memory grows with queries x keys.

    Returns:
        output ``[batch, heads, queries, width]`` and weights ``[batch, heads, queries, keys]``.
    """
    _check(query, key, mask, is_causal)
    key, value = _repeat_heads(query, key, value)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.masked_fill(mask <= torch.finfo(mask.dtype).min, -math.inf)
    sink = log_sink.view(-1, 1, 1) if isinstance(log_sink, Tensor) and log_sink.ndim == 1 else log_sink
    weights = softemax(scores, -1, variant, sink, mask).to(value.dtype)
    return nn.functional.dropout(weights, dropout) @ value, weights


def _check(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> None:
    check_mask(mask)
    if mask is not None and is_causal:
        raise CurvekitError("give either a mask or is_causal=True, not both; a causal mask can be part of the mask")
    if query.shape[1] % key.shape[1]:
        raise CurvekitError(f"{query.shape[1]} query heads cannot be shared among {key.shape[1]} key heads")


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def _additive(mask: Tensor, query: Tensor) -> Tensor:
    """An additive mask of the query's type with four dimensions, as every kernel takes it."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
    return mask.to(query.dtype).reshape((1,) * (4 - mask.ndim) + mask.shape)


# -- the kernels ---------------------------------------------------------------------------------------------------


def _kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> str | None:
    """Name the fused kernel that takes these inputs, or None."""
    empty = 0 in (*query.shape, *key.shape)
    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    if empty or not alike:
        return None
    if query.device.type == "cpu":
        return "cpu"
    if query.device.type == "cuda" and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        half = query.dtype in (torch.float16, torch.bfloat16)
        aligned = not is_causal or query.shape[2] == key.shape[2]  # flash counts causality from the last key
        if half and aligned and mask is None and torch.cuda.get_device_capability(query.device) >= (8, 0):
            return "flash"
        if half or query.dtype == torch.float32:
            return "efficient"
    return None


def _aligned_bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The bias of CUDA's memory-efficient kernel: expanded to all heads, its rows starting at multiples of 16."""
    if mask is None:
        return None
    shape = (*query.shape[:3], key.shape[2])
    padding = -key.shape[2] % 16
    if padding == 0 and mask.shape[-1] == key.shape[2]:
        return mask.expand(shape)
    padded = nn.functional.pad(mask.expand(*mask.shape[:3], key.shape[2]), (0, padding))
    return padded[..., : key.shape[2]].expand(shape)


def _softmax_kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Softmax's output ``[batch, heads, queries, width]`` and its log-sum-exp ``[batch, heads, queries]``."""
    kernel = _kernel(query, key, value, mask, is_causal)
    if kernel == "cpu":
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        # torch's own binding: that of torch.ops takes longer than all else here
        return torch._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
        )
    if kernel == "flash":
        output, lse, *_ = _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)
        return output, lse
    bias = _aligned_bias(mask, query, key)
    output, lse, *_ = _aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=scale
    )
    return output, lse[..., : query.shape[2]]


def _share_with_sink(output: Tensor, lse: Tensor, sink: float | Tensor, sums_keys: bool, query: Tensor) -> Tensor:
    """``O exp(lse - L)``: exp(lse - logaddexp(lse, b)) is sigmoid(lse - b).

    transformers' models lay the heads of a query side by side and want them so again. CUDA's kernels give them so,
    and their output is scaled in place; on a CPU one pass scales it and lays it out as the query.
    """
    over = lse - (sink.to(lse.device).view(-1, 1) if isinstance(sink, Tensor) and sink.ndim else sink)
    share = torch.sigmoid(over) if sums_keys else torch.exp(over)
    share = share.to(output.dtype).unsqueeze(-1)
    if output.shape[2] == 1 or output.device.type != "cpu":
        return output.mul_(share)
    return torch.mul(output, share, out=torch.empty_like(query))


def _flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sink: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    sums_keys: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output Y ``[batch, heads, queries, width]`` and the normaliser L ``[batch, heads, queries]``."""
    output, lse = _softmax_kernel(query, key, value, mask, is_causal, scale)
    rows = sink.view(-1, 1)
    normaliser = torch.logaddexp(lse, rows) if sums_keys else rows + torch.zeros_like(lse)  # not a view of an input
    return _share_with_sink(output, lse, sink, sums_keys, query), normaliser.contiguous()


def _flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normaliser: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    sums_keys: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    if not sums_keys:
        output = torch.zeros_like(output)
    kernel = _kernel(query, key, value, mask, is_causal)
    if kernel == "cpu":
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, normaliser, 0.0, is_causal, attn_mask=mask, scale=scale
        )
    if kernel == "flash":
        seed = torch.zeros(2, dtype=torch.int64, device=query.device).view(torch.uint64)  # made there: no copy waits
        return _aten._scaled_dot_product_flash_attention_backward(
            gradient, query, key, value, output, normaliser, None, None, query.shape[2], key.shape[2],
            0.0, is_causal, seed, seed[:1], scale=scale,
        )  # fmt: skip
    seed = torch.zeros((), dtype=torch.int64)
    # The memory-efficient kernel wants the rows of its log-sum-exp padded to a multiple of 32.
    padded = nn.functional.pad(normaliser, (0, -normaliser.shape[-1] % 32))
    gradients = _aten._scaled_dot_product_efficient_attention_backward(
        gradient, query, key, value, _aligned_bias(mask, query, key), output, padded, seed, seed, 0.0,
        [True, True, True, False], is_causal, scale=scale,
    )  # fmt: skip
    return gradients[0], gradients[1], gradients[2]


def _save(ctx, inputs, output) -> None:
    query, key, value, sink, mask, ctx.is_causal, ctx.scale, ctx.sums_keys = inputs
    ctx.save_for_backward(query, key, value, sink, mask, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, gradient: Tensor | None, _: Tensor | None = None, backward: Any = _flash_backward):
    if gradient is None:
        return (None,) * 8
    query, key, value, sink, mask, output, normaliser = ctx.saved_tensors
    d_query, d_key, d_value = backward(
        gradient, query, key, value, output, normaliser, mask, ctx.is_causal, ctx.scale, ctx.sums_keys
    )
    d_sink = None
    if ctx.needs_input_grad[3]:
        per_query = (gradient * output).sum(-1, dtype=sink.dtype)  # [batch, heads, queries]
        d_sink = -(torch.exp(sink.view(1, -1, 1) - normaliser) * per_query).sum((0, 2))
    return d_query, d_key, d_value, d_sink, None, None, None, None


class _Flash(torch.autograd.Function):
    """What eager mode differentiates."""

    @staticmethod
    def forward(ctx, *inputs):
        made = _flash_forward(*inputs)
        _save(ctx, inputs, made)
        return made[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        return _differentiate(ctx, *gradients)


class _Biased(torch.autograd.Function):
    """A mask b that learns: the kernel's forward, and a backward by the formula, which needs the scores once more.

    With p = exp(s + b - L):  ds = p (dY V^T - a rowsum(dY Y)),  db = ds,  dQ = ds K,  dK = ds^T Q,  dV = p^T dY.
    """

    @staticmethod
    def forward(ctx, query, key, value, sink, mask, scale, sums_keys):
        made = _flash_forward(query, key, value, sink, mask, False, scale, sums_keys)
        ctx.scale, ctx.sums_keys = scale, sums_keys
        ctx.save_for_backward(query, key, value, sink, mask, *made)
        return made[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, sink, mask, output, normaliser = ctx.saved_tensors
        weights = (query @ key.mT).to(normaliser.dtype)  # [batch, heads, queries, keys], of all that follows in place
        if ctx.scale != 1:
            weights.mul_(ctx.scale)
        weights.add_(mask).sub_(normaliser.unsqueeze(-1)).exp_()
        d_value = weights.to(value.dtype).mT @ gradient
        per_query = (gradient * output).sum(-1, keepdim=True, dtype=sink.dtype)
        d_scores = (gradient @ value.mT).to(weights.dtype)
        d_scores = (d_scores.sub_(per_query) if ctx.sums_keys else d_scores).mul_(weights)
        d_mask = d_scores.sum_to_size(mask.shape).to(mask.dtype)
        low = d_scores.to(query.dtype)
        d_query, d_key = ctx.scale * (low @ key), ctx.scale * (low.mT @ query)
        d_sink = None
        if ctx.needs_input_grad[3]:
            d_sink = -(torch.exp(sink.view(1, -1, 1) - normaliser) * per_query.squeeze(-1)).sum((0, 2))
        return d_query, d_key, d_value, d_sink, d_mask, None, None


def _laid_out(made: Tensor, like: Tensor) -> Tensor:
    """``made`` in the layout of ``torch.empty_like(like)``, which is what the compiler is promised."""
    if made.stride() == torch.empty_like(like, device="meta").stride():
        return made
    return torch.empty_like(like).copy_(made)


# What the compiler sees: the same as operators, which it does not look into.
@torch.library.custom_op("curvekit::softemax_flash", mutates_args=())
@functools.wraps(_flash_forward)
def _flash_op(query, *rest):
    output, normaliser = _flash_forward(query, *rest)
    return _laid_out(output, query), normaliser


@torch.library.custom_op("curvekit::softemax_flash_backward", mutates_args=())
@functools.wraps(_flash_backward)
def _flash_backward_op(gradient, query, key, value, *rest):
    made = _flash_backward(gradient, query, key, value, *rest)
    return tuple(map(_laid_out, made, (query, key, value)))


@_flash_op.register_fake
def _(query, key, value, sink, mask, is_causal, scale, sums_keys):
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=sink.dtype)


@_flash_backward_op.register_fake
def _(gradient, query, key, value, output, normaliser, mask, is_causal, scale, sums_keys):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


_flash_op.register_autograd(functools.partial(_differentiate, backward=_flash_backward_op), setup_context=_save)


# -- transformers --------------------------------------------------------------------------------------------------


def _attentions_wanted() -> bool:
    """Whether the caller of the running model asked for ``output_attentions=True``."""
    from transformers.utils.output_capturing import _active_collector

    collected = _active_collector.get()
    return collected is not None and any("attentions" in key for key in collected)


_HARMLESS = {  # of what models pass on: the mask has it already, or it concerns others
    "cache_position", "deterministic", "is_causal", "max_length_k", "max_length_q", "num_items_in_batch",
    "output_attentions", "output_hidden_states", "output_router_logits", "position_embeddings", "position_ids",
    "return_dict", "sliding_window", "use_cache",
}  # fmt: skip


def refuse_unknown(module: nn.Module, separated: bool, given: dict[str, Any]) -> None:
    """Refuse what would change the weights and is not a part of the formula, rather than leave it out unsaid.

    Args:
        module: whose attention it is.
        separated: whether a mask, or positions that start anew, separate the sequences of a row already.
        given: the arguments beyond those that are honoured.

    Raises:
        CurvekitError: as said.
    """
    for name, value in given.items():
        if value is None or name in _HARMLESS:
            continue
        if separated and (name.startswith("cu_seq_lens") or name == "seq_idx"):
            continue
        known = {"softcap": "a soft cap on its scores", "s_aux": "sinks of its own", "sinks": "sinks of its own"}
        what = known.get(name, f"the argument {name!r}")
        raise CurvekitError(
            f"{type(module).__name__} hands its attention {what}, which SoftEMax does not have; "
            "load the model with another attn_implementation"
        )


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool | None = None,
    variant: str = "stable",
    own: Callable[..., tuple[Tensor, Tensor | None]] | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: ``[batch, heads, queries, width]`` in, ``[batch, queries, heads, width]`` out.

    Asking for attention weights, or training with attention dropout, takes the eager path. ``own`` is a normaliser of a
    user's own in the place of ``variant``.

    Raises:
        CurvekitError: the model hands over what SoftEMax does not have: a soft cap, sinks of its own.
    """
    refuse_unknown(module, attention_mask is not None, kwargs)
    queries, keys = query.shape[2], key.shape[2]
    is_causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    is_causal = is_causal and queries > 1 and attention_mask is None
    if is_causal and keys > queries:  # the prefill of an empty static cache: the rest of the keys are yet to come
        key, value = key[:, :, :queries], value[:, :, :queries]
        position_bias = position_bias[..., :queries] if position_bias is not None else None
    if position_bias is not None:
        from transformers.integrations.sdpa_attention import create_position_bias_mask

        attention_mask = create_position_bias_mask(position_bias, attention_mask, is_causal, query, key)
        is_causal = False
    sink = getattr(module, "log_sink", None)  # learned ones
    if sink is None:
        sink = getattr(getattr(module, "config", None), "log_sink", LOG_C)
    settings: dict[str, Any] = {"mask": attention_mask, "is_causal": is_causal, "scale": scaling}
    by_formula = dropout > 0.0 or output_attentions or _attentions_wanted()
    if own is not None:
        output, weights = own(query, key, value, dropout=dropout, by_formula=by_formula, **settings)
        return output.transpose(1, 2).contiguous(), weights
    settings |= {"variant": variant, "log_sink": sink}
    if by_formula:
        output, weights = eager_softemax_attention(query, key, value, dropout=dropout, **settings)
    else:
        output, weights = softemax_attention(query, key, value, **settings), None
    return output.transpose(1, 2).contiguous(), weights


def implementation(variant: str) -> str:
    """The name under which transformers knows a member: ``softemax`` for the stable one, else ``softemax-NAME``."""
    return "softemax" if variant == "stable" else f"softemax-{variant}"


IMPLEMENTATIONS = set(map(implementation, VARIANTS))  # and those of normalisers of a user's own


@functools.cache
def _takes_effect(model: Any) -> bool:
    """Whether a class of transformers computes its attention, masks included, as its interface's entry says."""
    return model._supports_attention_backend or (model._supports_sdpa and model._can_set_attn_implementation())


def check_supported(model: nn.Module) -> None:
    """Refuse a model that is set to a member of the family and would compute softmax, or lose its causality.

    Raises:
        CurvekitError: the architecture does not honour the attention interface, builds its masks for its own attention
            alone, or caps its scores.
    """
    config: Any = model.config
    asked = config._attn_implementation
    if not (isinstance(asked, str) and asked in IMPLEMENTATIONS):
        return
    kind: Any = type(model)
    if not _takes_effect(kind):
        raise CurvekitError(
            f"attn_implementation={asked!r} would have no effect, or lose the mask, in {type(model).__name__}: "
            "its attention does not go through transformers' interface; take another architecture, or softmax"
        )
    if getattr(config, "attn_logit_softcapping", None):
        raise CurvekitError(
            f"{type(model).__name__} caps its attention scores at {config.attn_logit_softcapping:g} "
            "(attn_logit_softcapping), which SoftEMax does not have; load it with another attn_implementation"
        )


def _on_registration(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
    """Check a model of transformers when its first part is put into it, since its own class does not."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel) and len(module._modules) == 0:
        check_supported(module)


def announce(name: str, forward: Callable[..., Any]) -> None:
    """Make an attention known to transformers under a name, with the masks of its ``sdpa`` attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, sdpa_mask)


def announce_own(name: str, attend: Callable[..., tuple[Tensor, Tensor | None]]) -> None:
    """Make a normaliser of a user's own known to transformers as ``softemax-NAME``.

    Args:
        attend: ``attend(query, key, value, mask=, is_causal=, scale=, dropout=, by_formula=)`` gives the output and,
            ``by_formula``, the weights; shapes as :func:`eager_softemax_attention`'s.
    """
    announce(implementation(name), functools.partial(_forward, own=attend))
    IMPLEMENTATIONS.add(implementation(name))


def forget(*names: str) -> None:
    """Take attentions away again from what transformers knows."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in names:
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(name, None)
        IMPLEMENTATIONS.discard(name)


def register() -> None:
    """Make every member known to transformers, with the masks of its ``sdpa`` attention.

    A model in which a member cannot take effect is refused when it is made: torch calls :func:`check_supported` as its
    first module is registered, because transformers asks no architecture whether it honours an attention of ours.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    for variant in VARIANTS:
        announce(implementation(variant), functools.partial(_forward, variant=variant))
    register_module_module_registration_hook(_on_registration)


register()
