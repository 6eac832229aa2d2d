"""The page on two bases: who reads unread texts better, and who is ahead after the same fine-tuning.

    python -m curvekit.reports.bases reports/mini-curve

reads ``results.json`` there, as :mod:`curvekit.experiments.bases` left it, and writes the figures and, between the
marks of ``README.md``, the tables.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import as_command
from curvekit.evaluation.results import fill, interval, markdown_table
from curvekit.evaluation.significance import corrected, paired_bootstrap, resampled
from curvekit.experiments.bases import load, pairs, scores_of

SAMPLES = 10_000
PANELS = {False: "as they are", True: "after the same fine-tuning"}


def rows_of(results: Mapping[str, Any], fine_tuned: bool, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """Of each text both bases' bits a byte and perplexity, and by how much the second's loss is higher."""
    rows: list[dict[str, Any]] = []
    for text, both in pairs(results, fine_tuned).items():
        first, second = map(scores_of, both)
        paired = paired_bootstrap(second, first, samples)
        row = {"text": text, "seeds": len(first), "documents": paired.documents} | paired.figures()
        row["bits_per_byte"] = [fmean(score.bits_per_byte for score in scores) for scores in (first, second)]
        row["perplexity"] = [math.exp(fmean(score.loss for score in scores)) for scores in (first, second)]
        rows.append(row)
    corrected(rows)
    return rows


def cells(row: Mapping[str, Any], bases: Sequence[str], fine_tuned: bool) -> dict[str, str]:
    """A row as text, by column."""
    cut = {"text": row["text"], "documents": str(row["documents"])}
    if fine_tuned:
        cut["seeds"] = str(row["seeds"])
    figure = "perplexity" if fine_tuned else "bits_per_byte"
    shown = {base: f"{x:.2f}" if fine_tuned else f"{x:.4f}" for base, x in zip(bases, row[figure], strict=True)}
    return cut | shown | {
        "Δ nats a token [95 %]": interval(row),
        "perplexity changes by": f"{row['relative_perplexity']:+.1%}",
        "p (Holm)": f"{row['p_holm']:.4f}",
        f"{bases[1]} is": row["verdict"],
    }  # fmt: skip


def told(results: Mapping[str, Any], samples: int = SAMPLES) -> str:
    """The tables and the figure as Markdown."""
    bases = results["bases"]
    parts = []
    if rows := rows_of(results, False, samples):
        parts += [
            f"Bits a byte of texts that neither has read, the first {results['characters']:,} characters of up to "
            f"{results['documents']} documents of each.",
            markdown_table([cells(row, bases, False) for row in rows]),
        ]
    if rows := rows_of(results, True, samples):
        settings = {tuple(row["settings"].items()) for row in results["rows"] if row["fine_tuned"]}
        rates = {base: _rates(results, base) for base in bases}
        steps = " or ".join(sorted({str(dict(each)["steps"]) for each in settings}))
        tuned = " and ".join(f"{rate} for {base}" for base, rate in rates.items())
        parts += [
            f"Perplexity on test documents after {steps} steps of the same text, at a rate of {tuned}.",
            markdown_table([cells(row, bases, True) for row in rows]),
        ]
    parts.append(f"![{bases[1]} against {bases[0]}, text by text](figures/bases.png)")
    if len(results["depths"]) == 2:
        parts.append("![Loss after each block, read by the model's own head](figures/depth.png)")
    return "\n\n".join(parts)


def _rates(results: Mapping[str, Any], base: str) -> str:
    rows = [row for row in results["rows"] if row["fine_tuned"] and row["base"] == base]
    return " or ".join(f"{rate:g}" for rate in sorted({row["settings"]["learning_rate"] for row in rows}))


def picture(results: Mapping[str, Any], samples: int = SAMPLES) -> Figure:
    """Text by text the difference, as the bases are and after fine-tuning."""
    first, second = results["bases"]
    found = {title: rows_of(results, fine_tuned, samples) for fine_tuned, title in PANELS.items()}
    return figures.differences_by_rung(
        {title: [row | {"candidate": row["text"]} for row in rows] for title, rows in found.items() if rows},
        first,
        title=f"{second} against {first}, text by text",
    )


def by_depth(results: Mapping[str, Any], samples: int = SAMPLES) -> Figure:
    """The loss of both after every number of blocks, and how far the second is ahead there."""
    nats = {row["base"]: np.array(row["nats"]) for row in results["depths"]}
    tokens = np.array(results["depths"][0]["tokens"], float)
    first, second = (nats[base] for base in results["bases"])
    apart = [resampled((b - a)[None], tokens, samples, unit="token") for a, b in zip(first, second, strict=True)]
    return figures.losses_by_depth(
        {base: (nats[base].sum(1) / tokens.sum()).tolist() for base in results["bases"]},
        [(each.difference, each.low, each.high) for each in apart],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.bases FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.bases", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and README.md")
    folder = parser.parse_args(arguments).folder
    results = load(folder / "results.json")
    figures.save(picture(results), "bases", folder)
    if len(results["depths"]) == 2:
        figures.save(by_depth(results), "depth", folder)
    first, second = results["bases"]
    fill(folder / "README.md", told(results), title=f"{second} and {first}")


if __name__ == "__main__":
    as_command(main)
