"""The growing cache holds what transformers' own holds, whatever is done to it, and copies the past seldom."""

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from curvekit.caches import GrowingLayer, grow

ACTIONS = {
    "one more": lambda layer, new: layer.update(new(1), new(1, 3)),
    "forty more": lambda layer, new: layer.update(new(40), new(40, 3)),
    "crop": lambda layer, new: layer.crop(-2) if layer.get_seq_length() > 2 else None,
    "reorder": lambda layer, new: layer.reorder_cache(torch.arange(new.batch).flip(0)),
    "repeat": lambda layer, new: layer.batch_repeat_interleave(2) if new.batch < 16 else None,
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


@example(["reset", "one more", "repeat", "crop", "one more"])
@given(st.lists(st.sampled_from(list(ACTIONS)), max_size=12))
@torch.no_grad()
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


@torch.no_grad()
def test_the_past_stays_where_it_is():
    layer, one = GrowingLayer(), torch.zeros(1, 1, 1, 4)
    places = {layer.update(one, one[..., :0])[0].data_ptr() for _ in range(1000)}
    assert len(places) < 12
    assert layer.values.shape == (1, 1, 1000, 0)


def test_a_past_made_in_inference_mode_can_be_continued_outside():
    layer, one = GrowingLayer(), torch.ones(1, 1, 1, 4)
    with torch.inference_mode():
        layer.update(one, one)
    with torch.no_grad():
        layer.update(one, one)
    assert torch.equal(layer.keys, torch.ones(1, 1, 2, 4))


@pytest.mark.parametrize("learned", ["past", "new", "neither"])
def test_gradients_pass_through_the_past(learned):
    parts = [torch.rand(1, 1, 3, 4) for _ in range(3)]
    parts[0].requires_grad_(learned == "past")
    parts[2].requires_grad_(learned == "new")
    scale = torch.ones(1, requires_grad=True)
    layer, total = GrowingLayer(), torch.zeros(())
    for part in parts:
        total = total + (scale * layer.update(part, part)[0] ** 2).sum()  # saves the keys for its backward
    total.backward()
    sums = [float((part.detach() ** 2).sum()) for part in parts]
    assert scale.grad.item() == pytest.approx(3 * sums[0] + 2 * sums[1] + sums[2], rel=1e-5)
    if learned != "neither":
        part, times = (parts[0], 3) if learned == "past" else (parts[2], 1)
        torch.testing.assert_close(part.grad, 2 * times * part.detach())


@torch.no_grad()
def test_another_batch_or_type_is_treated_as_by_the_dynamic_layer():
    ours, theirs, past, one = GrowingLayer(), DynamicLayer(), torch.rand(4, 1, 3, 2), torch.rand(4, 1, 1, 2)
    for layer in (ours, theirs):
        layer.update(past, past)
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            layer.update(one[:1], one[:1])
        layer.update(one.bfloat16(), one.bfloat16())
    assert ours.keys.dtype == theirs.keys.dtype and torch.equal(ours.keys, theirs.keys)


def test_only_empty_dynamic_layers_are_replaced(make):
    cache = DynamicCache(config=make("gpt2").config)
    cache.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), 0)
    used = cache.layers[0]
    grow(cache)
    assert cache.layers[0] is used and type(cache.layers[1]) is GrowingLayer
    grow(None)


def test_what_moves_between_devices_or_has_no_layers_is_left_alone(make):
    moving = DynamicCache(config=make("gpt2").config, offloading=True)
    grow(moving)
    assert GrowingLayer not in map(type, moving.layers)
    grow(EncoderDecoderCache(DynamicCache(), DynamicCache()))


@pytest.mark.parametrize("recipe", ["gpt2", "curve", "curve-causal"])
def test_generation_keeps_its_past_in_growing_layers(make, recipe):
    model, ids = make(recipe), torch.tensor([[1, 2, 3]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "pad_token_id": 0}
    past = model.generate(ids, return_dict_in_generate=True, **options).past_key_values
    with torch.no_grad():
        own = model(ids, use_cache=True).past_key_values
    assert {type(layer) for layer in (*past.layers, *own.layers)} == {GrowingLayer}
