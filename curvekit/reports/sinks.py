"""The page on SoftEMax's own ground: who looks at the first token, what stands out, and what fewer bits cost.

    python -m curvekit.reports.sinks reports/sinks

reads ``results.json`` there, as :mod:`curvekit.experiments.sinks` left it, and writes the figure and, between the marks
of ``README.md``, the tables.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from curvekit import figures
from curvekit.errors import as_command
from curvekit.evaluation.outliers import Traces
from curvekit.evaluation.results import fill, interval, markdown_table
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.experiments.sinks import BITS, costs_of, load, scores_of

SAMPLES = 10_000


def names_of(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in results["rows"]))


def by_depth(results: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """What :func:`curvekit.figures.sinks_by_depth` draws."""
    of_each = [each.name for each in fields(Traces)]
    return {name: {each: by_layer(results, name, each) for each in of_each} for name in names_of(results)}


def by_layer(results: Mapping[str, Any], name: str, figure: str) -> list[float]:
    """A figure of each layer, the mean over seeds."""
    return np.mean([row[figure] for row in results["rows"] if row["name"] == name], axis=0).tolist()


def rows_of(results: Mapping[str, Any], samples: int = SAMPLES) -> list[dict[str, str]]:
    """A row for each name: its perplexity, what fewer bits cost it, its sinks and outliers."""
    rows = []
    for name in names_of(results):
        scores = scores_of(results, name)
        row = {
            "model": name,
            "attention": next(each["attention"] for each in results["rows"] if each["name"] == name),
            "seeds": str(len(scores)),
            "perplexity": f"{math.exp(fmean(each.loss for each in scores)):.2f}",
        }
        for bits in BITS:
            row[f"{bits} bits cost, nats a token"] = interval(
                vars(paired_bootstrap(scores_of(results, name, bits), scores, samples))
            )
        row |= {
            "to the first token": f"{100 * max(by_layer(results, name, 'first_token')):.0f} %",
            "to nobody": f"{100 * max(by_layer(results, name, 'nobody')):.0f} %",
            "kurtosis": f"{max(by_layer(results, name, 'kurtosis')):.1f}",
            "largest": f"{max(by_layer(results, name, 'largest')):,.0f}",
        }
        rows.append(row)
    return rows


def contrasts(results: Mapping[str, Any], samples: int = SAMPLES) -> list[dict[str, str]]:
    """What fewer bits cost a model more than the first that cuts text alike and has as many seeds."""
    rows: list[dict[str, str]] = []
    firsts: dict[tuple[str, int], str] = {}
    for name in names_of(results):
        own = scores_of(results, name)
        first = firsts.setdefault((own[0].signature["tokenizer_hash"], len(own)), name)
        if first == name:
            continue
        row = {
            "model": f"{name} − {first}",
            "nats a token": interval(vars(paired_bootstrap(own, scores_of(results, first), samples))),
        }
        for bits in BITS:
            apart = paired_bootstrap(costs_of(results, name, bits), costs_of(results, first, bits), samples)
            row[f"{bits} bits cost more by"] = interval(vars(apart))
        rows.append(row)
    return rows


def told(results: Mapping[str, Any]) -> str:
    """The tables and the figure as Markdown."""
    parts = [
        markdown_table(rows_of(results)),
        f"The first {results['characters']:,} characters of each of {results['documents']} test documents of "
        f"{results['corpus']}. Shares of attention, kurtosis and the largest value are of the layer where they are "
        "highest. Intervals are 95 %, over documents and seeds.",
        "![By depth: attention to the first token and to nobody, kurtosis and the largest value](figures/sinks.png)",
    ]
    if rows := contrasts(results):
        parts.insert(2, markdown_table(rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.sinks FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.sinks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and README.md")
    folder = parser.parse_args(arguments).folder
    results = load(folder / "results.json")
    figures.save(figures.sinks_by_depth(by_depth(results)), "sinks", folder)
    fill(folder / "README.md", told(results), title="Sinks, outliers and eight bits")


if __name__ == "__main__":
    as_command(main)
