r"""Eight bits: a model whose blocks multiply whole numbers, as int8 hardware does, and what that costs it.

Dynamic quantisation, one scale a tensor, is what outliers hurt most: one value far from the others makes every step of
the scale coarse (Bondarenko, Nagel and Blankevoort 2023, arXiv:2306.12929). Of each matrix of the blocks, with b bits,

    weights, symmetric     W' = s round(W / s),             s = max |W| / (2^(b-1) - 1)
    activations, affine    x' = s (round(x / s + z) - z),   s = (max x - min x) / (2^b - 1),   z = round(-min x / s)

with 0 between min x and max x, and then W' x' in float32: what int8 kernels compute, up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curvekit.errors import CurvekitError
from curvekit.steering.states import blocks_of

BITS = 8


def rounded_weight(weight: Tensor, bits: int = BITS) -> Tensor:
    """A matrix in whole steps of one scale, symmetric about zero."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().max().clamp(min=torch.finfo(torch.float32).tiny) / most
    return (weight / scale).round().clamp(-most, most) * scale


def rounded_activations(x: Tensor, bits: int = BITS) -> Tensor:
    """What a matrix reads, in whole steps from its least to its largest value, zero among them."""
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    most = 2**bits - 1
    scale = (high - low).clamp(min=torch.finfo(torch.float32).tiny) / most
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, most) - zero) * scale


@contextmanager
def rounded(model: Any, bits: int = BITS) -> Iterator[list[str]]:
    """Within it, the matrices of the model's blocks, whose names it gives, multiply in so many bits.

    The scale of activations is that of everything read at once: score one text at a time.

    Raises:
        CurvekitError: fewer than 2 or more than 16 bits.
    """
    if not 2 <= bits <= 16:
        raise CurvekitError(f"bits is {bits}; give 2 to 16")
    found = {name: each for name, each in blocks_of(model).named_modules() if isinstance(each, nn.Linear | Conv1D)}
    before = {name: each.weight.data for name, each in found.items()}
    hooks = []
    try:
        for each in found.values():
            each.weight.data = rounded_weight(each.weight.data, bits)
            hooks.append(each.register_forward_pre_hook(lambda _, given: (rounded_activations(given[0], bits),)))
        yield list(found)
    finally:
        for name, each in found.items():
            each.weight.data = before[name]
        for hook in hooks:
            hook.remove()
