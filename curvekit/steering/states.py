"""Hidden states of texts: their means after a block, of which attribute models and steering vectors are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError
from curvekit.modes import evaluating
from curvekit.steering.reading import positions
from curvekit.text.tokenization import begun, start_token


def blocks_of(model: Any) -> nn.ModuleList:
    """The blocks of a model, curvekit's or transformers' own."""
    base = model.base_model
    for name in (getattr(base, "blocks", ""), "h", "layers"):
        if name and isinstance(found := getattr(base, name, None), nn.ModuleList):
            return found
    raise CurvekitError(f"a {type(model).__name__} has no list of blocks; take a GPT-2, GPT-Neo or LLaMA")


def block_of(model: Any, layer: int) -> nn.Module:
    """One of them, from 0.

    Raises:
        CurvekitError: there are not so many.
    """
    blocks = blocks_of(model)
    if not 0 <= layer < len(blocks):
        raise CurvekitError(f"layer is {layer}, and the model has the blocks 0 to {len(blocks) - 1}; give one of them")
    return blocks[layer]


@torch.no_grad()
def mean_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int | None = None,
    *,
    batch_size: int = 16,
    progress: bool = False,
) -> Tensor:
    """The mean over positions of each text's states: ``[texts, width]``, float32, on the CPU.

    Args:
        texts: each is read after one end-of-text, whose state is left out, and cut to the model's positions.
        layer: a block, from 0; None: after the last norm, which the output matrix reads.
        batch_size: texts read together; changes no figure.

    Raises:
        CurvekitError: no such block, or a text without a token.
    """
    if layer is not None:
        block_of(model, layer)
    start, most = start_token(tokenizer), int(model.config.max_position_embeddings)
    rows = [begun(tokenizer, text, most) for text in texts]
    if empty := next((text for text, row in zip(texts, rows, strict=True) if len(row) < 2), None):
        raise CurvekitError(f"the text {empty!r} has no token; leave it out")
    if any(len(row) < 2 for row in rows):
        raise CurvekitError("a text is empty; leave it out")
    found = torch.empty(len(rows), model.config.hidden_size)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # of like length together
    bar = tqdm(total=len(rows), desc="states", unit=" texts", leave=False, disable=None if progress else True)
    with evaluating(model), bar:
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            width = max(len(rows[row]) for row in batch)
            ids = torch.tensor([rows[row] + [start] * (width - len(rows[row])) for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(rows[row]) + [0] * (width - len(rows[row])) for row in batch])
            mask = mask.to(model.device)
            with _watched(model, layer) as kept:
                out: Any = model.base_model(
                    input_ids=ids, attention_mask=mask, position_ids=positions(mask, width), use_cache=False
                )
            states = out.last_hidden_state if layer is None else kept[0]
            weights = mask.clone()
            weights[:, 0] = 0  # the end-of-text is nobody's words
            weights = weights[..., None].to(states.dtype)
            means = (states * weights).sum(1) / weights.sum(1)
            found[batch] = means.float().cpu()
            bar.update(len(batch))
    return found


@contextmanager
def after(blocks: Iterable[nn.Module], see: Callable[[Tensor], object]) -> Iterator[None]:
    """Show ``see`` the states ``[batch, time, width]`` that each of these blocks leaves of what is read within."""
    hooks = [
        block.register_forward_hook(lambda _, inputs, states: see(states[0] if isinstance(states, tuple) else states))
        for block in blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _watched(model: Any, layer: int | None) -> Iterator[list[Tensor]]:
    """What a block says of what the model reads inside."""
    kept: list[Tensor] = []
    with after([] if layer is None else [block_of(model, layer)], kept.append):
        yield kept
