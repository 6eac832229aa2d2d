"""Blind ratings: how often readers preferred each model, with its interval, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from curvekit.figures.drawing import INK, canvas, colour, lying, name_rows, shown, styled


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
            lying(ax, y, (row["rate"], row["low"], row["high"]), shade, sure, 8.5)
        ax.set_title(question)
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.set_xlabel("share of pairs won")
    return figure
