"""Sinks and outliers: the figures are their formulas, and softmax gives nothing to nobody."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.errors import CurvekitError
from curvekit.evaluation.outliers import kurtosis, traces
from curvekit.text.tokenization import start_token

TEXTS = ["The boats lay in the harbour and the sea was grey.", "She read the letter twice.", ""]


def test_kurtosis_is_three_of_a_normal_distribution_and_its_formula():
    x = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert kurtosis(x).tolist() == pytest.approx([3.0] * 4, abs=0.15)
    row = x[0, :50]
    mean = sum(row.tolist()) / 50
    variance = sum((v - mean) ** 2 for v in row.tolist()) / 50
    assert float(kurtosis(row)) == pytest.approx(sum((v - mean) ** 4 for v in row.tolist()) / 50 / variance**2)


def test_the_figures_are_those_of_the_model_itself(tiny_base, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager").eval()
    found = traces(model, tiny_tokenizer, TEXTS, tokens=12)
    first, sums, positions, largest = 0.0, 0.0, 0, 0.0
    for text in TEXTS[:2]:
        ids = torch.tensor([[start_token(tiny_tokenizer), *tiny_tokenizer(text)["input_ids"][:11]]])
        with torch.no_grad():
            told = model(ids, output_attentions=True, output_hidden_states=True)
        first += float(told.attentions[0][0, :, 1:, 0].mean()) / 2
        states = told.hidden_states[1][0]  # after the first block
        sums, positions = sums + float(kurtosis(states).sum()), positions + ids.shape[1]
        largest = max(largest, float(states.abs().max()))
    assert found.first_token[0] == pytest.approx(first, rel=1e-4)
    assert found.kurtosis[0] == pytest.approx(sums / positions, rel=1e-4)
    assert found.largest[0] == pytest.approx(largest, rel=1e-5)
    assert max(found.nobody) < 1e-5 and len(found.nobody) == model.config.n_layer


@pytest.mark.parametrize(("recipe", "some"), [("gpt2", False), ("softemax", True), ("sink", True)])
def test_only_softemax_gives_attention_to_nobody(make, tiny_tokenizer, recipe, some):
    found = traces(make(recipe), tiny_tokenizer, TEXTS, tokens=12)
    assert all((share > 0.01) == some for share in found.nobody)
    assert all(0 <= share + first <= 1 for share, first in zip(found.nobody, found.first_token, strict=True))


def test_texts_without_a_token_are_refused(make, tiny_tokenizer):
    with pytest.raises(CurvekitError, match="no text has a token"):
        traces(make("gpt2"), tiny_tokenizer, [""])
