"""The growing cache holds what transformers' own holds, whatever is done to it, and copies the past seldom."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, DynamicLayer

from curvekit.caches import GrowingLayer, grow

ACTIONS = {
    "one more": lambda layer, new: layer.update(new(1), new(1, 3)),
    "forty more": lambda layer, new: layer.update(new(40), new(40, 3)),
    "crop": lambda layer, new: layer.crop(-2),
    "reorder": lambda layer, new: layer.reorder_cache(torch.arange(new.batch).flip(0)),
    "repeat": lambda layer, new: layer.batch_repeat_interleave(2),
    "select": lambda layer, new: layer.batch_select_indices(torch.tensor([0])),
    "reset": lambda layer, new: layer.reset(),
    "copy": lambda layer, new: None,
}


class New:
    """New states of the batch there is, the same for whoever asks with the same number."""

    def __init__(self, layer, number: int) -> None:
        self.batch = layer.keys.shape[0] if layer.get_seq_length() else 2
        self.dice = torch.Generator().manual_seed(number)

    def __call__(self, time: int, width: int = 5) -> torch.Tensor:
        return torch.rand(self.batch, 2, time, width, generator=self.dice)


@given(st.lists(st.sampled_from(list(ACTIONS)), max_size=12))
def test_it_holds_what_the_dynamic_layer_holds(actions):
    ours, theirs = GrowingLayer(), DynamicLayer()
    for number, action in enumerate(["forty more", *actions]):
        if action == "copy":
            left, ours = ours, copy.deepcopy(ours)
            if left.get_seq_length():
                left.update(*(New(left, 99)(1, width) for width in (5, 3)))  # the copy must not notice
        for layer in (ours, theirs):
            ACTIONS[action](layer, New(layer, number))
        assert ours.get_seq_length() == theirs.get_seq_length()
        if ours.get_seq_length():
            assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values), actions


def test_the_past_stays_where_it_is():
    layer, one = GrowingLayer(), torch.zeros(1, 1, 1, 4)
    places = {layer.update(one, one[..., :0])[0].data_ptr() for _ in range(1000)}
    assert len(places) < 12
    assert layer.values.shape == (1, 1, 1000, 0)


def test_a_past_made_in_inference_mode_can_be_continued_outside():
    layer, one = GrowingLayer(), torch.ones(1, 1, 1, 4)
    with torch.inference_mode():
        layer.update(one, one)
    layer.update(one, one)
    assert torch.equal(layer.keys, torch.ones(1, 1, 2, 4))


def test_gradients_pass_through_the_past():
    first, second = (torch.rand(1, 1, 3, 4, requires_grad=True) for _ in range(2))
    layer = GrowingLayer()
    layer.update(first, first)
    keys, _ = layer.update(second, second)
    (keys**2).sum().backward()
    assert torch.equal(first.grad, 2 * first) and torch.equal(second.grad, 2 * second)


def test_only_empty_dynamic_layers_are_replaced(make):
    cache = DynamicCache(config=make("gpt2").config)
    cache.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), 0)
    used = cache.layers[0]
    grow(cache)
    assert cache.layers[0] is used and type(cache.layers[1]) is GrowingLayer
    grow(None)


@pytest.mark.parametrize("recipe", ["gpt2", "curve-causal"])
def test_generation_keeps_its_past_in_growing_layers(make, recipe):
    model, ids = make(recipe), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        past = model(ids, past_key_values=DynamicCache(config=model.config), use_cache=True).past_key_values
    assert {type(layer) for layer in past.layers} == {GrowingLayer}
