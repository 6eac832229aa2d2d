"""What steering brings and costs: each way at several strengths, under a judge and a model that did not take part.

For each way and strength the same prompts are continued with the same dice, and of the continuations are measured

- success: the share that the judge, a classifier of words trained on other rows than what steers, finds to have it;
- perplexity under another model than the one that is steered, of prompt and continuation;
- distinct pairs of words, at one length; milliseconds a token of all texts together, on a CPU those of its threads.

Intervals are over prompts. A condition is written when it is done, so that a study that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError, pick
from curvekit.evaluation.intervals import cluster_interval, ratio
from curvekit.evaluation.metrics import score_documents, text_metrics
from curvekit.files import append_jsonl, read_json, read_jsonl, write_json
from curvekit.generation.streams import complete
from curvekit.ownership import Kind, created, json_with, mark, require, rows_with, text_with
from curvekit.steering.attributes import fit_attribute
from curvekit.steering.control import Control
from curvekit.steering.judge import Judge, ngrams
from curvekit.steering.parts import trait
from curvekit.steering.states import blocks_of
from curvekit.steering.vectors import difference_of_means
from curvekit.text.labelled import Labelled, first_of_each, halves

PROMPTS = ("The film", "This movie", "The story", "The acting", "The director", "In the end", "The plot", "The cast")
STRENGTHS: dict[str, tuple[float, ...]] = {
    "preface": (1.0, 1.5, 2.0),
    "bag": (0.1, 0.3, 1.0),
    "attribute": (0.1, 0.3, 1.0),
    "vector": (1.0, 2.0, 4.0),
    "experts": (0.5, 1.0, 2.0),
    "codes": (1.0, 1.5, 2.0),
}
WAYS = ("none", *STRENGTHS)
BAG = 40  # words
STUDY = Kind(
    "steering study",
    "a study of steering",
    {
        "study.json": json_with("model", "label"),
        "rows.jsonl": rows_with("way", "strength"),
        "samples.jsonl": rows_with("way", "text"),
        "*.safetensors": lambda path: path.is_file(),
        "README.md": text_with("# Steering"),
    },
    proofs=("study.json",),
)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        label: of the rows, and what is sought.
        ways: names of :data:`WAYS`; ``none`` is the model as it is and always takes part.
        strengths: of each way; default :data:`STRENGTHS`. They are the guidance scale (preface, codes), the step size
            (bag, attribute), the vector's scale, the experts' weight.
        prompts: each is continued ``count`` times, ``tokens`` long.
        rows_used: labelled rows of each label that an attribute model and a vector are made of, at most.
        preface: what stands before the prompts in the way of that name.
        layer: after which the vector is added; default the one in the middle.
        iterations: of PPLM.
    """

    label: str
    ways: tuple[str, ...] = ("none", "preface", "bag", "attribute", "vector")
    strengths: Mapping[str, Sequence[float]] = field(default_factory=dict)
    prompts: tuple[str, ...] = PROMPTS
    count: int = 4
    tokens: int = 24
    rows_used: int = 300
    preface: str = ""
    layer: int | None = None
    iterations: int = 3
    temperature: float = 0.9
    top_p: float = 0.95
    seed: int = 0
    expert: str | None = None
    antiexpert: str | None = None

    def settings(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.loads(json.dumps(found))


def run_study(
    study: Study,
    voice: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    scorer: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    folder: str | Path,
    announce: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure every condition, or go on with a study that was begun; return what ``study.json`` holds.

    Half of the training rows steer, the other half trains the judge, whose accuracy is that on the test rows.

    Raises:
        CurvekitError: the scorer is the steered model; an unknown way or label; test rows that are training rows;
            a folder that holds something else, or another study.
    """
    model, tokenizer = voice
    require_another(model, scorer[0])
    ways = ["none", *(pick(way, WAYS, "way") for way in study.ways if way != "none")]
    labels = sorted({row.label for row in train})
    pick(study.label, labels, "label")
    texts = {row.text for row in train}
    kept = [row for row in test if row.text not in texts]
    if not kept:
        raise CurvekitError("every test row is a training row, and would tell nothing of the judge; give others")
    folder = Path(folder)
    require(folder, STUDY)
    steering, judging = halves(train)
    steering = first_of_each(steering, study.rows_used)
    told = study.settings() | {"model": trait(model), "scorer": trait(scorer[0]), "rows_digest": _digest(train)}
    told |= {"labels": len(labels)}
    with created(folder):
        mark(folder, STUDY.name)
        _same(folder, told)
        judge = Judge.fit([row.text for row in judging], [row.label for row in judging])
        accuracy = judge.accuracy([row.text for row in kept], [row.label for row in kept])
        announce(f"the judge finds {accuracy:.1%} of {len(kept):,} held-out labels ({len(judging):,} training rows)")
        done = {(row["way"], row["strength"]): row for row in read_jsonl(folder / "rows.jsonl")}
        controls = _Controls(study, model, tokenizer, steering, folder)
        for way in ways:
            for strength in (0.0,) if way == "none" else study.strengths.get(way, STRENGTHS[way]):
                if (way, float(strength)) in done:
                    continue
                row, samples = _measured(study, voice, scorer, judge, controls.of(way, strength))
                row = {"way": way, "strength": float(strength)} | row
                for sample in samples:
                    append_jsonl(folder / "samples.jsonl", {"way": way, "strength": float(strength)} | sample)
                append_jsonl(folder / "rows.jsonl", row)
                announce(
                    f"{way} {strength:g}: success {row['success']:.0%} [{row['success_low']:.0%}, "
                    f"{row['success_high']:.0%}], perplexity {row['perplexity']:.1f}, "
                    f"{row['ms_per_token']:.0f} ms a token"
                )
        found = read_jsonl(folder / "rows.jsonl")
        result = told | {"judge_accuracy": accuracy, "judge_rows": len(judging), "test_rows": len(kept), "rows": found}
        write_json(folder / "study.json", result)
    return result


def require_another(steered: PreTrainedModel, other: PreTrainedModel) -> None:
    """Return where what judges is not what is steered.

    Raises:
        CurvekitError: it is, by its shape and embeddings.
    """
    if trait(steered) == trait(other):
        raise CurvekitError("the model that judges is the one that is steered, and would praise itself; name another")


def bag_of(rows: Sequence[Labelled], label: str, tokenizer: Any, most: int = BAG) -> list[str]:
    """The words that tell a label best: the largest ratios of how many rows of each kind hold them, smoothed by one.

    Only words that are one token and stand in five rows of the label or more are taken.
    """
    ahead: dict[str, int] = {}
    behind: dict[str, int] = {}
    for row in rows:
        counts = ahead if row.label == label else behind
        for word in {gram for gram in ngrams(row.text) if gram.isalpha()}:
            counts[word] = counts.get(word, 0) + 1
    one = lambda word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1  # noqa: E731
    words = [word for word, count in ahead.items() if count >= 5 and one(word)]
    if not words:
        raise CurvekitError(f"no word of the rows with the label {label!r} can be a bag; give more rows")
    return sorted(words, key=lambda word: (-(ahead[word] + 1) / (behind.get(word, 0) + 1), word))[:most]


class _Controls:
    """The control of each way, whose parts are made when they are first asked for."""

    def __init__(self, study: Study, model: Any, tokenizer: Any, rows: Sequence[Labelled], folder: Path) -> None:
        self.study, self.model, self.tokenizer, self.rows, self.folder = study, model, tokenizer, rows, folder

    def of(self, way: str, strength: float) -> Control | None:
        study = self.study
        pplm: dict[str, Any] = {"step_size": strength, "iterations": study.iterations}
        if way == "none":
            return None
        if way == "preface":
            before = study.preface or f"Here is a very {study.label} text."
            return Control(preface=before, guidance_scale=strength)
        if way == "codes":
            return Control(codes=(study.label,), guidance_scale=strength)
        if way == "bag":
            return Control(bag=tuple(bag_of(self.rows, study.label, self.tokenizer)), **pplm)
        if way == "attribute":
            return Control(attribute=str(self._attribute()), label=study.label, **pplm)
        if way == "vector":
            return Control(vector=str(self._vector()), vector_scale=strength)
        if study.expert is None:
            raise CurvekitError("the way 'experts' needs an expert; give --expert")
        return Control(expert=study.expert, antiexpert=study.antiexpert, expert_weight=strength)

    def _attribute(self) -> Path:
        path = self.folder / "attribute.safetensors"
        if not path.exists():
            texts, labels = zip(*self.rows, strict=True)
            fit_attribute(self.model, self.tokenizer, texts, labels).save(path)
        return path

    def _vector(self) -> Path:
        path = self.folder / "vector.safetensors"
        if not path.exists():
            layer = self.study.layer if self.study.layer is not None else len(blocks_of(self.model)) // 2
            ahead, behind = (
                [row.text for row in self.rows if (row.label == self.study.label) == wanted] for wanted in (True, False)
            )
            difference_of_means(self.model, self.tokenizer, ahead, behind, layer).save(path)
        return path


def _measured(
    study: Study, voice: Any, scorer: Any, judge: Judge, control: Control | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    model, tokenizer = voice
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time  # other work takes no part
    begun = clock()
    done = list(
        complete(
            model,
            tokenizer,
            list(study.prompts),
            max_new_tokens=study.tokens,
            num_return_sequences=study.count,
            temperature=study.temperature,
            top_p=study.top_p,
            seed=study.seed,
            control=control,
        )
    )
    seconds = clock() - begun
    texts = [each.text for each in done]
    right = judge.verdicts(texts, study.label)
    with torch.no_grad():
        score = score_documents(scorer[0], scorer[1], [each.prompt + each.text for each in done], progress=False)
    groups = np.stack([right, np.ones(len(done)), score.nll, score.tokens], axis=1)
    groups = groups.reshape(len(study.prompts), study.count, 4).sum(1)
    success = cluster_interval(groups[:, :2], ratio)
    perplexity = cluster_interval(groups[:, 2:], lambda sums: np.exp(ratio(sums)))
    diversity = text_metrics(texts, texts, length=max(1, study.tokens // 2))
    row = {
        "success": float(right.mean()),
        "success_low": success[0],
        "success_high": success[1],
        "perplexity": score.perplexity,
        "perplexity_low": perplexity[0],
        "perplexity_high": perplexity[1],
        "distinct_2": diversity["distinct_2"],
        "ms_per_token": 1000 * seconds / max(1, max(each.tokens for each in done)),
        "texts": len(done),
    }
    samples = [
        {"prompt": each.prompt, "text": each.text, "seed": each.seed, "success": bool(found)}
        for each, found in zip(done, right, strict=True)
    ]
    return row, samples


def _digest(rows: Sequence[Labelled]) -> str:
    return hashlib.sha256("\n".join(f"{row.label}\t{row.text}" for row in rows).encode()).hexdigest()[:12]


def _same(folder: Path, told: Mapping[str, Any]) -> None:
    path = folder / "study.json"
    if path.exists():
        before = read_json(path)
        if other := next((name for name, value in told.items() if name != "ways" and before.get(name) != value), None):
            raise CurvekitError(
                f"{folder} holds another study: its {other} is {before.get(other)!r}, not {told[other]!r}; "
                "choose another folder"
            )
    write_json(path, (read_json(path) if path.exists() else {}) | dict(told))
