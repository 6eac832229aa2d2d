"""The page on a grid of recipes and settings: the best setting of each recipe, and how far it is from another.

    python -m curvekit.reports.grid reports/optimisers --against encoder --at same

reads ``results.json`` there, as :mod:`curvekit.experiments.grid` left it, and writes the figure and, between the marks
of ``README.md``, the table. ``--at same`` compares a cell with the other recipe's at the same settings, ``--at best``
with its best, as validation chose it.
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
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.results import fill, interval, markdown_table
from curvekit.evaluation.significance import corrected, paired_bootstrap
from curvekit.experiments.grid import Cell, best, cells, load

SAMPLES = 10_000
AT = ("same", "best")


def pairs(grid: Sequence[Cell], against: str, at: str) -> dict[str, tuple[Cell, Cell]]:
    """By name the cells that are compared, each with the one it is compared with.

    Raises:
        CurvekitError: the grid has no cell of the recipe.
    """
    others = [cell for cell in grid if cell.recipe == against]
    if not others:
        recipes = dict.fromkeys(cell.recipe for cell in grid)
        raise CurvekitError(f"there is no run of {against!r} in the grid; it has {', '.join(recipes)}")
    chosen = [best(grid)[against]] if at == "best" else []
    found = {}
    for cell in grid:
        with_it = chosen or [other for other in others if _alike(cell, other)]
        if with_it and with_it[0] is not cell and cell.runs.keys() & with_it[0].runs.keys():
            found[cell.name] = cell, with_it[0]
    return found


def _alike(cell: Cell, other: Cell) -> bool:
    """Whether two cells have the same settings, but for those that say nothing of the other's recipe."""
    return other.settings == {name: other.unsaid.get(name, value) for name, value in cell.settings.items()}


def differences(grid: Sequence[Cell], against: str, at: str, samples: int = SAMPLES) -> dict[str, dict[str, Any]]:
    """By name the paired difference of a cell, with Holm's correction over all."""
    found: dict[str, dict[str, Any]] = {}
    for name, (cell, other) in pairs(grid, against, at).items():
        seeds = sorted(cell.runs.keys() & other.runs.keys())
        pair = paired_bootstrap(cell.scores(seeds), other.scores(seeds), samples)
        found[name] = pair.figures() | {"candidate": name}
    corrected(list(found.values()))
    return found


def rows_of(
    grid: Sequence[Cell], apart: Mapping[str, Mapping[str, Any]], against: str, at: str = "best"
) -> list[dict[str, str]]:
    """A row a cell; where they are compared with the best, which of them are their recipes' best."""
    chosen = {cell.name for cell in best(grid).values()} if at == "best" else set()
    gates = any(run["gate"] is not None for cell in grid for run in cell.runs.values())
    rows = []
    for cell in grid:
        perplexity = math.exp(fmean(score.loss for score in cell.scores(sorted(cell.runs))))
        row = {
            "recipe": cell.name,
            "seeds": str(len(cell.runs)),
            "validation": f"{cell.validation:.4f}",
            **({"chosen": "yes" if cell.name in chosen else ""} if chosen else {}),
            "test perplexity": f"{perplexity:.2f}",
        }
        if gates:
            opened = [run["gate"] for run in cell.runs.values() if run["gate"] is not None]
            row["gate"] = f"{fmean(opened):.3f}" if opened else ""
        found = apart.get(cell.name)
        row[f"Δ from {against} [95 %]"] = interval(found) if found else ""
        row["p (Holm)"] = f"{found['p_holm']:.4f}" if found else ""
        rows.append(row)
    return rows


def picture(results: Mapping[str, Any], against: str, at: str, samples: int = SAMPLES) -> Figure:
    """The figure of the page: differences by learning rate, or in rows where all have one."""
    grid = cells(results)
    apart = differences(grid, against, at, samples)
    if len({cell.rate for cell in grid}) == 1:
        rows = [
            {**apart[cell.name], "recipe": cell.series, "seeds": len(cell.runs)} for cell in grid if cell.name in apart
        ]
        return figures.difference_intervals(rows, against, results["corpus"])
    chosen = best(grid)[against] if at == "best" else None
    series: dict[str, dict[float, tuple[float, float, float]]] = {}
    for cell in grid:
        if found := apart.get(cell.name):
            series.setdefault(cell.series, {})[cell.rate] = (found["difference"], found["low"], found["high"])
        elif cell is chosen:
            series.setdefault(cell.series, {})[cell.rate] = (0.0, 0.0, 0.0)
    return figures.differences_by_rate(series, chosen.name if chosen else f"{against} at the same settings")


def told(results: Mapping[str, Any], against: str, at: str, samples: int = SAMPLES) -> str:
    """The table and the figure as Markdown."""
    grid = cells(results)
    rows = rows_of(grid, differences(grid, against, at, samples), against, at)
    with_whom = "at the same settings" if at == "same" else "at its best, as validation chose it"
    gate = " Gate: how far the curve's gate at the input opened, the mean of its absolute values."
    parts = [
        markdown_table(rows),
        f"Losses in nats a token on {results['corpus']}"
        + ("; chosen: each recipe's best on validation" if at == "best" else "")
        + f". Δ: the loss on test documents minus that of `{against}` {with_whom}; intervals over documents and seeds."
        + (gate if "gate" in rows[0] else ""),
        f"![Differences from {against}](figures/grid.png)",
    ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.grid FOLDER --against RECIPE``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with results.json and README.md")
    parser.add_argument("--against", default="plain", metavar="RECIPE", help="compared with (default: plain)")
    parser.add_argument("--at", choices=AT, default="best", help="at the same settings, or at its best (default: best)")
    given = parser.parse_args(arguments)
    results = load(given.folder / "results.json")
    figures.save(picture(results, given.against, given.at), "grid", given.folder)
    fill(given.folder / "README.md", told(results, given.against, given.at), title="A grid of settings")


if __name__ == "__main__":
    as_command(main)
