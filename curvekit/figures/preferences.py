"""What preference training brought and what it cost: reward beside a judge that did not train, KL, text, perplexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curvekit.figures.drawing import MUTED, SPARE, canvas, lying, name_rows, styled

PANELS = {  # what is shown, its title, and what it is measured in
    "reward": ("reward", "reward"),
    "judge": ("judge", "held-out reward"),
    "perplexity": ("perplexity", "%"),
    "distinct": ("diversity", "distinct bigrams"),
    "tokens": ("length", "tokens"),
}


@styled
def preference_changes(rows: Sequence[Mapping[str, Any]], note: str = "") -> Figure:
    """End minus start of each condition with its 95 % interval: a panel for the gain and for each thing it may cost.

    Args:
        rows: ``name``, and for each of :data:`PANELS` a mapping ``difference, low, high``, whose interval may be None.
        note: said under the title.
    """
    figure = canvas(
        "What preference training changed",
        note or "End minus start with 95 % intervals over prompts or documents, and seeds; filled: 0 is excluded.",
        1.5 + 0.36 * max(len(rows), 1),
    )
    axes = figure.subplots(1, len(PANELS), squeeze=False)[0]
    for ax, (what, (title, unit)) in zip(axes, PANELS.items(), strict=True):
        name_rows(ax, [row["name"] for row in rows])
        for y, label in enumerate(ax.get_yticklabels()):
            label.set_color(SPARE[y % len(SPARE)])
        if ax is not axes[0]:
            ax.set_yticks([])
        ax.set_title(title)
        ax.axvline(0, color=MUTED, lw=1.2)
        scale = 100 if what == "perplexity" else 1
        for y, row in enumerate(rows):
            change, ends = row[what], [scale * row[what][end] for end in ("low", "high") if row[what][end] is not None]
            low, high = ends or (None, None)
            sure = bool(ends) and (ends[0] > 0 or ends[1] < 0)
            lying(ax, y, (scale * change["difference"], low, high), SPARE[y % len(SPARE)], sure)
        ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:+g}" if v else "0")
        ax.set_xlabel(unit)
        ax.margins(x=0.12)
    return figure


@styled
def preference_histories(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """How runs went, a line a seed: loss, and of those that write themselves reward and KL.

    Args:
        runs: name -> for each seed the rows of its history: ``step``, ``loss``, and where known ``reward``, ``kl``,
            ``reward_margin``.
    """
    names = {"loss": "loss", "reward": "reward", "kl": "KL, nats an answer", "reward_margin": "reward margin"}
    panels = [name for name in names if any(name in row for seeds in runs.values() for rows in seeds for row in rows)]
    figure = canvas(
        "How training went", "A line for each seed. What a method does not know of itself it has no line for.", 2.9
    )
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for ax, what in zip(axes, panels, strict=False):
        for number, (name, seeds) in enumerate(runs.items()):
            for seed, rows in enumerate(seeds):
                points = [(row["step"], row[what]) for row in rows if row.get(what) is not None]
                if points:
                    label = name if seed == 0 else None
                    ax.plot(*zip(*points, strict=True), color=SPARE[number % len(SPARE)], lw=1.4, label=label)
        ax.set_title(names[what])
        ax.set_xlabel("steps")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5))
    if panels:
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure
