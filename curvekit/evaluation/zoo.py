"""The zoo: any models on the same texts, beside one another: how well they read and write, and what that costs.

A T5 has no figure for whole texts, for it writes a target for a source. So of every model the rest of each text is
scored too, given its first words: in this the two kinds compare.

Each model is measured in a process of its own, so that its peak memory is its own and what cannot be had ends nothing
but its row. A row is a file in the folder, so a zoo that was stopped goes on with the next one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.evaluation.metrics import SCORE, LanguageModelScore
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.evaluation.zoo_settings import ZooSettings
from curvekit.files import by_name, finite, read_json, write_json
from curvekit.recipes import RECIPES
from curvekit.shapes import Maybe

ROWS = "rows"  # the folder of a zoo's rows
QUALITY = ("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
REST = "rest_bits_per_byte"
NOTHING = "nothing"  # what a model that continues texts is given before them
WRITING = ("bleu", "chrf")
BUSY = 0.1  # of the time went to other work: from here on the processor's time is told instead
COSTS = ("prefill_ms", "decode_ms", "peak_memory_mb")


def texts_of(settings: ZooSettings, announce: Callable[[str], object]) -> tuple[list[str], str]:
    """The texts of a zoo, and the revision of their corpus.

    Raises:
        CurvekitError: as ``load_corpus``; or no document has so many words.
    """
    from curvekit.text.corpora import corpus_revision, load_corpus

    corpus = load_corpus(settings.corpus, settings.data_dir, announce=announce)
    beginning = beginning_of(settings.words)
    texts: list[str] = []
    for text in corpus[settings.split]["text"]:
        if len(texts) < settings.documents and (found := beginning.match(text)):
            texts.append(found[0])
    if not texts:
        raise CurvekitError(f"no {settings.split} document of {settings.corpus} has {settings.words} words; give fewer")
    return texts, corpus_revision(corpus)[settings.split]


def beginning_of(words: int) -> re.Pattern[str]:
    """The first so many words of a text, with what stands between them; each is taken whole, so a search is linear."""
    return re.compile(rf"(?:\s*\S+(?!\S)){{{words}}}")


def open_named(name: str) -> tuple[Any, Any]:
    """A model and its tokeniser: whatever ``open_model`` opens, or ``base:recipe``."""
    from curvekit.bases.opening import open_model

    base, _, recipe = name.rpartition(":")
    found = (base, recipe) if base and recipe in RECIPES else (name, None)
    return open_model(*found, seq2seq=True)


def measure(name: str, texts: Sequence[str], settings: ZooSettings, signature: Mapping[str, Any]) -> dict[str, Any]:
    """One row: a model's figures on the texts, and what it costs. Best in a process that has done nothing before.

    Raises:
        CurvekitError: the model cannot be had, or writes targets and has too few positions for the rest of a text.
    """
    import torch

    from curvekit.evaluation import timing

    if settings.threads:
        torch.set_num_threads(settings.threads)
    clock, seconds = time.perf_counter(), {}

    def lap(what: str) -> None:
        nonlocal clock
        seconds[what], clock = time.perf_counter() - clock, time.perf_counter()

    peak = timing.memory()
    model, tokenizer = open_named(name)
    lap("opening")
    costs = timing.milliseconds(model, settings.prefill, settings.decode, settings.repeats)
    most = peak()
    lap("timing")
    signature = {"model": _short(name), **signature}
    rest = rest_scored(model, tokenizer, texts, settings, signature)
    whole = None if model.config.is_encoder_decoder else _scored(model, tokenizer, texts, settings, signature)
    score = whole or rest
    assert score is not None  # a T5 whose rest cannot be scored has raised
    lap("scoring")
    written = continued(model, tokenizer, texts, settings)
    lap("writing")
    parameters = {id(each): each.numel() for each in model.parameters()}
    kept = [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text for text in texts]
    return {
        "name": _short(name),
        "architecture": type(model).__name__,
        "recipe": str(getattr(model.config, "recipe", "plain")),
        "kind": "seq2seq" if model.config.is_encoder_decoder else "causal",
        "given": NOTHING if whole else f"the first {settings.prompt_words} words",
        "leaks": score.leaks,
        "keeps_text": all(kept),
        "parameters": sum(parameters.values()),
        **{metric: finite(getattr(score, metric)) for metric in QUALITY},
        REST: None if rest is None else finite(rest.bits_per_byte),
        **written,
        **costs,
        "peak_memory_mb": most,
        "dtype": score.signature["dtype"],
        "machine": timing.machine(),
        "seconds": seconds,
        **({"score": whole.to_dict()} if whole else {}),
        **({"rest": rest.to_dict()} if rest else {}),
    }


def _scored(
    model: Any, tokenizer: Any, texts: Sequence[str], settings: ZooSettings, signature: Mapping[str, Any]
) -> LanguageModelScore:
    """Whole texts, with nothing before them."""
    from curvekit.evaluation.metrics import score_documents

    context = _context_of(model, settings)
    stride = min(settings.stride, context)
    return score_documents(model, tokenizer, texts, context=context, stride=stride, signature=signature)


def rest_scored(
    model: Any, tokenizer: Any, texts: Sequence[str], settings: ZooSettings, signature: Mapping[str, Any]
) -> LanguageModelScore | None:
    """What follows the first ``prompt_words`` words of each text, given those; None where it is more than a model that
    continues texts has positions for.

    Raises:
        CurvekitError: it is more than a T5 has positions for.
    """
    from curvekit.evaluation.targets import score_targets

    beginning = beginning_of(settings.prompt_words)
    sources = [found[0] for text in texts if (found := beginning.match(text))]
    rests = [text[len(source) :] for text, source in zip(texts, sources, strict=True)]
    try:
        return score_targets(
            model, tokenizer, sources, rests, context=_context_of(model, settings), separator="", signature=signature
        )
    except CurvekitError:
        if model.config.is_encoder_decoder:
            raise
        return None


def _context_of(model: Any, settings: ZooSettings) -> int:
    """Tokens of a window: the settings', or as many as the model has positions for."""
    from curvekit.generation.streams import positions_of

    return min(settings.context, positions_of(model))


def continued(model: Any, tokenizer: Any, texts: Sequence[str], settings: ZooSettings) -> dict[str, Any]:
    """BLEU and chrF of the likeliest continuations against the documents, both cut at the same number of words.

    ``short`` counts the continuations that have fewer words, because their model ended them or has no more positions.
    """
    from curvekit.evaluation.metrics import text_metrics
    from curvekit.generation.streams import generate, positions_of

    if not settings.prompts:
        return {"bleu": None, "chrf": None, "short": None, "written": None}
    words = [re.findall(r"\s*\S+", text) for text in texts[: settings.prompts]]
    cut, most = settings.prompt_words, settings.continuation_words
    prompts = ["".join(each[:cut]) for each in words]
    references = ["".join(each[cut : cut + most]) for each in words]
    tokens = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in references)
    most_tokens = min(math.ceil(1.5 * tokens), max(1, positions_of(model) // 2))  # the other half is the prompt's
    written = generate(model, tokenizer, prompts, max_new_tokens=most_tokens, temperature=0.0)
    hypotheses = ["".join(re.findall(r"\s*\S+", text)[:most]) for text in written]
    found = text_metrics(hypotheses, references, length=most)
    short = sum(len(text.split()) < most for text in hypotheses)
    told = {"signatures": {each: found["signatures"][each] for each in WRITING}, "prompts": len(prompts)}
    return {"bleu": found["bleu"], "chrf": found["chrf"], "short": short, "written": told}


# -- many models ---------------------------------------------------------------------------------------------------


def zoo(
    names: Sequence[str],
    settings: ZooSettings,
    folder: str | Path,
    announce: Callable[[str], object] = print,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Measure every model, each in a process of its own, and compare them; what was measured before is kept.

    Returns:
        ``settings``, ``texts``, ``rows``, ``differences`` and ``minutes``, as ``results.json`` holds them. A model that
        cannot be had is a row with its ``error``.

    Raises:
        CurvekitError: no name, a name given twice, or as :func:`texts_of`.
    """
    names = list(names)
    if not names or len(set(names)) < len(names):
        raise CurvekitError(f"the models are {', '.join(names) or 'none'}; name at least one, and each once")
    begun, folder = time.perf_counter(), Path(folder)
    texts, revision = texts_of(settings, announce)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    signature = {"corpus": Path(settings.corpus).name, "revision": revision, "split": settings.split}
    told = {
        "documents": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "sha256": digest,
    }
    rows = []
    for number, name in enumerate(names, 1):
        order = {"name": name, "settings": asdict(settings), "signature": signature, "texts": texts}
        order["plugins"] = [str(Path(each).resolve()) for each in plugins]
        key = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()[:12]
        place = folder / ROWS / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', _short(name))}-{key}.json"
        if not place.exists():
            announce(f"[{number}/{len(names)}] {name}")
            row = _apart(order, folder)
            if "error" in row:
                announce(f"[{number}/{len(names)}] {name}: {row['error']}")
                rows.append(row)
                continue
            write_json(place, row)
        else:
            announce(f"[{number}/{len(names)}] {name}: measured before")
        rows.append(read_json(place, shape=ROW))
    own = {key: by_name(value) for key, value in asdict(settings).items() if key != "data_dir"}
    return {
        "settings": own,
        "texts": told,
        "rows": rows,
        "differences": differences(rows),
        "minutes": round((time.perf_counter() - begun) / 60, 2),
    }


def _apart(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The row of one model, measured in a process of its own; what it ends with where it is none."""
    (folder / ROWS).mkdir(parents=True, exist_ok=True)
    asked, answer = folder / ROWS / ".order.json", folder / ROWS / ".row.json"
    begun = time.perf_counter()
    write_json(asked, order)
    process = _context().Process(target=main, args=(str(asked), str(answer)), daemon=True)
    try:
        process.start()
        process.join()
        if process.exitcode or not answer.exists():
            why = f"its process ended with {process.exitcode}"
            why += " (was there too little memory?)" if (process.exitcode or 0) < 0 else ""
            return {"name": _short(order["name"]), "error": why}
        row: dict[str, Any] = read_json(answer)
        if "error" not in row:
            row["seconds"]["starting"] = time.perf_counter() - begun - sum(row["seconds"].values())
        return row
    finally:
        if process.is_alive():
            process.terminate()
        for path in (asked, answer):
            path.unlink(missing_ok=True)


@functools.cache
def _context() -> Any:
    """Where processes come from: where the system can, copies of one that has loaded the libraries and done no more."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("curvekit.bases.opening", "curvekit.modeling", "curvekit.evaluation.metrics"),
            *("curvekit.evaluation.targets", "curvekit.generation.streams"),
        ]
    )
    return context


def differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every pair of rows, the difference in bits a byte with its paired interval, or why there is none.

    Two models that continue texts are compared on whole texts, any other two on the ``rest`` of them.
    """
    measured = [row for row in rows if "score" in row or "rest" in row]
    found = []
    for number, b in enumerate(measured):
        for a in measured[number + 1 :]:
            of = "score" if a["given"] == b["given"] == NOTHING else "rest"
            row: dict[str, Any] = {"a": a["name"], "b": b["name"], "of": "the rest" if of == "rest" else "whole texts"}
            why = refusals(a, b).get("bits_per_byte" if of == "score" else REST)
            if why is None:
                try:
                    first, second = (LanguageModelScore.from_dict(each[of], each["name"]) for each in (a, b))
                    paired = paired_bootstrap(first, second, unit="byte")
                except CurvekitError as error:
                    why = first_line(error)
                else:
                    bits = {key: finite(getattr(paired, key) / math.log(2)) for key in ("difference", "low", "high")}
                    row |= bits | {"p": finite(paired.p), "verdict": paired.verdict}
            found.append(row | ({"why_not": why} if why else {}))
    return found


def refusals(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """Of two rows the metrics that may not be compared, each with the reason in a few words."""
    scores = [each.get("score") or each.get("rest") for each in (row, other)]
    if None in scores:
        return {}
    found: dict[str, str] = {}
    mine, theirs = (score["signature"] for score in scores)  # type: ignore[index]

    def refuse(metrics: Sequence[str], why: str) -> None:
        for metric in metrics:
            found.setdefault(metric, why)

    for each in (row, other):
        if each["leaks"]:
            refuse((*QUALITY, REST, *WRITING), "sees the words it predicts")
    if row["given"] != other["given"]:
        refuse(QUALITY, f"given {other['given'] if row['given'] == NOTHING else row['given']}")
    if mine.get("tokenizer_hash") != theirs.get("tokenizer_hash"):
        refuse(("perplexity", "token_accuracy"), "other tokens")
    for each in (row, other):
        if not each["keeps_text"]:
            refuse((*QUALITY, REST), f"the tokens of {each['name']} do not keep the text")
    if mine.get("context") != theirs.get("context"):
        refuse((*QUALITY, REST), f"reads {mine.get('context')} tokens, not {theirs.get('context')}")
    for each in (row, other):
        if each[REST] is None:
            refuse((REST,), f"the rest of a text is more than {each['name']} reads")
    if (row["machine"], row["threads"], row["dtype"]) != (other["machine"], other["threads"], other["dtype"]):
        refuse(COSTS, "another machine, threads or type")
    if row["prefill_tokens"] != other["prefill_tokens"]:
        refuse(("prefill_ms",), f"reads {row['prefill_tokens']} tokens, not {other['prefill_tokens']}")
    return found


def taken(row: Mapping[str, Any], cost: str) -> tuple[float, bool]:
    """Milliseconds of a row; where its machine was busy, of the processor's time, and True."""
    busy = row["busy"] > BUSY
    return row[cost.replace("_ms", "_cpu_ms") if busy else cost], busy


def overhead(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the time that went into starting processes, opening models and taking times."""
    spent = [row["seconds"] for row in rows if "seconds" in row]
    whole = sum(sum(each.values()) for each in spent)
    own = sum(each.get(part, 0.0) for each in spent for part in ("starting", "opening", "timing"))
    return own / whole if whole else None


def _short(name: str) -> str:
    """A name without the folders of a machine; a hub's name keeps its owner's."""
    path = Path(name)
    if not path.exists():
        return name
    return path.parent.name if path.name == "model" and path.parent.name else path.resolve().name


_NUMBERS = ("prefill_ms", "decode_ms", "prefill_cpu_ms", "decode_cpu_ms", "busy")
_MAYBE = (*QUALITY, REST, *WRITING, "peak_memory_mb")
ROW = {
    **dict.fromkeys(("name", "architecture", "recipe", "kind", "given", "dtype", "machine"), str),
    **dict.fromkeys(("leaks", "keeps_text"), bool),
    **dict.fromkeys(("parameters", "threads", "prefill_tokens", "decode_tokens"), int),
    **dict.fromkeys(_NUMBERS, float),
    **dict.fromkeys(_MAYBE, (float, None)),
    "short": (int, None),
    "written": (dict, None),
    "seconds": {str: float},
    **dict.fromkeys(("score", "rest"), Maybe(SCORE)),
}


def main(asked: str, answer: str) -> None:
    """Measure what an order says, and write the row, or the sentence that says why there is none."""
    order = read_json(asked)
    try:
        for file in order["plugins"]:
            from curvekit.variants.plugins import load_plugin

            load_plugin(file)
        row = measure(order["name"], order["texts"], ZooSettings(**order["settings"]), order["signature"])
    except CurvekitError as error:
        row = {"name": _short(order["name"]), "error": str(error)}
    except (MemoryError, RuntimeError) as error:
        row = {"name": _short(order["name"]), "error": f"{type(error).__name__}: {first_line(error)}"}
    write_json(answer, row)
