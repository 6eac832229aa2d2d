"""What a recipe gains over a baseline: intervals of the difference, its groups, and the parts it may come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from curvekit.curves import WEIGHTS
from curvekit.figures.drawing import (
    FAINT,
    HURTS,
    MUTED,
    PAPER,
    SMALL,
    array,
    canvas,
    colour,
    lying,
    name_rows,
    number,
    signed,
    styled,
)
from curvekit.recipes import OWN_PARTS, OWN_RECIPES, RECIPES


def _parts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a recipe adds to a base, in words."""
    parts = []
    if settings.get("source", "none") != "none" and settings.get("degree", 2) > 0:
        weights = settings.get("curve_weights", WEIGHTS[0])
        parts.append("curve" if weights in WEIGHTS else str(weights))
    if settings.get("source") == "encoder":
        parts.append("untrained encoder" if settings.get("random_encoder") else "trained encoder")
        parts += ["sees context"] if settings.get("context", "static") != "static" else []
    if settings.get("sites"):
        parts.append({"curve": "curve in the blocks"}.get(settings.get("mixer", "curve"), str(settings.get("mixer"))))
    attention = settings.get("attention", "softmax")
    return (*parts, *([] if attention == "softmax" else [attention if attention in OWN_PARTS else "SoftEMax"]))


INGREDIENTS = {recipe: _parts(settings) for recipe, settings in RECIPES.items()}


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
        lying(ax, y, (row["difference"], row["low"], row["high"]), shade, sure, 8.5)
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
def ablations(
    values: Mapping[str, Any],
    ingredients: Mapping[str, Sequence[str]] | None = None,
    leaks: Sequence[str] = (),
    baseline: str = "gpt2",
) -> Figure:
    """Test perplexity of each recipe beside its parts: is it the curve, or only what it runs through?

    Args:
        values: recipe -> (S,) test perplexity of each seed.
        ingredients: recipe -> its parts; default those of each recipe's settings.
        leaks: recipes that see the answer; named, not drawn.
        baseline: whose mean is drawn through all rows.
    """
    if ingredients is None:
        ingredients = INGREDIENTS | {name: _parts(RECIPES[name]) for name in values if name in OWN_RECIPES}
    order = ["curve", "trained encoder", "untrained encoder", "sees context", "SoftEMax"]
    present = {part for name in values for part in ingredients.get(name, ())}
    columns = [part for part in order if part in present] + sorted(present - set(order))
    figure = canvas(
        "Is it the curve, or only what it runs through?",
        "Left: what each recipe adds to the base. Right: its test perplexity; dots: seeds, bar: their mean.",
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
