"""The conformance line: whether a model computes what it should, measured on a few words before it is trusted.

Five differences in the logits, each of one promise:

- ``attention``: the model's own attention against its formula, computed apart (transformers' eager one for softmax, for
  the members of SoftEMax :func:`formula` in float64);
- ``cached``: the text read piece by piece with a cache, against the whole;
- ``padding``: a shorter text beside a longer one, padded on its left, against the same alone;
- ``leak``: later words exchanged (:func:`curvekit.causality.future_leak`), which a causal model does not notice at all;
  of a T5 they are the target's, as are the pieces of ``cached``, and what is padded is the source;
- ``merge``: an adapter beside its base, against the two as one matrix.

What training starts at zero (a curve's gate, an adapter's B) is given a value meanwhile, or nothing would be tested.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.attention import announce, implementation
from curvekit.bases.adapters import as_merged, is_adapted
from curvekit.causality import future_leak
from curvekit.modes import evaluating
from curvekit.normalisers import LOG_C
from curvekit.recipes import ATTENTIONS
from curvekit.text.tokenization import start_token

TEXT = (
    "The curve runs through the points of a word and of the words before it. A bank is a place for money, "
    "and a bank is also the side of a river."
)
TOKENS = 24
ROUNDING = 1e-4  # of the largest logit: some hundred times what a float32 rounds off


@dataclass(frozen=True)
class Conformance:
    """Largest changes in any logit; None where there is nothing to compare.

    Attributes:
        attention, cached, padding, leak, merge: see the head of this room.
        bound: what each but ``leak`` may reach; ``leak`` may not be above 0.
        tokens: how many were read.
    """

    attention: float
    cached: float | None
    padding: float
    leak: float
    merge: float | None
    bound: float
    tokens: int

    @property
    def failures(self) -> list[str]:
        """The names of the differences that are too large, or no numbers."""
        figures = self.differences()
        return [name for name, value in figures.items() if not value <= (0.0 if name == "leak" else self.bound)]

    def differences(self) -> dict[str, float]:
        """Those that were measured."""
        names = ("attention", "cached", "padding", "leak", "merge")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def line(self) -> str:
        """All of it in one line."""
        shown = [f"{name} {value:.1e}" if value else f"{name} 0" for name, value in self.differences().items()]
        if self.leak > 0:
            shown = [f"{each} (IT LEAKS: it sees the words it is to predict)" if each.startswith("leak") else each
                     for each in shown]  # fmt: skip
        wrong = [name for name in self.failures if name != "leak"]
        verdict = f"TOO LARGE: {', '.join(wrong)}; at most {self.bound:.1e}" if wrong else f"at most {self.bound:.1e}"
        return f"{', '.join(shown)} (largest change in a logit over {self.tokens} tokens; {verdict})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def conformance(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str = TEXT) -> Conformance:
    """Measure a model's differences on the beginning of a text; a second or two for one of 135 M parameters."""
    ids = text_ids(model, tokenizer, text, TOKENS)
    read = _read_target(model, ids) if model.config.is_encoder_decoder else model
    with _awake(model), evaluating(model):
        whole = read(ids, use_cache=False).logits
        with _by_formula(model):
            formula = read(ids, use_cache=False).logits
        merged = None
        if is_adapted(model):
            with as_merged(model):
                merged = largest_change(model(ids, use_cache=False).logits, whole)
        return Conformance(
            attention=largest_change(formula, whole),
            cached=None if getattr(model.config, "leaks", False) else largest_change(_in_pieces(read, ids), whole),
            padding=(_source_padding if model.config.is_encoder_decoder else _padding)(model, ids, tokenizer),
            leak=future_leak(model, ids, probes=[0, ids.shape[1] // 2]),
            merge=merged,
            bound=ROUNDING * whole.abs().max().item(),
            tokens=ids.shape[1],
        )


def text_ids(model: Any, tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> Tensor:
    """A text's first tokens behind end-of-text, as a batch of one, ``[1, at most most]``."""
    limit = min(most, getattr(model.config, "max_context", None) or model.config.max_position_embeddings)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([[start_token(tokenizer), *ids][:limit]], device=model.device)


def largest_change(logits: Tensor, others: Tensor) -> float:
    """The largest change in any logit."""
    return (logits.float() - others.float()).abs().max().item()


def divergence(logits: Tensor, others: Tensor) -> float:
    """``KL(p || q)``, nats a token: p the next word's distribution by ``logits``, q that by ``others``."""
    p, q = (each.double().log_softmax(-1) for each in (logits, others))
    return (p.exp() * (p - q)).sum(-1).mean().item()


def _read_target(model: Any, source: Tensor) -> Callable[..., Any]:
    """A T5 that has its source and is called with the target alone."""
    return lambda ids, **settings: model(input_ids=source, decoder_input_ids=ids, **settings)


def _source_padding(model: Any, ids: Tensor, tokenizer: Any) -> float:
    """What padding behind the source of a T5 changes: the second half of the text beside the whole."""
    short, gap = ids[:, ids.shape[1] // 2 :], ids.shape[1] // 2
    batch = torch.cat([ids, nn.functional.pad(short, (0, gap), value=int(model.config.pad_token_id or 0))])
    mask = torch.ones_like(batch)
    mask[1, short.shape[1] :] = 0
    together = model(batch, attention_mask=mask, decoder_input_ids=ids.expand(2, -1), use_cache=False).logits
    return largest_change(together[1:], model(short, decoder_input_ids=ids, use_cache=False).logits)


def _in_pieces(model: Any, ids: Tensor) -> Tensor:
    """Logits of a text read with a cache: half of it at once, two words together, the rest one by one."""
    half, past = ids.shape[1] // 2, None
    rows: list[Tensor] = []
    rest = ids.shape[1] - half - 2
    for piece in ids.split([half, 2, *[1] * min(rest, 3), *([rest - 3] if rest > 3 else [])], 1):
        step = model(piece, past_key_values=past, use_cache=True)
        past, rows = step.past_key_values, [*rows, step.logits]
    return torch.cat(rows, 1)


def _padding(model: Any, ids: Tensor, tokenizer: Any) -> float:
    """What a row of padding on the left changes: the second half of the text beside the whole."""
    short = ids[:, ids.shape[1] // 2 :]
    gap = ids.shape[1] - short.shape[1]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else int(ids[0, 0])
    batch = torch.cat([ids, nn.functional.pad(short, (gap, 0), value=pad)])
    mask = torch.ones_like(batch)
    mask[1, :gap] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    together = model(batch, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return largest_change(together[1:, gap:], model(short, use_cache=False).logits)


@contextmanager
def _awake(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Values in the place of the zeros that a gate and an adapter start at, and the zeros again after."""
    generator = torch.Generator().manual_seed(seed)
    asleep = [
        parameter
        for name, parameter in model.named_parameters()
        if (name.endswith("curve.gate") or ".lora_B." in name) and not parameter.any()
    ]
    for parameter in asleep:
        size = 0.1 if parameter.ndim == 1 else 0.02
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    try:
        yield
    finally:
        for parameter in asleep:
            parameter.zero_()


@contextmanager
def _by_formula(model: Any) -> Iterator[None]:
    """Inside, the model's attention is computed as its formula reads."""
    configs = [model.config, *(stack.config for stack in _stacks(model))]
    before = model.config._attn_implementation
    member = ATTENTIONS[getattr(model.config, "attention", "softmax")]
    for config in configs:
        config._attn_implementation = "eager" if member == "softmax" else f"formula-{implementation(member)}"
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = before


def _stacks(model: Any) -> list[Any]:
    """The two of a T5, each of which has a configuration of its own."""
    return [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else []


# Of each member, written down apart from curvekit.normalisers: the sign of its scores, a, and exp(b) of exp(log_sink).
_FORMULAS: dict[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    "stable": (1, 1, lambda c: c),
    "softmax1": (1, 1, torch.ones_like),
    "published": (1, 0, lambda c: c),
    "inverse": (-1, 0, lambda c: c),
    "plus": (1, 0, lambda c: 1 + c),
    "plus-inverse": (-1, 0, lambda c: 1 + c),
}


def formula(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    member: str = "stable",
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``w_ij = exp(s x_ij) / (a sum_k exp(s x_ik) + exp(b))``, in float64 and as it reads; arguments as transformers'.

    A position bias, which T5's attention hands over apart, is a part of the score.

    Returns:
        ``[batch, queries, heads, width]``.
    """
    sign, sums, sink_of = _FORMULAS[member]
    groups = query.shape[1] // key.shape[1]
    q, k, v = query.double(), key.double().repeat_interleave(groups, 1), value.double().repeat_interleave(groups, 1)
    scores = sign * (query.shape[-1] ** -0.5 if scaling is None else scaling) * (q @ k.transpose(-1, -2))
    if position_bias is not None:
        scores = scores + sign * position_bias.double()
    if attention_mask is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        seen = seen.tril(scores.shape[-1] - q.shape[2]) if getattr(module, "is_causal", True) else seen
    else:
        seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask >= 0
    exponentials = scores.exp() * seen
    sink = getattr(module, "log_sink", None)  # learned ones, one a head
    if sink is None:
        sink = scores.new_full((1,), getattr(module.config, "log_sink", LOG_C))
    weights = exponentials / (sums * exponentials.sum(-1, keepdim=True) + sink_of(sink.double().exp().view(-1, 1, 1)))
    return (weights @ v).to(query.dtype).transpose(1, 2), None


for _member in _FORMULAS:
    announce(f"formula-{implementation(_member)}", functools.partial(formula, member=_member))
