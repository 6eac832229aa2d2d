"""A search in pictures: what mattered, slices, parallel coordinates, the folds' spread, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    SMALL,
    SPARE,
    canvas,
    name_rows,
    number,
    scale_bar,
    styled,
)

Trial = Mapping[str, Any]  # ``number``, ``values``, ``bits`` (None: given up), ``folds``, ``seconds``
BITS = "bits a byte, lower is better"


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with a score, in the order in which they began."""
    return sorted((each for each in trials if each["bits"] is not None), key=lambda each: each["number"])


def _placed(space: Mapping[str, Any], name: str, values: Sequence[Any]) -> tuple[np.ndarray, list[float], list[str]]:
    """Where values lie on an axis from 0 to 1, and the axis' ticks with their names."""
    own = space[name]
    if "choices" in own:
        choices = own["choices"]
        places = np.array([choices.index(each) for each in values], float) / max(1, len(choices) - 1)
        return places, [i / max(1, len(choices) - 1) for i in range(len(choices))], [str(each) for each in choices]
    scale = np.log10 if own["log"] else np.asarray
    low, high = float(scale(own["low"])), float(scale(own["high"]))
    places = (np.asarray(scale(np.array(values, float)), float) - low) / (high - low)
    ends = {
        0.0: own["low"],
        0.5: 10 ** ((low + high) / 2) if own["log"] else (own["low"] + own["high"]) / 2,
        1.0: own["high"],
    }
    if isinstance(own["low"], int) and ends[0.5] % 1:
        del ends[0.5]
    return places, list(ends), [f"{each:.3g}" for each in ends.values()]


@styled
def importances(importance: Mapping[str, float], recipe: str = "") -> Figure:
    """How much each setting decides over being among the better quarter of the trials (PED-ANOVA), as shares of one."""
    names = sorted(importance, key=lambda name: -importance[name])
    figure = canvas(
        f"What mattered{f' to {recipe}' if recipe else ''}",
        "Share of each setting in being among the better quarter of the trials (PED-ANOVA)."
        if names
        else "Too few trials, or too much alike, to say.",
        1.2 + 0.36 * max(1, len(names)),
    )
    ax = figure.add_subplot()
    _name_rows(ax, names or ["none"])
    for y, name in enumerate(names):
        ax.barh(y, importance[name], height=0.6, color=SPARE[0])
        ax.text(importance[name] + 0.01, y, f"{importance[name]:.2f}", va="center", size=SMALL, color=MUTED)
    ax.set_xlim(0, 1.1)
    ax.set_xlabel("importance")
    return figure


@styled
def slices(trials: Sequence[Trial], space: Mapping[str, Any], recipe: str = "") -> Figure:
    """The score of every trial against each setting by itself; later trials are darker."""
    done = _scored(trials)
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = canvas(
        f"One setting at a time{f': {recipe}' if recipe else ''}",
        "A dot is a trial over all folds; the later, the darker. The ring is the best.",
        1.1 + 2.1 * rows,
    )
    axes = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    order = np.linspace(0.25, 1.0, max(1, len(done)))
    for place, (ax, name) in enumerate(zip(axes, space, strict=False)):
        if done:
            places, ticks, names = _placed(space, name, [each["values"][name] for each in done])
            bits = [each["bits"] for each in done]
            ax.scatter(places, bits, s=26, color=SPARE[0], alpha=order, linewidths=0)
            best = int(np.argmin(bits))
            ax.scatter([places[best]], [bits[best]], s=80, facecolors="none", edgecolors=INK, linewidths=1.2)
            ax.set_xticks(ticks, names)
            ax.set_xlim(-0.07, 1.07)
        ax.set_xlabel(name)
        if place % columns == 0:
            ax.set_ylabel("bits a byte")
    for ax in axes[len(space) :]:
        ax.set_visible(False)
    return figure


@styled
def parallel_coordinates(trials: Sequence[Trial], space: Mapping[str, Any], recipe: str = "") -> Figure:
    """Every trial as a line through its settings to its score; the better, the darker."""
    done = sorted(_scored(trials), key=lambda each: -each["bits"])  # the best on top
    figure = canvas(
        f"Trials through their settings{f': {recipe}' if recipe else ''}",
        "A line is a trial over all folds, from setting to setting; the best is drawn black.",
        4.1,
    )
    ax = figure.add_subplot()
    names = [*space]
    if done:
        bits = np.array([each["bits"] for each in done])
        norm = Normalize(bits.min(), bits.max() if np.ptp(bits) else bits.min() + 1e-9)
        colours = _shades()
        columns = [_placed(space, name, [each["values"][name] for each in done]) for name in names]
        for i, each in enumerate(done):
            last = i == len(done) - 1
            ax.plot(
                range(len(names)),
                [column[0][i] for column in columns],
                color=INK if last else colours(norm(each["bits"])),
                lw=2.4 if last else 1.3,
                marker="o",
                ms=3,
            )
        for x, (_, ticks, labels) in enumerate(columns):
            for y, label in zip(ticks, labels, strict=True):
                named = ax.text(x + 0.03, y, label, size=SMALL, color=INK, va="bottom", zorder=5)
                named.set_path_effects([withStroke(linewidth=2.4, foreground=PAPER)])
            ax.axvline(x, color=FAINT, lw=0.8, zorder=0)
        scale_bar(figure, [ax], colours, norm, BITS)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks([])
    ax.set_xlim(-0.15, len(names) - 1 + 0.35)
    ax.grid(False)
    return figure


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Rows that are no recipes, in one colour."""
    name_rows(ax, names)
    for label in ax.get_yticklabels():
        label.set_color(INK)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("trials", [SPARE[0], "#cfe3f1"])


@styled
def fold_spread(
    trials: Sequence[Trial], given: Sequence[Mapping[str, Any]] = (), recipe: str = "", most: int = 10
) -> Figure:
    """The score of each fold for the best trials, and for the settings as given: is a lead larger than the spread?

    Args:
        trials: of which the ``most`` best are drawn.
        given: the folds of the settings as they were given.
    """
    best = sorted(_scored(trials), key=lambda each: each["bits"])[:most]
    rows = [(f"trial {each['number']}", [fold["bits"][-1] for fold in each["folds"]]) for each in best]
    if given:
        rows.append(("as given", [fold["bits"][-1] for fold in given]))
    figure = canvas(
        f"The folds' spread{f': {recipe}' if recipe else ''}",
        "Each dot is a fold, the bar their mean. Folds are of other documents, so compare within one colour.",
        1.5 + 0.3 * max(1, len(rows)),
    )
    ax = figure.add_subplot()
    _name_rows(ax, [name for name, _ in rows] or ["none"])
    for y, (_, bits) in enumerate(rows):
        for fold, each in enumerate(bits):
            ax.plot([each], [y], "o", ms=5, color=SPARE[fold % len(SPARE)])
        ax.plot([np.mean(bits)] * 2, [y - 0.3, y + 0.3], color=INK, lw=2)
    ax.set_xlabel(BITS)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    return figure


@styled
def cost(trials: Sequence[Trial], recipe: str = "") -> Figure:
    """The best score so far against the time that the trials took; what was given up is marked below."""
    figure = canvas(
        f"What the search cost{f': {recipe}' if recipe else ''}",
        "The line is the best score so far, a dot a trial; a cross below is one that was given up.",
        3.2,
    )
    ax = figure.add_subplot()
    spent, best, line = 0.0, np.inf, []
    for each in sorted(trials, key=lambda each: each["number"]):
        spent += each["seconds"] or 0.0
        if each["bits"] is None:
            ax.plot([spent / 60], [0.02], "x", ms=5, color=MUTED, transform=ax.get_xaxis_transform())
            continue
        best = min(best, each["bits"])
        ax.plot([spent / 60], [each["bits"]], "o", ms=4, color=SPARE[0], alpha=0.5)
        line.append((spent / 60, best))
    if line:
        ax.step(*zip(*line, strict=True), where="post", color=INK)
        ax.text(line[-1][0], line[-1][1], f" {number(line[-1][1])}", size=SMALL, va="top", color=INK)
    ax.set_xlabel("minutes of trials")
    ax.set_ylabel("bits a byte")
    return figure
