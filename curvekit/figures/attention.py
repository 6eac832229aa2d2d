"""Attention over a text, as one normaliser after another turns the same scores into weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    array,
    canvas,
    colour,
    scale_bar,
    shown,
    styled,
    text_width,
)
from curvekit.figures.normalisers import NORMALISERS


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
    scale_bar(figure, axes, SEQUENTIAL, norm, "weight")
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
