"""A few-shot measurement as a page: accuracy by the number of solved examples, with intervals, spreads and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvekit import figures
from curvekit.evaluation.results import markdown_table
from curvekit.files import write_json, write_text


def table(found: Mapping[str, Any]) -> str:
    """The rows of :func:`curvekit.evaluation.fewshot.fewshot` as Markdown, and what they count."""
    spread = lambda value: "n/a" if value is None else f"{value:.3f}"  # noqa: E731
    rows = [
        {
            "shots": str(row["shots"]),
            "accuracy [95% over items]": f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            "above the majority [95%]": f"{row['over_majority']:+.3f} "
            f"[{row['over_low']:+.3f}, {row['over_high']:+.3f}]",
            "sd of sets": spread(row["sets_sd"]),
            "sd of orders": spread(row["orders_sd"]),
        }
        for row in found["rows"]
    ]
    return (
        f"{markdown_table(rows)}\n\n{found['items']:,} items of {len(found['labels'])} labels; always the commonest: "
        f"{found['majority']:.3f}; {found['left_out']:,} training rows repeat an item and were left out of "
        f"{found['pool']:,}{'; calibrated' if found['calibrated'] else ''}"
    )


def verdict(found: Mapping[str, Any]) -> str:
    """Whether any number of shots is above the majority, by its interval."""
    above = [str(row["shots"]) for row in found["rows"] if row["over_low"] > 0]
    if not above:
        return "With no number of examples is the model above always saying the commonest label, by its interval."
    return f"Above always saying the commonest label, by its interval, with {', '.join(above)} examples."


def page(found: Mapping[str, Any]) -> str:
    """The measurement as Markdown; it knows its model, task and command."""
    parts = [
        f"# {found['model']} on {found['task']} by solved examples in the prompt",
        verdict(found),
        table(found),
        "![Accuracy by the number of examples](figures/accuracy-by-shots.png)",
        "Each number of examples is drawn in several sets and orders, of training rows that repeat no scored item. "
        "Intervals are over items; what another set or order would do is the spread.",
        f"```\n{found['command']}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def write(found: Mapping[str, Any], folder: Path) -> Path:
    """Write ``results.json``, ``README.md`` and the figure; return the page."""
    write_json(folder / "results.json", found)
    figures.save(figures.accuracy_by_shots(found["rows"], found["majority"]), "accuracy-by-shots", folder)
    return write_text(folder / "README.md", page(found))
