"""What a window longer than those trained on does to a model: the loss on the same tokens, window by window."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from curvekit.figures.drawing import MUTED, QUIET, SMALL, canvas, distinct, signed, spoken_ticks, styled, upright


@styled
def losses_by_context(
    models: Mapping[str, Mapping[int, float]],
    apart: Mapping[str, Mapping[int, tuple[float, float, float]]],
    trained: int | None = None,
) -> Figure:
    """The perplexity of several models in windows of every length, and how far each is from the first.

    Args:
        models: name -> tokens in a window -> nats a token.
        apart: of all but the first: its loss minus the first's, and the ends of the 95 % interval.
        trained: tokens in the blocks that all were trained on.
    """
    first, shades = next(iter(models)), distinct(models)
    figure = canvas(
        "Windows longer than those trained on",
        "The same tokens in windows that hold more and more before them. Right: the difference in loss, with 95 % "
        f"intervals over documents and seeds; below 0 is better than {first}.",
        3.6,
        key=[(name, shades[name], "-") for name in models],
    )
    left, right = figure.subplots(1, 2)
    perplexities = {name: np.exp(list(nats.values())) for name, nats in models.items()}
    for name, nats in models.items():
        left.plot(list(nats), perplexities[name], "o-", ms=4.5, lw=1.6, color=shades[name], mec="none")
    low, high = (f(each.min() if f is min else each.max() for each in perplexities.values()) for f in (min, max))
    left.set_yscale("log")
    left.set_ylim(0.9 * low, 1.12 * high)
    spoken_ticks(left.yaxis, 0.9 * low, 1.12 * high)
    left.set_title("perplexity")
    left.set_ylabel("perplexity")
    right.axhline(0, color=shades[first], lw=1.2)
    for k, (name, of_name) in enumerate(apart.items()):
        for context, difference in of_name.items():
            upright(right, context * 2 ** (0.09 * (k - (len(apart) - 1) / 2)), difference, shades[name], 4.5)
    right.set_title(f"difference from {first}")
    right.set_ylabel("nats a token")
    right.yaxis.set_major_formatter(lambda v, _: signed(v, 3) if v else "0")
    for ax in (left, right):
        _windows(ax, sorted({context for nats in models.values() for context in nats}))
        if trained is not None:
            ax.axvline(trained, color=QUIET, lw=1, ls=(0, (4, 3)), zorder=0)
    if trained is not None:
        left.annotate(
            " trained on", (trained, 1), xycoords=("data", "axes fraction"), va="top", color=MUTED, fontsize=SMALL
        )
    return figure


def _windows(ax: Axes, contexts: list[int]) -> None:
    """The axis of windows, each twice the one before."""
    ax.set_xscale("log", base=2)
    ax.set_xlim(contexts[0] / 1.25, contexts[-1] * 1.25)
    ax.set_xticks(contexts, [f"{context:,}" for context in contexts])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("tokens in a window")
