r"""Mixing a position's state with those just before it, at the input or inside the blocks: the curve and its peers.

Each takes the states of ``n + 1`` consecutive positions, oldest first, the last of them h_i, and gives ``[batch, time,
width]``. All weights are of each channel's own, except smear's.

==============  ========================================================================  ============================
mixer           y_i                                                                       parameters a site
==============  ========================================================================  ============================
``curve``       h_i + g (c_i - h_i) + further channels' g c_i', c_i = sum_k B_k,n(t) h    t, g
``canon``       h_i + sum_k w_k h_{i-3+k}, k = 0..3                                       w: 4 a channel
``shift``       mu h_i + (1 - mu) h_{i-1}                                                 mu
``smear``       h_i + lambda sigmoid(v . r_i) h_{i-1}, r_i the first 12 of h_i / rms      lambda, v
==============  ========================================================================  ============================

A curve whose place is near 1 is at its own word, near 0 it is n words back. As RWKV's shifts do, places and shifts
start spread over the channels, so that from the first step some look back and others do not: behind a gate that starts
at zero a curve in the blocks learned nothing.

Sources: Allen-Zhu, "Physics of Language Models: Part 4.1" (2025), arXiv 2512.17351, for Canon layers; Peng et al.,
"RWKV" (2023) for token shift; modded-nanogpt's pull request 130 for smear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from curvekit.curves import CHANNELS, bernstein_weights, blend, bspline_weights
from curvekit.errors import pick

MIXERS = ("curve", "canon", "shift", "smear")
SITES = ("embedding", "attention", "mlp")  # the input; after the norm before attention; after the one before the MLP
GATED = 12  # features that smear's gate reads


def mixer_degree(kind: str, degree: int) -> int:
    """How many positions before its own a mixer reads; ``degree`` is the curve's."""
    return {"curve": degree, "canon": 3, "shift": 1, "smear": 1}[pick(kind, MIXERS, "mixer")]


class Mixer(nn.Module):
    """One mixer of :data:`MIXERS` at one place of the model; equations and sources stand at the head of this module.

    Args:
        kind: its name.
        width: of the states.
        degree, weights, channels: of the curve, see :class:`curvekit.curves.CurveEmbedding`.
        start: where the curve's gate of the point, and smear's lambda, start; its other gates start at 0.
        spread: the curve's gates are drawn evenly from ``[-spread, spread]`` around their starts.

    Shapes: ``mixer_degree(kind, degree) + 1`` tensors ``[batch, time, width]`` to ``[batch, time, width]``.

    Raises:
        CurvekitError: an unknown name.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        *,
        degree: int = 2,
        weights: str = "bernstein",
        channels: Sequence[str] = ("point",),
        start: float = 1.0,
        spread: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.degree, self.family = kind, mixer_degree(kind, degree), weights
        self.channels, self.start, self.spread = tuple(channels), start, spread
        empty = lambda *shape: nn.Parameter(torch.empty(*shape))  # noqa: E731
        if kind == "curve":
            self.place_logit, self.gates = empty(width), empty(len(self.channels), width)
        elif kind == "canon":
            self.kernel_weights = empty(width, self.degree + 1)
        elif kind == "shift":
            self.share = empty(width)
        else:
            self.smear, self.sight = empty(1), empty(min(GATED, width))
        self.reset_parameters()

    def starts(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Its parameters, and where they start: places and shifts spread over the channels, Canon's kernels drawn as
        torch draws a convolution's."""
        if self.kind == "curve":
            yield self.place_logit, torch.logit(_spread(self.place_logit))
            gates = torch.zeros_like(self.gates)
            gates[self.channels.index("point")] = self.start
            if self.spread:
                gates += torch.empty_like(gates).uniform_(-self.spread, self.spread)
            yield self.gates, gates
        elif self.kind == "canon":
            bound = (self.degree + 1) ** -0.5
            yield self.kernel_weights, torch.empty_like(self.kernel_weights).uniform_(-bound, bound)
        elif self.kind == "shift":
            yield self.share, _spread(self.share)
        else:
            yield self.smear, torch.full_like(self.smear, self.start)
            yield self.sight, torch.zeros_like(self.sight)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put every parameter of :meth:`starts` where it starts."""
        for parameter, start in self.starts():
            parameter.copy_(start)

    def weights(self, channel: str = "point") -> Tensor:
        """The curve's weights now, ``[width, degree + 1]``."""
        family = bernstein_weights if self.family == "bernstein" else bspline_weights
        return family(self.degree, torch.sigmoid(self.place_logit), CHANNELS[channel])

    def kernel(self) -> Tensor:
        """What all of this is as one depthwise kernel ``[width, degree + 1]``, oldest first (not of smear)."""
        if self.kind == "canon":
            kernel: Tensor = self.kernel_weights
        elif self.kind == "shift":
            return torch.stack([1 - self.share, self.share], -1)
        else:
            each = zip(self.gates, self.channels, strict=True)
            kernel = torch.stack([gate.unsqueeze(-1) * self.weights(channel) for gate, channel in each]).sum(0)
        own = 1 - self.gates[self.channels.index("point")] if self.kind == "curve" else torch.ones_like(kernel[:, -1])
        return torch.cat([kernel[:, :-1], (kernel[:, -1] + own).unsqueeze(-1)], -1)

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        own = points[-1]
        if self.kind == "smear":
            seen = own[..., : len(self.sight)].float() * torch.rsqrt(own.float().square().mean(-1, True) + 1e-6)
            gate = torch.sigmoid((seen * self.sight.float()).sum(-1, keepdim=True))
            return own + (self.smear * gate).to(own.dtype) * points[0]
        return blend(points, self.kernel())


def reference_mixer(mixer: Mixer, states: Tensor) -> Tensor:
    """The equations as they read, one position at a time (the reference of the tests): ``[batch, time, width]``.

    Before the first word stands the first word.
    """
    rows = []
    for i in range(states.shape[1]):
        h = [states[:, max(0, i - mixer.degree + k)] for k in range(mixer.degree + 1)]
        if mixer.kind == "curve":
            y = h[-1]
            for gate, channel in zip(mixer.gates, mixer.channels, strict=True):
                c = torch.stack([mixer.weights(channel)[:, k] * h[k] for k in range(len(h))]).sum(0)
                y = y + gate * (c - h[-1] if channel == "point" else c)
        elif mixer.kind == "canon":
            y = h[-1] + torch.stack([mixer.kernel_weights[:, k] * h[k] for k in range(len(h))]).sum(0)
        elif mixer.kind == "shift":
            y = mixer.share * h[1] + (1 - mixer.share) * h[0]
        else:
            r = h[1][:, : len(mixer.sight)] / (h[1].square().mean(-1, keepdim=True) + 1e-6).sqrt()
            y = h[1] + mixer.smear * torch.sigmoid((r * mixer.sight).sum(-1, keepdim=True)) * h[0]
        rows.append(y)
    return torch.stack(rows, 1)


def _spread(like: Tensor) -> Tensor:
    """``sqrt((c + 1/2) / width)`` of channel c: from almost 0 to almost 1, two thirds in the mean."""
    width = len(like)
    return torch.tensor([math.sqrt((c + 0.5) / width) for c in range(width)], dtype=torch.float32, device=like.device)
