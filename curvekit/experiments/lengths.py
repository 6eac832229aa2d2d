"""Texts longer than those trained on: what models of one kind lose when a window holds more than they ever saw.

    python -m curvekit.experiments.lengths FOLDER softmax=runs/softmax softemax=runs/softemax --data-dir path/to/texts

scores the same tokens of the same test documents in windows of every length, each of which moves by half of itself, and
leaves ``results.json``. A model is a run or a saved model; a name that is given several times is several seeds, and
what was measured is not measured again. ``python -m curvekit.reports.lengths FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.metrics import SCORE, LanguageModelScore, score_documents
from curvekit.experiments.sinks import named_model
from curvekit.files import by_name, held_results, read_json, write_json
from curvekit.shapes import Maybe
from curvekit.text.corpora import load_corpus

CONTEXTS = (128, 256, 512, 1_024, 2_048)
RESULTS = {
    "corpus": str, "documents": int, "characters": int, "trained": (int, None), "longest": Maybe(int), "rows": [{
        "name": str, "model": str, "attention": str, "context": int, "score": SCORE,
    }],
}  # fmt: skip


def run_all(
    folder: Path,
    models: Sequence[tuple[str, str]],
    corpus: str,
    data_dir: str | None = None,
    contexts: Sequence[int] = CONTEXTS,
    documents: int = 20,
    characters: int = 20_000,
    trained: int | None = None,
) -> dict[str, Any]:
    """Score what ``results.json`` in ``folder`` lacks, and return all results.

    Args:
        contexts: tokens in a window.
        documents, characters: the first test documents that are longer than the longest window, and of each its
            first characters.
        trained: tokens in a training block of all models, which the page marks.

    Raises:
        CurvekitError: the folder holds results on other texts; no document is as long as the longest window; or a
            model has fewer positions than that.
    """
    path = folder / "results.json"
    every = load_corpus(corpus, data_dir)["test"]["text"]
    settings = {"corpus": by_name(corpus), "characters": characters, "documents": documents, "trained": trained}
    settings |= {"longest": max(contexts)}  # what a document must be longer than
    held = held_results(path, RESULTS, settings, rows=[])
    done = Counter((row["name"], row["model"], row["context"]) for row in held["rows"])  # seeds may have one name
    signature = {"corpus": by_name(corpus), "split": "test"}
    for name, model in models:
        left = [each for each in contexts if not done[name, by_name(model), each]]
        done.subtract((name, by_name(model), each) for each in contexts if each not in left)
        if not left:
            print(f"{name}={model} was scored before", file=sys.stderr)
            continue
        opened, tokenizer = open_model(model)
        texts = _long(every, tokenizer, max(contexts), documents, characters)
        for context in left:
            score = score_documents(opened, tokenizer, texts, context=context, signature=signature)
            row = {"name": name, "model": by_name(model), "context": context, "score": score.published()}
            held["rows"].append(row | {"attention": str(getattr(opened.config, "attention", "softmax"))})
            write_json(path, held)
            print(f"{name} in windows of {context:,}: perplexity {score.perplexity:.2f}", file=sys.stderr)
    return held


def _long(every: Sequence[str], tokenizer: Any, tokens: int, documents: int, characters: int) -> list[str]:
    """The beginnings of the first documents whose beginning has more than so many tokens."""
    found: list[str] = []
    for text in every:
        cut = text[:characters]
        if len(tokenizer(cut, add_special_tokens=False, verbose=False)["input_ids"]) > tokens:
            found.append(cut)
        if len(found) == documents:
            return found
    raise CurvekitError(
        f"{len(found)} of {len(every)} test documents have more than {tokens:,} tokens in their first {characters:,} "
        f"characters, not {documents}; give fewer --documents or shorter --contexts"
    )


def load(path: Path) -> dict[str, Any]:
    """What ``results.json`` holds."""
    found: dict[str, Any] = read_json(path, shape=RESULTS)
    return found


def scores_of(results: Mapping[str, Any]) -> dict[str, dict[int, list[LanguageModelScore]]]:
    """Of each name, in windows of each length, the scores, one a seed."""
    found: dict[str, dict[int, list[LanguageModelScore]]] = {}
    for row in results["rows"]:
        of_name = found.setdefault(row["name"], {})
        of_name.setdefault(row["context"], []).append(LanguageModelScore.from_dict(row["score"]))
    return {name: dict(sorted(each.items())) for name, each in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.lengths FOLDER NAME=MODEL ...``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.lengths", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", type=named_model, metavar="NAME=MODEL", help="the first: against whom")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--data-dir")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="tokens in a window")
    parser.add_argument("--trained", type=int, help="tokens in the blocks that all were trained on")
    parser.add_argument("--documents", type=int, default=20, help="long test documents (default: 20)")
    parser.add_argument("--characters", type=int, default=20_000, help="of each, its first (default: 20000)")
    given = parser.parse_args(arguments)
    run_all(
        given.folder, given.models, given.corpus, given.data_dir, given.contexts, given.documents, given.characters,
        given.trained,
    )  # fmt: skip


if __name__ == "__main__":
    as_command(main)
