"""How right the answers of several models to one task are, with intervals over items and what copies would get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit.figures.drawing import INK, MUTED, PAPER, SMALL, canvas, colour, lying, name_rows, shown, styled

DRAWS = 2_000


@styled
def task_figures(
    items: Mapping[str, Sequence[float]],
    name: str,
    figure_name: str,
    baselines: Mapping[str, float] | None = None,
    recipes: Mapping[str, str] | None = None,
    unit: str = "",
) -> Figure:
    """Mean of a figure over items, a row for each model, with its 95 % bootstrap interval over items.

    Args:
        items: model -> the figure of each item, the same items in the same order.
        name: of the task, for the heading.
        figure_name: what is measured, such as ``f1``.
        baselines: what answers without a model -> its mean, a dashed line each.
        recipes: model -> recipe, whose colour it is drawn in.
        unit: behind the name of the figure at the axis.
    """
    baselines, recipes = baselines or {}, recipes or {}
    count = len(next(iter(items.values())))
    figure = canvas(
        f"Answers to {shown(name)}",
        f"Mean {figure_name.replace('_', ' ')} of {count:,} items with its 95 % bootstrap interval over items, for "
        "each model by itself; whether two differ is for the paired intervals. Dashed: what answers without a model."
        + ("" if baselines else " There is no such answer here."),
        1.7 + 0.42 * len(items),
    )
    ax = figure.add_subplot()
    name_rows(ax, [shown(model) for model in items])
    draw = np.random.default_rng(0)
    ends: list[float] = []
    for y, (model, values) in enumerate(items.items()):
        shade = colour(recipes.get(model, model))
        ax.get_yticklabels()[y].set_color(shade)
        mean, low, high = interval(values, draw)
        ends += [mean, low, high]
        lying(ax, y, (mean, low, high), shade, filled=False, size=8.5)
        beside: dict[str, Any] = {"size": SMALL, "color": INK, "va": "bottom", "ha": "center"}
        ax.annotate(
            f"{mean:.1f}" if mean >= 10 else f"{mean:.2f}", (mean, y), (0, 6), textcoords="offset points", **beside
        )
    for place, (label, value) in enumerate(sorted(baselines.items(), key=lambda each: each[1])):
        ends.append(value)
        ax.axvline(value, color=MUTED, lw=1.2, ls=(0, (4, 3)), zorder=1)
        row = len(items) - 0.52 - 0.28 * (place % 2)
        ax.annotate(label, (value, row), (3, 0), textcoords="offset points", size=SMALL, color=MUTED, va="bottom")
    room = 0.07 * (max(ends) - min(ends) or 1.0)
    ax.set_xlim(min(ends) - room, max(ends) + 2 * room)
    ax.set_ylim(len(items) - 0.4, -0.6)
    ax.set_xlabel(f"{figure_name.replace('_', ' ')}{f' ({unit})' if unit else ''}")
    return figure


@styled
def accuracy_by_shots(rows: Sequence[Mapping[str, Any]], majority: float) -> Figure:
    """Accuracy by the number of solved examples in a prompt, with its interval, and a dot for each set and order.

    Args:
        rows: of :func:`curvekit.evaluation.fewshot.fewshot`: ``shots``, ``accuracy``, ``low``, ``high`` and
            ``accuracies`` by set and order.
        majority: the accuracy of always saying the commonest label, a dashed line.
    """
    figure = canvas(
        "Do solved examples help?",
        "Mean accuracy over sets of examples and their orders, with its 95 % interval over items. Faint dots: each "
        "set in each order. Dashed: always the commonest label.",
        2.9,
    )
    ax = figure.add_subplot()
    shade, places = colour("plain"), list(range(len(rows)))
    for x, row in zip(places, rows, strict=True):
        dots = [value for of_set in row["accuracies"] for value in of_set]
        ax.plot([x + 0.07] * len(dots), dots, "o", ms=5, color=shade, alpha=0.28, mew=0, zorder=2)
        ax.plot([x, x], [row["low"], row["high"]], color=shade, lw=2.6, solid_capstyle="butt", zorder=3)
    ax.plot(places, [row["accuracy"] for row in rows], color=shade, lw=1.4, zorder=3)
    ax.plot(places, [row["accuracy"] for row in rows], "o", ms=8.5, color=shade, mfc=PAPER, mew=1.8, zorder=4)
    ax.axhline(majority, color=MUTED, lw=1.2, ls=(0, (4, 3)), zorder=1)
    ax.annotate(
        "always the commonest", (places[-1] + 0.42, majority), (0, 3), textcoords="offset points", size=SMALL,
        color=MUTED, ha="right", va="bottom",
    )  # fmt: skip
    ax.set_xticks(places, [str(row["shots"]) for row in rows])
    ax.set_xlim(-0.45, places[-1] + 0.45)
    ax.set_xlabel("examples in the prompt")
    ax.set_ylabel("accuracy")
    return figure


def interval(values: Sequence[float], draw: np.random.Generator) -> tuple[float, float, float]:
    """The mean, and the 2.5 and 97.5 percentiles of the means of resampled values."""
    found = np.asarray(values, np.float64)
    means = found[draw.integers(0, len(found), (DRAWS, len(found)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(found.mean()), float(low), float(high)
