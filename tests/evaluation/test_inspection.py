"""Attention as it is read out: the model's own weights, to the last digit, and other members from the same scores."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from curvekit.bases.building import build_model
from curvekit.errors import CurvekitError
from curvekit.evaluation.inspection import OWN, attention_of, sink_shares
from curvekit.normalisers import VARIANTS

TEXT = "The river was low in summer"


@pytest.fixture(scope="module")
def gpt2(tiny_base):
    return GPT2LMHeadModel.from_pretrained(tiny_base).eval(), AutoTokenizer.from_pretrained(tiny_base)


def test_the_own_weights_are_those_that_transformers_computes(gpt2, tiny_base):
    model, tokenizer = gpt2
    read = attention_of(model, tokenizer, TEXT)
    eager = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").eval()
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(TEXT).input_ids]])
    expected = torch.stack([each[0] for each in eager(ids, output_attentions=True).attentions])
    torch.testing.assert_close(read.weights, expected)
    assert "".join(read.tokens) == tokenizer.eos_token + TEXT
    assert (read.cut, read.member) == (0, "softmax")


@pytest.mark.parametrize("recipe", ["softemax", "sink", "curve", "published"])
def test_every_recipe_is_read_with_its_own_member(recipe, tiny_base, gpt2, tiny_encoder):
    model = build_model(recipe, str(tiny_base), gpt2[1], encoder=str(tiny_encoder))
    if recipe == "sink":
        for block in model.transformer.h:
            torch.nn.init.normal_(block.attn.log_sink)
    read = attention_of(model, gpt2[1], TEXT)
    ids = torch.tensor([[gpt2[1].eos_token_id, *gpt2[1](TEXT).input_ids]])
    if recipe in ("softemax", "sink"):
        expected = torch.stack([each[0] for each in model(ids, output_attentions=True).attentions])
        torch.testing.assert_close(read.weights, expected.float())
    assert read.member == ("stable" if recipe in ("softemax", "sink") else "softmax")


def test_reading_changes_nothing_of_the_model(gpt2):
    model, tokenizer = gpt2
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    before, how = model(ids).logits, model.config._attn_implementation
    attention_of(model.train(), tokenizer, TEXT)
    assert model.training and model.config._attn_implementation == how
    assert torch.equal(model.eval()(ids).logits, before)


def test_the_stable_row_stands_between_softmax_and_the_published_form(gpt2):
    read = attention_of(*gpt2, TEXT)
    rows = read.rows(1, 0, 5, VARIANTS)
    assert list(rows) == list(VARIANTS)
    assert all(len(row) == 6 for row in rows.values())
    torch.testing.assert_close(1 / rows["stable"], 1 / rows["softmax"] + 1 / rows["published"])
    shares = sink_shares(rows)
    assert shares["softmax"] == pytest.approx(0, abs=1e-6)
    assert shares["stable"] == pytest.approx(1 - float(rows["stable"].sum()))
    assert shares["stable"] > shares["softmax1"] > 0.1
    assert shares["published"] is None


def test_a_long_text_is_cut_on_its_left_and_it_is_counted(gpt2):
    whole = len(gpt2[1](TEXT).input_ids)
    read = attention_of(*gpt2, TEXT, most=4)
    assert read.tokens[0] == gpt2[1].eos_token and TEXT.endswith("".join(read.tokens[1:]))
    assert (len(read.tokens), read.cut) == (4, whole - 3)


def test_a_model_whose_attention_cannot_be_exchanged_shows_its_own_row(gpt2, monkeypatch):
    model, tokenizer = gpt2
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    read = attention_of(model, tokenizer, TEXT)
    assert list(read.rows(0, 1, 3, VARIANTS)) == [OWN]
    torch.testing.assert_close(read.weights.sum(-1), torch.ones(read.weights.shape[:-1]))


def test_a_model_without_attentions_is_said_to_have_none(gpt2):
    from transformers.modeling_outputs import CausalLMOutput

    class Mute(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            return CausalLMOutput(logits=torch.zeros(1, 1, 1))

    with pytest.raises(CurvekitError, match="Mute exposes no attentions"):
        attention_of(Mute(gpt2[0].config), gpt2[1], TEXT)
