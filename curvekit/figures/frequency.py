"""Whether a model knows how sure to be: what comes of the tokens that it gives 70 %, for each way it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from curvekit.figures.drawing import MUTED, array, canvas, colour, styled


@styled
def calibration(models: Mapping[str, Mapping[str, Any]], title: str = "Does it know how sure to be?") -> Figure:
    """Accuracy by confidence (a reliability diagram); on the diagonal a model is as often right as it expects.

    Args:
        models: name -> ``confidence`` (B,) sums, ``hits`` (B,) and ``held`` (B,) tokens of bins of confidence, as
            :class:`curvekit.evaluation.frequency.FrequencyScore` has them, and ``error``, 0 to 1.
        title: the heading.
    """
    figure = canvas(
        title,
        "Of the tokens in a bin of confidence, how many are right. Below the line a model is too sure of itself. "
        "In the key: the expected calibration error.",
        3.9,
        key=[(f"{name} {100 * each['error']:.1f} %", colour(name), "-") for name, each in models.items()],
    )
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], color=MUTED, lw=1)
    for name, each in models.items():
        held = array(each["held"]).astype(float)
        kept = held >= 30
        x, y = (array(each[key]).astype(float)[kept] / held[kept] for key in ("confidence", "hits"))
        ax.plot(x, y, "o-", ms=4, color=colour(name), mec="none", lw=1.5)
    percent = FuncFormatter(lambda v, _: f"{100 * v:.0f} %")
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, np.nextafter(1.0, 2))
    ax.set_xlabel("confidence")
    ax.set_ylabel("right")
    return figure
