"""Causality is a contract: what a model says at a position must not depend on the tokens after it.

A centred curve or a bidirectional encoder puts the answer into the input, and perplexities then fall far below what
the model can do. :func:`future_leak` measures it; a causal recipe's leak is exactly 0.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from curvekit.errors import CurvekitError
from curvekit.modes import evaluating


class LeakWarning(UserWarning):
    """The model sees the tokens that it is to predict; its perplexity is not a result."""


@torch.no_grad()
def leak_by_position(
    model: PreTrainedModel, input_ids: Tensor, probes: Sequence[int] | None = None, seed: int = 0
) -> Tensor:
    """How far the logits at each position move when only tokens after a probed position are changed.

    Args:
        model: a causal language model, or one that writes a target for a source, such as a T5: of it the ids are both
            the source, which stays, and what the decoder reads. Put in evaluation mode meanwhile.
        input_ids: ``[batch, time]``, time at least 2.
        probes: the positions p after which every token is replaced by another; default all but the last.
        seed: of the replacements.

    Returns:
        ``[probes, time]``: the largest change in any logit at that position; it is 0 wherever position <= p if
        the model is causal. Positions after p move in any model.

    Raises:
        CurvekitError: fewer than two tokens, a probe that leaves none to change, or logits that are not numbers.
    """
    time = input_ids.shape[1]
    probes = range(time - 1) if probes is None else probes
    if time < 2 or any(not 0 <= p < time - 1 for p in probes):
        raise CurvekitError(
            f"a leak is probed at positions 0 to time - 2 of at least 2 tokens, not {list(probes)} of {time}"
        )
    generator = torch.Generator().manual_seed(seed)
    vocabulary: int = model.config.vocab_size
    shift = torch.randint(1, vocabulary, input_ids.shape, generator=generator).to(input_ids.device)
    read = functools.partial(model, input_ids) if model.config.is_encoder_decoder else model
    place = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    with evaluating(model):
        before = read(**{place: input_ids}, use_cache=False).logits
        rows = []
        for p in probes:
            altered = input_ids.clone()
            altered[:, p + 1 :] = (altered + shift)[:, p + 1 :] % vocabulary
            rows.append((read(**{place: altered}, use_cache=False).logits - before).abs().amax((0, 2)))
    changes = torch.stack(rows).float().cpu()
    if changes.isnan().any():
        raise CurvekitError(
            "the model's logits are not numbers, so no leak can be measured; was its training unstable?"
        )
    return changes


def future_leak(model: PreTrainedModel, input_ids: Tensor, probes: Sequence[int] | None = None, seed: int = 0) -> float:
    """The largest change in the logits at or before a probed position when the tokens after it change.

    Exactly 0 for a causal model, above 0 for one that looks ahead. Arguments and errors as
    :func:`leak_by_position`; by default up to 16 positions are probed, evenly spread.
    """
    time = input_ids.shape[1]
    if probes is None:
        probes = sorted({round(i * (time - 2) / 15) for i in range(16)}) if time >= 2 else []
    changes = leak_by_position(model, input_ids, probes, seed)
    return max(changes[row, : p + 1].max().item() for row, p in enumerate(probes))


def warn_if_leaking(model: PreTrainedModel) -> bool:
    """Warn when the model's configuration says that it leaks; return whether it does."""
    leaks = bool(getattr(model.config, "leaks", False))
    if leaks:
        recipe = getattr(model.config, "recipe", type(model).__name__)
        warnings.warn(
            f"the recipe {recipe!r} sees the tokens it is to predict: its losses and perplexities are not results",
            LeakWarning,
            stacklevel=2,
        )
    return leaks
