"""A sweep of learning rates: how far each recipe is, at each rate, from the best setting of the one compared with."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from curvekit.figures.drawing import MUTED, canvas, distinct, signed, styled, upright

LINEAR = 0.01  # nats: so near to 0 the axis is linear, further away logarithmic
TICKS = (-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1)


@styled
def differences_by_rate(series: Mapping[str, Mapping[float, tuple[float, float, float]]], against: str) -> Figure:
    """The difference in loss from one setting with its 95 % interval, by learning rate; a line for each recipe.

    Args:
        series: name -> learning rate -> the difference in nats a token and the ends of its interval.
        against: what all are compared with, in words.
    """
    shades = distinct(series)
    figure = canvas(
        "At which learning rate?",
        f"Test loss minus that of {against}, nats a token with 95 % intervals; below 0 is better. Beyond a hundredth "
        "of a nat the axis is logarithmic.",
        3.2 + 0.22 * len(series),  # a long name takes a line of the key
        key=[(name, shades[name], "-") for name in series],
    )
    ax = figure.subplots()
    ax.axhline(0, color=MUTED, lw=1.2)
    for k, (name, found) in enumerate(series.items()):
        aside = 2 ** (0.04 * (k - (len(series) - 1) / 2))  # so that intervals at one rate stand beside each other
        rates = sorted(found)
        ax.plot(
            [rate * aside for rate in rates], [found[rate][0] for rate in rates], lw=1.5, color=shades[name], zorder=4
        )
        for rate in rates:
            upright(ax, rate * aside, found[rate], shades[name], 5.5)
    every = [x for found in series.values() for difference in found.values() for x in difference]
    ax.set_yscale("symlog", linthresh=LINEAR, linscale=0.8)
    ax.set_ylim(min(1.3 * min(every), -LINEAR), max(1.3 * max(every), LINEAR))
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in TICKS if low <= tick <= high])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: signed(v, 2) if v else "0"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("nats a token")
    ax.set_xscale("log", base=2)
    rates = sorted({rate for found in series.values() for rate in found})
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)
    ax.set_xlabel("learning rate")
    return figure
