"""Blends of a user's own: a function of a word's control points in the place of a curve's weights, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curvekit.curves import BLENDS, WEIGHTS, OwnBlend
from curvekit.errors import CurvekitError
from curvekit.recipes import ATTENTIONS, OWN_PARTS
from curvekit.variants.names import called, check_name, digits

WIDTHS = (8, 12)  # of the states that a blend is tried with


def register_blend(name: str, function: Callable[..., Any], degree: int = 2, *, replace: bool = False) -> None:
    """Add a blend: recipes then name it as ``curve_weights``.

    Args:
        name: what it is called from now on.
        function: of the ``degree + 1`` control points of each position, ``[batch, time, width]`` each, oldest first and
            of a trailing window the position's own last, to ``[batch, time, width]``. Or the class of a module, made
            with ``(width, degree)`` and called so, whose parameters are trained and saved with the curve.
        degree: how many points before the last it takes.
        replace: put it in the place of one that is registered under this name.

    Raises:
        CurvekitError: the name is taken; the function fails, returns states of another width, or such as are not
            finite; it reads other positions than its points, and with them perhaps the future.
    """
    check_name(name, "blend", {*ATTENTIONS, *WEIGHTS, *OWN_PARTS}, BLENDS, replace)
    if not isinstance(degree, int) or degree < 0:
        raise CurvekitError(f"the blend {name!r} has the degree {degree!r}; give 0 or more")
    blend = OwnBlend(degree, function)
    for width in WIDTHS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _check(f"the blend {name!r}", blend, width)
    BLENDS[name] = blend
    OWN_PARTS[name] = digits(function)


def drop(name: str) -> None:
    """Take a blend away again."""
    if BLENDS.pop(name, None) is not None:
        OWN_PARTS.pop(name, None)


def _check(who: str, blend: OwnBlend, width: int) -> None:
    made = called(blend.made, who, width)
    points = tuple(torch.randn(2, 7, width).requires_grad_() for _ in range(blend.degree + 1))
    states = called(made, who, points)
    if not isinstance(states, Tensor) or states.shape != points[0].shape:
        found = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise CurvekitError(
            f"{who} gave {found} of points {[2, 7, width]}; return states of the points' own width, one a position"
        )
    learned = list(made.parameters()) if isinstance(made, nn.Module) else []
    gradients: tuple[Tensor | None, ...] = ()
    if states.requires_grad:
        gradients = torch.autograd.grad(states.sum(), [*points, *learned], allow_unused=True)
    if not all(each is None or each.isfinite().all() for each in (states, *gradients)):
        raise CurvekitError(f"{who} gives states or gradients that are not numbers (NaN or infinite); mend it")
    bound = 1e-5 * max(states.abs().max().item(), 1e-3)
    for i in range(7):
        alone = called(made, who, tuple(each[:1, i : i + 1] for each in points))
        if (change := (alone - states[:1, i : i + 1]).abs().max().item()) > bound:
            before = called(made, who, tuple(each[:, : i + 1] for each in points))
            later = (before[:, i] - states[:, i]).abs().max().item() > bound
            told = "sees the future: what it gives a position changes with later ones" if later else (
                "reads other positions or texts than the points that it is given, of which a cache keeps nothing"
            )  # fmt: skip
            raise CurvekitError(f"{who} {told} (change {change:.2g}); blend the points of each position alone")
