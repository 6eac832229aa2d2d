"""SoftEMax on its own ground: attention sinks, outliers, and what fewer bits cost models that were trained already.

    python -m curvekit.experiments.sinks FOLDER plain=runs/plain softemax=runs/softemax --data-dir path/to/texts

measures every NAME=MODEL on the same beginnings of test documents and leaves ``results.json``. A model is a run, a
base, ``base:recipe``, or ``base:sink@0.05``: a conversion, whose sinks begin where they take at most that share of any
query's attention (:mod:`curvekit.conversion`). A name that is given several times is several seeds, and what was
measured is not measured again. ``python -m curvekit.reports.sinks FOLDER`` makes the page of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from curvekit.conversion import calibrate
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.metrics import SCORE, LanguageModelScore, score_documents
from curvekit.evaluation.outliers import traces
from curvekit.evaluation.quantisation import rounded
from curvekit.evaluation.zoo import open_named
from curvekit.files import by_name, held_results, read_json, write_json
from curvekit.text.corpora import load_corpus
from curvekit.text.packing import pack

BITS = (8, 6)
CALIBRATED_ON = (8, 256)  # blocks, and tokens of each, of the first training documents
RESULTS = {
    "corpus": str, "characters": int, "documents": int, "rows": [{
        "name": str, "model": str, "attention": str, "score": SCORE, "rounded": dict, "first_token": [float],
        "nobody": [float], "kurtosis": [float], "largest": [float], "seconds": float,
    }],
}  # fmt: skip


def measure(model: Any, tokenizer: Any, texts: Sequence[str], corpus: str) -> dict[str, Any]:
    """What a row of the results holds of one model, but for its name.

    Texts are scored one at a time, whole: the scale of rounded activations is that of what is read at once.
    """
    began, signature = time.perf_counter(), {"corpus": by_name(corpus), "split": "test"}

    def scored() -> dict[str, Any]:
        return score_documents(model, tokenizer, texts, batch_size=1, signature=signature).published()

    row: dict[str, Any] = {"attention": str(getattr(model.config, "attention", "softmax")), "score": scored()}
    row["rounded"] = {}
    for bits in BITS:
        with rounded(model, bits):
            row["rounded"][str(bits)] = scored()
    return row | asdict(traces(model, tokenizer, texts)) | {"seconds": round(time.perf_counter() - began, 1)}


def opened(model: str, train: Sequence[str]) -> tuple[Any, Any]:
    """A model as the module's docstring names it, and its tokeniser; ``train`` are texts to calibrate sinks on.

    Raises:
        CurvekitError: there is no such model, it has no sinks, or a share that is none.
    """
    name, at, share = model.rpartition("@")
    if not at or Path(model).exists():
        return open_named(model)
    found, tokenizer = open_named(name)
    blocks, tokens = CALIBRATED_ON
    text = pack(train[:100], tokenizer, min(tokens, found.config.max_position_embeddings), progress=False)
    rows = [text[i]["input_ids"] for i in range(min(blocks, len(text)))]
    calibrate(found, torch.stack(rows).to(found.device), _share(share))
    return found, tokenizer


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CurvekitError(f"{text!r} after the @ is no share; give a number between 0 and 1, such as 0.05") from None


def run_all(
    folder: Path,
    models: Sequence[tuple[str, str]],
    corpus: str,
    data_dir: str | None = None,
    documents: int = 60,
    characters: int = 1000,
) -> dict[str, Any]:
    """Measure the models that ``results.json`` in ``folder`` lacks, and return all results.

    Raises:
        CurvekitError: the folder holds results on other texts.
    """
    path, settings = folder / "results.json", {"corpus": by_name(corpus), "characters": characters}
    read = load_corpus(corpus, data_dir)
    texts = [text[:characters] for text in read["test"]["text"][:documents] if text.strip()]
    settings |= {"documents": len(texts)}
    held = held_results(path, RESULTS, settings, rows=[])
    done = Counter((row["name"], row["model"]) for row in held["rows"])  # several seeds may have one name
    for name, model in models:
        if done[name, by_name(model)]:
            done[name, by_name(model)] -= 1
            print(f"{name}={model} was measured before", file=sys.stderr)
            continue
        row = {"name": name, "model": by_name(model), **measure(*opened(model, read["train"]["text"]), texts, corpus)}
        held["rows"].append(row)
        write_json(path, held)
        ways = (row["score"], *row["rounded"].values())
        shown = ", ".join(f"{LanguageModelScore.from_dict(each).perplexity:.2f}" for each in ways)
        print(f"{name}: perplexity {shown} in 32, {', '.join(map(str, BITS))} bits", file=sys.stderr)
    return held


def load(path: Path) -> dict[str, Any]:
    """What ``results.json`` holds."""
    found: dict[str, Any] = read_json(path, shape=RESULTS)
    return found


def scores_of(results: Mapping[str, Any], name: str, bits: int | None = None) -> list[LanguageModelScore]:
    """The scores under a name, one a seed; with ``bits`` those in so many."""
    rows = [row for row in results["rows"] if row["name"] == name]
    return [LanguageModelScore.from_dict(row["score"] if bits is None else row["rounded"][str(bits)]) for row in rows]


def costs_of(results: Mapping[str, Any], name: str, bits: int) -> list[LanguageModelScore]:
    """What so many bits cost: scores whose nats are those that rounding adds."""
    pairs = zip(scores_of(results, name, bits), scores_of(results, name), strict=True)
    return [replace(fewer, nll=fewer.nll - whole.nll) for fewer, whole in pairs]


def named_model(text: str) -> tuple[str, str]:
    """Read ``NAME=MODEL`` of a command line."""
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODEL")
    return name, model


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.sinks FOLDER NAME=MODEL ...``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.sinks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", type=named_model, metavar="NAME=MODEL", help="the first: against whom")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--data-dir")
    parser.add_argument("--documents", type=int, default=60, help="test documents (default: 60)")
    parser.add_argument("--characters", type=int, default=1000, help="of each, its first (default: 1000)")
    given = parser.parse_args(arguments)
    run_all(given.folder, given.models, given.corpus, given.data_dir, given.documents, given.characters)


if __name__ == "__main__":
    as_command(main)
