"""The page of a finished search: what was found, what of it is left on untouched text, what mattered, what it cost.

    python -m curvekit.reports.search FOLDER [--search SEARCH] [--given WORDS]

takes the results of SEARCH to FOLDER, without the paths of a machine, and writes of them ``README.md`` and the figures
of notebook ``13_search``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import as_command
from curvekit.evaluation.results import markdown_table
from curvekit.experiments.search import load_search, short, to_markdown
from curvekit.experiments.spaces import written
from curvekit.files import as_typed, read_json, write_json, write_text
from curvekit.training.settings import RunConfig


def command_of(found: Mapping[str, Any]) -> str:
    """The command that makes a search."""
    space = [f"{name}={written(values)}" for name, values in found["space"].items()]
    seeds = next(iter(found["recipes"].values()))["test"]["seeds"]
    asked = ["--trials", found["trials"], "--folds", found["folds"], "--sampler", found["sampler"], "--seeds", *seeds]
    return RunConfig.from_dict(found["settings"]).command(
        "search", "--space", *space, "--recipes", *found["recipes"], *map(str, asked)
    )


def minutes(own: Mapping[str, Any]) -> float:
    """How long the trials of a recipe took, one after another."""
    return sum(each["seconds"] or 0.0 for each in own["trials"]) / 60


def beside(own: Mapping[str, Any], given: str) -> list[dict[str, str]]:
    """The settings as given and the best that was found, a row each."""
    pairs = {given: own["given"], "best of the trials": own["best"]}
    return [
        {"settings": name}
        | {key: short(value) for key, value in each["values"].items()}
        | {"bits a byte, folds": f"{each['bits']:.4f}"}
        for name, each in pairs.items()
    ]


def page(found: Mapping[str, Any]) -> str:
    """A search as Markdown; its ``given`` says what the settings as given are."""
    lines = ["# What a search found, and what is left of it", f"```\n{command_of(found)}\n```"]
    for recipe, own in found["recipes"].items():
        lines += [
            f"## {recipe}: as given, and the best",
            markdown_table(beside(own, found["given"])),
            f"{len(own['trials'])} trials of {found['tokens_a_trial']:,} tokens each, fewer where one was given up: "
            f"{minutes(own):.0f} minutes one after another.",
        ]
    lines += ["## All trials", to_markdown(found).strip(), "## What mattered"]
    lines += [
        f"![{str(figure.get_label()).split('.')[0]}](figures/{name}.png)" for name, figure in pictures(found).items()
    ]
    return "\n\n".join(lines) + "\n"


def pictures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures by their files' names; importance only where there are trials enough to tell it."""
    drawn: dict[str, Figure] = {}
    for recipe, own in found["recipes"].items():
        if own["importance"]:
            drawn[f"{recipe}-importance"] = figures.importances(own["importance"], recipe)
        drawn |= {
            f"{recipe}-slices": figures.slices(own["trials"], found["space"], recipe),
            f"{recipe}-parallel": figures.parallel_coordinates(own["trials"], found["space"], recipe),
            f"{recipe}-folds": figures.fold_spread(own["trials"], own["given"]["folds"], recipe),
            f"{recipe}-cost": figures.cost(own["trials"], recipe),
        }
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.reports.search FOLDER [--search SEARCH] [--given WORDS]``."""
    parser = argparse.ArgumentParser(prog="curvekit.reports.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where results.json and the page are")
    parser.add_argument("--search", type=Path, help="the folder of a finished search, whose results are taken")
    parser.add_argument("--given", default="as given", metavar="WORDS", help="what its settings as given are")
    asked = parser.parse_args(arguments)
    if asked.search is not None:
        found = load_search(asked.search)
        settings = {name: as_typed(value) for name, value in found["settings"].items()}
        write_json(asked.folder / "results.json", found | {"settings": settings, "given": asked.given})
    found = read_json(asked.folder / "results.json", shape={"given": str, "settings": dict, "recipes": dict})
    write_text(asked.folder / "README.md", page(found))
    for name, figure in pictures(found).items():
        figures.save(figure, name, asked.folder)


if __name__ == "__main__":
    as_command(main)
