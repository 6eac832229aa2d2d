"""Rows of attention: SoftEMax on the fused kernels beside torch's softmax, and beside the formula as it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.harness import Case, Goal, Settings, same
from curvekit.attention import eager_softemax_attention, softemax_attention
from curvekit.normalisers import LOG_C

HEADS, WIDTH, BATCH = 12, 64, 4


def cases(settings: Settings) -> Iterator[Case]:
    lengths = (32, 64) if settings.quick else (128, 512, 1024, 2048, *((4096, 8192) if settings.cuda else ()))
    for length in lengths:
        yield _case(
            f"forward and backward, T = {length}",
            settings,
            _inputs(settings, length, length),
            ours={"is_causal": True},
            peer=lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
            peer_is="softmax SDPA",
            goal=0.95,
        )
    length = 64 if settings.quick else 1024
    yield _case(
        f"against the formula, T = {length}",
        settings,
        _inputs(settings, length, length),
        ours={"is_causal": True},
        peer=lambda q, k, v: eager_softemax_attention(q, k, v, is_causal=True)[0],
        peer_is="SoftEMax by the formula (eager)",
        goal=5.0,
        limit={},
    )
    sinks = torch.full((HEADS,), LOG_C, device=settings.device, requires_grad=True)
    yield _case(
        f"learned sinks, T = {length}",
        settings,
        (*_inputs(settings, length, length), sinks),
        ours={"is_causal": True},
        peer=lambda q, k, v, _: scaled_dot_product_attention(q, k, v, is_causal=True),
        peer_is="softmax SDPA",
        goal=0.9,
    )
    seen = torch.ones(length, length, dtype=torch.bool, device=settings.device).tril().repeat(BATCH, 1, 1, 1)
    for row in range(BATCH):  # rows of unequal length, padded on the right
        seen[row, ..., length - row * length // 8 :] = False
    yield _case(
        f"padding mask, T = {length}",
        settings,
        _inputs(settings, length, length),
        ours={"mask": seen},
        peer=lambda q, k, v: scaled_dot_product_attention(q, k, v, seen),
        peer_is="softmax SDPA with the same mask",
        goal=0.9,
    )
    yield _case(
        f"one query, cache of {length}",
        settings,
        _inputs(settings, 1, length, gradient=False),
        ours={},
        peer=lambda q, k, v: scaled_dot_product_attention(q, k, v),
        peer_is="softmax SDPA",
        goal=0.9,
    )


def _inputs(settings: Settings, queries: int, keys: int, gradient: bool = True) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    made = (
        torch.randn(BATCH, HEADS, time, WIDTH, device=settings.device, dtype=settings.dtype)
        for time in (queries, keys, keys)
    )
    return tuple(each.requires_grad_(gradient) for each in made)


def _case(
    name: str,
    settings: Settings,
    inputs: tuple[Tensor, ...],
    ours: dict[str, Any],
    peer: Callable[..., Tensor],
    peer_is: str,
    goal: float,
    limit: dict[str, Any] | None = None,
) -> Case:
    """A case of one setting; ``limit`` makes ours what the peer computes (default: a sink of -inf, softmax)."""
    gradient = torch.randn_like(inputs[0])
    tolerance = 1e-4 if settings.dtype == torch.float32 else 3e-2

    def own(*inputs: Tensor, **changes: Any) -> Tensor:
        sink = {"log_sink": inputs[3]} if len(inputs) > 3 else {}
        return softemax_attention(*inputs[:3], **{**ours, **sink, **changes})

    def both(call: Callable[..., Tensor], wanted: tuple[Tensor, ...] = inputs) -> tuple[Tensor, ...]:
        """Output and gradients, or the output alone where nothing is trained."""
        output = call(*inputs)
        if not output.requires_grad:
            return (output,)
        return output, *torch.autograd.grad(output, [each for each in wanted if each.requires_grad], gradient)

    def check() -> str:
        equal = {"log_sink": -math.inf} if limit is None else limit
        pairs = zip(both(lambda *given: own(*given, **equal), inputs[:3]), both(peer, inputs[:3]), strict=True)
        said = [same(mine, theirs, tolerance, "results") for mine, theirs in pairs]
        sides = "outputs" if len(said) == 1 else "outputs and gradients"
        shown = f"{sides} {max(said, key=lambda text: float(text.split()[-1])).removeprefix('results ')}"
        if limit is not None:
            return shown
        # And SoftEMax itself against its formula, on one head, which even a long row leaves room for.
        small = tuple(each[:1, :1] for each in inputs[:3])
        mask = ours.get("mask")
        options = ours | ({"mask": mask[:1]} if mask is not None else {})
        with torch.no_grad():
            formula = eager_softemax_attention(*small, **options)[0]
            return f"with a sink of -inf {shown}; " + same(
                softemax_attention(*small, **options), formula, tolerance, "with its own, ours and the formula"
            )

    peer_inputs = inputs if len(inputs) == 3 or peer_is == "softmax SDPA" else inputs[:3]
    return Case(
        name,
        "SoftEMax, fused" + (" with a learned sink a head" if len(inputs) > 3 else ""),
        peer_is,
        lambda: both(own),
        lambda: both(peer, peer_inputs[:3]),
        check,
        Goal("ratio", goal),
        work=BATCH * inputs[0].shape[2],
        unit="queries",
        seconds=10.0,
    )
