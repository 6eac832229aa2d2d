r"""Curves through a word's neighbourhood of embeddings: their weights, the blend, and the curve embedding.

The published blend, a quarter of the previous word, a half of the word, a quarter of the next, is the quadratic
Bezier curve through three neighbours at its middle. So the family is

    c_i = sum_k w_k e_{i - n + k},  k = 0..n        trailing window: causal
    c_i = sum_k w_k e_{i - n//2 + k}                centred window: sees the future

with degree n and weights w that are the Bernstein polynomials B_{k,n}(t) = C(n, k) t^k (1 - t)^{n-k} at a place t,
the uniform B-spline's, or learned. Derivatives of the weights give the curve's tangent and curvature. Beyond the
first and the last word the curve is clamped: it starts and ends in them.

Sources: P. Bezier and S. Bernstein for the polynomials; C. de Boor, "A Practical Guide to Splines" (1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from curvekit.errors import CurvekitError, pick
from curvekit.normalisers import softemax

WINDOWS = ("trailing", "centred")
WEIGHTS = ("bernstein", "bspline", "learned")
CHANNELS = {"point": 0, "tangent": 1, "curvature": 2}  # a channel is a derivative of the curve
NEIGHBOURS = "neighbours"  # or, in the place of a curve, all control points side by side
NORMALISATIONS = ("layernorm", "softemax", "published", "none")
FUSIONS = ("gate", "add", "replace")


class OwnBlend(NamedTuple):
    """A user's own in the place of ``sum_k w_k p_k``, see :func:`curvekit.variants.register_blend`.

    ``function`` maps ``degree + 1`` control points ``[batch, time, width]`` to ``[batch, time, width]``; or it is a
    module's class, made with ``(width, degree)``, whose parameters are then learned.
    """

    degree: int
    function: Callable[..., Any]

    @property
    def learns(self) -> bool:
        return isinstance(self.function, type) and issubclass(self.function, nn.Module)

    def made(self, width: int) -> Callable[[Sequence[Tensor]], Tensor]:
        return self.function(width, self.degree) if self.learns else self.function


BLENDS: dict[str, OwnBlend] = {}  # by the name that ``curve_weights`` has


def bernstein_weights(degree: int, place: float | Tensor = 0.5, derivative: int = 0) -> Tensor:
    """Weights of the Bezier curve of ``degree`` n at ``place`` t: ``B_{k,n}(t)``, k = 0..n, or their derivative in t.

    ``B'_{k,n} = n (B_{k-1,n-1} - B_{k,n-1})``. Weights sum to 1, their derivatives to 0.

    Args:
        degree: n, at least 0.
        place: t in [0, 1]; a tensor ``[...]`` gives ``[..., n + 1]``.
        derivative: 0 the curve, 1 its tangent, 2 its curvature.

    Returns:
        ``[n + 1]`` weights, oldest first; float64 for a number, else the type of ``place``.

    Raises:
        CurvekitError: the degree is negative, or a fixed place lies outside [0, 1].
    """
    return _as_tensor(_bernstein(degree, _place(degree, place), derivative))


def bspline_weights(degree: int, place: float | Tensor = 0.5, derivative: int = 0) -> Tensor:
    """Weights of the uniform B-spline of ``degree`` n at ``place`` t of its middle segment, k = 0..n.

    De Boor's recursion on unit knots: ``N_{k,n} = ((t + n - k) N_{k-1,n-1} + (1 + k - t) N_{k,n-1}) / n``. The
    cubic's weights at t = 0 are 1/6, 4/6, 1/6, 0. Arguments, result and errors as :func:`bernstein_weights`.
    """
    return _as_tensor(_bspline(degree, _place(degree, place), derivative))


# The recursions give numbers of a number and tensors of a tensor: numbers reach a GPU without a copy that waits for it.


def _bernstein(degree: int, t: Any, derivative: int = 0) -> list[Any]:
    if derivative > 0:
        return (
            [0 * t]
            if degree == 0
            else [degree * each for each in _differences(_bernstein(degree - 1, t, derivative - 1))]
        )
    return [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]


def _bspline(degree: int, t: Any, derivative: int = 0) -> list[Any]:
    if degree == 0:
        return [0 * t + (1 if derivative == 0 else 0)]
    if derivative > 0:
        return _differences(_bspline(degree - 1, t, derivative - 1))
    lower = [0, *_bspline(degree - 1, t), 0]
    return [((t + degree - k) * lower[k] + (1 + k - t) * lower[k + 1]) / degree for k in range(degree + 1)]


FAMILIES = {"bernstein": _bernstein, "bspline": _bspline}


def _place(degree: int, place: float | Tensor) -> float | Tensor:
    if degree < 0:
        raise CurvekitError(f"a curve's degree is 0 or more, not {degree}")
    if not isinstance(place, Tensor) and not 0 <= place <= 1:
        raise CurvekitError(f"a curve's place lies between 0 and 1, not at {place}")
    return place


def _as_tensor(weights: list[Any]) -> Tensor:
    if any(isinstance(each, Tensor) for each in weights):
        return torch.stack(weights, -1)
    return torch.tensor(weights, dtype=torch.float64)


def _differences(weights: list[Any]) -> list[Any]:
    """``w_{k-1} - w_k``: what the control points' differences weigh, as weights of the points themselves."""
    return [before - after for before, after in zip([0, *weights], [*weights, 0], strict=True)]


def reach(degree: int, window: str) -> tuple[int, int]:
    """How many words before and after its own a window sees."""
    pick(window, WINDOWS, "window")
    after = 0 if window == "trailing" else degree - degree // 2
    return degree - after, after


def control_points(
    states: Tensor,
    degree: int,
    window: str = "trailing",
    mask: Tensor | None = None,
    past: int | Tensor = 0,
    length: int | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The control points of positions ``past .. past + length - 1``: of each its neighbours, oldest first.

    A curve runs through real words of one document: it is clamped to that document's first and last one, and words
    that the mask hides, on either side or within the text, are not there.

    Args:
        states: ``[batch, total, width]``, the states of all positions from 0 on.
        mask: ``[batch, seen]``, nonzero at real words.
        past, length: which positions to prepare; default all.
        documents: ``[batch, total]``, the number of each position's document where a row holds several.

    Returns:
        ``degree + 1`` tensors ``[batch, length, width]``.
    """
    before, after = reach(degree, window)
    length = states.shape[1] if length is None else length
    if mask is None and documents is None:
        if isinstance(past, int) and past == 0 and length == states.shape[1]:
            first, last = states[:, :1], states[:, -1:]
            padded = torch.cat([first.expand(-1, before, -1), states, last.expand(-1, after, -1)], 1)
        else:
            index = (torch.arange(-before, length + after, device=states.device) + past).clamp(min=0)
            padded = states[:, index.clamp(max=past + length - 1) if isinstance(past, int) else index]
        return tuple(padded[:, k : k + length] for k in range(degree + 1))
    places = _ranked(states, mask, documents, before, after, torch.arange(length, device=states.device) + past)
    return tuple(states.gather(1, place.unsqueeze(-1).expand(-1, -1, states.shape[-1])) for place in places)


def _ranked(
    states: Tensor, mask: Tensor | None, documents: Tensor | None, before: int, after: int, own: Tensor
) -> list[Tensor]:
    """Where the neighbours of positions ``own`` stand, counted in real words: each ``[batch, length]``."""
    batch, total = states.shape[:2]
    real = torch.ones(batch, total, dtype=torch.bool, device=states.device) if mask is None else mask.to(torch.bool)
    real = nn.functional.pad(real, (0, total - real.shape[1]))  # a static cache has room for words yet to come
    upto = real.long().cumsum(-1)  # real words up to and with a position
    positions = torch.arange(total, device=states.device).expand(batch, -1)
    order = positions.new_zeros(batch, total + 1)  # rank of a real word -> its position; the last place is for others
    order = order.scatter(1, torch.where(real, upto - 1, total), positions)
    if documents is None:
        first, last = torch.zeros_like(upto), upto[:, -1:].expand(-1, total) - 1
    else:
        changes = documents[:, 1:] != documents[:, :-1]
        begins, ends = nn.functional.pad(changes, (1, 0), value=True), nn.functional.pad(changes, (0, 1), value=True)
        start = torch.where(begins, positions, 0).cummax(-1).values
        end = torch.where(ends, positions, total).flip(-1).cummin(-1).values.flip(-1)
        first, last = (upto - real.long()).gather(1, start), upto.gather(1, end) - 1
    rank, first, last = ((each[:, own]).clamp(min=0) for each in (upto - 1, first, last))
    return [
        order.gather(1, torch.minimum(torch.maximum(rank + shift, first), last)) for shift in range(-before, after + 1)
    ]


def blend(points: Sequence[Tensor], weights: Tensor | Sequence[float]) -> Tensor:
    """Depthwise convolution: ``c_i = sum_k w_k p_k,i``.

    Args:
        points: ``n + 1`` tensors ``[batch, time, width]``, from :func:`control_points`.
        weights: ``[n + 1]``, or ``[width, n + 1]`` for weights of each channel's own; ``n + 1`` plain numbers need no
            copy to the device.

    Returns:
        ``[batch, time, width]``.
    """
    if not isinstance(weights, Tensor):
        result = points[0] * weights[0]
        for point, number in zip(points[1:], weights[1:], strict=True):
            result = torch.add(result, point, alpha=number)
        return result
    taps = weights.to(points[0].dtype).unbind(-1)
    result = points[0] * taps[0]
    for point, tap in zip(points[1:], taps[1:], strict=True):
        result = torch.addcmul(result, point, tap)
    return result


def curve(states: Tensor, weights: Tensor, window: str = "trailing", mask: Tensor | None = None) -> Tensor:
    """The curve through each word's neighbours: ``c_i = sum_k w_k e_{i - n + k}`` (trailing window).

    Args:
        states: ``[batch, time, width]``.
        weights: ``[n + 1]`` or ``[width, n + 1]``, oldest word first.
        window: ``trailing`` (causal) or ``centred`` (sees n - n//2 words of the future).
        mask: ``[batch, time]``, nonzero at real words.

    Returns:
        ``[batch, time, width]``.
    """
    return blend(control_points(states, weights.shape[-1] - 1, window, mask), weights)


def reference_curve(states: Tensor, weights: Tensor, window: str = "trailing") -> Tensor:
    """:func:`curve` as its definition reads, one word and one neighbour at a time (the reference of the tests)."""
    degree = weights.shape[-1] - 1
    before, _ = reach(degree, window)
    rows = []
    for i in range(states.shape[1]):
        neighbours = [min(max(i - before + k, 0), states.shape[1] - 1) for k in range(degree + 1)]
        rows.append(torch.stack([weights[..., k] * states[:, j] for k, j in enumerate(neighbours)]).sum(0))
    return torch.stack(rows, 1)


def sinusoidal_positions(position_ids: Tensor, width: int) -> Tensor:
    """The published positions: ``sin(p / 10000^(2j/width))`` and ``cos`` of the same, interleaved ``[..., width]``.

    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.5.
    """
    exponents = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32) / width
    angles = position_ids.unsqueeze(-1) * torch.pow(10000.0, -exponents)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def check_curve(
    degree: int,
    place: float,
    weights: str,
    learn_place: bool,
    window: str,
    channels: Sequence[str],
    normalisation: str,
    fusion: str,
) -> None:
    """Refuse settings of which no :class:`CurveEmbedding` can be made, without making one.

    Raises:
        CurvekitError: an unknown name, or a derivative asked of learned weights, which have none.
    """
    pick(weights, [*WEIGHTS, *BLENDS], "kind of curve weights")
    pick(window, WINDOWS, "window")
    if not channels:
        raise CurvekitError(f"channels is {list(channels)}, and nothing would be left; give some of {list(CHANNELS)}")
    for channel in channels:
        pick(channel, [*CHANNELS, NEIGHBOURS], "curve channel")
    pick(normalisation, NORMALISATIONS, "normalisation")
    pick(fusion, FUSIONS, "fusion")
    _place(degree, place)
    if weights == "learned" and tuple(channels) != ("point",):
        raise CurvekitError(f"learned weights have no derivative; use channels=('point',), not {tuple(channels)}")
    if learn_place and weights == "learned":
        raise CurvekitError("learned weights have no place to learn; use weights='bernstein' or 'bspline'")
    if weights in BLENDS:
        points = BLENDS[weights].degree + 1
        if degree != points - 1:
            raise CurvekitError(
                f"the blend {weights!r} takes {points} points, not the {degree + 1} of degree {degree}; "
                f"give degree={points - 1}"
            )
        if learn_place or tuple(channels) != ("point",):
            raise CurvekitError(f"the blend {weights!r} has no place and no derivative; use channels=('point',) alone")


class CurveEmbedding(nn.Module):
    r"""A point on the curve through the preceding words' states, brought to the model's width and fused.

        c = blend(control points, w),    z = P normalise(c),    output = token + g * z      (fusion "gate")

    Args:
        states_width: width of the states that the curve runs through.
        width: width of the model.
        degree: n; 0 is the word's own state, no curve.
        place: t of the curve; ``learn_place`` makes it one learned place a channel, starting there.
        weights: ``bernstein``, ``bspline``, or ``learned``: one weight a channel and neighbour, normalised by
            SoftEMax and starting near Bernstein's; or the name of a registered blend, which takes the sum's place.
        window: ``trailing`` (causal) or ``centred`` (leaks).
        channels: any of ``point``, ``tangent``, ``curvature``, side by side before the projection; ``neighbours`` are
            the control points themselves, and no curve.
        normalisation: over features: ``layernorm``, ``softemax``, ``published`` (SoftEMax with the constant
            denominator), ``none``.
        fusion: ``gate``: token + g * z with g a learned vector that starts at zero, so that a pretrained model is
            itself before the first step; ``add``: token + z; ``replace``: z alone, as published.

    Shapes: ``n + 1`` control points ``[batch, time, states_width]`` and tokens ``[batch, time, width]`` to
    ``[batch, time, width]``.

    Raises:
        CurvekitError: as :func:`check_curve`.
    """

    def __init__(
        self,
        states_width: int,
        width: int,
        *,
        degree: int = 2,
        place: float = 0.5,
        weights: str = "bernstein",
        learn_place: bool = False,
        window: str = "trailing",
        channels: tuple[str, ...] | list[str] = ("point",),
        normalisation: str = "layernorm",
        fusion: str = "gate",
    ) -> None:
        super().__init__()
        check_curve(degree, place, weights, learn_place, window, channels, normalisation, fusion)
        self.degree, self.place, self.kind, self.window = degree, place, weights, window
        self.channels, self.normalisation, self.fusion = tuple(channels), normalisation, fusion
        self.place_logit = nn.Parameter(torch.empty(states_width)) if learn_place else None
        self.weight_logits = nn.Parameter(torch.empty(states_width, degree + 1)) if weights == "learned" else None
        self.own = BLENDS[weights].made(states_width) if weights in BLENDS else None
        features = states_width * sum(degree + 1 if name == NEIGHBOURS else 1 for name in self.channels)
        self.norm = nn.LayerNorm(states_width) if normalisation == "layernorm" else None
        self.projection = nn.Linear(features, width)
        self.gate = nn.Parameter(torch.empty(width)) if fusion == "gate" else None
        self.reset_parameters()

    def starts(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Its parameters that start at given values, and these: gate 0, ``place``, weights near Bernstein's."""
        if self.gate is not None:
            yield self.gate, torch.zeros_like(self.gate)
        if self.place_logit is not None:
            logit = math.log(max(self.place, 1e-3) / max(1 - self.place, 1e-3))
            yield self.place_logit, torch.full_like(self.place_logit, logit)
        if self.weight_logits is not None:
            # SoftEMax's weights sum to S / (S + C); at S = e^6 that is 0.96, near enough to 1 to start as Bernstein.
            start = 6 + bernstein_weights(self.degree, self.place).clamp(min=1e-6).log()
            yield self.weight_logits, start.to(self.weight_logits).expand_as(self.weight_logits)
        if isinstance(self.own, nn.Module):  # they start where its own class puts them
            own: Any = BLENDS[self.kind].made(self.projection.in_features)
            yield from zip(self.own.parameters(), own.parameters(), strict=True)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put every parameter of :meth:`starts` where it starts."""
        for parameter, start in self.starts():
            parameter.copy_(start)

    def weights(self, channel: str = "point") -> Tensor:
        """The weights now: ``[n + 1]``, or ``[states_width, n + 1]`` where they or their place are learned.

        Raises:
            CurvekitError: a registered blend takes their place.
        """
        if self.own is not None:
            raise CurvekitError(f"the blend {self.kind!r} is a function of the points and has no weights to show")
        if self.weight_logits is not None:
            return softemax(self.weight_logits)
        family = bernstein_weights if self.kind == "bernstein" else bspline_weights
        place = self.place if self.place_logit is None else torch.sigmoid(self.place_logit)
        weights = family(self.degree, place, CHANNELS[channel])
        return weights if self.place_logit is not None else weights.to(self.projection.weight)

    def _taps(self, channel: str) -> Tensor | list[float]:
        if self.weight_logits is not None or self.place_logit is not None:
            return self.weights(channel)
        return FAMILIES[self.kind](self.degree, self.place, CHANNELS[channel])

    def forward(self, points: Sequence[Tensor], tokens: Tensor) -> Tensor:
        features: list[Tensor] = []
        for name in self.channels:
            features += points if name == NEIGHBOURS else [self._blended(points, name)]
        normalised = torch.cat([self._normalise(each) for each in features], -1)
        embedded = self.projection(normalised.to(self.projection.weight.dtype))
        if self.fusion == "replace":
            return embedded
        if self.gate is not None:
            embedded = self.gate * embedded
        return tokens + embedded

    def _blended(self, points: Sequence[Tensor], channel: str) -> Tensor:
        return blend(points, self._taps(channel)) if self.own is None else self.own(points)

    def _normalise(self, features: Tensor) -> Tensor:
        if self.norm is not None:
            return self.norm(features)
        if self.normalisation == "none":
            return features
        return softemax(features, variant="stable" if self.normalisation == "softemax" else "published")

    def extra_repr(self) -> str:
        return f"degree={self.degree}, place={self.place}, weights={self.kind!r}, window={self.window!r}"
