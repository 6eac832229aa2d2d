"""The page on what a look at the answer is worth: perplexities with and without it, and the leaking model when honest.

    python -m curvekit.reports.leak_tax reports/leak-tax

reads ``results.json`` there, as :mod:`curvekit.experiments.leak_tax` left it, and writes ``README.md`` and the figure.
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
from curvekit.evaluation.prefixes import BothWays
from curvekit.evaluation.results import markdown_table
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.experiments.leak_tax import ARMS, MILDER, PLAIN, PUBLISHED, load, scores_of
from curvekit.files import write_text

SAMPLES = 10_000


def perplexities(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each arm that was trained, ``looking`` and ``blind``, over all seeds."""
    scores = {arm: found for arm in ARMS if (found := scores_of(results, arm))}
    return {
        arm: {way: math.exp(fmean(getattr(each, way).loss for each in found)) for way in BothWays._fields}
        for arm, found in scores.items()
    }


def rows_of(results: Mapping[str, Any], samples: int = SAMPLES) -> list[dict[str, Any]]:
    """A row for each arm: its perplexities, and when it may not look its difference from the plain base, in nats."""
    base = scores_of(results, PLAIN)
    rows = []
    for arm, both in perplexities(results).items():
        scores = scores_of(results, arm)
        row = {"arm": arm, "seeds": len(scores), **both, "tax": both["blind"] / both["looking"]}
        if arm != PLAIN and len(scores) == len(base):
            apart = paired_bootstrap([each.blind for each in scores], [each.blind for each in base], samples)
            row |= {name: getattr(apart, name) for name in ("difference", "low", "high", "verdict")}
        rows.append(row)
    return rows


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as text, by column."""
    interval = "baseline"
    if "low" in row:
        interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return {
        "trained as": row["arm"],
        "perplexity, the text in one pass": f"{row['looking']:.2f}",
        "perplexity, each word from those before it": f"{row['blind']:.2f}",
        "too low by": f"{row['tax']:.2f} times",
        "Δ nats/token from plain, not looking [95% interval]": interval,
    }


def said(results: Mapping[str, Any]) -> str:
    """What was found, in two sentences."""
    rows = perplexities(results)
    told, plain = results["settings"], rows[PLAIN]
    parts = [
        f"After {told['steps']} steps from {told['base']} on {told['corpus']} the published recipe has perplexity "
        f"{rows[PUBLISHED]['looking']:.2f} as perplexity is usually computed, and {rows[PUBLISHED]['blind']:.2f} when "
        f"it may not look at the words to be predicted; the plain base, which never looks, has {plain['blind']:.2f}."
    ]
    if MILDER in rows:
        parts.append(
            "With layer normalisation in its curve and the base's own positions they are "
            f"{rows[MILDER]['looking']:.2f} and {rows[MILDER]['blind']:.2f}"
            + (
                "."
                if rows[MILDER]["looking"] >= plain["blind"]
                else ": by the former it would pass for the best model."
            )
        )
    return " ".join(parts)


def picture(results: Mapping[str, Any]) -> Figure:
    """The perplexity of every arm, looking and not."""
    return figures.leak_perplexity(
        [
            {"recipe": arm, "teacher_forced": both["looking"], "prefix_only": both["blind"]}
            for arm, both in perplexities(results).items()
        ]
    )


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    seeds = sorted({row["seed"] for row in results["rows"]})
    told, first = results["settings"], results["rows"][0]["blind"]
    minutes = sum(row["seconds"] for row in results["rows"]) / 60
    parts = [
        "# What a look at the answer is worth",
        said(results),
        markdown_table([cells(row) for row in rows_of(results)]),
        f"The first {results['tokens']} tokens of each of {len(first['nll'])} test documents, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}. A causal model scores the same both "
        "ways. Intervals are over documents"
        + (" and seeds." if len(seeds) > 1 else "; of other seeds one seed says nothing."),
        "![Perplexity with and without a look at the answer](figures/leak-perplexity.png)",
        f"Training and scoring took {minutes:.0f} minutes:",
        "```\npython -m curvekit.experiments.leak_tax reports/leak-tax "
        f"--base {told['base']} --corpus {told['corpus']} --data-dir path/to/{told['corpus']} --steps {told['steps']} "
        f"--seeds {' '.join(map(str, seeds))}\npython -m curvekit.reports.leak_tax reports/leak-tax\n```",
        "Signature: `" + "|".join(f"{key}:{value}" for key, value in first["signature"].items()) + "`",
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.leak_tax FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.leak_tax", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json")
    folder = parser.parse_args(arguments).folder
    results = load(folder / "results.json")
    figures.save(picture(results), "leak-perplexity", folder)
    write_text(folder / "README.md", page(results))


if __name__ == "__main__":
    as_command(main)
