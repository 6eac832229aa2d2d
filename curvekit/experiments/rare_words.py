"""Do rare words gain by another loss, what do frequent ones pay, and does a curve do it better? Runs that answer it.

A run is a recipe, a loss, a start (random weights, or the base's) and a seed; all of a start have the same blocks in
the same order. Every run is scored by the plain loss, token by token, and each token falls into a bin of how often the
training text has the word that it is a part of.

    python -m curvekit.experiments.rare_words FOLDER --corpus wikitext-2 --data-dir path/to/wikitext-2

leaves ``results.json``; a run that is there already is not repeated, so that what was stopped goes on. ``python -m
curvekit.reports.rare_words FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict

from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.frequency import FrequencyScore, counts_of_words, word_counts
from curvekit.evaluation.metrics import TokenScores, score_documents
from curvekit.files import by_name, held_results, read_json, write_json, write_text
from curvekit.shapes import Maybe
from curvekit.text.corpora import corpus_revision, load_corpus
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "label_smoothing": {"loss": "label_smoothing"},
    "focal": {"loss": "focal"},
    "inverse_frequency": {"loss": "inverse_frequency"},
    "unlikelihood": {"loss": "unlikelihood"},
    "z-loss": {"z_loss": 1e-4},
}
STARTS: dict[str, dict[str, Any]] = {
    "fine-tuned": {"steps": 24, "eval_every": 24, "added_rate": 1.0},
    "scratch": {"scratch": True, "optimizer": "muon", "learning_rate": 2e-3, "steps": 60, "eval_every": 60},
}
PLAIN, CURVE = "plain", "curve3"
ARMS = [*((PLAIN, loss) for loss in LOSSES), (CURVE, "cross_entropy")]
EDGES = (1, 4, 16, 64, 256, 1024)  # of a word's count in some tens of thousands of words
COMMON: dict[str, Any] = {
    "block_size": 128, "batch_size": 2, "sample_prompts": 0, "keep_tokens": 0, "eval_documents": 1,
    "validation_documents": 1,
}  # fmt: skip
RESULTS = {"rows": [{
    "start": str, "recipe": str, "loss": str, "seed": int, "perplexity": float, "frequency": dict,
    "calibration_error": float, "train_tokens": int, "seconds": float, "parameters": Maybe(int),
}]}  # fmt: skip


class Job(NamedTuple):
    """One run to be made."""

    start: str
    recipe: str
    loss: str
    seed: int

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


def excerpt(corpus: DatasetDict, folder: Path, characters: int, paragraphs: int, least: int = 200) -> Path:
    """A folder of paragraphs: the first ``characters`` of training text, and ``paragraphs`` of each held-out split.

    Held-out paragraphs come in turn from every document, so that the few that are scored are of many texts.

    Raises:
        CurvekitError: a split without a paragraph of ``least`` characters.
    """
    for split in corpus:
        texts: list[str] = []
        of_each = [_paragraphs(text, least) for text in corpus[split]["text"]]
        if split == "train":
            size = 0
            for text in itertools.chain.from_iterable(of_each):
                if size >= characters:
                    break
                texts.append(text)
                size += len(text)
        else:
            turns = itertools.zip_longest(*of_each)
            texts = list(itertools.islice((text for turn in turns for text in turn if text), paragraphs))
        if not texts:
            raise CurvekitError(f"the {split} split has no paragraph of {least} characters; take another corpus")
        write_text(folder / f"{split}.txt", "".join(f"{text}\n" for text in texts))
    return folder


def _paragraphs(text: str, least: int) -> list[str]:
    return [line.strip() for line in text.split("\n") if len(line.strip()) >= least]


def run_job(job: Job, corpus: Path, folder: Path, settings: Mapping[str, Any], base: str = "mini") -> dict[str, Any]:
    """Train one run and return its row of the results."""
    config = RunConfig(
        **{**COMMON, **STARTS[job.start], **LOSSES[job.loss], **settings},
        recipe=job.recipe,
        base=base,
        corpus=str(corpus),
        seed=job.seed,
    )
    began = time.perf_counter()
    run = train(config, folder / job.name, progress="none")
    loaded = load_corpus(str(corpus))
    texts, counts = loaded["test"]["text"], word_counts(loaded["train"]["text"])
    model, tokenizer = run.model(), run.tokenizer()
    of_token = [
        counts_of_words(text, tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"],
                        counts)
        for text in texts
    ]  # fmt: skip
    frequency, whole = FrequencyScore(len(texts), EDGES), FrequencyScore(len(texts))

    def add(scores: TokenScores) -> None:
        place = slice(scores.begin, scores.begin + len(scores.ids))
        frequency.add(scores, of_token[scores.document][place])
        whole.add(scores, scores.ids)  # every token, punctuation too

    score = score_documents(model, tokenizer, texts, context=config.block_size, on_tokens=add)
    return {
        **job._asdict(),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "nll": np.round(score.nll, 4).tolist(),
        "tokens": score.tokens.tolist(),
        "calibration_error": whole.calibration_error,
        "frequency": frequency.to_dict() | {"nll": np.round(frequency.nll, 4).tolist()},
        "train_tokens": run.metrics["train_tokens"],
        "parameters": run.metrics["trainable_parameters"],
        "seconds": round(time.perf_counter() - began, 1),
    }


def run_all(
    folder: Path,
    corpus: DatasetDict,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[tuple[str, str]] = ARMS,
    starts: Sequence[str] = tuple(STARTS),
    characters: int = 200_000,
    paragraphs: int = 90,
    base: str = "mini",
    **settings: Any,
) -> list[dict[str, Any]]:
    """Make the runs that ``results.json`` in ``folder`` lacks, start by start, seed by seed, and return all rows.

    Raises:
        CurvekitError: the folder holds results on another base, other texts or at other settings.
    """
    path = folder / "results.json"
    told = {"base": by_name(base), "characters": characters, "paragraphs": paragraphs, "settings": settings}
    held = held_results(path, RESULTS, told | {"texts": corpus_revision(corpus)}, rows=[])
    done = {Job(row["start"], row["recipe"], row["loss"], row["seed"]) for row in held["rows"]}
    with tempfile.TemporaryDirectory() as scratch:
        texts = excerpt(corpus, Path(scratch) / "excerpt", characters, paragraphs)
        for job in _jobs(seeds, starts, arms):
            if job not in done:
                held["rows"].append(row := run_job(job, texts, Path(scratch), settings, base))
                write_json(path, held)
                print(f"{job.name}: perplexity {row['perplexity']:.2f}, {row['seconds']:.0f} s", file=sys.stderr)
    rows: list[dict[str, Any]] = held["rows"]
    return rows


def _jobs(seeds: Sequence[int], starts: Sequence[str], arms: Sequence[tuple[str, str]]) -> Iterator[Job]:
    for start, seed, (recipe, loss) in itertools.product(starts, seeds, arms):
        yield Job(start, recipe, loss, seed)


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of ``results.json``."""
    rows: list[dict[str, Any]] = read_json(path, shape=RESULTS)["rows"]
    return rows


def scores_of(rows: Sequence[Mapping[str, Any]], start: str, recipe: str, loss: str) -> list[FrequencyScore]:
    """The scores of one arm, by seed."""
    own = [row for row in rows if (row["start"], row["recipe"], row["loss"]) == (start, recipe, loss)]
    return [FrequencyScore.from_dict(row["frequency"]) for row in sorted(own, key=lambda row: row["seed"])]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.rare_words FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="curvekit.experiments.rare_words", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(arguments)
    run_all(given.folder, load_corpus(given.corpus, given.data_dir), given.seeds)


if __name__ == "__main__":
    as_command(main)
