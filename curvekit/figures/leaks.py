"""Who sees the future: which prediction answers to which token, and what looking at the answer is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from curvekit.figures.drawing import (
    ALLOWED,
    FAINT,
    FORBIDDEN,
    HURTS,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    array,
    canvas,
    colour,
    name_rows,
    number,
    shown,
    spoken_ticks,
    styled,
)


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
