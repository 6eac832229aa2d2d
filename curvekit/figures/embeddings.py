"""Embeddings in a plane: the words of a sentence with their curve, and a word that moves with its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import (
    HURTS,
    INK,
    PAPER,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    array,
    canvas,
    colour,
    place_labels,
    shown,
    styled,
    wrap,
)


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
