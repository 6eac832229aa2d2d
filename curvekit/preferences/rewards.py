"""What an answer is worth: a rule's score, or what a reward model that was trained on preferences gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from curvekit.bases import hub
from curvekit.bases.building import base_config
from curvekit.bases.tokenizer import saved_tokenizer
from curvekit.bases.weights import load_checked
from curvekit.errors import CurvekitError
from curvekit.modes import evaluating, quiet
from curvekit.preferences.encoding import answer_ids, check_room, prompt_ids
from curvekit.preferences.gathering import Answer
from curvekit.preferences.policies import BATCH, base_of, pad_token
from curvekit.preferences.rules import RULES, rule
from curvekit.preferences.runs import load_preferences
from curvekit.preferences.settings import PreferenceConfig

HEAD = "score"  # transformers' name of the layer that gives the reward
Scores = Callable[[Sequence[str], Sequence[Answer]], list[float]]


class Reward:
    """Gives each answer a number; ``name`` stands in tables. A rule reads the answer alone."""

    def __init__(self, name: str, scores: Scores, keeps: bool) -> None:
        self.name, self._scores, self.keeps = name, scores, keeps

    def __call__(self, prompts: Sequence[str], answers: Sequence[Answer]) -> list[float]:
        return self._scores(prompts, answers)


def reward_of(name: str) -> Reward:
    """The rule of this name, or the reward model of the run in this folder.

    Raises:
        CurvekitError: it is neither.
    """
    if (Path(name) / "config.json").is_file():
        return _trained(name)
    if "/" in name:
        raise CurvekitError(f"{name} holds no run of method reward; name its folder, or a rule: {', '.join(RULES)}")
    found = rule(name)
    return Reward(found.name, lambda prompts, answers: [found(each.text) for each in answers], True)


def new_model(config: PreferenceConfig) -> tuple[Any, Any]:
    """The base with one output in the place of its head, which begins at random, and its tokeniser.

    Raises:
        CurvekitError: the base has a curve, which transformers' class of such models does not know.
    """
    from curvekit.bases.tokenizer import base_tokenizer

    base = base_of(config.base)
    if str(base_config(base).model_type).startswith("curve_"):
        raise CurvekitError(
            f"the base {config.base!r} has a curve, and a reward model is a plain model of transformers; "
            "take mini, smollm2 or another base without one"
        )
    tokenizer = base_tokenizer(base)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(config.seed)
        where = hub.located(base)
        model = load_checked(
            AutoModelForSequenceClassification,
            where,
            f"the base {config.base!r}",
            missing=rf"^{HEAD}\.",
            unexpected=r"^lm_head\.|attn(\.attention)?\.(masked_)?bias$",
            num_labels=1,
            dtype=torch.float32,
            local_files_only=hub.local_only(where),
            trust_remote_code=False,
        )
    model.config.pad_token_id = pad_token(tokenizer)
    return model, tokenizer


def _trained(folder: str) -> Reward:
    run = load_preferences(folder)
    if run.config.method != "reward":
        raise CurvekitError(f"the run in {folder} is of method {run.config.method!r}; name one of method reward")
    if not run.trained:
        raise CurvekitError(f"the run in {folder} has no model yet; give its command again, it goes on")
    with quiet():
        model = load_checked(
            AutoModelForSequenceClassification,
            run.folder / "model",
            f"the reward model in {folder}",
            local_files_only=True,
            trust_remote_code=False,
        )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer, chat = saved_tokenizer(run.folder / "model", run.config.base), run.config.chat
    return Reward(Path(folder).name, lambda prompts, answers: score(model, tokenizer, prompts, answers, chat), False)


@torch.no_grad()
def score(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[Answer], chat: bool = False
) -> list[float]:
    """What a reward model gives each answer, read after its last token.

    Raises:
        CurvekitError: a prompt and its answer are longer than the model.
    """
    rows = [
        prompt_ids(tokenizer, prompt, chat) + answer_ids(tokenizer, each.text, each.ended)
        for prompt, each in zip(prompts, answers, strict=True)
    ]
    check_room(model, list(map(len, rows)), "answers")
    found: list[float] = []
    with evaluating(model):
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            width, pad = max(map(len, batch)), pad_token(tokenizer)
            ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
            found += last_outputs(model, ids, mask).tolist()
    return found


def last_outputs(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The output ``[rows]`` of each row ``[rows, time]``, padded on its right, at its last token.

    transformers' own finds that place by the padding token, which here is also the end of an answer.
    """
    states = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    ends = states[torch.arange(len(ids), device=ids.device), mask.long().sum(1) - 1]  # [rows, width of the model]
    return model.get_submodule(HEAD)(ends).squeeze(-1)


def read_at_the_last_token(model: Any) -> None:
    """Let the model's own forward, which trl calls, be :func:`last_outputs`."""

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        logits: Any = last_outputs(model, input_ids, attention_mask).unsqueeze(-1)
        return SequenceClassifierOutput(logits=logits)

    model.forward = forward
