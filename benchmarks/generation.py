"""Rows of generation: cached greedy texts beside transformers' GPT-2, ours without a cache, and a task's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.harness import Case, Different, Goal, Settings
from benchmarks.models import SHAPES, pair
from curvekit.bases.opening import open_model
from curvekit.evaluation.tasks import ask, write_answers
from curvekit.text.rows import load_rows
from curvekit.text.tasks import find_task


def cases(settings: Settings) -> Iterator[Case]:
    name = "tiny" if settings.quick else "124M" if settings.cuda else "mini"
    new = 16 if settings.quick else 256
    for recipe, goal, changes in (
        ("curve", 0.9, {}),
        ("curve-causal", 0.6, {}),
        ("curve-causal", 0.6, {"encoder_layers": 2}),
    ):
        ours, peer = pair(recipe, SHAPES[name], settings, **changes)
        of = f"{recipe} of {changes['encoder_layers']} layers" if changes else recipe
        for prompts in (1, 16):
            ids = torch.randint(SHAPES[name]["vocab_size"], (prompts, 8), device=settings.device)
            yield _case(
                f"{of}, {name}, {prompts} prompt{'s' * (prompts > 1)}, {new} new tokens",
                f"the recipe {of}, cached",
                "transformers' GPT-2, cached",
                (ours, ids, {}),
                (peer, ids, {}),
                new,
                goal,
            )
        del ours, peer
    new = 16 if settings.quick else 512
    shape = SHAPES[name] | {"n_positions": 2 * new}
    ours, _ = pair("curve", shape, settings)
    torch.nn.init.normal_(ours.transformer.curve.gate, std=0.1)  # with the gate open, a cache that forgets would show
    ids = torch.randint(shape["vocab_size"], (1, 8), device=settings.device)
    cached, uncached = (ours, ids, {}), (ours, ids, {"use_cache": False})
    yield _case(
        f"curve, {name}, cached, {new} new tokens",
        "the recipe curve, cached",
        "the same, without a cache",
        cached,
        uncached,
        new,
        8.0,
    )
    yield _answers(settings)


def _answers(settings: Settings) -> Case:
    """The answers of an evaluation, side by side, beside the same one by one.

    Nothing stops them: a base that was not trained on the task would end most at once, and the row would tell of
    reading alone.
    """
    model, words = open_model("mini")
    rows = load_rows(replace(find_task("docstrings"), stop=()))
    asked = ask(model.to(settings.device), words, rows, items=3 if settings.quick else 48)

    def written(batch_size: int) -> list[str]:
        answers, _ = write_answers(model, asked.prompter, asked.examples, batch_size)
        return [each["answer"] for each in answers]

    def check() -> str:
        alike = [mine == other for mine, other in zip(written(16), written(1), strict=True)]
        equal = sum(alike) / len(alike)
        if equal < 0.9:  # a near tie may fall the other way in a batch, and all after it
            raise Different(f"{equal:.0%} of the answers are equal")
        return f"{equal:.0%} of the answers are equal"

    return Case(
        f"docstrings, mini, {len(asked.examples)} answers of {rows.task.new_tokens} tokens",
        "16 side by side, by length",
        "one by one",
        lambda: written(16),
        lambda: written(1),
        check,
        Goal("ratio", 4.0),
        work=len(asked.examples),
        unit="answers",
        seconds=10.0,
    )


def _case(name: str, ours_is: str, peer_is: str, ours: Any, peer: Any, new: int, goal: float) -> Case:
    def write(model: Any, ids: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        mask = torch.ones_like(ids)
        return model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **options)

    def check() -> str:
        mine, theirs = write(*ours), write(*peer)
        if mine.shape != theirs.shape or mine.shape[1] != ours[1].shape[1] + new:
            raise Different(f"the texts have the shapes {tuple(mine.shape)} and {tuple(theirs.shape)}")
        equal = float((mine == theirs).float().mean())
        least = 0.9 if ours[0].device.type == "cpu" else 0.5  # a near tie may fall the other way, and all after it
        if equal < least:
            raise Different(f"{equal:.0%} of the greedy tokens are equal")
        return f"{equal:.0%} of the greedy tokens are equal"

    prompts = ours[1].shape[0]
    return Case(
        name,
        ours_is,
        peer_is,
        lambda: write(*ours),
        lambda: write(*peer),
        check,
        Goal("ratio", goal),
        work=prompts * new,
        unit="tokens",
        seconds=10.0,
    )
