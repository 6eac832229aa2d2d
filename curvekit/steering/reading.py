"""A model that reads rows of tokens piece by piece and keeps its past, as steered generation needs it step by step."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from curvekit.caches import GrowingLayer
from curvekit.errors import CurvekitError


def positions(mask: Tensor, time: int) -> Tensor:
    """The position of each of the last ``time`` tokens among its row's real ones: ``[rows, time]``."""
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -time:]


def forward(model: Any, ids: Tensor, mask: Tensor, cache: DynamicCache | None, **options: Any) -> Any:
    """What a model says of ``ids`` ``[rows, time]`` behind its cache; ``mask`` ``[rows, past + time]`` is of all.

    The positions are those of the real tokens, so padding on the left changes nothing.
    """
    inputs = model.prepare_inputs_for_generation(
        ids,
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions(mask, ids.shape[1]),
        use_cache=cache is not None,
        **options,
    )
    return model(**inputs, return_dict=True)


def trims(model: PreTrainedModel) -> dict[str, int]:
    """The argument that keeps the last token's logits alone, where a model takes it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


class Reader:
    """Reads rows as they grow; a model that looks ahead keeps no past and reads everything anew."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = None if getattr(model.config, "leaks", False) else DynamicCache(config=model.config)
        self.ids: Tensor | None = None  # of a model without a past
        self.begun = False

    def __call__(self, ids: Tensor, mask: Tensor, **options: Any) -> Any:
        """The model's output of new tokens ``[rows, time]``; its last logits are those of the next token."""
        if self.cache is None:
            self.ids = ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=1)
        first = {} if self.begun else {"is_first_iteration": True}
        self.begun = True
        return forward(self.model, ids, mask, self.cache, **first, **trims(self.model), **options)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of the next token, ``[rows, vocabulary]`` in float32."""
        return self(ids, mask).logits[:, -1].float()


def copied(cache: DynamicCache, added: list[tuple[Tensor, Tensor]] | None = None) -> DynamicCache:
    """A cache with the same past and nothing in common that is written to; ``added`` to the first layers' keys, values.

    Raises:
        CurvekitError: a layer that does not keep its whole past.
    """
    layers: list[Any] = []
    held: list[Any] = cache.layers
    for number, layer in enumerate(held):
        if type(layer) not in (DynamicLayer, GrowingLayer):
            raise CurvekitError(f"the model's cache keeps a {type(layer).__name__}, which PPLM cannot take steps on")
        keys, values = layer.keys, layer.values
        if added is not None and number < len(added):
            keys, values = keys + added[number][0], values + added[number][1]
        twin = GrowingLayer()
        if keys is not None:
            twin.lazy_initialization(keys, values)
            twin.keys, twin.values = keys, values
        layers.append(twin)
    copy = DynamicCache()
    copy.layers = layers
    return copy
