r"""Steering vectors: a direction of the residual stream, added after a block while a text is written.

With h_l(x) ``[time, width]`` the states after block l of a text x, the vector is the difference of means

    v = mean over positive x of mean_t h_l(x)_t  -  mean over negative x of mean_t h_l(x)_t,

and generation computes with ``h_l + a v`` at every position. Units: v is a state of the model, so ``a = 1`` moves a
text by as much as the two kinds of texts differ.

Sources: Turner et al., "Activation Addition" (2023); Rimsky et al., "Steering Llama 2 via Contrastive Activation
Addition" (2023).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError
from curvekit.steering.parts import open_part, require_same, save_part, trait
from curvekit.steering.states import block_of, mean_states

KIND = "steering vector"


@dataclass(frozen=True)
class SteeringVector:
    """A direction ``[width]`` and the block (from 0) after which it is added; ``model`` tells whose states it is of."""

    direction: Tensor
    layer: int
    model: str

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors, whole or not at all."""
        return save_part(path, KIND, {"direction": self.direction}, {"layer": self.layer, "model": self.model})

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel) -> SteeringVector:
        """What :meth:`save` wrote.

        Raises:
            CurvekitError: it is no vector, or one of another model.
        """
        tensors, told = open_part(path, KIND, {"layer": int, "model": str}, ("direction",))
        require_same(path, KIND, told["model"], model, tensors["direction"].numel())
        block_of(model, told["layer"])
        return cls(tensors["direction"], told["layer"], told["model"])


def difference_of_means(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    positive: Sequence[str],
    negative: Sequence[str],
    layer: int,
    *,
    progress: bool = False,
) -> SteeringVector:
    """The vector from ``negative`` texts to ``positive`` ones, after block ``layer``.

    Raises:
        CurvekitError: texts of only one kind, or no such block.
    """
    for name, texts in (("positive", positive), ("negative", negative)):
        if not texts:
            raise CurvekitError(f"there is no {name} text; a difference of means needs both kinds")
    ahead, behind = (
        mean_states(model, tokenizer, texts, layer, progress=progress).mean(0) for texts in (positive, negative)
    )
    return SteeringVector(ahead - behind, layer, trait(model))


@contextmanager
def added(model: PreTrainedModel, vector: SteeringVector | None, scale: float) -> Iterator[None]:
    """Add ``scale`` times the vector to what its block says, in this thread alone."""
    if vector is None or scale == 0:
        yield
        return
    owner = threading.get_ident()
    step = (scale * vector.direction).to(model.device, model.dtype)

    def hook(block: Any, inputs: Any, states: Any) -> Any:
        if threading.get_ident() != owner:
            return states
        if isinstance(states, tuple):
            return (states[0] + step, *states[1:])
        return states + step

    handle = block_of(model, vector.layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def moved(states: Tensor, vector: SteeringVector, scale: float) -> Tensor:
    """The formula as it reads: ``states`` ``[..., width]`` plus ``scale`` times the direction."""
    return torch.stack([row + scale * vector.direction for row in states.reshape(-1, states.shape[-1])]).reshape(
        states.shape
    )
