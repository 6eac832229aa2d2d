"""The curve itself: what degree and place do, and how much each word of the window weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from curvekit.figures.drawing import INK, MUTED, PAPER, QUIET, SEQUENTIAL, array, canvas, colour, scale_bar, styled


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
    scale_bar(figure, axes, SEQUENTIAL, norm, "place $t$", places)
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
