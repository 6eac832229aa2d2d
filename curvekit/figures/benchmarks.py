"""Benchmarks: throughputs of ours over a peer's, each with its interval and its goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from curvekit.figures.drawing import HELPS, HURTS, INK, MUTED, QUIET, canvas, lying, spoken_ticks, styled


@styled
def benchmark_ratios(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Throughputs of ours over a peer's on a logarithmic axis, each with its interval and its goal.

    Args:
        rows: ``group``, ``name``, ``ratio``, ``low``, ``high``, and ``goal`` of the kind ``ratio`` or another or none,
            as :mod:`benchmarks.harness` writes them.
    """
    goals = [row["goal"]["value"] if row["goal"] and row["goal"]["kind"] == "ratio" else None for row in rows]
    figure = canvas(
        "What it costs, beside what others use",
        "Throughput of ours over the peer's, with its 95 % interval; the upright mark is the goal. "
        "Filled: the goal is met. Right of 1 ours is faster.",
        1.3 + 0.24 * len(rows),
    )
    ax = figure.add_subplot()
    for y, (row, wanted) in enumerate(zip(rows, goals, strict=True)):
        reached = wanted is None or row["ratio"] >= wanted
        shade = MUTED if wanted is None else HELPS if reached else HURTS
        lying(ax, y, (row["ratio"], row["low"], row["high"]), shade, reached)
        if wanted is not None:
            ax.plot([wanted, wanted], [y - 0.36, y + 0.36], color=INK, lw=1.6, zorder=3)
    ax.axvline(1, color=QUIET, lw=1, zorder=1)
    ax.set_xscale("log")
    ends = [row[end] for row in rows for end in ("low", "high")] + [goal for goal in goals if goal] + [1.0]
    low, high = min(ends) / 1.15, max(ends) * 1.15
    ax.set_xlim(low, high)
    spoken_ticks(ax.xaxis, low, high)
    ax.set_xlabel("ratio of throughputs")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [f"{row['group']}: {row['name']}" for row in rows])
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    return figure
