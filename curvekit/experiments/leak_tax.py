"""What a look at the answer is worth: the published recipe trained beside the plain base, each scored both ways.

    python -m curvekit.experiments.leak_tax FOLDER --corpus wikitext-2 --data-dir path/to/wikitext-2

trains each arm under each seed and leaves ``results.json``; a run that is there already is not repeated. ``python -m
curvekit.reports.leak_tax FOLDER`` makes the page of it. The arm ``published`` is as it was published; in ``published,
with layer norm`` that stands in for its constant SoftEMax over features, and the base's positions for its sinusoids,
with which a short training learns little, of the words or of the leak.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.errors import as_command
from curvekit.evaluation.metrics import SCORE, LanguageModelScore
from curvekit.evaluation.prefixes import BothWays, score_both_ways
from curvekit.files import by_name, held_results, read_json, write_json
from curvekit.shapes import Maybe
from curvekit.text.corpora import load_corpus
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

PLAIN, PUBLISHED, MILDER = "plain", "published", "published, with layer norm"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {  # the recipe of each, and what is set over it
    PLAIN: ("plain", {}),
    PUBLISHED: ("published", {}),
    MILDER: ("published", {"normalisation": "layernorm", "positions": "base"}),
}
COMMON: dict[str, Any] = {
    "added_rate": 1.0,  # as published: all at one rate
    "sample_prompts": 0, "eval_documents": 1, "validation_documents": 1, "keep_tokens": 0,
}  # fmt: skip
TOKENS = 128  # of each test document
RESULTS = {
    "settings": dict, "tokens": int, "documents": Maybe(int), "rows": [{
        "arm": str, "recipe": str, "seed": int, "looking": SCORE, "blind": SCORE, "seconds": float,
    }],
}  # fmt: skip


def run_all(
    folder: Path, config: RunConfig, seeds: Sequence[int], documents: int | None = None, tokens: int = TOKENS
) -> dict[str, Any]:
    """Make the runs that ``results.json`` in ``folder`` lacks, and return all results.

    Args:
        config: of every run, but for its recipe, model and seed.
        documents: test documents that are scored, the first of them; default all.
        tokens: of each document, its first.

    Raises:
        CurvekitError: the folder holds results of another base, corpus or budget.
    """
    path = folder / "results.json"
    settings = {"base": by_name(config.base), "corpus": by_name(config.corpus), "steps": config.steps}
    texts = load_corpus(config.corpus, config.data_dir)["test"]["text"][:documents]
    told = {"settings": settings, "tokens": tokens, "documents": len(texts)}
    held = held_results(path, RESULTS, told, rows=[])
    done = {(row["arm"], row["seed"]) for row in held["rows"]}
    for seed, (arm, (recipe, model)) in itertools.product(seeds, ARMS.items()):
        if (arm, seed) in done:
            continue
        began = time.perf_counter()
        wanted = RunConfig.from_dict(config.to_dict() | {"recipe": recipe, "model": model, "seed": seed})
        run = train(wanted, folder / "runs" / f"{arm.replace(', ', '-').replace(' ', '-')}-seed{seed}")
        both = score_both_ways(run.model(), run.tokenizer(), texts, tokens=tokens)
        scores = {way: score.published() for way, score in both._asdict().items()}
        seconds = round(time.perf_counter() - began, 1)
        held["rows"].append({"arm": arm, "recipe": recipe, "seed": seed, **scores, "seconds": seconds})
        write_json(path, held)
        print(
            f"{arm}, seed {seed}: perplexity {both.looking.perplexity:.2f} looking, {both.blind.perplexity:.2f} not",
            file=sys.stderr,
        )
    return held


def load(path: Path) -> dict[str, Any]:
    """What ``results.json`` holds."""
    found: dict[str, Any] = read_json(path, shape=RESULTS)
    return found


def scores_of(results: Mapping[str, Any], arm: str) -> list[BothWays]:
    """The scores of an arm, seed by seed."""
    rows = sorted((row for row in results["rows"] if row["arm"] == arm), key=lambda row: row["seed"])
    return [BothWays(*(LanguageModelScore.from_dict(row[way]) for way in BothWays._fields)) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.leak_tax FOLDER``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.leak_tax", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--data-dir")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--documents", type=int, help="test documents that are scored (default: all)")
    given = parser.parse_args(arguments)
    config = RunConfig(base=given.base, corpus=given.corpus, data_dir=given.data_dir, steps=given.steps, **COMMON)
    run_all(given.folder, config, given.seeds, given.documents)


if __name__ == "__main__":
    as_command(main)
