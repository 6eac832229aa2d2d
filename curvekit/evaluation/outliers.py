r"""What a normaliser leaves behind in a trained model: attention sinks, and outliers in the residual stream.

Softmax must give all of its weight away, so heads that have nothing to say learn to give it to the first token, and
large values in the residual stream are how (Xiao et al. 2023, arXiv:2309.17453; Sun et al. 2024, arXiv:2402.17762).
With p_ij the weight that query i gives to key j, of a layer, means over heads, texts and queries i > 0,

    first token   mean p_i0
    nobody        mean 1 - sum_j p_ij       0 of softmax

and of what the layer leaves in the residual stream, x of one position with mean m and variance v over its features,

    kurtosis      mean (x - m)^4 / v^2      3 of a normal distribution; over texts and positions
    largest       max |x|
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError
from curvekit.evaluation.inspection import attention_of
from curvekit.steering.states import after, blocks_of
from curvekit.text.tokenization import begun


@dataclass(frozen=True)
class Traces:
    """The figures of the module's docstring, a number for each layer."""

    first_token: list[float]
    nobody: list[float]
    kurtosis: list[float]
    largest: list[float]


@torch.no_grad()
def traces(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int = 128
) -> Traces:
    """Read the beginnings of texts and tell what the layers do.

    Args:
        tokens: of each text, an end-of-text before it included.

    Raises:
        CurvekitError: no text, or none of two tokens; a model without attention weights or blocks.
    """
    read = [begun(tokenizer, text, tokens) for text in texts]
    read = [ids for ids in read if len(ids) > 1]
    if not read:
        raise CurvekitError("no text has a token to look at; give texts")
    attention, residual = [], []
    for ids in read:
        with _watched(model) as left:
            found = attention_of(model, tokenizer, ids)
        weights = found.weights[:, :, 1:]  # [layers, heads, queries, keys]
        attention.append(torch.stack([weights[..., 0].mean((1, 2)), 1 - weights.sum(-1).mean((1, 2))]))
        residual.append([torch.stack(each) for each in zip(*left, strict=True)])
    first, nobody = torch.stack(attention).mean(0)
    largest = torch.stack([each[1] for each in residual]).amax(0)
    positions = torch.tensor([len(ids) for ids in read], dtype=torch.float64)
    sums = torch.stack([each[0] for each in residual]).double() * positions[:, None]
    kurtosis = sums.sum(0) / positions.sum()
    return Traces(first.tolist(), nobody.clamp(min=0).tolist(), kurtosis.tolist(), largest.tolist())


def kurtosis(x: Tensor) -> Tensor:
    """``[..., features]`` -> ``[...]``: mean (x - m)^4 / v^2, with m and v the mean and variance over features."""
    centred = x - x.mean(-1, keepdim=True)
    return (centred**4).mean(-1) / (centred**2).mean(-1).square()


@contextmanager
def _watched(model: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Of each block that reads one text within it, the mean kurtosis over positions and the largest value."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(states: Tensor) -> None:
        x = states[0].float()  # [time, width]
        found.append((kurtosis(x).mean().cpu(), x.abs().max().cpu()))

    with after(blocks_of(model), keep):
        yield found
