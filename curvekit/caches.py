"""A cache that grows without copying, for generation: what :class:`curvekit.modeling.CurveMixin` keeps its past in.

transformers' dynamic layer joins the whole past and the new token anew at every step, in every layer, which for a
batch of long texts takes longer than the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """As transformers' dynamic layer; room is made ahead, and new states are written behind those that are there.

    ``keys`` and ``values`` ``[batch, heads, time, width]`` show what of the room is used. Where somebody put other
    tensors in their place (beams in a new order, a past repeated for a batch), they move into a new room.
    """

    _rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        past: Any = self.keys
        seen = self.get_seq_length()
        other = seen and (past.shape[:-2] != key_states.shape[:-2] or past.dtype != key_states.dtype)
        # Autograd and the compiler bear no tensor that is written to; another batch or type is cat's to refuse or join.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or other:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        total = seen + key_states.shape[-2]
        pasts: tuple[Any, Any] = self.keys, self.values
        if self._rooms is None or not all(map(_begins, pasts, self._rooms, (total, total))):
            self._rooms = _room(pasts[0], key_states, seen, total), _room(pasts[1], value_states, seen, total)
        keys, values = self._rooms
        keys[..., seen:total, :], values[..., seen:total, :] = key_states, value_states
        self.keys, self.values = keys[..., :total, :], values[..., :total, :]
        return self.keys, self.values

    def reset(self) -> None:
        super().reset()
        self._rooms = None


def grow(cache: Any) -> None:
    """Put growing layers in the place of a cache's dynamic ones that are still empty; not in one that is offloaded."""
    taken_apart = DynamicCache in torch.utils._pytree.SUPPORTED_NODES  # for export, which knows its own layers only
    if not (getattr(cache, "offloading", False) or taken_apart):
        for number, layer in enumerate(getattr(cache, "layers", ())):
            if type(layer) is DynamicLayer and not layer.is_initialized:
                cache.layers[number] = GrowingLayer()


def _begins(past: Tensor, room: Tensor, total: int) -> bool:
    """Whether ``past`` is the beginning of ``room``, which has places for ``total`` and may be written to."""
    return (
        past.data_ptr() == room.data_ptr()
        and past.shape[:-2] == room.shape[:-2]
        and past.stride() == room.stride()
        and total <= room.shape[-2]
        and (torch.is_inference_mode_enabled() or not room.is_inference())
    )


def _room(past: Tensor, new: Tensor, seen: int, total: int) -> Tensor:
    """Room for half as much again as ``total``, with the past in it."""
    room = new.new_empty(*new.shape[:-2], total + max(total // 2, 32), new.shape[-1])
    if seen:
        room[..., :seen, :] = past
    return room
