"""Rows of the curve: the blend as a convolution beside the published loop over positions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.harness import Case, Goal, Settings, same
from curvekit.curves import bernstein_weights, curve

WIDTH = 384  # of MiniLM's states


def published(states: Tensor) -> Tensor:
    """A quarter of the previous word, a half of the word, a quarter of the next, one position after the other."""
    last = states.shape[1] - 1
    blended = []
    for i in range(last + 1):
        before, after = states[:, max(i - 1, 0)], states[:, min(i + 1, last)]
        blended.append(0.25 * before + 0.5 * states[:, i] + 0.25 * after)
    return torch.stack(blended, 1)


def cases(settings: Settings) -> Iterator[Case]:
    length = 32 if settings.quick else 512
    weights = bernstein_weights(2, 0.5).to(settings.device, torch.float32)
    for batch, goal in ((1, 50.0), (16, None)):  # the published pipeline blends an item at a time
        torch.manual_seed(0)
        states = torch.randn(batch, length, WIDTH, device=settings.device)

        def check(states: Tensor = states) -> str:
            return same(curve(states, weights, "centred"), published(states), 1e-5, "the curves")

        yield Case(
            f"blend, T = {length}, batch {batch}",
            "depthwise convolution",
            "the published loop over positions",
            lambda states=states: curve(states, weights, "centred"),
            lambda states=states: published(states),
            check,
            Goal("ratio", goal) if goal else None,
            work=batch * length,
            unit="tokens",
            seconds=6.0,
        )
