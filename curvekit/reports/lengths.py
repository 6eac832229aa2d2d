"""The page on texts longer than those trained on: perplexity window by window, and who loses less.

    python -m curvekit.reports.lengths reports/lengths

reads ``results.json`` there, as :mod:`curvekit.experiments.lengths` left it, and writes the figure and, between the
marks of ``README.md``, the tables.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import as_command
from curvekit.evaluation.results import fill, interval, markdown_table
from curvekit.evaluation.significance import PairedDifference, paired_bootstrap
from curvekit.experiments.lengths import load, scores_of

SAMPLES = 10_000


def apart(results: Mapping[str, Any], samples: int = SAMPLES) -> dict[str, dict[int, PairedDifference]]:
    """Of each model but the first its loss minus the first's, in windows of each length, by as many seeds."""
    (_, against), *others = scores_of(results).items()
    found: dict[str, dict[int, PairedDifference]] = {}
    for name, scores in others:
        for context in sorted(scores.keys() & against.keys()):
            seeds = min(len(scores[context]), len(against[context]))
            pair = paired_bootstrap(scores[context][:seeds], against[context][:seeds], samples)
            found.setdefault(name, {})[context] = pair
    return found


def rows_of(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model: its perplexity in windows of each length."""
    rows = []
    for name, scores in scores_of(results).items():
        attention = next(row["attention"] for row in results["rows"] if row["name"] == name)
        row = {"model": name, "attention": attention, "seeds": str(max(map(len, scores.values())))}
        shown = {f"{c:,} tokens": f"{math.exp(fmean(each.loss for each in scores[c])):.2f}" for c in scores}
        rows.append(row | shown)
    return rows


def contrasts(results: Mapping[str, Any], samples: int = SAMPLES) -> list[dict[str, str]]:
    """A row for each model but the first: how far it is from the first."""
    first = results["rows"][0]["name"]
    return [
        {"nats a token": f"{name} − {first}"} | {f"{c:,} tokens": interval(vars(pair)) for c, pair in pairs.items()}
        for name, pairs in apart(results, samples).items()
    ]


def picture(results: Mapping[str, Any], samples: int = SAMPLES) -> Figure:
    """The figure of the page."""
    models = {name: {c: fmean(s.loss for s in each[c]) for c in each} for name, each in scores_of(results).items()}
    differences = {
        name: {c: (pair.difference, pair.low, pair.high) for c, pair in pairs.items()}
        for name, pairs in apart(results, samples).items()
    }
    return figures.losses_by_context(models, differences, results["trained"])


def told(results: Mapping[str, Any], samples: int = SAMPLES) -> str:
    """The tables and the figure as Markdown."""
    trained = f" All were trained on blocks of {results['trained']:,} tokens." if results["trained"] else ""
    parts = [
        markdown_table(rows_of(results)),
        f"Perplexity of the first {results['characters']:,} characters of {results['documents']} long test documents "
        f"of {results['corpus']}, in windows of so many tokens that move by half of that.{trained} Intervals below are "
        "95 %, over documents and seeds.",
        markdown_table(contrasts(results, samples)),
        "![Perplexity window by window, and the difference from the first](figures/lengths.png)",
    ]
    return "\n\n".join(part for part in parts if part)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.lengths FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.lengths", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and README.md")
    folder = parser.parse_args(arguments).folder
    results = load(folder / "results.json")
    figures.save(picture(results), "lengths", folder)
    fill(folder / "README.md", told(results), title="Texts longer than those trained on")


if __name__ == "__main__":
    as_command(main)
