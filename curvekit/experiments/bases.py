"""Two bases of one tokeniser, on texts that neither has read, and after the same fine-tuning of both.

    python -m curvekit.experiments.bases FOLDER mini mini-curve --texts pydocs novels=novels.jsonl --runs runs/a runs/b

scores the beginnings of every text's documents with both, asks of the first text after how many blocks they know the
next token, and takes from finished runs on either what their test documents scored; leaves ``results.json``, in which
what was measured is not measured again. ``python -m
curvekit.reports.bases FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.evaluation.depth import losses_by_depth
from curvekit.evaluation.metrics import SCORE, LanguageModelScore, score_documents
from curvekit.files import by_name, read_json, write_json
from curvekit.text.corpora import corpus_revision, load_corpus
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig

RESULTS = {
    "bases": [str], "documents": int, "characters": int,
    "rows": [{"text": str, "base": str, "fine_tuned": bool, "seed": (int, None), "settings": dict, "score": SCORE}],
    "depths": [{"base": str, "text": str, "tokens": [int], "nats": [[float]]}],
}  # fmt: skip
_TOLD = ("recipe", "steps", "learning_rate", "block_size", "batch_size", "optimizer")  # of a run


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
        runs: folders of finished runs on either base; a corpus that both have runs of is compared, by seed.

    Raises:
        CurvekitError: the folder holds other bases' results or other beginnings, or a run is on neither base.
    """
    path, names = folder / "results.json", [str(by_name(each)) for each in bases]
    settings: dict[str, Any] = {"bases": names, "documents": documents, "characters": characters}
    held: dict[str, Any] = load(path) if path.exists() else settings | {"rows": [], "depths": []}
    if other := next((name for name, value in settings.items() if held[name] != value), None):
        raise CurvekitError(
            f"{path} was measured with {other} {held[other]!r}, not {settings[other]!r}; choose another folder"
        )
    done = {(row["text"], row["base"], row["seed"]) for row in held["rows"]}
    for folder_of_run in runs:
        row = _row_of(folder_of_run, names)
        if (row["text"], row["base"], row["seed"]) in done:
            continue
        held["rows"].append(row)
        write_json(path, held)
    known = {row["base"] for row in held["depths"]}
    for base in bases:
        for name in texts:
            if (name, by_name(base), None) not in done:
                held["rows"].append(_scored(base, name, texts[name], data_dir, documents, characters))
                write_json(path, held)
        for name in list(texts)[:1]:
            if by_name(base) not in known:
                held["depths"].append(_by_depth(base, name, texts[name], data_dir, documents, characters))
                write_json(path, held)
    return held


def _scored(base: str, name: str, corpus: str, data_dir: str | None, documents: int, characters: int) -> dict[str, Any]:
    read = load_corpus(corpus, data_dir)
    texts = _beginnings(read, documents, characters)
    signature = {"corpus": by_name(corpus), "revision": corpus_revision(read)["test"], "split": "all"}
    model, tokenizer = open_model(base)
    score = score_documents(model, tokenizer, texts, signature=signature)
    print(f"{base} on {name}: {score.bits_per_byte:.4f} bits a byte", file=sys.stderr)
    row = {"text": name, "base": by_name(base), "fine_tuned": False, "seed": None, "settings": {}}
    return row | {"score": score.published()}


def _by_depth(
    base: str, name: str, corpus: str, data_dir: str | None, documents: int, characters: int
) -> dict[str, Any]:
    texts = _beginnings(load_corpus(corpus, data_dir), documents, characters)
    nats, tokens = losses_by_depth(*open_model(base), texts)
    return {"base": by_name(base), "text": name, "tokens": tokens.tolist(), "nats": np.round(nats, 3).tolist()}


def _beginnings(corpus: DatasetDict, documents: int, characters: int) -> list[str]:
    """The first documents of the test split, then of the others, each cut to its first characters."""
    every = chain.from_iterable(corpus[split]["text"] for split in ("test", "validation", "train"))
    return list(islice((text[:characters] for text in every if text.strip()), documents))


def _row_of(folder: str | Path, bases: Sequence[str]) -> dict[str, Any]:
    """What a finished run says, as a row."""
    run = load_run(folder)
    config: RunConfig = run.config
    if (base := by_name(config.base)) not in bases:
        raise CurvekitError(f"the run in {folder} began from {base!r}; give runs on {bases[0]} and {bases[1]}")
    told = {name: getattr(config, name) for name in _TOLD}
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
    main()
