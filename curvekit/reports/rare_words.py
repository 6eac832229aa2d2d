"""The page on losses for rare words: differences by frequency with intervals, calibration, what is paid and by whom.

    python -m curvekit.reports.rare_words reports/rare-words

reads ``results.json`` there, as :mod:`curvekit.experiments.rare_words` left it, and writes ``results.md``, the figures,
and the tables between the marks of ``README.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.frequency import FrequencyScore, by_bin
from curvekit.evaluation.results import fill, markdown_table
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.experiments.rare_words import PLAIN, load, scores_of
from curvekit.files import write_text

BASELINE = (PLAIN, "cross_entropy")
SAMPLES = 4_000


def arms_of(rows: Sequence[Mapping[str, Any]], start: str) -> list[tuple[str, str]]:
    """The recipes and losses of a start that have the baseline's seeds, the baseline first."""
    found = list(dict.fromkeys((row["recipe"], row["loss"]) for row in rows if row["start"] == start))
    whole = seeds_of(rows, start, BASELINE)
    if not whole:
        raise CurvekitError(f"the runs of start {start!r} have no plain one with cross_entropy; make it first")
    return [BASELINE, *(arm for arm in found if arm != BASELINE and seeds_of(rows, start, arm) == whole)]


def seeds_of(rows: Sequence[Mapping[str, Any]], start: str, arm: tuple[str, str]) -> list[int]:
    return sorted(row["seed"] for row in rows if (row["start"], row["recipe"], row["loss"]) == (start, *arm))


def shown(arm: tuple[str, str]) -> str:
    """An arm as tables name it: the loss of a plain model, or the recipe with cross-entropy."""
    recipe, loss = arm
    return loss if recipe == PLAIN else recipe if loss == "cross_entropy" else f"{recipe}, {loss}"


def by_frequency(
    rows: Sequence[Mapping[str, Any]], start: str, samples: int = SAMPLES
) -> dict[str, list[dict[str, Any]]]:
    """arm -> rows ``label``, ``tokens``, ``difference``, ``low``, ``high`` against the plain loss, for each bin."""
    base = scores_of(rows, start, *BASELINE)
    found = {}
    for arm in arms_of(rows, start)[1:]:
        bins = by_bin(scores_of(rows, start, *arm), base, samples=samples)
        found[shown(arm)] = [
            {"label": label, "tokens": tokens, "difference": each.difference, "low": each.low, "high": each.high}
            for label, tokens, each in bins
        ]
    return found


def table(rows: Sequence[Mapping[str, Any]], start: str, samples: int = SAMPLES) -> list[dict[str, str]]:
    """A row for each arm: perplexity, difference over all words, over rare ones and over frequent ones, calibration.

    Rare are words that the training text has fewer than four times; frequent, 64 times or more.
    """
    arms, told = arms_of(rows, start), []
    base = scores_of(rows, start, *BASELINE)
    groups = {"all words": list(range(len(base[0].edges) + 1))}
    groups |= {"rare": _bins(base[0], 0, 4), "frequent": _bins(base[0], 64, 10**9)}
    for arm in arms:
        own = [row for row in rows if (row["start"], row["recipe"], row["loss"]) == (start, *arm)]
        line = {
            "trained with": shown(arm),
            "perplexity": f"{fmean(row['perplexity'] for row in own):.2f}",
            "calibration error": f"{100 * fmean(row['calibration_error'] for row in own):.1f} %",
        }
        scores = scores_of(rows, start, *arm)
        for name, bins in groups.items():
            if not sum(each.tokens[:, bins].sum() for each in base):
                line[name] = "n/a"
                continue
            if arm == BASELINE:
                total = sum(each.nll[:, bins].sum() for each in base)
                line[name] = f"{total / sum(each.tokens[:, bins].sum() for each in base):.3f} nats"
                continue
            ours, theirs = ([each.as_score(bins) for each in side] for side in (scores, base))
            apart = paired_bootstrap(ours, theirs, samples=samples)
            line[name] = f"{apart.difference:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
        told.append(line)
    return told


def _bins(score: FrequencyScore, low: int, high: int) -> list[int]:
    """The bins of words that the training text has at least ``low`` and fewer than ``high`` times."""
    least = (0, *score.edges)
    return [number for number, count in enumerate(least) if low <= count < high]


def pictures(rows: Sequence[Mapping[str, Any]], start: str, samples: int = SAMPLES) -> dict[str, Figure]:
    """The figures of a start, by their files' names."""
    models = {}
    for arm in arms_of(rows, start):
        scores = scores_of(rows, start, *arm)
        sums: dict[str, Any] = {
            name: np.sum([getattr(each, name) for each in scores], axis=0) for name in ("confidence", "hits", "held")
        }
        models[shown(arm)] = sums | {"error": fmean(each.calibration_error for each in scores)}
    groups = by_frequency(rows, start, samples)
    found = {
        f"{start}-calibration": figures.calibration(models, f"Does it know how sure to be? Tokens of words, {start}")
    }
    if groups:
        what = "times the training text has the word"
        found[f"{start}-by-frequency"] = figures.difference_by_group(groups, what, "cross_entropy")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.rare_words FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.rare_words", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and, if it shall be filled in, README.md")
    folder = parser.parse_args(arguments).folder
    rows, parts = load(folder / "results.json"), []
    for start in dict.fromkeys(row["start"] for row in rows):
        seeds = seeds_of(rows, start, BASELINE)
        parts.append(f"### {start}, seeds {', '.join(map(str, seeds))}\n\n{markdown_table(table(rows, start))}\n")
        for name, figure in pictures(rows, start).items():
            figures.save(figure, name, folder)
            parts.append(f"![{str(figure.get_label()).split('.')[0]}](figures/{name}.png)\n")
    write_text(folder / "results.md", "\n".join(parts))
    if (folder / "README.md").exists():
        fill(folder / "README.md", "\n".join(parts))


if __name__ == "__main__":
    as_command(main)
