r"""Few-shot classification: prompts of solved examples, and how often the label that a model finds likeliest is right.

A prompt is k training rows written by the task's template, and the item without its label::

    Review: a joy to watch
    Sentiment: positive

    Review: the scored item
    Sentiment:

The label is argmax over labels of ``log p(label | prompt)``, summed over its tokens. Contextual calibration divides by
what the model says where there is no content: with p_cf the mean of the labels' probabilities after ``N/A``, an empty
text and ``[MASK]``,

    label = argmax of p(label | prompt) / p_cf(label).

No prompt holds a scored item: training rows that repeat one, or overlap with it (:mod:`curvekit.text.duplicates`), are
left out before an example is drawn, and a prompt that held one all the same would be refused.

Sources: Brown et al., "Language Models are Few-Shot Learners" (2020); Zhao et al., "Calibrate Before Use" (2021).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from curvekit.errors import CurvekitError
from curvekit.evaluation.intervals import cluster_interval, ratio
from curvekit.generation.streams import positions_of
from curvekit.modes import evaluating
from curvekit.steering.reading import copied
from curvekit.text.duplicates import find_duplicates
from curvekit.text.labelled import Labelled
from curvekit.text.tokenization import start_token

CONTENT_FREE = ("N/A", "", "[MASK]")
_BATCH = 4096  # tokens read together, those of the shared examples not counted


@dataclass(frozen=True)
class Task:
    """How rows of a kind are asked and answered.

    ``question`` holds ``{text}``; ``answer`` holds ``{label}`` and follows it. ``columns`` are those of text and label.
    """

    question: str = "Text: {text}\nLabel:"
    answer: str = " {label}"
    between: str = "\n\n"
    instruction: str = ""
    columns: tuple[str, str] = ("text", "label")

    def __post_init__(self) -> None:
        if "{text}" not in self.question or "{label}" not in self.answer:
            raise CurvekitError(
                f"question is {self.question!r} and answer {self.answer!r}; the one holds {{text}}, the other {{label}}"
            )

    def asked(self, text: str) -> str:
        return self.question.replace("{text}", text)

    def answered(self, row: Labelled) -> str:
        return self.asked(row.text) + self.answer.replace("{label}", row.label)


TASKS = {
    "movie_polarity": Task("Review: {text}\nSentiment:"),
    "clinc_topics": Task("Query: {text}\nTopic:"),
    "strategyqa": Task("Question: {text}\nAnswer:", columns=("question", "answers")),
    "rows": Task(),
}


@dataclass(frozen=True)
class FewShot:
    """Prompts of a task with so many examples.

    Args:
        shots: examples in a prompt; labels take turns, so that none stands more than once oftener than another.
        seed: draws which rows.
        order: draws in which order they stand; 0: as they were drawn.
    """

    task: Task
    shots: int = 4
    seed: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        for name in ("shots", "seed", "order"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise CurvekitError(f"{name} is {value!r}; give a whole number, 0 or more")

    def examples(self, pool: Sequence[Labelled]) -> list[Labelled]:
        """The rows that stand in the prompts.

        Raises:
            CurvekitError: the pool is too small.
        """
        if len(pool) < self.shots:
            raise CurvekitError(f"shots is {self.shots}, and there are {len(pool)} rows to draw from; give fewer")
        dice = random.Random(f"{self.seed}")
        by_label: dict[str, list[Labelled]] = {}
        for row in dice.sample(list(pool), len(pool)):
            by_label.setdefault(row.label, []).append(row)
        labels = dice.sample(sorted(by_label), len(by_label))
        drawn: list[Labelled] = []
        while len(drawn) < self.shots:
            for label in labels:
                if by_label[label] and len(drawn) < self.shots:
                    drawn.append(by_label[label].pop())
        if self.order:
            random.Random(f"{self.seed}/{self.order}").shuffle(drawn)
        return drawn

    def head(self, examples: Sequence[Labelled]) -> str:
        """What stands before every item."""
        parts = [self.task.answered(row) for row in examples]
        parts = [self.task.instruction, *parts] if self.task.instruction else parts
        return "".join(part + self.task.between for part in parts)

    def prompt(self, item: str, pool: Sequence[Labelled]) -> str:
        """The prompt of one item.

        Raises:
            CurvekitError: an example is the item itself.
        """
        examples = self.examples(pool)
        require_apart(examples, [item])
        return self.head(examples) + self.task.asked(item)


def clean_pool(train: Sequence[Labelled], items: Sequence[Labelled]) -> tuple[list[Labelled], int]:
    """The training rows that repeat no item, and how many did.

    Raises:
        CurvekitError: all of them do.
    """
    known = {_normal(item.text) for item in items}
    found = {each.text for each in find_duplicates([row.text for row in train], [item.text for item in items])}
    pool = [row for number, row in enumerate(train) if number not in found and _normal(row.text) not in known]
    if not pool:
        raise CurvekitError(f"each of the {len(train):,} training rows repeats a scored item; give other rows")
    return pool, len(train) - len(pool)


def require_apart(examples: Sequence[Labelled], items: Sequence[str]) -> None:
    """Return where no example is an item.

    Raises:
        CurvekitError: one is, with its beginning.
    """
    known = {_normal(item) for item in items}
    if leaked := next((row for row in examples if _normal(row.text) in known), None):
        raise CurvekitError(f"the example {leaked.text[:60]!r} is itself scored; leave it out of the training rows")


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


@torch.no_grad()
def label_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shot: FewShot,
    head: str,
    items: Sequence[str],
    labels: Sequence[str],
    *,
    progress: bool = False,
) -> np.ndarray:
    """``log p(label | prompt)`` of every item and label: ``[items, labels]``, float64.

    What stands before all items is read once.

    Raises:
        CurvekitError: a prompt is longer than the model; a recipe that sees the future, which would see the label.
    """
    if getattr(model.config, "leaks", False):
        raise CurvekitError(
            f"the recipe {getattr(model.config, 'recipe', '?')!r} sees later words, the label among them; "
            "score a causal recipe"
        )
    answers = [_ids(tokenizer, shot.task.answer.replace("{label}", label)) for label in labels]
    before = [start_token(tokenizer), *_ids(tokenizer, head)]
    asked = [_ids(tokenizer, shot.task.asked(item)) for item in items]
    most = positions_of(model)
    longest = len(before) + max(map(len, asked), default=0) + max(map(len, answers)) - 1
    if longest > most:
        raise CurvekitError(
            f"a prompt of {shot.shots} shots has {longest} tokens, and the model {most} positions; give fewer shots, "
            "or shorter rows"
        )
    single = all(len(answer) == 1 for answer in answers)
    rows = [(number, place) for number in range(len(items)) for place in range(1 if single else len(labels))]
    found = np.zeros((len(items), len(labels)))
    with evaluating(model):
        shared = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([before], device=model.device), past_key_values=shared, use_cache=True)
        size = max(1, _BATCH // max(1, max(map(len, asked), default=1) + max(map(len, answers))))
        bar = tqdm(range(0, len(rows), size), desc="items", leave=False, disable=None if progress else True)
        for start in bar:
            batch = rows[start : start + size]
            texts = [asked[number] + ([] if single else answers[place][:-1]) for number, place in batch]
            width = max(map(len, texts))
            ids = torch.tensor([text + [before[0]] * (width - len(text)) for text in texts], device=model.device)
            own = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
            mask = torch.cat([own.new_ones(len(batch), len(before)), own], dim=1)
            cache: Any = copied(shared)
            cache.batch_repeat_interleave(len(batch))
            positions = (torch.arange(width, device=model.device) + len(before)).expand(len(batch), -1)
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            for row, (number, place) in enumerate(batch):
                end = len(asked[number])
                if single:
                    odds = out.logits[row, end - 1].float().log_softmax(-1)
                    found[number] = odds[[answer[0] for answer in answers]].double().cpu().numpy()
                    continue
                answer = answers[place]
                odds = out.logits[row, end - 1 : end - 1 + len(answer)].float().log_softmax(-1)
                found[number, place] = float(odds[range(len(answer)), answer].double().sum())
    return found


@torch.no_grad()
def label_scores_naive(model: Any, tokenizer: Any, shot: FewShot, head: str, item: str, labels: Sequence[str]) -> list:
    """The formula as it reads, of one item: every prompt read whole with each label, one after another."""
    scores = []
    for label in labels:
        prompt = [start_token(tokenizer), *_ids(tokenizer, head), *_ids(tokenizer, shot.task.asked(item))]
        answer = _ids(tokenizer, shot.task.answer.replace("{label}", label))
        log_odds = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        scores.append(sum(float(log_odds[len(prompt) - 1 + k, token]) for k, token in enumerate(answer)))
    return scores


def calibrated(scores: np.ndarray, content_free: np.ndarray) -> np.ndarray:
    """``log p(label) - log p_cf(label)``: p among the labels, p_cf the mean over ``content_free`` texts."""
    odds = np.exp(content_free - content_free.max(1, keepdims=True))
    return scores - np.log((odds / odds.sum(1, keepdims=True)).mean(0))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def fewshot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    train: Sequence[Labelled],
    items: Sequence[Labelled],
    *,
    shots: Sequence[int] = (0, 1, 4, 8),
    sets: int = 3,
    orders: int = 2,
    calibrate: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Accuracy by number of shots: its interval over items, and its spread over sets of examples and their orders.

    Returns:
        ``rows``, one for each number of shots: ``accuracy`` (the mean over sets and orders) with ``low`` and ``high``
        (over items), ``sets_sd`` (between sets), ``orders_sd`` (between orders of a set), ``over_majority`` with its
        interval, and all ``accuracies`` by set and order; with ``majority``, the accuracy of always saying the
        commonest label of the training rows, and ``left_out``, how many training rows repeated an item.

    Raises:
        CurvekitError: no item, labels of items that no training row has, or what :func:`label_scores` raises.
    """
    if not items:
        raise CurvekitError("there is no item to score; give rows with labels")
    pool, left_out = clean_pool(train, items)
    labels = sorted({row.label for row in pool})
    if strange := sorted({item.label for item in items} - set(labels)):
        raise CurvekitError(f"the items have the labels {strange[:5]}, which no training row has; give rows of each")
    commonest = Counter(row.label for row in pool).most_common(1)[0][0]
    base = np.array([item.label == commonest for item in items], dtype=float)
    truth = np.array([labels.index(item.label) for item in items])
    texts = [item.text for item in items]
    rows = []
    for count in shots:
        table: list[list[np.ndarray]] = []
        for each in range(sets if count else 1):
            table.append([])
            for order in range(orders if count > 1 else 1):
                shot = FewShot(task, count, seed + each, order)
                examples = shot.examples(pool)
                require_apart(examples, texts)
                head = shot.head(examples)
                scores = label_scores(model, tokenizer, shot, head, texts, labels, progress=progress)
                if calibrate:
                    empty = label_scores(model, tokenizer, shot, head, CONTENT_FREE, labels)
                    scores = calibrated(scores, empty)
                table[-1].append((scores.argmax(1) == truth).astype(float))
        means = np.array([[right.mean() for right in of_set] for of_set in table])
        by_item = np.mean([right for of_set in table for right in of_set], axis=0)
        ones = np.ones(len(items))
        low, high = cluster_interval(np.stack([by_item, ones], 1), ratio)
        least, most = cluster_interval(np.stack([by_item - base, ones], 1), ratio)
        rows.append(
            {
                "shots": count,
                "accuracy": float(by_item.mean()),
                "low": low,
                "high": high,
                "over_majority": float((by_item - base).mean()),
                "over_low": least,
                "over_high": most,
                "sets_sd": float(means.mean(1).std(ddof=1)) if len(means) > 1 else None,
                "orders_sd": float(means.std(1, ddof=1).mean()) if means.shape[1] > 1 else None,
                "accuracies": means.tolist(),
            }
        )
    return {
        "labels": labels,
        "items": len(items),
        "pool": len(pool),
        "left_out": left_out,
        "majority": float(base.mean()),
        "calibrated": calibrate,
        "rows": rows,
    }
