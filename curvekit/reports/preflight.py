"""What can be found out before the first notebook of a report: within seconds, as ``curvekit train`` would say it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from curvekit.bases.berts import locate_encoder
from curvekit.experiments.comparison import grouped, is_finished, planned
from curvekit.text.corpora import load_corpus
from curvekit.training.preflight import check_run, check_texts
from curvekit.training.settings import RunConfig

_SETTINGS = {each.name for each in fields(RunConfig)}


def check(
    notebooks: Sequence[Path],
    plan: Mapping[Path, Mapping[str, Any]],
    config: RunConfig,
    recipes: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    say: Callable[[str], object],
) -> dict[Path, RunConfig]:
    """Check what each notebook is given: its corpus, base and encoder, its runs, and whether they can be compared.

    A notebook without such a parameter needs nothing of it, and nothing is looked up for it. What is returned are the
    runs of comparisons that are not finished, by their folders.

    Raises:
        CurvekitError: as :func:`curvekit.training.preflight.check_run`, ``check_texts`` and
            :func:`curvekit.experiments.comparison.run_experiment`.
    """
    for recipe, seed in itertools.product(recipes, seeds):
        is_finished(folder / "runs" / f"{recipe}-seed{seed}", replace(config, recipe=recipe, seed=seed))
    texts: list[tuple[RunConfig, list[RunConfig]]] = []
    left: dict[Path, RunConfig] = {}
    for notebook in notebooks:
        given = plan[notebook]
        own = {name: value for name, value in given.items() if name in _SETTINGS and value is not None}
        wanted = RunConfig.from_dict(own | given.get("settings", {}))
        compared = [wanted]
        if "recipes" in given and "baseline" in given and "base" in given:
            runs = planned(wanted, given["recipes"], given.get("seeds", [wanted.seed]), folder, given["baseline"])
            unfinished = {place: each for place, each in runs.items() if not is_finished(place, each)}
            left |= {place: grouped(each, folder) for place, each in unfinished.items()}
            compared = list(unfinished.values())
        elif "base" in given and "recipe" in given:
            place = folder / "runs" / f"{wanted.recipe}-seed{wanted.seed}"
            compared = [] if is_finished(place, wanted) else [wanted]
        if "encoder" in given and "base" not in given:
            locate_encoder(wanted.encoder)
        compared = list({run.recipe: run for run in compared}.values()) if "base" in given else []
        for each in compared:
            check_run(each)
        if "corpus" in given:
            texts.append((wanted, compared))
    read: dict[tuple[Any, Any, Any], DatasetDict] = {}
    for wanted, compared in texts:  # last, because a large corpus takes the longest
        source = (wanted.corpus, wanted.data_dir, wanted.codes)
        if source not in read:
            read[source] = load_corpus(wanted.corpus, wanted.data_dir, codes=wanted.codes, announce=say)
        for each in compared:
            check_texts(each, read[source])
    return left
