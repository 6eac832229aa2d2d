"""PPLM: the equations as they read, on every recipe's cache."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES
from curvekit.steering.attributes import AttributeModel
from curvekit.steering.control import Control
from curvekit.steering.pplm import Pplm, attribute_objective, bag_objective, formula
from curvekit.steering.reading import Reader
from curvekit.steering.states import mean_states

CONTROL = Control(step_size=0.7, iterations=2, kl_scale=0.3, gm_scale=0.8)


def batch(tokenizer, texts):
    rows = [[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return rows, ids, mask


def cache_of(past):
    cache = DynamicCache()
    for number, (keys, values) in enumerate(past):
        cache.update(keys[None], values[None], number)
    return cache


@pytest.mark.parametrize("kind", ["bag", "attribute"])
def test_rows_of_a_batch_are_the_formula_of_each(make, tiny_tokenizer, kind):
    model = make("gpt2")
    bag = torch.tensor([30, 31, 40])
    attribute = AttributeModel(torch.randn(2, 32), torch.randn(2), ("no", "yes"), "")
    objective = bag_objective(bag) if kind == "bag" else attribute_objective(attribute, "yes")
    rows, ids, mask = batch(tiny_tokenizer, ["The river", "She read the letter twice before"])
    steered = Pplm(model, CONTROL, [objective], kind == "attribute")
    first = steered.logits(ids, mask)
    for place, row in enumerate(rows):
        with torch.no_grad():
            before = model(torch.tensor([row[:-1]]), use_cache=True, output_hidden_states=True)
            plain = model(torch.tensor([row])).logits[0, -1].softmax(-1)
        past = [torch.stack([layer.keys[0], layer.values[0]]) for layer in before.past_key_values.layers]
        states = before.hidden_states[-1][0, 1:].detach()  # without the end-of-text

        def speak(past, row=row, states=states):
            out = model(
                torch.tensor([row[-1:]]), past_key_values=cache_of(past), position_ids=torch.tensor([[len(row) - 1]]),
                output_hidden_states=True,
            )  # fmt: skip
            return out.logits[0, -1], torch.cat([states, out.hidden_states[-1][0]]).mean(0)

        def log_attribute(odds, state):
            if kind == "bag":
                return torch.log(odds[bag].sum())
            return torch.log(torch.softmax(attribute.weight @ state + attribute.bias, -1)[1])

        expected = formula(speak, past, log_attribute, plain, CONTROL)
        torch.testing.assert_close(first[place].log_softmax(-1), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ("published",)])
def test_every_causal_recipe_is_steered_and_its_own_past_stays(make, tiny_tokenizer, recipe):
    model = make(recipe)
    bag = torch.tensor([30, 31, 40])
    _, ids, mask = batch(tiny_tokenizer, ["The river", "She read the letter"])
    control = Control(step_size=2.0)
    steered, plain = Pplm(model, control, [bag_objective(bag)], False), Reader(model)
    with torch.no_grad():
        for step in range(3):
            more, less = steered.logits(ids, mask), plain.logits(ids, mask)
            own, expected = (reader.cache.layers[0].keys for reader in (steered.plain, plain))
            assert torch.allclose(own, expected, atol=1e-4)  # the prompt is read in two parts
            gain = more.softmax(-1)[:, bag].sum(-1) / less.softmax(-1)[:, bag].sum(-1)
            assert (gain > 1).all(), (step, gain)
            ids, mask = less.argmax(-1)[:, None], torch.cat([mask, mask.new_ones(2, 1)], dim=1)


@pytest.mark.parametrize("base", ["gpt_neo", "llama"])
def test_every_architecture_is_steered(tiny_bases, tiny_encoder, tiny_tokenizer, base):
    from curvekit.bases.building import build_model

    model = build_model("curve+softemax", str(tiny_bases[base]), tiny_tokenizer, encoder=str(tiny_encoder))
    _, ids, mask = batch(tiny_tokenizer, ["The river", "She read the letter"])
    bag = torch.tensor([30, 31, 40])
    with torch.no_grad():
        plain = Reader(model).logits(ids, mask).softmax(-1)[:, bag].sum(-1)
        more = Pplm(model, Control(step_size=2.0), [bag_objective(bag)], False).logits(ids, mask)
    assert (more.softmax(-1)[:, bag].sum(-1) > plain).all()


def test_a_recipe_that_sees_the_future_is_refused(tiny_base, tiny_encoder, tiny_tokenizer):
    from curvekit.bases.building import build_model

    model = build_model("published", str(tiny_base), tiny_tokenizer, encoder=str(tiny_encoder))
    with pytest.raises(CurvekitError, match="keeps no past, on which PPLM takes its steps"):
        Pplm(model, CONTROL, [], False)


def test_mean_states_do_not_depend_on_the_batch_and_are_the_blocks_own(make, tiny_tokenizer, tiny_texts):
    model = make("curve")
    whole = mean_states(model, tiny_tokenizer, tiny_texts[:5], 0)
    assert torch.allclose(whole, mean_states(model, tiny_tokenizer, tiny_texts[:5], 0, batch_size=1), atol=1e-5)
    ids = torch.tensor([[tiny_tokenizer.eos_token_id, *tiny_tokenizer(tiny_texts[0])["input_ids"]][:64]])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    assert torch.allclose(whole[0], states[1][0, 1:].mean(0), atol=1e-5)
    last = mean_states(model, tiny_tokenizer, tiny_texts[:1])
    assert torch.allclose(last[0], states[-1][0, 1:].mean(0), atol=1e-5)
