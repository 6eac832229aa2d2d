"""Every picture of curvekit: pure functions from data to a matplotlib Figure.

A function takes arrays (numpy, lists or tensors) and returns a new ``Figure``, so that the same call serves a
notebook, a headless report and a widget. A picture's label (``figure.get_label()``) describes it in words.
The style is that of :mod:`curvekit.figures.drawing`; :func:`save` writes a figure as SVG and PNG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from curvekit.figures.drawing import (
    ALLOWED,
    FAINT,
    FORBIDDEN,
    HELPS,
    HURTS,
    INK,
    MUTED,
    PAPER,
    QUIET,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    Picture,
    array,
    canvas,
    colour,
    label_ends,
    name_rows,
    number,
    place_labels,
    save,
    shown,
    signed,
    spoken_ticks,
    styled,
    text_width,
    wrap,
)
from curvekit.figures.shading import token_cuts, token_differences, token_probabilities

__all__ = [
    "Picture",
    "ablations",
    "attention_maps",
    "attention_rows",
    "benchmark_ratios",
    "colour",
    "curve_family",
    "curve_weights",
    "difference_by_group",
    "difference_intervals",
    "family",
    "gradients",
    "leak_map",
    "leak_perplexity",
    "learning_curves",
    "limits",
    "overflow",
    "project",
    "row_sums",
    "save",
    "sentence_curve",
    "token_cuts",
    "token_differences",
    "token_probabilities",
    "training_curves",
    "win_rates",
    "word_in_contexts",
]

NORMALISERS = {"stable": "SoftEMax, stable", "published": "SoftEMax, published"}
UNBOUNDED = ("published", "inverse", "plus", "plus-inverse")
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "gpt2": (),
    "curve": ("curve", "trained encoder"),
    "softemax": ("SoftEMax",),
    "curve+softemax": ("curve", "trained encoder", "SoftEMax"),
    "published": ("curve", "trained encoder", "sees context"),
    "encoder": ("trained encoder",),
    "self-curve": ("curve",),
    "random-encoder": ("curve", "untrained encoder"),
    "curve-causal": ("curve", "trained encoder", "sees context"),
    "sink": ("SoftEMax",),
}


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


@styled
def attention_maps(weights: Mapping[str, Any], tokens: Sequence[str]) -> Figure:
    """Causal attention weights over one text, a panel for each normaliser, with its row sums beside it.

    Args:
        weights: normaliser -> (T, T) weights; row: the reading position, column: the position read.
        tokens: (T,) token strings.
    """
    figure = canvas(
        "The same scores, normalised",
        "Row: the reading position; column: the position read. Bars: the row's sum (line: 1).",
        (WIDTH - 1.3) / len(weights) + 1.75,
    )
    panels = {name: array(values) for name, values in weights.items()}
    norm = Normalize(0, max(values.max() for values in panels.values()))
    widest = max(1.0, max(values.sum(1).max() for values in panels.values()))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = [shown(token) for token in tokens]
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        hidden = np.triu(np.ones_like(values, dtype=bool), 1)
        ax.imshow(np.ma.masked_where(hidden, values), cmap=SEQUENTIAL, norm=norm, aspect="auto")
        ax.set_title(NORMALISERS.get(name, name), color=colour(name))
        ax.set_xticks(range(len(names)), names, rotation=90, size=7.5)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names), size=7.5)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        bars = ax.inset_axes((1.02, 0, 0.26, 1))
        bars.barh(range(len(names)), values.sum(1), color=colour(name), height=0.72)
        bars.axvline(1, color=INK, lw=0.8)
        bars.set_ylim(len(names) - 0.5, -0.5)
        bars.set_xlim(0, widest * 1.04)
        bars.set_yticks([])
        bars.set_xticks([0, 1] if widest < 4 else [1, round(widest)])
        bars.tick_params(labelsize=7.5)
        bars.spines["left"].set_color(FAINT)
        for each in (ax, bars):
            each.grid(False)
    _scale(figure, axes, SEQUENTIAL, norm, "weight")
    return figure


@styled
def attention_rows(rows: Mapping[str, Any], tokens: Sequence[str], sinks: Mapping[str, float | None]) -> Figure:
    """What one position pays to each token before it, a panel for each normaliser.

    Args:
        rows: normaliser -> (T,) weights of the last token's row.
        tokens: (T,) the tokens it reads, itself last.
        sinks: normaliser -> the share that goes to its sink; None where its denominator is no sum, so that there
            are no shares.
    """
    names = [shown(token.strip(" ")) or "·" for token in tokens]
    longest = max(text_width(name, 8) for name in names)
    figure = canvas(
        f"What “{names[-1]}” attends to",
        "Weight of each token it reads, from the same scores. Hatched: the share of the sink, a key that is always "
        "there and brings nothing.",
        0.8 + 0.95 * len(rows) + min(longest, 1.2),
    )
    axes = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (name, values) in zip(axes, rows.items(), strict=True):
        weights, sink = array(values), sinks[name]
        ax.bar(range(len(names)), weights, color=colour(name), width=0.72)
        if sink is not None:
            ax.bar(-1.5, sink, color=PAPER, edgecolor=colour(name), hatch="////", width=0.72, lw=0.8)
        ax.axvline(-0.75, color=FAINT, lw=0.8)
        share = "no sink, no shares" if sink is None else f"sink {sink:.2f}"
        says = f"row sum {weights.sum():.2f}   {share}"
        ax.set_title(NORMALISERS.get(name, name), color=colour(name))
        ax.text(1, 1.03, says, transform=ax.transAxes, ha="right", va="bottom", size=SMALL, color=MUTED)
        ax.tick_params(axis="x", length=0)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.set_ylabel("weight")
    axes[-1].set_xlim(-2.1, len(names) - 0.4)
    axes[-1].set_xticks([-1.5, *range(len(names))], ["sink", *names], rotation=90, size=8)
    return figure


def _scale(figure: Figure, axes: Any, colours: Any, norm: Any, label: str, ticks: Any = None) -> None:
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), shrink=0.75, aspect=26, pad=0.01)
    bar.outline.set_edgecolor(FAINT)
    bar.set_label(label, color=MUTED)
    if ticks is not None:
        bar.set_ticks(list(ticks))


def project(points: Any, *others: Any) -> tuple[np.ndarray, ...]:
    """Principal components of ``points`` (N, H): projections (N, 2) of it and of ``others`` on the same axes.

    The last value returned is the share of the variance of ``points`` on each of the two axes (2,). Signs are
    fixed (the largest loading is positive), so that the same data always gives the same picture.
    """
    points = array(points)
    centre = points.mean(0)
    _, singular, axes = np.linalg.svd(points - centre, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
    share = singular[:2] ** 2 / (singular**2).sum()
    return (*((array(each) - centre) @ axes.T for each in (points, *others)), share)


@styled
def sentence_curve(
    words: Any,
    tokens: Sequence[str],
    arcs: Any,
    curve: Any,
    share: Any,
    focus: tuple[int, Mapping[int, float]] | None = None,
) -> Figure:
    """The words of a sentence as points, with the curve that runs through their neighbourhood.

    Args:
        words: (T, 2) projected embeddings of the tokens, in reading order.
        tokens: (T,) their strings.
        arcs: (A, M, 2) pieces of the curve in reading order, each sampled at M places.
        curve: (T, 2) the curve embedding of each token: the point that the model receives.
        share: (2,) share of the variance on each axis, from :func:`project`.
        focus: a token, and the weight of every token that its curve embedding blends; the rest stands back.
    """
    words, arcs, curve, share = array(words), array(arcs), array(curve), array(share)
    note = (
        "Black: a token's embedding. Ring: its curve embedding, what the model receives; a thin line joins the "
        "two. The curve runs from light to dark in reading order."
    )
    names = [shown(token) for token in tokens]
    if focus is not None:
        blend = focus[1]
        parts = ", ".join(f"{100 * weight:.0f} % {names[i]}" for i, weight in blend.items())
        note += f" Orange: “{names[focus[0]]}” receives {parts}."
        names = [f"{name} {100 * blend[i]:.0f} %" if i in blend else name for i, name in enumerate(names)]
    figure = canvas("A sentence as points, and the curve through them", note, 4.8)
    ax = figure.add_subplot()
    ax.grid(False)
    ax.plot(*words.T, color="#d3d7dc", lw=0.8, ls=(0, (3, 3)), zorder=1)
    for arc, shade in zip(arcs, SEQUENTIAL(np.linspace(0.35, 1, len(arcs))), strict=True):
        ax.plot(*arc.T, color=shade, lw=2.2, zorder=2, alpha=1 if focus is None else 0.3)
    if focus is not None:
        at, blend = focus
        ax.plot(*arcs[at].T, color=HURTS, lw=2.6, zorder=3)
        for i, weight in blend.items():
            ax.plot(*np.stack([words[i], curve[at]]).T, color=HURTS, lw=0.6 + 5 * abs(weight), alpha=0.45, zorder=3)
        ax.scatter(curve[at, 0], curve[at, 1], s=90, facecolor=PAPER, edgecolor=HURTS, lw=2.2, zorder=4)
    ax.add_collection(LineCollection(list(np.stack([words, curve], 1)), colors="#9aa0a8", linewidths=0.8, zorder=2))
    ax.scatter(curve[:, 0], curve[:, 1], s=26, facecolor=PAPER, edgecolor=colour("curve"), lw=1.4, zorder=4)
    ax.scatter(words[:, 0], words[:, 1], s=30, color=INK, zorder=5, lw=0.8, edgecolor=PAPER)
    ax.margins(0.09)
    ax.set_xlabel(f"first principal component ({100 * share[0]:.0f} % of the variance)")
    ax.set_ylabel(f"second ({100 * share[1]:.0f} %)")
    avoid = np.concatenate([arcs.reshape(-1, 2), curve])
    for i, label in enumerate(place_labels(ax, words, names, avoid, size=9, color=INK)):
        if focus is not None and i in focus[1]:
            label.set(color=HURTS, weight="bold")
    return figure


@styled
def word_in_contexts(
    panels: Mapping[str, tuple[Any, Any]], sentences: Sequence[str], senses: Sequence[int], word: str
) -> Figure:
    """The same word in several sentences: how its embedding moves with its context.

    Args:
        panels: title -> (origin (2,), points (S, 2)): the word by itself, and in each sentence.
        sentences: (S,) the sentences, listed by number below.
        senses: (S,) the sense of the word in each, counted from 0; one colour each.
        word: the word.
    """
    palette = [colour(name) for name in ("curve", "softemax", "self-curve", "curve+softemax")]
    shades = [palette[sense % len(palette)] for sense in senses]
    listing = [wrap(shown(sentence), WIDTH - 0.6) for sentence in sentences]
    step = 0.17
    foot = 0.2 + step * sum(map(len, listing))
    note = "Diamond: the word by itself. Numbers: the word in the sentences below; colour: its sense."
    figure = canvas(f"“{shown(word)}” moves with its context", note, 3.5 + foot, foot=foot)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, (origin, points)) in zip(axes, panels.items(), strict=True):
        origin, points = array(origin), array(points)
        ax.grid(False)
        ax.set_title(title)
        for point, shade in zip(points, shades, strict=True):
            arrow = {
                "arrowstyle": "-|>",
                "color": shade,
                "lw": 1.1,
                "alpha": 0.65,
                "shrinkA": 5,
                "shrinkB": 7,
            }
            ax.annotate("", point, origin, arrowprops=arrow)
        ax.scatter(*origin, marker="D", s=40, color=INK, zorder=4)
        ax.scatter(*points.T, s=34, color=shades, zorder=5, edgecolor=PAPER, lw=0.8)
        ax.margins(0.16)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel("first principal component")
    for ax, (origin, points) in zip(axes, panels.values(), strict=True):
        numbers = [str(n) for n in range(1, len(shades) + 1)]
        labels = place_labels(ax, array(points), numbers, array(origin)[None], size=9, weight="bold")
        for label, shade in zip(labels, shades, strict=True):
            label.set_color(shade)
    axes[0].set_ylabel("second")
    y = foot - 0.08
    height = figure.get_figheight()
    for place, (lines, shade) in enumerate(zip(listing, shades, strict=True), 1):
        figure.text(0.27 / WIDTH, y / height, str(place), size=SMALL, color=shade, va="top", ha="right", weight="bold")
        for line in lines:
            figure.text(0.36 / WIDTH, y / height, line, size=SMALL, color=shade, va="top")
            y -= step
    return figure


@styled
def curve_family(polygon: Any, curves: Mapping[int, Any], marks: Mapping[int, Any], places: Any) -> Figure:
    """What degree and place do: curves of several degrees through the same points.

    Args:
        polygon: (P, 2) the points, oldest first.
        curves: degree -> (M, 2) the curve through the last degree + 1 points.
        marks: degree -> (K, 2) that curve's points at ``places``.
        places: (K,) the places t that are marked.
    """
    polygon, places = array(polygon), array(places)
    figure = canvas(
        "Degree and place",
        "Degree: how many earlier words bend the curve. Place t: where on it the embedding is taken, "
        "from the oldest word of the window (0) to the word itself (1).",
        3.2,
    )
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    norm = Normalize(0, 1)
    low, span = polygon.min(0), np.ptp(polygon, axis=0)
    aside = 12 if polygon[-1, 1] >= polygon[-2, 1] else -12
    small: dict[str, Any] = {"size": 8, "color": MUTED}
    for ax, degree in zip(axes, curves, strict=True):
        ax.plot(*polygon.T, "o", color="#d3d7dc", ms=5)
        ax.plot(*polygon[-(degree + 1) :].T, color="#b4b9c0", lw=1, marker="o", ms=5, mfc=INK, mec=INK)
        ax.plot(*array(curves[degree]).T, color=colour("curve"), lw=2)
        edge = {"edgecolor": colour("curve"), "lw": 1.2, "zorder": 5}
        ax.scatter(*array(marks[degree]).T, c=places, cmap=SEQUENTIAL, norm=norm, s=46, **edge)
        ax.annotate(
            "word", polygon[-1], xytext=(0, aside), textcoords="offset points", ha="center", va="center", **small
        )
        ax.set_title(f"degree {degree}")
        ax.set_xlim(low[0] - 0.1 * span[0], low[0] + 1.15 * span[0])
        ax.set_ylim(low[1] - 0.2 * span[1], low[1] + 1.2 * span[1])
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    _scale(figure, axes, SEQUENTIAL, norm, "place $t$", places)
    return figure


@styled
def curve_weights(places: Any, weights: Mapping[str, Mapping[int, Any]], place: float = 0.5) -> Figure:
    """How much each word of the window contributes, against the place t, for each family and degree.

    Args:
        places: (M,) places t.
        weights: family (``Bernstein``, ``B-spline``) -> degree -> (M, degree + 1) weights, oldest word first.
        place: the place to mark, with its weights written out.
    """
    places = array(places)
    figure = canvas(
        "The weights of the words in the window",
        "Each line: a word of the window, from the oldest (light) to the word itself (dark). "
        f"Written out: place {place:g}.",
        1.0 + 1.75 * len(weights),
    )
    degrees = list(next(iter(weights.values())))
    axes = figure.subplots(len(weights), len(degrees), sharex=True, sharey=True, squeeze=False)
    at = int(np.abs(places - place).argmin())
    for row, (name, table) in zip(axes, weights.items(), strict=True):
        for ax, degree in zip(row, degrees, strict=True):
            values = array(table[degree])
            shades = SEQUENTIAL(np.linspace(0.38 if degree else 0.8, 0.95, values.shape[1]))
            for column, shade in zip(values.T, shades, strict=True):
                ax.plot(places, column, color=shade)
            ax.axvline(place, color=QUIET, lw=0.8, ls=(0, (2, 2)))
            ax.plot([place] * values.shape[1], values[at], "o", ms=3.5, color=INK)
            written = "  ".join(f"{value:.3g}" for value in values[at].round(3))
            ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1}
            ax.text(0.97, 0.95, written, transform=ax.transAxes, size=7.5, ha="right", va="top", bbox=ground)
            ax.set_title(f"{name}, degree {degree}")
            ax.set_xlim(0, 1)
            ax.set_ylim(0, 1.18)
            ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
            ax.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        row[0].set_ylabel("weight")
    for ax in axes[-1]:
        ax.set_xlabel("place $t$")
    return figure


@styled
def leak_map(changes: Mapping[str, Any], tokens: Sequence[str]) -> Figure:
    """Which predictions answer to which inputs: what lies on the far side of the diagonal is the future.

    Args:
        changes: recipe -> (T - 1, T), as :func:`curvekit.causality.leak_by_position` gives it: row p, the
            largest change in the logits at each position when every token after position p is replaced.
        tokens: (T,) token strings.
    """
    figure = canvas(
        "Who can see the future?",
        "Change in the prediction at a position (row) when the text is replaced from one token on (column). "
        "Grey: the prediction comes after the change, as it may. Orange: a later token changed an earlier "
        "prediction, which is a leak.",
        1.85 + (WIDTH - 1.1) / max(len(changes), 2),
    )
    axes = figure.subplots(1, len(changes), squeeze=False)[0]
    names = [shown(token) for token in tokens]
    for ax, (name, values) in zip(axes, changes.items(), strict=True):
        values = array(values).T  # (T positions, T - 1 cuts)
        future = np.arange(len(values))[:, None] <= np.arange(values.shape[1])[None]
        worst = float(values[future].max())
        shades = np.sqrt(values / max(float(values.max()), 1e-12))  # the root keeps small changes visible
        ax.imshow(np.ma.masked_where(future, shades), cmap=ALLOWED, norm=Normalize(0, 1), aspect="auto")
        ax.imshow(
            np.ma.masked_where(~future | (values == 0), shades),
            cmap=FORBIDDEN,
            norm=Normalize(0, 1),
            aspect="auto",
        )
        ax.set_title(name, color=colour(name), pad=17)
        verdict, ink = (f"leaks: up to {worst:.2g}", HURTS) if worst > 0 else ("no leak: exactly 0", MUTED)
        ax.text(0, 1.025, verdict, transform=ax.transAxes, size=8, va="bottom", color=ink)
        ax.grid(False)
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color(FAINT)
        ax.tick_params(length=0)
        ax.set_xticks(range(len(names) - 1), names[1:], rotation=90, size=7)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names), size=7)
        ax.set_xlabel("replaced from here on")
    axes[0].set_ylabel("prediction after")
    return figure


@styled
def leak_perplexity(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The cheat: perplexity when the model reads the whole text, against when it reads only what came before.

    Args:
        rows: each with ``recipe``, ``teacher_forced`` and ``prefix_only`` perplexities.
    """
    figure = canvas(
        "Perplexity with and without a look at the answer",
        "Ring: the usual evaluation, the whole text in one pass. Disc: each token scored from the prefix "
        "alone. An honest model scores the same both ways.",
        1.45 + 0.5 * len(rows),
    )
    ax = figure.add_subplot()
    for y, row in enumerate(rows):
        looking, blind, shade = row["teacher_forced"], row["prefix_only"], colour(row["recipe"])
        ax.plot([looking, blind], [y, y], color=shade, lw=2.4, alpha=0.45, solid_capstyle="butt")
        ax.plot(blind, y, "o", ms=9, color=shade, mec=PAPER, zorder=4)
        ax.plot(looking, y, "o", ms=13, mfc="none", mec=shade, mew=1.8, zorder=3)
        if abs(math.log(blind / looking)) < 0.02:
            says = [(max(looking, blind), "both ways", 12, "left")]
        elif looking < blind:
            says = [(looking, "looking", -12, "right"), (blind, "not looking", 12, "left")]
        else:
            says = [(blind, "not looking", -12, "right"), (looking, "looking", 12, "left")]
        for value, how, offset, side in says:
            style: dict[str, Any] = {
                "textcoords": "offset points",
                "ha": side,
                "va": "center",
                "size": SMALL,
                "color": shade,
            }
            ax.annotate(f"{number(value)} {how}", (value, y), xytext=(offset, 0), weight="bold", **style)
    ends = np.log([value for row in rows for value in (row["teacher_forced"], row["prefix_only"])])
    room = 0.42 * max(np.ptp(ends), 0.5)
    low, high = math.exp(ends.min() - room), math.exp(ends.max() + room)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    spoken_ticks(ax.xaxis, low, high)
    name_rows(ax, [row["recipe"] for row in rows])
    ax.set_xlabel("perplexity per token (log; lower is better)")
    return figure


@styled
def training_curves(history: Sequence[Mapping[str, Any]], recipe: str = "gpt2") -> Figure:
    """One run: its losses, learning rate and gradient norm.

    Args:
        history: the rows of ``history.jsonl``: ``step`` with ``loss``, ``learning_rate`` and ``grad_norm``,
            or ``step`` with ``validation_loss``.
        recipe: for its colour.
    """

    def series(name: str) -> tuple[list[float], list[float]]:
        rows = [row for row in history if row.get(name) is not None and math.isfinite(row[name])]
        return [row["step"] for row in rows], [row[name] for row in rows]

    figure = canvas("How the run went", "Against optimiser steps; the gradient norm is taken before clipping.", 3.9)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    loss, rate, norm = (figure.add_subplot(grid[where]) for where in (np.s_[:, 0], np.s_[0, 1], np.s_[1, 1]))
    shade = colour(recipe)
    ends = []
    steps, values = series("loss")
    if steps:
        loss.plot(steps, values, color=shade, alpha=0.35, lw=1.4)
        ends.append((float(np.mean(values[-3:])), "training", QUIET))
    steps, values = series("validation_loss")
    if steps:
        best = int(np.argmin(values))
        loss.plot(steps, values, color=shade, marker="o", ms=4)
        loss.plot(steps[best], values[best], "o", ms=10, mfc="none", mec=INK, mew=1.2)
        ends.append((values[-1], "validation", shade))
        says = f"best {values[best]:.3f}: perplexity {number(math.exp(min(values[best], 99)))}"
        loss.text(0.99, 0.97, says, transform=loss.transAxes, ha="right", va="top", size=SMALL)
    loss.set_title("Loss")
    loss.set_xlabel("optimiser step")
    loss.set_ylabel("nats a token")
    loss.margins(x=0.02, y=0.1)
    loss.set_xlim(left=0)
    loss.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_ends(loss, ends)
    rate.plot(*series("learning_rate"), color=MUTED, lw=1.5)
    rate.set_title("Learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    norm.plot(*series("grad_norm"), color=MUTED, lw=1.2)
    norm.set_title("Gradient norm")
    norm.set_xlabel("optimiser step")
    for ax in (rate, norm):
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
    return figure


@styled
def learning_curves(
    histories: Mapping[str, Sequence[tuple[Any, Any]]], baseline: str = "gpt2", leaks: Sequence[str] = ()
) -> Figure:
    """Validation loss while training, for every recipe, and its difference from the baseline's.

    Args:
        histories: recipe -> (steps (N,), validation loss in nats a token (N,)) of each seed, seeds in the
            same order for every recipe. Line: their mean; band: their range.
        baseline: the recipe that the right panel subtracts, seed by seed.
        leaks: recipes drawn dashed, because their losses are not comparable.
    """
    seeds = max(len(runs) for runs in histories.values())
    paired = baseline in histories and len(histories) > 1
    figure = canvas(
        "Learning curves",
        f"Validation set, {f'mean and range of {seeds} seeds' if seeds > 1 else 'one seed'}."
        + (" Dashed: sees the answer, not comparable." if leaks else ""),
        3.9,
        key=[(name, colour(name), "--" if name in leaks else "-") for name in histories],
    )
    tables = {
        name: [dict(zip(array(steps).tolist(), array(losses).tolist(), strict=True)) for steps, losses in runs]
        for name, runs in histories.items()
    }
    left, *rest = figure.subplots(1, 2 if paired else 1, squeeze=False)[0]
    for name, runs in tables.items():
        _band(left, name, runs, "--" if name in leaks else "-")
    left.set_title("Loss")
    for right in rest:
        apart = {
            name: [{s: a[s] - b[s] for s in a if s in b} for a, b in zip(runs, tables[baseline], strict=False)]
            for name, runs in tables.items()
            if name != baseline
        }
        for name, runs in apart.items():
            _band(right, name, runs, "--" if name in leaks else "-")
        fair = [
            0.0,
            *(v for name, runs in apart.items() if name not in leaks for run in runs for v in run.values()),
        ]
        room = 0.12 * (max(fair) - min(fair) or 1e-3)
        right.set_ylim(min(fair) - room, max(fair) + room)
        right.axhline(0, color=colour(baseline), lw=1.4)
        right.set_title(f"Difference from {baseline}")
        for y, side, word in ((0.02, "bottom", "better"), (0.98, "top", "worse")):
            right.text(0.99, y, word, transform=right.transAxes, ha="right", va=side, color=MUTED, size=8)
    for ax in (left, *rest):
        ax.set_ylabel("nats a token")
        ax.set_xlabel("optimiser step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.margins(x=0.02)
    return figure


def _band(ax: Axes, name: str, runs: Sequence[Mapping[float, float]], style: str) -> None:
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    values = np.array([[run[step] for step in steps] for run in runs])
    if not values.size:
        return
    ax.plot(steps, values.mean(0), color=colour(name), ls=style, marker="o", ms=3)
    if len(values) > 1:
        ax.fill_between(steps, values.min(0), values.max(0), color=colour(name), alpha=0.15, lw=0)


def _apart(limits: np.ndarray, place: Callable[[Any], Any], least: float = 0.14) -> list[float]:
    """Round numbers between limits, from 0 outwards, no two nearer than ``least`` of the axis where they are placed."""
    low, high = place(limits)
    kept: list[float] = []
    for value in sorted(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*limits), key=abs):
        if low <= place(value) <= high and all(abs(place(value) - place(k)) >= least * (high - low) for k in kept):
            kept.append(value)
    return sorted(kept)


@styled
def difference_intervals(rows: Sequence[Mapping[str, Any]], baseline: str = "gpt2", corpus: str = "") -> Figure:
    """Difference in loss from the baseline with its 95 % interval, a row for each recipe (a forest plot).

    Args:
        rows: each with ``recipe``, ``difference``, ``low``, ``high`` in nats a token (None: not tested),
            ``verdict`` in words, and ``leaks``; a recipe that leaks is named, not drawn.
        baseline: the recipe compared with.
        corpus: for the heading.
    """
    seeds = " and seeds" if any(row.get("seeds", 1) > 1 for row in rows) else ", of one seed"
    figure = canvas(
        f"Difference from {baseline}" + (f" on {corpus}" if corpus else ""),
        f"Difference in test loss with its 95 % paired bootstrap interval over documents{seeds}. "
        "Filled: the interval excludes 0. Left of the line is better.",
        1.85 + 0.42 * len(rows),
    )
    ax = figure.add_subplot()
    drawn = [row for row in rows if not row.get("leaks") and row["low"] is not None]
    ends = [0.0, *(float(row[k]) for row in drawn for k in ("low", "high"))]
    room = 0.09 * (max(ends) - min(ends) or 0.02)
    ax.set_xlim(min(ends) - room, max(ends) + room)
    ax.axvline(0, color=colour(baseline), lw=1.4)
    name_rows(ax, [row["recipe"] for row in rows])
    beside: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "size": SMALL}
    for y, row in enumerate(rows):
        shade = colour(row["recipe"])
        ax.axhline(y, color="#eef0f2", lw=0.8, zorder=0)
        if row not in drawn:
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 2}
            says = (
                "sees the answer: not comparable, not drawn" if row.get("leaks") else row.get("verdict", "not tested")
            )
            ax.text(0.5, y, says, color=HURTS, ha="center", va="center", style="italic", bbox=ground, **beside)
            continue
        sure = row["low"] > 0 or row["high"] < 0
        ax.plot([row["low"], row["high"]], [y, y], color=shade, lw=2.6, solid_capstyle="butt")
        ax.plot(row["difference"], y, "o", ms=8.5, color=shade, mfc=shade if sure else PAPER, mew=1.8, zorder=4)
        figures = f"{signed(row['difference'])}  [{signed(row['low'])}, {signed(row['high'])}]"
        ax.text(1.02, y - 0.02, figures, va="bottom", **beside)
        ax.text(1.02, y + 0.03, row.get("verdict", ""), va="top", color=MUTED, **beside)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: signed(v, 4).rstrip("0").rstrip(".") if v else "0"))
    ax.set_xlabel(f"nats a token, less (\N{MINUS SIGN}) or more (+) than {baseline}")
    to_percent = (lambda d: 100 * np.expm1(d), lambda p: np.log1p(np.maximum(p, -99.9) / 100))
    percent = ax.secondary_xaxis("top", functions=to_percent)
    percent.set_xticks(_apart(to_percent[0](np.array(ax.get_xlim())), to_percent[1]))
    percent.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:+.3g} %".replace("-", "\N{MINUS SIGN}") if abs(v) > 1e-9 else "0")
    )
    percent.set_xlabel("change in perplexity", size=SMALL)
    percent.spines["top"].set_visible(False)
    percent.tick_params(length=0)
    return figure


@styled
def ablations(
    values: Mapping[str, Any],
    ingredients: Mapping[str, Sequence[str]] = INGREDIENTS,
    leaks: Sequence[str] = (),
    baseline: str = "gpt2",
) -> Figure:
    """Test perplexity of each recipe beside its parts: is it the curve, or only what it runs through?

    Args:
        values: recipe -> (S,) test perplexity of each seed.
        ingredients: recipe -> its parts.
        leaks: recipes that see the answer; named, not drawn.
        baseline: whose mean is drawn through all rows.
    """
    order = ["curve", "trained encoder", "untrained encoder", "sees context", "SoftEMax"]
    present = {part for name in values for part in ingredients.get(name, ())}
    columns = [part for part in order if part in present] + sorted(present - set(order))
    figure = canvas(
        "Is it the curve, or only what it runs through?",
        "Left: what each recipe adds to GPT-2. Right: its test perplexity; dots: seeds, bar: their mean.",
        1.85 + 0.4 * len(values),
    )
    left, right = figure.subplots(1, 2, width_ratios=(0.34 * max(len(columns), 1) + 0.2, 5))
    name_rows(left, list(values))
    name_rows(right, list(values))
    right.set_yticks([])
    for y, name in enumerate(values):
        for x, part in enumerate(columns):
            left.plot(
                x,
                y,
                "o",
                ms=9,
                color=colour(name) if part in ingredients.get(name, ()) else FAINT,
                mec="none",
            )
        seeds = array(values[name]).astype(float)
        beside: dict[str, Any] = {"transform": right.get_yaxis_transform(), "va": "center", "size": SMALL}
        right.axhline(y, color="#eef0f2", lw=0.8, zorder=0)
        if name in leaks:
            says = f"{number(seeds.mean())}: sees the answer, not drawn"
            right.text(0.5, y, says, color=HURTS, ha="center", style="italic", **beside)
            continue
        right.plot(seeds, [y] * len(seeds), "o", ms=5, color=colour(name), alpha=0.45, mec="none")
        right.plot([seeds.mean()] * 2, [y - 0.28, y + 0.28], color=colour(name), lw=2.6)
        right.text(1.02, y, f"{seeds.mean():,.2f}", **beside)
    left.set_xlim(-0.6, max(len(columns), 1) - 0.4)
    left.set_xticks(range(len(columns)), columns, rotation=55, ha="left", rotation_mode="anchor")
    left.xaxis.tick_top()
    left.grid(False)
    left.spines[:].set_visible(False)
    left.tick_params(length=0)
    right.margins(x=0.06)
    if baseline in values:
        right.axvline(array(values[baseline]).mean(), color=colour(baseline), lw=0.9, ls=(0, (2, 2)), zorder=1)
    right.set_xlabel("test perplexity per token (lower is better)")
    return figure


@styled
def difference_by_group(groups: Mapping[str, Sequence[Mapping[str, Any]]], what: str, baseline: str = "gpt2") -> Figure:
    """Where the difference lies: by frequency of the token, by position, or by any other grouping.

    Args:
        groups: recipe -> rows with ``label``, ``difference``, ``low``, ``high`` (nats a token) and ``tokens``,
            the number of tokens in the group; the same labels for every recipe.
        what: the grouping, for the axis.
        baseline: the recipe compared with.
    """
    figure = canvas(
        f"Where does the difference lie? By {what}",
        f"Difference in test loss from {baseline} with 95 % intervals; below 0 is better.",
        3.6,
        key=[(name, colour(name), "-") for name in groups],
    )
    ax = figure.add_subplot()
    for k, (name, rows) in enumerate(groups.items()):
        x = np.arange(len(rows)) + (k - (len(groups) - 1) / 2) * 0.62 / len(groups)
        ax.vlines(x, [row["low"] for row in rows], [row["high"] for row in rows], color=colour(name), lw=2.2)
        ax.plot(x, [row["difference"] for row in rows], "o", color=colour(name), ms=6.5, mec=PAPER)
    ax.axhline(0, color=colour(baseline), lw=1.3)
    labels = [f"{row['label']}\n{row['tokens']:,}" for row in next(iter(groups.values()))]
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    ax.margins(y=0.12)
    ax.set_xlabel(f"{what}; below: number of tokens")
    ax.set_ylabel("nats a token")
    return figure


@styled
def win_rates(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """How often each model was preferred in blind ratings, with its interval, a panel for each question.

    Args:
        tables: question -> the rows of :func:`curvekit.preferences.ratings.win_rates`.
    """
    first = next(iter(tables.values()))
    total = {row["model"]: row["wins"] + row["ties"] + row["losses"] for row in first}
    models = list(total)
    note = (
        "Share of blind pairs that each model won, a tie as half a win, with Wilson's 95 % interval. "
        "Filled: the interval excludes one half."
    )
    if not models:
        note = "No pair has been rated yet."
    figure = canvas("Which text do readers prefer?", note, 1.55 + 0.4 * max(len(models), 1))
    axes = figure.subplots(1, len(tables), sharex=True, squeeze=False)[0]
    for ax, (question, rows) in zip(axes, tables.items(), strict=True):
        by_model = {row["model"]: row for row in rows}
        labels = [f"{shown(name)} ({total[name]})" for name in models] if ax is axes[0] else [""] * len(models)
        name_rows(ax, labels or [""])
        for label, name in zip(ax.get_yticklabels(), models, strict=False):
            label.set_color(colour(name))
        ax.axvline(0.5, color=INK, lw=1.2)
        for y, name in enumerate(models):
            row, shade = by_model[name], colour(name)
            sure = row["low"] > 0.5 or row["high"] < 0.5
            ax.plot([row["low"], row["high"]], [y, y], color=shade, lw=2.6, solid_capstyle="butt")
            ax.plot(row["rate"], y, "o", ms=8.5, color=shade, mfc=shade if sure else PAPER, mew=1.8, zorder=4)
        ax.set_title(question)
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.set_xlabel("share of pairs won")
    return figure


@styled
def benchmark_ratios(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Throughputs of ours over a peer's on a logarithmic axis, each with its interval and its goal.

    Args:
        rows: ``group``, ``name``, ``ratio``, ``low``, ``high``, and ``goal`` of the kind ``ratio`` or another or none,
            as :mod:`benchmarks.harness` writes them.
    """
    goals = [row["goal"]["value"] if row["goal"] and row["goal"]["kind"] == "ratio" else None for row in rows]
    figure = canvas(
        "What it costs, beside what others use",
        "Throughput of ours over the peer's, with its 95 % interval; the upright mark is the goal. "
        "Filled: the goal is met. Right of 1 ours is faster.",
        1.3 + 0.24 * len(rows),
    )
    ax = figure.add_subplot()
    for y, (row, wanted) in enumerate(zip(rows, goals, strict=True)):
        reached = wanted is None or row["ratio"] >= wanted
        shade = MUTED if wanted is None else HELPS if reached else HURTS
        ax.plot([row["low"], row["high"]], [y, y], color=shade, lw=2.2, solid_capstyle="butt")
        ax.plot(row["ratio"], y, "o", ms=6, color=shade, mfc=shade if reached else PAPER, mew=1.6, zorder=4)
        if wanted is not None:
            ax.plot([wanted, wanted], [y - 0.36, y + 0.36], color=INK, lw=1.6, zorder=3)
    ax.axvline(1, color=QUIET, lw=1, zorder=1)
    ax.set_xscale("log")
    ends = [row[end] for row in rows for end in ("low", "high")] + [goal for goal in goals if goal] + [1.0]
    low, high = min(ends) / 1.15, max(ends) * 1.15
    ax.set_xlim(low, high)
    spoken_ticks(ax.xaxis, low, high)
    ax.set_xlabel("ratio of throughputs")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [f"{row['group']}: {row['name']}" for row in rows])
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    return figure
