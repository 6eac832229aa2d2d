"""Runs over a grid of recipes and settings: which rate is best for whom, and how far apart recipes are at each.

    python -m curvekit.experiments.grid FOLDER runs/plain-1e-3 runs/plain-2e-3 runs/curve-1e-3 runs/curve-2e-3

takes from finished runs their settings, the loss of their validation text and the score of every test document; leaves
``results.json``, to which further runs are added. Runs that differ in their seed alone are one cell. A recipe's best
cell is chosen on validation. ``python -m curvekit.reports.grid FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.metrics import SCORE, LanguageModelScore
from curvekit.files import by_name, held_results, read_json, write_json
from curvekit.recipes import added_parts, recipe_settings
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig
from curvekit.training.stepping import highest_rate

SETTINGS = (  # of every run; what else is not as usual stands beside them
    *("base", "model", "optimizer", "learning_rate", "added_rate", "steps", "block_size", "batch_size", "sink_share"),
)
_READING = {  # that change nothing of what was trained; the test's stand in the signature of its scores
    *("compile", "eval_every", "context_eval", "stride", "eval_documents", "validation_documents", "keep_tokens"),
    *("sample_prompts", "prompt_tokens", "sample_tokens", "temperature", "top_p"),
}
RESULTS = {
    "corpus": str, "rows": [{
        "recipe": str, "seed": int, "settings": dict, "validation": float, "gate": (float, None), "score": SCORE,
    }],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cell:
    """The runs of one recipe at one setting: ``settings`` are those in which the grid's cells differ."""

    recipe: str
    settings: Mapping[str, Any]
    runs: Mapping[int, Mapping[str, Any]]  # by seed

    @property
    def unsaid(self) -> dict[str, Any]:
        """Of :func:`unsaid`, with the cell's model."""
        model = next(iter(self.runs.values()))["settings"]["model"]
        return unsaid(self.recipe, dict(each.split("=", 1) for each in model.split() if "=" in each))

    @property
    def series(self) -> str:
        """Its name but for the learning rate."""
        told, unsaid = [], self.unsaid
        for name, value in self.settings.items():
            if name in unsaid:
                continue
            if name == "added_rate" and value != 1:
                told.append(f"added at {value:g} times the rate")
            elif name not in SETTINGS and value is not None:
                told.append(f"{name}={value}")
            elif name not in ("added_rate", "learning_rate") and value not in ("", None):
                told.append(f"{name} {value:g}" if isinstance(value, float) else str(value))
        return ", ".join([self.recipe, *told])

    @property
    def name(self) -> str:
        return f"{self.series}, rate {self.rate:g}"

    @property
    def rate(self) -> float:
        rate: float = next(iter(self.runs.values()))["settings"]["learning_rate"]
        return rate

    @property
    def validation(self) -> float:
        """Nats a token, the mean over seeds."""
        return fmean(run["validation"] for run in self.runs.values())

    def scores(self, seeds: Sequence[int]) -> list[LanguageModelScore]:
        return [LanguageModelScore.from_dict(self.runs[seed]["score"]) for seed in seeds]


def add(folder: Path, runs: Sequence[str | Path]) -> dict[str, Any]:
    """Add to ``results.json`` in ``folder`` the finished runs that it lacks, and return all results.

    Raises:
        CurvekitError: a run has not finished, or read another corpus than those before it.
    """
    path = folder / "results.json"
    for each in runs:
        run = load_run(each)
        config = run.config
        held = held_results(path, RESULTS, {"corpus": by_name(config.corpus)}, rows=[])
        settings = {name: by_name(getattr(config, name)) for name in SETTINGS if name != "model"}
        settings["learning_rate"] = highest_rate(config, run.metrics["base_is_random"])
        settings |= unsaid(config.recipe, config.model)
        others = config.unusual().keys() & config.results().keys() - {"recipe", "seed", "corpus", *SETTINGS, *_READING}
        settings |= {name: by_name(getattr(config, name)) for name in sorted(others)}
        settings["model"] = " ".join(f"{name}={value}" for name, value in sorted(config.model.items()))
        row = {
            "recipe": config.recipe,
            "seed": config.seed,
            "settings": settings,
            "validation": run.scores("validation").loss,
            "gate": _gate(run),
            "score": run.scores("test").published(),
        }
        known = (_key(row), row["seed"])
        held["rows"] = [one for one in held["rows"] if (_key(one), one["seed"]) != known] + [row]
        write_json(path, held)
    return load(path)


def unsaid(recipe: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say nothing of a recipe, since it lacks what they are of, at their defaults."""
    parts = added_parts(recipe_settings(recipe, dict(model)))
    return ({} if parts else {"added_rate": 1.0}) | ({} if "sinks" in parts else {"sink_share": RunConfig.sink_share})


def _gate(run: Any) -> float | None:
    """How far the gate of the curve at the input has opened: the mean of its absolute values, or none has one."""
    if "curve" not in added_parts(recipe_settings(run.config.recipe, run.config.model)):
        return None
    gates = [value for name, value in run.model().named_parameters() if name.endswith("curve.gate")]
    return float(gates[0].detach().float().abs().mean()) if gates else None


def load(path: Path) -> dict[str, Any]:
    """What ``results.json`` holds."""
    found: dict[str, Any] = read_json(path, shape=RESULTS)
    return found


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["recipe"], *sorted(row["settings"].items())


def cells(results: Mapping[str, Any]) -> list[Cell]:
    """The cells of the grid, in the order in which their first run was added."""
    rows = results["rows"]
    names = dict.fromkeys((*SETTINGS, *(name for row in rows for name in row["settings"])))
    differing = [name for name in names if len({row["settings"].get(name) for row in rows}) > 1]
    found: dict[tuple[Any, ...], dict[int, Any]] = {}
    for row in rows:
        found.setdefault(_key(row), {})[row["seed"]] = row
    firsts = [next(iter(runs.values())) for runs in found.values()]
    return [
        Cell(first["recipe"], {name: first["settings"].get(name) for name in differing}, runs)
        for first, runs in zip(firsts, found.values(), strict=True)
    ]


def best(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Of each recipe the cell with the lowest validation loss on the seeds that all its cells have.

    Raises:
        CurvekitError: a recipe's cells have no seed in common.
    """
    found: dict[str, Cell] = {}
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        own = [cell for cell in cells if cell.recipe == recipe]
        common = set(own[0].runs).intersection(*(cell.runs for cell in own))
        if not common:
            raise CurvekitError(f"the runs of {recipe!r} have no seed in common, and none of its settings is the best")
        found[recipe] = min(own, key=lambda cell: fmean(cell.runs[seed]["validation"] for seed in common))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.grid FOLDER RUN ...``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs of one corpus")
    given = parser.parse_args(arguments)
    add(given.folder, given.runs)


if __name__ == "__main__":
    as_command(main)
