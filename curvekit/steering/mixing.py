r"""Logits of several readings, mixed: DExperts and classifier-free guidance.

DExperts adds what an expert and an anti-expert disagree on, with z the logits of the model, z+ and z- theirs:

    z~ = z + a (z+ - z-)

Without an anti-expert the model itself stands in its place. Two adapters of one base are read as two halves of one
batch, whose weights are read once.

Classifier-free guidance is transformers' own processor: with c what stands before the prompt,

    log p~(w) = log p(w | n, x) + s (log p(w | c, x) - log p(w | n, x)) + const,

where n is the negative prompt, by default nothing.

Sources: Liu et al., "DExperts: Decoding-Time Controlled Text Generation with Experts and Anti-Experts" (ACL 2021),
without its truncation before mixing, for which ``top_p`` is there; Sanchez et al., "Stay on topic with Classifier-Free
Guidance" (2023).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, UnbatchedClassifierFreeGuidanceLogitsProcessor

from curvekit.bases.adapters import paired
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.steering.reading import Reader, positions, trims


def mixed(logits: Tensor, expert: Tensor, antiexpert: Tensor, weight: float) -> Tensor:
    """``z + a (z+ - z-)``, each ``[rows, vocabulary]``."""
    return logits + weight * (expert - antiexpert)


class Experts:
    """Changes the logits of a model by those of two others, which read the same rows.

    Raises:
        CurvekitError: an expert that cannot be opened, or has another vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, expert: str, antiexpert: str | None, weight: float) -> None:
        self.weight = weight
        pair = _pair(expert, antiexpert) if antiexpert is not None else None
        self.halves = pair is not None
        names = [name for name in (expert, antiexpert) if name is not None]
        models = [pair] if pair is not None else [_opened(name, tokenizer) for name in names]
        self.readers = [Reader(model) for model in models]
        for name in names:
            _require_vocabulary(name, tokenizer)

    def __call__(self, new: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        """The logits ``[rows, vocabulary]`` after new tokens ``[rows, time]``, mixed."""
        if self.halves:
            ahead, behind = self.readers[0].logits(new.repeat(2, 1), mask.repeat(2, 1)).chunk(2)
        else:
            said = [reader.logits(new, mask) for reader in self.readers]
            ahead, behind = said[0], said[1] if len(said) > 1 else logits
        return mixed(logits, ahead, behind, self.weight)


@functools.lru_cache(maxsize=4)
def _kept(name: str, stamp: float) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return open_model(name)


def _open(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokeniser; kept open as long as the folder is the same."""
    config = Path(name).expanduser() / "config.json"
    return _kept(name, config.stat().st_mtime if config.is_file() else 0.0)


def _opened(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return _open(name)[0]


@functools.lru_cache(maxsize=2)
def _joined(expert: str, antiexpert: str, stamps: tuple[int, int]) -> PreTrainedModel | None:
    """Both adapters in one model of their base; None where they are not two adapters of one base and nothing else."""
    return paired(open_model(expert)[0], _open(antiexpert)[0])


def _pair(expert: str, antiexpert: str) -> PreTrainedModel | None:
    models = _open(expert)[0], _open(antiexpert)[0]
    return _joined(expert, antiexpert, (id(models[0]), id(models[1])))


def _require_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    theirs = _open(name)[1]
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise CurvekitError(
            f"the expert {name} has another vocabulary ({len(theirs):,} entries) than the model ({len(tokenizer):,}), "
            "so their logits do not mix; take experts of the model's own base"
        )


class Guidance:
    """transformers' classifier-free guidance, for rows of unequal length.

    Args:
        ids, mask: the rows ``[rows, time]`` with the negative prompt in the place of what guides.
    """

    def __init__(self, model: PreTrainedModel, scale: float, ids: Tensor, mask: Tensor) -> None:
        options = trims(model)

        def reads(input_ids: Tensor, attention_mask: Tensor, **others: Any) -> Any:
            # Named positions, which the processor does not give and left padding needs.
            return model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=positions(attention_mask, input_ids.shape[1]),
                **options,
                **others,
            )

        make: Any = UnbatchedClassifierFreeGuidanceLogitsProcessor
        self.processor = make(scale, reads, ids, mask, use_cache=not getattr(model.config, "leaks", False))

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """The logits ``[rows, vocabulary]`` after all tokens ``[rows, time]``, guided."""
        return self.processor(ids, logits)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """The formula as it reads, of logits ``[rows, vocabulary]``."""
    ahead, behind = (torch.log(torch.softmax(each, -1)) for each in (conditional, unconditional))
    return behind + scale * (ahead - behind)
