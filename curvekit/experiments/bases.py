"""Two bases of one tokeniser, on texts that neither has read, and after the same fine-tuning of both.

    python -m curvekit.experiments.bases FOLDER mini mini-curve --texts pydocs novels=novels.jsonl --runs runs/a runs/b

scores the beginnings of every text's documents with both, asks of the first text after how many blocks they know the
next token, and takes from finished runs on either what their test documents scored; leaves ``results.json``, in which
what was measured is not measured again. ``python -m curvekit.reports.bases FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.depth import losses_by_depth
from curvekit.evaluation.metrics import SCORE, LanguageModelScore, score_documents
from curvekit.files import by_name, held_results, read_json, write_json
from curvekit.text.corpora import corpus_revision, load_corpus
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig
from curvekit.training.stepping import highest_rate

RESULTS = {
    "bases": [str], "documents": int, "characters": int,
    "rows": [{"text": str, "base": str, "fine_tuned": bool, "seed": (int, None), "settings": dict, "score": SCORE}],
    "depths": [{"base": str, "text": str, "tokens": [int], "nats": [[float]]}],
}  # fmt: skip
_TOLD = ("recipe", "steps", "block_size", "batch_size", "optimizer")  # of a run


def run_all(
    folder: Path,
    bases: tuple[str, str],
    texts: Mapping[str, str],
    runs: Sequence[str | Path] = (),
    data_dir: str | None = None,
    documents: int = 64,
    characters: int = 6_000,
) -> dict[str, Any]:
    """Measure what ``results.json`` in ``folder`` lacks, and return all results.

    Args:
        bases: against whom, and who.
        texts: name -> corpus, none of which either has read: documents of the test split come first, then of the
            others. They are scored in windows of all positions, each half of them further.
        documents, characters: of each text its first documents, of each document its first characters.
        runs: folders of finished runs on either base; a corpus that both have runs of is compared, by seed. A run
            takes the place of one of the same corpus, base and seed.

    Raises:
        CurvekitError: the folder holds other bases' results or other beginnings, a run is on neither base, or two
            runs are of the same corpus, base and seed.
    """
    path, names = folder / "results.json", [str(by_name(each)) for each in bases]
    settings: dict[str, Any] = {"bases": names, "documents": documents, "characters": characters}
    held = held_results(path, RESULTS, settings, rows=[], depths=[])
    done = {(row["text"], row["base"], row["seed"]) for row in held["rows"]}
    taken: set[tuple[str, str, int]] = set()
    for folder_of_run in runs:
        row = _row_of(folder_of_run, names)
        which = (row["text"], row["base"], row["seed"])
        if which in taken:
            raise CurvekitError(f"two runs are {row['base']} on {row['text']}, seed {row['seed']}: leave one out")
        taken.add(which)
        held["rows"] = [each for each in held["rows"] if (each["text"], each["base"], each["seed"]) != which] + [row]
        write_json(path, held)
    known = {row["base"] for row in held["depths"]}
    read: dict[str, tuple[list[str], dict[str, Any]]] = {}  # of a text its beginnings and whose they are
    for base, as_named in zip(bases, names, strict=True):
        left = [name for name in texts if (name, as_named, None) not in done]
        first = [name for name in list(texts)[:1] if as_named not in known]
        if not (left or first):
            continue
        opened = open_model(base)
        for name in dict.fromkeys((*left, *first)):
            if name not in read:
                read[name] = _beginnings(texts[name], data_dir, documents, characters)
        for name in left:
            row = {"text": name, "base": as_named, "fine_tuned": False, "seed": None, "settings": {}}
            beginnings, signature = read[name]
            score = score_documents(*opened, beginnings, signature=signature)
            held["rows"].append(row | {"score": score.published()})
            write_json(path, held)
            print(f"{as_named} on {name}: {score.bits_per_byte:.4f} bits a byte", file=sys.stderr)
        for name in first:
            nats, tokens = losses_by_depth(*opened, read[name][0])
            row = {"base": as_named, "text": name, "tokens": tokens.tolist(), "nats": np.round(nats, 3).tolist()}
            held["depths"].append(row)
            write_json(path, held)
    return held


def _beginnings(corpus: str, data_dir: str | None, documents: int, characters: int) -> tuple[list[str], dict[str, Any]]:
    """The first documents of the test split, then of the others, each cut to its first characters; their signature."""
    read = load_corpus(corpus, data_dir)
    every = chain.from_iterable(read[split]["text"] for split in ("test", "validation", "train"))
    texts = list(islice((text[:characters] for text in every if text.strip()), documents))
    return texts, {"corpus": by_name(corpus), "revision": corpus_revision(read)["test"], "split": "all"}


def _row_of(folder: str | Path, bases: Sequence[str]) -> dict[str, Any]:
    """What a finished run says, as a row."""
    run = load_run(folder)
    config: RunConfig = run.config
    if (base := by_name(config.base)) not in bases:
        raise CurvekitError(f"the run in {folder} began from {base!r}; give runs on {bases[0]} and {bases[1]}")
    told = {name: getattr(config, name) for name in _TOLD}
    told["learning_rate"] = highest_rate(config, run.metrics["base_is_random"])
    row = {
        "text": str(by_name(config.corpus)).removesuffix(".txt"),
        "base": base,
        "fine_tuned": True,
        "seed": config.seed,
        "settings": told,
    }
    return row | {"score": run.scores("test").published()}


def load(path: Path) -> dict[str, Any]:
    """What ``results.json`` holds."""
    found: dict[str, Any] = read_json(path, shape=RESULTS)
    return found


def pairs(results: Mapping[str, Any], fine_tuned: bool) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Of each text the rows of the first base and those of the second, by the seeds that both have."""
    found: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for name in dict.fromkeys(row["text"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["text"] == name and row["fine_tuned"] == fine_tuned]
        of = [{row["seed"]: row for row in rows if row["base"] == base} for base in results["bases"]]
        if seeds := sorted(of[0].keys() & of[1].keys(), key=str):
            found[name] = ([of[0][seed] for seed in seeds], [of[1][seed] for seed in seeds])
    return found


def scores_of(rows: Sequence[Mapping[str, Any]]) -> list[LanguageModelScore]:
    return [LanguageModelScore.from_dict(row["score"]) for row in rows]


def _named(text: str) -> tuple[str, str]:
    name, equals, corpus = text.partition("=")
    return (name, corpus) if equals else (by_name(text), text)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.bases FOLDER A B --texts ... --runs ...``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.bases", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", help="against whom")
    parser.add_argument("second", help="who")
    parser.add_argument("--texts", nargs="*", type=_named, default=[], metavar="[NAME=]CORPUS", help="read by neither")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="finished runs on either")
    parser.add_argument("--data-dir")
    parser.add_argument("--documents", type=int, default=64, help="of each text, its first (default: 64)")
    parser.add_argument("--characters", type=int, default=6_000, help="of each document (default: 6000)")
    given = parser.parse_args(arguments)
    run_all(
        given.folder, (given.first, given.second), dict(given.texts), given.runs, given.data_dir, given.documents,
        given.characters,
    )  # fmt: skip


if __name__ == "__main__":
    as_command(main)
