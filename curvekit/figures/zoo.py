"""The zoo in a picture: how well models read, against what a token costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit.figures.drawing import HELPS, INK, PAPER, canvas, place_labels, shown, spoken_ticks, styled


@styled
def quality_and_cost(
    rows: Sequence[Mapping[str, Any]], apart: Sequence[str] = (), threads: str = "", given: str = ""
) -> Figure:
    """Bits a byte against milliseconds, to write a token and to read a prompt: to the lower left is better.

    Args:
        rows: each with ``name``, ``bits`` (a byte), ``decode_ms``, ``prefill_ms`` and ``prefill_tokens``; a row without
            a figure is left out.
        apart: names whose bits a byte may not be compared with the others'; drawn hollow.
        threads: what they were measured on, for the note.
        given: which part of the texts the bits are of, such as " after their first 40 words"; "": whole ones.
    """
    drawn = [row for row in rows if row.get("bits") is not None]
    figure = canvas(
        "How well models read, against what it costs",
        f"Bits a byte of the same texts{given} (less is better) against milliseconds, one text alone, warm"
        + (f", {threads}" if threads else "")
        + (". Hollow: not to be compared with the others" if apart else "")
        + ".",
        4.6,
    )
    axes: Any = figure.subplots(1, 2, sharey=True)
    tokens = sorted({row["prefill_tokens"] for row in drawn})
    titles = {
        "decode_ms": "to write a token",
        "prefill_ms": f"to read {' or '.join(map(str, tokens))} tokens" if tokens else "to read a prompt",
    }
    for ax, (cost, title) in zip(axes, titles.items(), strict=True):
        ax.set_title(title)
        ax.set_xscale("log")
        ax.set_xlabel("milliseconds")
        points = np.array([[row[cost], row["bits"]] for row in drawn]).reshape(-1, 2)
        if not len(points):
            continue
        low, high = points[:, 0].min() / 3.5, points[:, 0].max() * 2.5
        ax.set_xlim(low, high)
        spoken_ticks(ax.xaxis, low, high)
        room = 0.25 * (np.ptp(points[:, 1]) or 0.2)
        ax.set_ylim(points[:, 1].min() - room, points[:, 1].max() + room)
        for row, point in zip(drawn, points, strict=True):
            hollow = row["name"] in apart
            ax.plot(*point, "o", ms=8, color=HELPS, mfc=PAPER if hollow else HELPS, mew=1.6, zorder=5)
    axes[0].set_ylabel("bits a byte")
    for ax, cost in zip(axes, titles, strict=True):
        if drawn:
            points = np.array([[row[cost], row["bits"]] for row in drawn])
            place_labels(ax, points, [shown(row["name"]) for row in drawn], points[:0], size=8.5, color=INK)
    return figure
