"""How runs went: the losses, learning rate and gradient norm of one, and the learning curves of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import INK, MUTED, QUIET, SMALL, array, canvas, colour, label_ends, number, styled


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
    histories: Mapping[str, Sequence[tuple[Any, Any]]],
    baseline: str = "gpt2",
    leaks: Sequence[str] = (),
    of: str = "Validation set",
) -> Figure:
    """Validation loss while training, for every recipe, and its difference from the baseline's.

    Args:
        histories: recipe -> (steps (N,), validation loss in nats a token (N,)) of each seed, seeds in the
            same order for every recipe. Line: their mean; band: their range.
        baseline: the recipe that the right panel subtracts, seed by seed.
        leaks: recipes drawn dashed, because their losses are not comparable.
        of: whose losses they are, where not the validation set's.
    """
    seeds = max(len(runs) for runs in histories.values())
    paired = baseline in histories and len(histories) > 1
    figure = canvas(
        "Learning curves",
        f"{of}, {f'mean and range of {seeds} seeds' if seeds > 1 else 'one seed'}."
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
