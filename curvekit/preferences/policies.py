"""The policy that preferences train, its reference, what it writes, and the log-probabilities of both.

With an adapter the reference is the policy with the adapter off: the same weights, held once. What curvekit adds to a
base (curve, gates, sinks) is frozen then, so that switching the adapter off gives back the start exactly. Without an
adapter the reference is a frozen copy, made before the first step; it is never opened again by a name, under which
another model may lie.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from curvekit.bases.adapters import Lora, adapter_off, add_adapter, is_adapted, is_added
from curvekit.bases.building import architecture_of, base_config
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.files import read_json
from curvekit.modes import evaluating, quiet
from curvekit.preferences.encoding import answer_text
from curvekit.preferences.gathering import Answer
from curvekit.preferences.settings import PreferenceConfig
from curvekit.text.tokenization import start_token

BATCH = 32  # answers written or scored together
ATTENTION = "attention_dropout"  # what a module of attention calls its own, where it has no module for it


@dataclass
class Policy:
    """A model in training, its tokeniser, and a frozen copy where there is no adapter to switch off."""

    model: Any
    tokenizer: Any
    copy: PreTrainedModel | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The model that computes as the start did."""
        if self.copy is not None:
            yield self.copy
            return
        with adapter_off(self.model):
            yield self.model


def base_of(name: str) -> str:
    """Where the base of a run is: of another run's folder, its model.

    Raises:
        CurvekitError: that run has no model yet, or is an adapter's.
    """
    folder = Path(name)
    saved = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if saved and "model_type" not in saved:
        if not (folder / "model").is_dir():
            raise CurvekitError(f"the run in {folder} has no model yet; give its command again, it goes on")
        folder = folder / "model"
        name = str(folder)
    if (folder / "adapter_config.json").is_file():
        raise CurvekitError(f"{name} is an adapter, and is trained on when merged; run `curvekit merge {name} OUT`")
    base_config(name)
    return name


def start(config: PreferenceConfig) -> Policy:
    """The policy before its first step, without dropout.

    Raises:
        CurvekitError: the base cannot be had, leaks, or is an adapter.
    """
    base = base_of(config.base)
    model, tokenizer = open_model(base)
    if getattr(model.config, "leaks", False):
        raise CurvekitError(f"{config.base} sees the future and cannot write what it scores; take a causal recipe")
    without_dropout(model)
    if config.adapter == "none":
        frozen = copy.deepcopy(model).requires_grad_(False).eval()
        return Policy(model, tokenizer, frozen)
    add_adapter(model, base, Lora(config.rank, config.alpha), config.seed)
    for name, parameter in model.named_parameters():
        if is_added(name, model):
            parameter.requires_grad_(False)
    return Policy(model, tokenizer)


def without_dropout(model: Any) -> None:
    """Turn off every dropout of a model: its modules', its attention's, and what its configuration asks for."""
    architecture = architecture_of(model.config)
    for name in (*architecture.dropouts, architecture.attention_dropout):
        setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, ATTENTION, None), float):
            setattr(module, ATTENTION, 0.0)


def pad_token(tokenizer: Any) -> int:
    """What fills up rows; nothing is read from it."""
    return start_token(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id


@dataclass
class Rollout:
    """Prompts and what was written after them, as rows of one width.

    Attributes:
        ids: ``[rows, prompt + answer]``, prompts padded on their left, answers on their right.
        mask: the same, 1 where a token stands.
        answer: ``[rows, answer]``, 1 for the tokens of the answer, its end-of-text included.
        answers: the texts.
    """

    ids: Tensor
    mask: Tensor
    answer: Tensor
    answers: list[Answer]

    @property
    def width(self) -> int:
        """Columns of the answers."""
        return self.answer.shape[1]


@torch.no_grad()
def write(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], tokens: int, seed: int, temperature: float = 1.0
) -> Rollout:
    """An answer to each prompt, drawn from the model's whole distribution; the global random state is left alone."""
    pad, end = pad_token(tokenizer), tokenizer.eos_token_id
    longest = max(map(len, prompts))
    rows, answers = [], []
    settings = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=tokens, eos_token_id=end,
        pad_token_id=pad,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), evaluating(model):
        for first in range(0, len(prompts), BATCH):
            torch.manual_seed((seed * 1_000_003 + first) % 2**63)
            batch = prompts[first : first + BATCH]
            ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in batch], device=model.device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=model.device)
            with quiet():
                written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            new = F.pad(written[:, longest:], (0, longest + tokens - written.shape[1]), value=pad)  # [batch, tokens]
            ended = (new == end).int()
            lengths = torch.where(ended.any(1), ended.argmax(1) + 1, torch.full_like(ended[:, 0], tokens))
            lengths = torch.minimum(lengths, torch.full_like(lengths, written.shape[1] - longest))
            here = torch.arange(tokens, device=model.device) < lengths[:, None]
            rows.append((torch.cat([ids, new], 1), torch.cat([mask, here.long()], 1), here))
            for row, length in zip(new.tolist(), lengths.tolist(), strict=True):
                answers.append(Answer(*answer_text(tokenizer, row[:length])))
    ids, mask, here = (torch.cat(part) for part in zip(*rows, strict=True))
    return Rollout(ids, mask, here, answers)


def laid_out(
    tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: Any
) -> Rollout:
    """Prompts and answers that are known already, as token ids, in the rows of a rollout."""
    pad, left, right = pad_token(tokenizer), max(map(len, prompts)), max(map(len, answers))
    both = list(zip(prompts, answers, strict=True))
    ids = [[pad] * (left - len(p)) + [*p, *a] + [pad] * (right - len(a)) for p, a in both]
    mask = [[0] * (left - len(p)) + [1] * (len(p) + len(a)) + [0] * (right - len(a)) for p, a in both]
    here = [[True] * len(a) + [False] * (right - len(a)) for a in answers]
    rows = [torch.tensor(each, device=device) for each in (ids, mask, here)]
    return Rollout(rows[0], rows[1], rows[2], [])


def positions(mask: Tensor) -> Tensor:
    """Where each token stands in its text, whatever was padded before it: ``[rows, time]``."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def forced(model: Any, ids: Tensor, mask: Tensor, answer: int, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities ``[rows, answer]`` of the last ``answer`` tokens, in nats, and the states they came from.

    Args:
        hidden: also the hidden states ``[rows, answer, width]`` before each of them.
    """
    given = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    out = model(input_ids=ids, logits_to_keep=answer + 1, output_hidden_states=hidden, **given)
    logits = out.logits[:, -answer - 1 : -1].float()
    chosen = logits.gather(-1, ids[:, -answer:, None]).squeeze(-1)
    states = out.hidden_states[-1][:, -answer - 1 : -1] if hidden else None
    return chosen - logits.logsumexp(-1), states


@torch.no_grad()
def log_probabilities(model: Any, rollout: Rollout) -> Tensor:
    """:func:`forced` of all of a rollout, in batches; 0 where no answer stands."""
    with evaluating(model):
        parts = [
            forced(model, rollout.ids[i : i + BATCH], rollout.mask[i : i + BATCH], rollout.width)[0]
            for i in range(0, len(rollout.ids), BATCH)
        ]
    return torch.cat(parts) * rollout.answer


def described(policy: Policy) -> str:
    """What the reference is, in words."""
    if is_adapted(policy.model):
        record = policy.model.base_record
        return f"the base with the adapter off, weights {str(record['sha256'])[:12]}"
    return "a frozen copy of the start"
