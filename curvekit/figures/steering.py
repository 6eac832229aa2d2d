"""What steering brings and costs: success under the judge against perplexity under another model, way by way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit.figures.drawing import (
    INK,
    MUTED,
    PAPER,
    SMALL,
    canvas,
    name_rows,
    place_labels,
    shown,
    spoken_ticks,
    styled,
)

SHADES = {"preface": "#7a5195", "codes": "#ef5675", "bag": "#a86b00", "attribute": "#c8553d", "vector": "#1f7a8c",
          "experts": "#4c956c"}  # fmt: skip


@styled
def success_against_perplexity(rows: Sequence[Mapping[str, Any]], label: str, note: str = "") -> Figure:
    """A curve for each way over its strengths, with 95 % intervals; the cross is the model as it is.

    Args:
        rows: ``way, strength, success, success_low, success_high, perplexity, perplexity_low, perplexity_high``.
        label: what is sought.
    """
    ways = list(dict.fromkeys(row["way"] for row in rows if row["way"] != "none"))
    figure = canvas(
        f"How often a text is found {shown(label)}, and what that costs",
        "Share of texts with the label under a judge of words; perplexity under a model that was not steered. Numbers "
        f"are strengths; intervals (95 %) are over prompts. {note}".strip(),
        4.6,
        key=[(way, SHADES.get(way, INK), "-") for way in ways],
    )
    ax = figure.subplots()
    every = np.array([[row["perplexity"], row["success"]] for row in rows])
    for way in ways:
        points = sorted((row for row in rows if row["way"] == way), key=lambda row: row["strength"])
        shade = SHADES.get(way, INK)
        ax.plot([p["perplexity"] for p in points], [p["success"] for p in points], "-", color=shade, lw=1.6, alpha=0.7)
        for row in points:
            x, y = row["perplexity"], row["success"]
            ax.plot([x, x], [row["success_low"], row["success_high"]], color=shade, lw=1.4, alpha=0.55)
            ax.plot([row["perplexity_low"], row["perplexity_high"]], [y, y], color=shade, lw=1.4, alpha=0.55)
            ax.plot(x, y, "o", ms=6, color=shade, mec=PAPER, zorder=4)
    if max(every[:, 0]) > 4 * min(every[:, 0]):
        ax.set_xscale("log")
        spoken_ticks(ax.xaxis, *ax.get_xlim())
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_xlabel("perplexity under another model")
    ax.set_ylabel("texts with the label")
    for row in rows:
        if row["way"] == "none":
            ax.axhline(row["success"], color=MUTED, lw=0.8, ls=":")
            ax.axvline(1.3 * row["perplexity"], color=MUTED, lw=0.8, ls=":")
            ax.plot(row["perplexity"], row["success"], "x", ms=9, mew=2, color=INK, zorder=5)
            ax.annotate("1.3 times", (1.3 * row["perplexity"], 0), textcoords="offset points", xytext=(3, 2),
                        size=SMALL, color=MUTED)  # fmt: skip
    lines = []  # which no label shall cover
    for row in rows:
        x, y = row["perplexity"], row["success"]
        lines.append(np.linspace((row["perplexity_low"], y), (row["perplexity_high"], y), 40))
        lines.append(np.linspace((x, row["success_low"]), (x, row["success_high"]), 40))
    for way in ways:
        own = [row for row in rows if row["way"] == way]
        spots = np.array([[row["perplexity"], row["success"]] for row in own])
        words, shade = [f"{row['strength']:g}" for row in own], SHADES.get(way, INK)
        place_labels(ax, spots, words, np.concatenate([every, *lines]), size=8, color=shade)
    return figure


@styled
def recognised(rows: Sequence[Mapping[str, Any]], chance: float) -> Figure:
    """How often a judge finds the label that was sought, label by label: not steered (hollow) and steered (filled).

    Args:
        rows: ``label``, ``plain`` and ``steered``, shares of texts.
        chance: that of a judge who guesses.
    """
    figure = canvas(
        "Is the style recognised?",
        "Texts that a judge of words, which took no part, gives the label that was sought: filled with it, hollow "
        "without. Dotted: chance.",
        1.1 + 0.3 * len(rows),
    )
    ax = figure.subplots()
    name_rows(ax, [row["label"] for row in rows])
    ax.axvline(chance, color=MUTED, lw=1.2, ls=":")
    for y, row in enumerate(rows):
        ax.plot([row["plain"], row["steered"]], [y, y], color=SHADES["codes"], lw=2, alpha=0.5)
        ax.plot(row["plain"], y, "o", ms=7, color=INK, mfc=PAPER, mew=1.4)
        ax.plot(row["steered"], y, "o", ms=7, color=SHADES["codes"])
    ax.set_xlim(-0.02, 1.02)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_xlabel("texts with the label")
    return figure
