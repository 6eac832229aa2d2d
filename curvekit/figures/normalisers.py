"""The SoftEMax family: weights against scores, limits, overflow, gradients and row sums of each normaliser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from curvekit.figures.drawing import HURTS, PAPER, QUIET, SMALL, array, canvas, colour, label_ends, styled

NORMALISERS = {"stable": "SoftEMax, stable", "published": "SoftEMax, published"}
UNBOUNDED = ("published", "inverse", "plus", "plus-inverse")


def _dash(name: str) -> Any:
    return (0, (4, 2)) if name in UNBOUNDED else "-"


@styled
def family(scores: Any, weights: Mapping[str, Any], keys: int) -> Figure:
    """The weight of one key as its score grows, for each member of the SoftEMax family.

    Args:
        scores: (N,) the score of that key.
        weights: normaliser -> (N,) its weight; every other key of the row keeps the score 0.
        keys: number of keys in the row.
    """
    scores = array(scores)
    low, high = scores.min(), scores.max()
    figure = canvas(
        "One formula, many normalisers",
        f"Weight of one key as its score grows, in a row of {keys} keys whose others are scored 0. "
        "Dashed: constant denominator, no upper limit.",
        3.6,
    )
    ax = figure.add_subplot()
    for name, values in weights.items():
        ax.plot(scores, array(values), color=colour(name), ls=_dash(name))
    ax.set_xlim(low, high)
    ax.set_ylim(0, 1.32)
    ax.axhspan(1, 1.32, color="#fdf1ec", lw=0, zorder=0)
    ax.text(
        low + 0.41 * (high - low),
        1.27,
        "above 1: not a probability",
        color=HURTS,
        size=8,
        ha="center",
        va="top",
    )
    ax.set_xlabel("score $x$ of the key")
    ax.set_ylabel("its weight $w$")
    label_ends(ax, [(array(v)[-1], NORMALISERS.get(name, name), colour(name)) for name, v in weights.items()])
    return figure


@styled
def limits(scores: Any, weights: Mapping[str, Any], keys: int) -> Figure:
    """Stable SoftEMax runs along the published form for small scores, and along softmax for large ones.

    Args:
        scores: (N,) the common score of all keys of the row.
        weights: ``softmax``, ``stable`` and ``published`` -> (N,) the weight of each key.
        keys: number of keys in the row.
    """
    scores = array(scores)
    softmax, stable, published = (array(weights[name]) for name in ("softmax", "stable", "published"))
    figure = canvas(
        "The stable form joins the published one to softmax",
        f"Weight of each of {keys} equally scored keys. Exactly: 1/stable = 1/softmax + 1/published.",
        3.5,
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    left.plot(scores, softmax, color=colour("softmax"), lw=5, alpha=0.35)
    left.plot(scores, published, color=colour("published"), lw=5, alpha=0.35)
    left.plot(scores, stable, color=colour("stable"))
    left.set_yscale("log")
    left.set_ylim(stable.min() / 2, min(published.max(), 30))
    cut = int(np.searchsorted(published, left.get_ylim()[1] * 0.55).clip(0, len(scores) - 1))
    for text, x, y, side, above in (
        ("softmax", scores[len(scores) // 33], softmax[0] * 1.35, "left", "bottom"),
        ("published", scores[cut] - 0.3, published[cut], "right", "center"),
        ("stable", scores[-1], stable[-1] * 0.62, "right", "top"),
    ):
        left.text(x, y, text, color=colour(text), weight="bold", ha=side, va=above)
    left.set_ylabel("weight of each key (log)")
    for name, other, x, side in (("published", published, 0.03, "left"), ("softmax", softmax, 0.97, "right")):
        right.plot(scores, stable / other, color=colour(name))
        says = {
            "transform": right.transAxes,
            "color": colour(name),
            "weight": "bold",
            "ha": side,
            "va": "top",
        }
        right.text(x, 0.9, f"stable ÷\n{name}", **says)
    right.set_ylim(0, 1.06)
    right.set_ylabel("ratio of weights")
    for ax in (left, right):
        ax.set_xlim(scores.min(), scores.max())
        ax.set_xlabel("score $x$ of every key")
    return figure


@styled
def overflow(scores: Any, sums: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Where row sums become infinite in finite precision.

    Args:
        scores: (N,) the score of every key.
        sums: number format (``float16``, ``float32``) -> normaliser -> (N,) row sum as that format gives it.
    """
    scores = array(scores)
    names = list(next(iter(sums.values())))
    figure = canvas(
        "The published form overflows; the stable one cannot",
        "Row sum as each number format computes it. Cross: the first that is infinite.",
        3.6,
        key=[(NORMALISERS.get(name, name), colour(name), "-") for name in names],
    )
    axes = figure.subplots(1, len(sums), sharey=True, sharex=True, squeeze=False)[0]
    tables = {dtype: {name: array(v).astype(float) for name, v in table.items()} for dtype, table in sums.items()}
    everything = np.concatenate([v for table in tables.values() for v in table.values()])
    shown_values = everything[np.isfinite(everything) & (everything > 0)]
    for ax, (dtype, table) in zip(axes, tables.items(), strict=True):
        for name, values in table.items():
            good = np.isfinite(values)
            wide, alpha = (4.5, 0.4) if name == "softmax" else (2.0, 1.0)
            ax.plot(scores[good], values[good], color=colour(name), lw=wide, alpha=alpha)
            if good.all():
                continue
            first = int(np.argmin(good))
            end = (scores[first], values[max(first - 1, 0)])
            ax.plot(*end, marker="X", color=HURTS, ms=8, mec=PAPER, zorder=5)
            left = first > 0.5 * len(scores)
            ax.annotate(
                f"inf from\n$x$ ≈ {scores[first]:.3g}",
                end,
                xytext=(-9 if left else 9, 0),
                textcoords="offset points",
                color=HURTS,
                size=SMALL,
                ha="right" if left else "left",
                va="center",
            )
        ax.set_yscale("log")
        ax.set_title(dtype)
        ax.set_xlabel("score $x$ of every key")
        ax.set_xlim(scores.min(), scores.max() * 1.02)
    axes[0].set_ylim(shown_values.min() / 5, shown_values.max() * 200)
    axes[0].set_ylabel("row sum (log)")
    return figure


@styled
def gradients(scores: Any, own: Mapping[str, Any], other: Mapping[str, Any]) -> Figure:
    """How a weight answers to its own score and to a rival's.

    Args:
        scores: (N,) score of the key; the other keys keep the score 0.
        own: normaliser -> (N,) derivative of the key's weight by its own score.
        other: normaliser -> (N,) derivative of another key's weight by this key's score.
    """
    scores = array(scores)
    figure = canvas(
        "A constant denominator never saturates, and keys never compete",
        "Derivatives of attention weights as one key's score grows.",
        3.6,
        key=[(NORMALISERS.get(name, name), colour(name), _dash(name)) for name in own],
    )
    left, right = figure.subplots(1, 2)
    for ax, table, headroom in ((left, own, 0.26), (right, other, 0.12)):
        for name, values in table.items():
            ax.plot(scores, array(values), color=colour(name), ls=_dash(name))
        bounded = np.concatenate([array(values) for name, values in table.items() if name not in UNBOUNDED])
        span = bounded.max() - bounded.min()
        ax.set_ylim(bounded.min() - 0.12 * span, bounded.max() + headroom * span)
        ax.set_xlim(scores.min(), scores.max())
        ax.axhline(0, color=QUIET, lw=0.8)
        ax.set_xlabel("score $x_1$ of the key")
    left.set_title(r"its own weight:  $\partial w_1 / \partial x_1$")
    right.set_title(r"a rival's weight:  $\partial w_2 / \partial x_1$")
    left.set_ylabel("weight per unit of score")
    return figure


@styled
def row_sums(keys: Any, sums: Mapping[str, Any], spread: float = 1.0) -> Figure:
    """The row sum against the number of keys.

    Args:
        keys: (N,) numbers of keys.
        sums: normaliser -> (N,) mean row sum.
        spread: standard deviation of the normally distributed scores.
    """
    keys = array(keys)
    figure = canvas(
        "Row sums: how much attention a position pays in all",
        f"Mean over rows of normally distributed scores (standard deviation {spread:g}). "
        "Below 1 a head can stay silent; above 1 it amplifies, and the more keys the more.",
        3.6,
    )
    ax = figure.add_subplot()
    ax.axhline(1, color=QUIET, lw=0.8)
    for name, values in sums.items():
        ax.plot(keys, array(values), color=colour(name), marker="o", ms=3.5, ls=_dash(name))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlim(keys.min(), keys.max())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.set_xlabel("number of keys (log)")
    ax.set_ylabel("row sum (log)")
    label_ends(ax, [(array(v)[-1], NORMALISERS.get(name, name), colour(name)) for name, v in sums.items()])
    return figure
