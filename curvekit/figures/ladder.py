"""What the ladder of budgets found: the gain at each rung, on which tokens and at which depth, and how far back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import (
    MUTED,
    PAPER,
    SEQUENTIAL,
    SMALL,
    array,
    canvas,
    colour,
    lying,
    name_rows,
    signed,
    styled,
    upright,
)

GROUPS = 40  # of neighbouring channels, each drawn as its mean


@styled
def differences_by_rung(
    rungs: Mapping[str, Sequence[Mapping[str, Any]]],
    baseline: str = "plain",
    order: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Difference in loss from the baseline with its 95 % interval, a panel for each budget, one scale for all.

    Args:
        rungs: the panel's title -> rows ``candidate``, ``difference``, ``low``, ``high`` in nats a token; who is
            missing in a panel was not run.
        baseline: the candidate compared with.
        order: of the candidates, top to bottom; others follow as they occur.
        title: default that it is the difference from the baseline at each budget.
    """
    names = list(dict.fromkeys([*order, *(row["candidate"] for rows in rungs.values() for row in rows)]))
    figure = canvas(
        title or f"Difference from {baseline} at each budget",
        "Nats a token, with 95 % intervals over documents and seeds; filled: the interval excludes 0. Further left is "
        "better; a row without a mark was not run there.",
        1.5 + 0.3 * len(names),
    )
    axes = figure.subplots(1, len(rungs), sharex=True, squeeze=False)[0]
    for ax, (title, rows) in zip(axes, rungs.items(), strict=True):
        name_rows(ax, names)
        if ax is not axes[0]:
            ax.set_yticks([])
        ax.set_title(title)
        ax.axvline(0, color=colour(baseline), lw=1.2)
        for row in rows:
            y, shade = names.index(row["candidate"]), colour(row["candidate"])
            sure = row["low"] > 0 or row["high"] < 0
            lying(ax, y, (row["difference"], row["low"], row["high"]), shade, sure)
        ax.xaxis.set_major_locator(MaxNLocator(5 if len(rungs) < 4 else 3, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(lambda v, _: signed(v, 1) if v else "0")
        ax.set_xlabel("nats a token")
        ax.margins(x=0.08)
    return figure


@styled
def gain_by_bin(
    panels: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]], baseline: str = "plain", note: str = ""
) -> Figure:
    """Where the gain lies: the difference from the baseline by bins of tokens, for each seed and in the mean.

    Args:
        panels: what the bins are of -> their labels (G,), and candidate -> (S, G) nats a token of each seed, with nan
            in bins that are left out.
        baseline: the candidate compared with.
        note: added to the heading.
    """
    names = list(dict.fromkeys(name for _, values in panels.values() for name in values))
    figure = canvas(
        "Where does the gain lie?",
        f"Difference in loss from {baseline}; line: mean over seeds, dots: seeds. Below 0 is better. {note}".strip(),
        3.9,
        key=[(name, colour(name), "-") for name in names],
    )
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (what, (labels, values)) in zip(axes, panels.items(), strict=True):
        for name, seeds in values.items():
            each = array(seeds).astype(float)
            x = np.arange(each.shape[1])
            ax.plot(x, each.mean(0), color=colour(name), lw=1.8)
            ax.plot(np.tile(x, len(each)), each.ravel(), "o", ms=3, color=colour(name), alpha=0.6, mec="none")
        ax.axhline(0, color=colour(baseline), lw=1.2)
        ax.set_xticks(range(len(labels)), list(labels), rotation=35, ha="right")
        ax.set_xlabel(what)
    axes[0].set_ylabel("nats a token")
    return figure


@styled
def losses_by_depth(models: Mapping[str, Sequence[float]], apart: Sequence[tuple[float, float, float]]) -> Figure:
    """The loss that a model's head would have after each block, of two models, and how far the second is ahead.

    Args:
        models: name -> nats a token after 1, 2, ... blocks.
        apart: the second's loss minus the first's after as many, each with the ends of its 95 % interval.
    """
    first, second = models
    figure = canvas(
        "At which depth is the next token known?",
        "The loss of the model's own head, read after so many blocks (logit lens). Right: the difference with its 95 % "
        f"interval over documents; below 0 {second} is ahead.",
        3.6,
        key=[(name, colour(name), "-") for name in models],
    )
    left, right = figure.subplots(1, 2)
    for name, nats in models.items():
        left.plot(range(1, len(nats) + 1), nats, "o-", ms=5, lw=1.6, color=colour(name), mec="none")
    left.set_title("loss")
    right.axhline(0, color=colour(first), lw=1.2)
    for k, difference in enumerate(apart, start=1):
        upright(right, k, difference, colour(second))
    right.set_title(f"{second} − {first}")
    right.margins(x=0.1)
    right.yaxis.set_major_formatter(lambda v, _: signed(v, 1) if v else "0")
    for ax in (left, right):
        ax.set_xlabel("blocks")
        ax.set_ylabel("nats a token")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def looks_back(kernels: Mapping[str, Any], title: str, note: str = "") -> Figure:
    """What each channel of a mixer reads, as shares of the absolute weights of its kernel; a panel for each mixer.

    Args:
        kernels: the panel's title -> (channels, n + 1) weights, oldest first; the last are the word's own.
        title, note: the heading.
    """
    depth = max(array(kernel).shape[1] for kernel in kernels.values())
    shades = [SEQUENTIAL(x) for x in np.linspace(0.95, 0.42, depth)]
    said = ["the word itself", "1 word back", *(f"{k} words back" for k in range(2, depth))]
    columns = min(4, len(kernels))
    rows = -(-len(kernels) // columns)
    figure = canvas(
        title,
        "The channels of each mixer, sorted by how much of their weight lies on earlier words; the height of a colour "
        f"is the share of that word in the channel's absolute weights. {note}".strip(),
        1.25 + 1.3 * rows,
        key=[(name, shade, "-") for name, shade in zip(said, shades, strict=True)],
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.ravel()[len(kernels) :]:
        ax.remove()
    for at, (name, kernel) in enumerate(kernels.items()):
        ax = axes[at // columns, at % columns]
        shares = np.abs(array(kernel).astype(float))[:, ::-1]  # the word itself first
        shares = shares / shares.sum(1, keepdims=True)
        back = shares @ np.arange(shares.shape[1])
        shares = np.array([group.mean(0) for group in np.array_split(shares[np.argsort(back)], min(GROUPS, len(back)))])
        x = np.linspace(0, 100, len(shares))
        ax.stackplot(x, shares.T, colors=shades[: shares.shape[1]], lw=0)
        ax.set_title(name, size=SMALL)
        ax.text(0.97, 0.05, f"{back.mean():.2f} back", transform=ax.transAxes, size=7.5, ha="right", color=PAPER)
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        ax.grid(False)
        if at + columns >= len(kernels):  # nothing below it
            ax.set_xlabel("channels, %", color=MUTED)
            ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("share")
    return figure
