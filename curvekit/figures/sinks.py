"""What a normaliser leaves behind, from the first layer to the last: sinks of attention, and values that stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from curvekit.figures.drawing import canvas, distinct, spoken_ticks, styled

PANELS = {  # figure of a layer -> its title
    "first_token": "attention to the first token",
    "nobody": "attention to nobody",
    "kurtosis": "kurtosis of the residual stream",
    "largest": "largest value in it",
}


@styled
def sinks_by_depth(models: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Four figures of every layer, by depth, so that models of different depth stand beside each other.

    Args:
        models: name -> for each of :data:`PANELS` a number a layer; shares of 1, kurtosis (3 of a normal
            distribution), and the absolute value of what the residual stream holds.
    """
    shades = distinct(models)
    figure = canvas(
        "What attention does with what it does not need",
        "By depth, from the first layer to the last. Softmax must give all of its weight away; what SoftEMax gives to "
        "nobody need not go to the first token. Below: how far the residual stream is from a normal distribution.",
        5.4,
        key=[(name, shades[name], "-") for name in models],
    )
    axes = figure.subplots(2, 2).ravel()
    for ax, (what, title) in zip(axes, PANELS.items(), strict=True):
        ax.set_title(title)
        every = np.concatenate([np.asarray(each[what], float) for each in models.values()])
        for name, each in models.items():
            y = np.asarray(each[what], float)
            ax.plot(np.linspace(0, 1, len(y)), y, "o-", ms=4, lw=1.5, color=shades[name], mec="none")
        if what in ("first_token", "nobody"):
            most = max(0.1, 1.1 * float(every.max()))
            ax.set_ylim(-0.03 * most, most)
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        else:
            low, high = 0.8 * float(every.min()), 1.25 * float(every.max())
            ax.set_yscale("log")
            ax.set_ylim(low, high)
            spoken_ticks(ax.yaxis, low, high)
        ax.set_xticks([0, 0.5, 1], ["first", "middle", "last"])
    for ax in axes[2:]:
        ax.set_xlabel("layer")
    return figure
