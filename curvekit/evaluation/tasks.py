"""A model on a task: its answers, how right they are, how likely the right ones were to it, and against whom it wins.

Answers are written greedily, beside others to prompts of about one length; a choice is not written but the likeliest
of the answers that there are. Perplexity is of the right answers alone. What is measured stands beside every figure:
how many answers are empty, were cut off by the limit or ended at a stop, how many prompts did not fit.
"""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from curvekit.causality import warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.evaluation.answers import baselines, judge
from curvekit.evaluation.metrics import DENOMINATORS, LanguageModelScore, signed
from curvekit.evaluation.significance import paired_bootstrap, paired_items
from curvekit.files import finite
from curvekit.generation.batching import write_all
from curvekit.generation.streams import positions_of
from curvekit.modes import evaluating
from curvekit.text.prompts import Encoded, Prompter
from curvekit.text.rows import TaskRows
from curvekit.text.tasks import Example, Task, Turn

ROOM = 1024  # tokens that an example may have, unless the model has fewer positions
_READ_AT_ONCE = 2048  # tokens of a scored batch on a CPU
MEASURED = ("nll", "tokens", "correct", "words", "bytes")  # of each item's right answers
_BINS = 10  # of the calibration


@dataclass(eq=False)
class TaskResult:
    """One model on one task.

    Attributes:
        figures: of all items, see :func:`curvekit.evaluation.answers.judge`, and ``perplexity`` of the right answers.
        items: the figures of each item, 0 to 1.
        answers: of each item ``source``, ``answer``, ``references``, ``reason`` it ended for.
        score: negative log-likelihood of the right answers, an item a document.
        counts: ``items``, ``empty``, ``truncated`` (by the limit), ``stopped`` (at a stop string), ``cut`` prompts,
            ``windowed`` ones, ``left_out`` test rows.
        baselines: figures of what answers without a model.
        signature: what the figures depend on.
        seconds: that it took.
    """

    task: Task
    figures: dict[str, Any]
    items: list[dict[str, float]]
    answers: list[dict[str, Any]]
    score: LanguageModelScore
    counts: dict[str, int]
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    signature: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As ``metrics.json`` holds it, without the items."""
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "figure": self.task.figure,
            **{name: finite(value) if isinstance(value, float) else value for name, value in self.figures.items()},
            "counts": self.counts,
            "baselines": self.baselines,
            "signature": self.signature,
            "seconds": round(self.seconds, 1),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Answers and figures item by item, as ``answers.jsonl`` holds them."""
        measured = zip(*(getattr(self.score, name).tolist() for name in MEASURED), strict=True)
        return [
            {**answer, "figures": item, **dict(zip(MEASURED, values, strict=True))}
            for answer, item, values in zip(self.answers, self.items, measured, strict=True)
        ]


class Asked(NamedTuple):
    """Items as a model is asked them: the examples of a split, how they become tokens, and what figures depend on."""

    rows: TaskRows
    examples: list[Example]
    prompter: Prompter
    signature: dict[str, Any]

    @property
    def scored_signature(self) -> dict[str, Any]:
        """What the likelihoods depend on."""
        return {**self.signature, "denominators": DENOMINATORS, "scored": "answers only"}


def ask(
    model: Any,
    tokenizer: Any,
    rows: TaskRows,
    split: str = "test",
    items: int | None = None,
    room: int | None = None,
    form: str = "auto",
    signature: Mapping[str, Any] | None = None,
) -> Asked:
    """The items of a split for a model.

    Args:
        items: only so many, spread evenly over the split; default: all.
        room: tokens that an example may have, answer included; default: the model's positions, at most :data:`ROOM`.
        form: ``auto``, ``plain`` or ``chat``, see :class:`curvekit.text.prompts.Prompter`.
        signature: what only the caller knows, such as ``model``.

    Raises:
        CurvekitError: more room than the model has; no chat template.
    """
    room = _room(model, room)
    prompter, task = Prompter(rows.task, tokenizer, room, form), rows.task
    examples = spread(rows.split(split), items)
    told = signed(
        model, tokenizer, warn_if_leaking(model), signature, task=task.name, split=split,
        revision=rows.revision.get(split, ""), items=len(examples), prompt=prompter.fingerprint,
        form="chat" if prompter.chat else "plain", stop=["end of text", *prompter.stop],
        decoding="likeliest answer" if task.kind == "choice" else f"greedy|tokens:{task.new_tokens}", room=room,
    )  # fmt: skip
    return Asked(rows, examples, prompter, told)


def score_task(model: Any, asked: Asked, progress: bool = False) -> tuple[LanguageModelScore, int]:
    """The score of the right answers, an item a document, and how many examples did not fit as a whole."""
    score, cut = score_answers(model, asked.prompter, asked.examples, progress)
    score.leaks = asked.signature["leaks"]
    score.signature = asked.scored_signature
    return score, cut


def evaluate_task(model: Any, asked: Asked, *, batch_size: int = 16, progress: bool = False) -> TaskResult:
    """Measure a model on the items it is asked.

    Args:
        batch_size: prompts answered at once; changes no answer but by rounding.

    Raises:
        CurvekitError: a template that leaves no room for the answer.
    """
    start = time.perf_counter()
    rows, examples, prompter, signature = asked
    task = rows.task
    score, cut = score_task(model, asked, progress)
    windowed, choice = 0, dict[str, Any]()
    if task.kind == "choice":
        answers, choice = choose(model, prompter, examples, progress)
    else:
        answers, windowed = write_answers(model, prompter, examples, batch_size, progress)
    texts = [row["answer"] for row in answers]
    judged, per_item = judge(task, texts, examples)
    reasons = Counter(row["reason"] for row in answers)
    counts = {
        "items": len(examples),
        "empty": sum(not text.strip() for text in texts),
        "truncated": reasons["length"],
        "stopped": reasons["stop string"],
        "cut": cut,
        "windowed": windowed,
        "left_out": rows.left_out if signature["split"] == "test" else 0,
    }
    without = {
        name: _flat(judge(task, [answer(each) for each in examples], examples)[0])
        for name, answer in baselines(task, rows.train).items()
    }
    figures = {"perplexity": score.perplexity, "nats": score.loss, **judged, **choice}
    seconds = time.perf_counter() - start
    return TaskResult(task, figures, per_item, answers, score, counts, without, signature, seconds)


def spread(examples: Sequence[Example], items: int | None) -> list[Example]:
    """So many examples, evenly over all: neighbours often share a paragraph."""
    if items is None or items >= len(examples):
        return list(examples)
    return [examples[number * len(examples) // items] for number in range(items)]


def _room(model: Any, room: int | None) -> int:
    most = positions_of(model)
    if room is not None and not 2 <= room <= most:
        raise CurvekitError(f"context is {room}; the model has {most} positions: give 2 to {most}")
    return min(most, ROOM) if room is None else room


# Likelihood


def score_answers(
    model: Any, prompter: Prompter, examples: Sequence[Example], progress: bool = False
) -> tuple[LanguageModelScore, int]:
    """The negative log-likelihood of each example's right answers, and how many examples did not fit as a whole."""
    pieces = [(number, piece) for number, each in enumerate(examples) for piece in prompter.encode(each, train=False)]
    found = log_likelihoods(model, [piece for _, piece in pieces], progress)
    nll, tokens, correct = np.zeros(len(examples)), np.zeros(len(examples), int), np.zeros(len(examples), int)
    for (number, piece), (value, hits) in zip(pieces, found, strict=True):
        nll[number] += value
        tokens[number] += piece.scored
        correct[number] += hits
    answers = [_answered(each) for each in examples]
    cut = len({number for number, piece in pieces if piece.cut})
    score = LanguageModelScore(
        nll,
        tokens,
        correct,
        np.array([len(text.split()) for text in answers]),
        np.array([len(text.encode("utf-8")) for text in answers]),
    )
    return score, cut


def _answered(example: Example) -> str:
    return "\n".join(turn.text for turn in example.turns if turn.role == "assistant")


def log_likelihoods(model: Any, encoded: Sequence[Encoded], progress: bool = False) -> list[tuple[float, int]]:
    """Of each row the nats of its labels, and how many of them were ranked first; the same for every batch."""
    found: list[tuple[float, int]] = [(0.0, 0)] * len(encoded)
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    with evaluating(model), torch.inference_mode():
        for batch in _batches([len(each.ids) for each in encoded], progress, "scoring answers"):
            rows = [encoded[number] for number in batch]
            first = [next((i for i, label in enumerate(row.labels) if label != -100), len(row.ids)) for row in rows]
            ids, mask = _right_padded([row.ids for row in rows], model.device)
            options = {"logits_to_keep": ids.shape[1] - min(first) + 1} if keeps and min(first) > 0 else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
            dropped = ids.shape[1] - logits.shape[1]
            for number, row, begin, scores in zip(batch, rows, first, logits, strict=True):
                targets = torch.tensor(row.labels[begin:], device=scores.device)
                own = scores[begin - 1 - dropped : len(row.ids) - 1 - dropped].float()
                kept = targets != -100
                losses = F.cross_entropy(own[kept], targets[kept], reduction="none").double()
                found[number] = float(losses.sum()), int((own[kept].argmax(-1) == targets[kept]).sum())
    return found


def _batches(lengths: Sequence[int], progress: bool, what: str, most: int | None = None) -> Iterator[list[int]]:
    """Numbers of rows to read at once, the longest first."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    batches, start = [], 0
    while start < len(order):
        size = max(1, _READ_AT_ONCE // lengths[order[start]])
        batches.append(order[start : start + (size if most is None else min(size, most))])
        start += len(batches[-1])
    yield from tqdm(batches, what, disable=None if progress else True, leave=False)


def _right_padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids.to(device), mask.to(device)


# Answers


def write_answers(
    model: Any, prompter: Prompter, examples: Sequence[Example], batch_size: int = 16, progress: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """The model's answers, and how many prompts were read window by window.

    Prompts are sorted by length, the longest first, so that those that are read together hold little padding. Of
    windows the answer is kept that the model finds likeliest, in nats a token.
    """
    asked = [(number, ids) for number, each in enumerate(examples) for ids in prompter.ask(each)]
    order = sorted(range(len(asked)), key=lambda place: -len(asked[place][1]))
    prompts = [asked[place][1] for place in order]
    settings: dict[str, Any] = {"max_new_tokens": prompter.task.new_tokens, "temperature": 0.0, "stop": prompter.stop}
    written = write_all(model, prompter.tokenizer, prompts, batch_size=batch_size, **settings)
    bar = tqdm(written, "writing answers", total=len(prompts), disable=None if progress else True, leave=False)
    by_place = dict(zip(order, bar, strict=True))
    candidates: dict[int, list[int]] = {}
    for place, (number, _) in enumerate(asked):
        candidates.setdefault(number, []).append(place)
    several = [place for places in candidates.values() if len(places) > 1 for place in places]
    encoded = [prompter.continued(asked[place][1], by_place[place].text.strip()) for place in several]
    pairs = zip(several, encoded, log_likelihoods(model, encoded), strict=True)
    nats = {place: value / row.scored for place, row, (value, _) in pairs}
    answers = []
    for number, example in enumerate(examples):
        place = min(candidates[number], key=lambda place: nats.get(place, 0.0))
        found = by_place[place]
        row = {"source": example.source, "answer": found.text.strip(), "references": list(example.references)}
        answers.append(row | {"reason": found.reason})
    return answers, sum(len(places) > 1 for places in candidates.values())


def choose(
    model: Any, prompter: Prompter, examples: Sequence[Example], progress: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The likeliest of the task's labels for each prompt, and figures of the choice.

    ``calibrated_accuracy`` is that of log p(label | prompt) - log p(label | the prompt without content), which takes
    away what a model says whatever it is asked (Zhao et al. 2021). ``calibration_error`` is the expected one, of the
    chosen label's share of probability among the labels, in ten bins.
    """
    labels = prompter.task.labels
    odds = label_odds(model, prompter, [prompter.ask(each)[0] for each in examples], progress)  # [items, labels]
    empty = dict.fromkeys(prompter.task.keys[:-1], "N/A")
    blank = Example((Turn("user", prompter.task.prompt(empty)), Turn("assistant", labels[0])), labels, empty)
    bias = label_odds(model, prompter, prompter.ask(blank), False)  # [1, labels]
    right = np.array([labels.index(each.target) for each in examples])
    picked, fair = odds.argmax(1), (odds - bias).argmax(1)
    shares = np.exp(odds - odds.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    answers = [
        {"source": each.source, "answer": labels[pick], "references": list(each.references), "reason": "likeliest"}
        | {"calibrated": labels[other], "share": round(float(share[pick]), 4)}
        for each, pick, other, share in zip(examples, picked, fair, shares, strict=True)
    ]
    return answers, {
        "calibrated_accuracy": 100 * float((fair == right).mean()),
        "calibration_error": calibration_error(shares.max(1), picked == right),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over ten bins of equal width (Naeini et al. 2015), 0 to 1."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    parts = ((bins == number) for number in range(_BINS))
    return float(sum(abs(right[p].mean() - confidence[p].mean()) * p.mean() for p in parts if p.any()))


def label_odds(model: Any, prompter: Prompter, prompts: Sequence[list[int]], progress: bool) -> np.ndarray:
    """log p(label | prompt) ``[prompts, labels]``; of labels of one token each, from one reading of the prompt."""
    labels = prompter.task.labels
    ends = [prompter.continued([0], label) for label in labels]
    if any(each.scored != 2 for each in ends):  # the label and its end
        encoded = [prompter.continued(ids, label) for ids in prompts for label in labels]
        found = log_likelihoods(model, encoded, progress)
        return -np.array([value for value, _ in found]).reshape(len(prompts), len(labels))
    tokens = [each.ids[1] for each in ends]
    odds = np.zeros((len(prompts), len(labels)))
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    with evaluating(model), torch.inference_mode():
        for batch in _batches([len(ids) for ids in prompts], progress, "choosing"):
            ids, mask = _right_padded([prompts[number] for number in batch], model.device)
            last = mask.sum(1) - 1
            options = {"logits_to_keep": int(ids.shape[1] - last.min())} if keeps else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
            own = logits[torch.arange(len(batch)), last - (ids.shape[1] - logits.shape[1])].float()
            odds[batch] = own.log_softmax(-1)[:, tokens].double().cpu().numpy()
    return odds


# Against one another


def contrasts(results: Mapping[str, TaskResult]) -> list[dict[str, Any]]:
    """Every model against the first: paired intervals of each figure over items, and of the right answers' nats.

    A difference above zero favours the model, of ``nats`` one below. Of a model that leaks there are no nats: what it
    writes it writes honestly, but it reads the right answers as it scores them.

    Raises:
        CurvekitError: they did not answer the same items.
    """
    (first, base), *others = results.items()
    rows = []
    for name, other in others:
        if [each["source"] for each in base.answers] != [each["source"] for each in other.answers]:
            raise CurvekitError(f"{first} and {name} answered other items; evaluate both in one command")
        for figure in base.items[0]:
            a, b = ([item[figure] for item in each.items] for each in (other, base))
            if len(a) > 1:
                found = paired_items(a, b)
                values = {"difference": 100 * found.difference, "low": 100 * found.low, "high": 100 * found.high}
                rows.append(_contrast(name, first, figure, values, found.p, found.significant))
        alike = base.score.signature["tokenizer_hash"] == other.score.signature["tokenizer_hash"]
        if alike and not (base.score.leaks or other.score.leaks) and len(base.items) > 1:
            nats = paired_bootstrap(_alike(other.score, base.score), base.score)
            values = {"difference": nats.difference, "low": nats.low, "high": nats.high}
            rows.append(_contrast(name, first, "nats", values, nats.p, nats.significant))
    return rows


def _contrast(a: str, b: str, figure: str, values: dict[str, float], p: float, significant: bool) -> dict[str, Any]:
    rounded = {name: finite(value) for name, value in values.items()}
    return {"a": a, "b": b, "figure": figure, **rounded, "p": finite(p), "significant": significant}


def _alike(score: LanguageModelScore, other: LanguageModelScore) -> LanguageModelScore:
    """The score, if it was measured as the other was; else the pairing says what differs."""
    return score if len(score.nll) == len(other.nll) else other


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: finite(value) for name, value in figures.items() if isinstance(value, int | float)}


def summary_rows(
    results: Mapping[str, TaskResult], order: Iterable[str] | None = None, shown: Callable[[float], str] | None = None
) -> list[dict[str, str]]:
    """A table's rows: the baselines without a model, then each model, with the figures of the task's kind."""
    (first, *_) = results.values()
    names = list(order or figures_of(first.task))
    shown = shown or (lambda value: f"{value:.2f}")

    def row(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
        cells = {each: figures.get(each) for each in names}
        return {"model": name} | {
            each: "n/a" if value is None or not math.isfinite(value) else shown(value) for each, value in cells.items()
        }

    without = [row(f"({name})", figures) for name, figures in first.baselines.items()]
    return [*without, *(row(name, each.figures) for name, each in results.items())]


def figures_of(task: Task) -> tuple[str, ...]:
    """The figures that a table of this kind of task shows, in order."""
    return {
        "answer": ("exact_match", "f1", "perplexity", "words"),
        "choice": ("accuracy", "calibrated_accuracy", "perplexity"),
        "summary": ("rouge1", "rouge2", "rougeL", "rougeLsum", "chrf", "perplexity", "words"),
        "dialogue": ("perplexity", "bleu", "chrf", "distinct_1", "distinct_2", "words"),
    }[task.kind]
