"""Eight bits: rounding is torch's own, outliers make it coarse, and a model is itself again afterwards."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.errors import CurvekitError
from curvekit.evaluation.quantisation import rounded, rounded_activations, rounded_weight

IDS = torch.arange(3, 15)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_that_of_torch(bits):
    draw = torch.Generator().manual_seed(0)
    for shift in (0.0, 3.0, -5.0):
        x = torch.randn(40, 30, generator=draw) + shift
        most = 2 ** (bits - 1) - 1
        scale = float(x.abs().max()) / most
        assert torch.allclose(rounded_weight(x, bits), torch.fake_quantize_per_tensor_affine(x, scale, 0, -most, most))
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / (2**bits - 1)
        zero = round(-low / scale)
        theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
        apart = (rounded_activations(x, bits) - theirs).abs()
        assert float(apart.max()) < 1.01 * scale and float((apart > scale / 2).float().mean()) < 0.01  # ties
        assert len(rounded_activations(x, bits).unique()) <= 2**bits


def test_nothing_but_zeros_stays_zeros():
    assert not rounded_weight(torch.zeros(3, 3)).any() and not rounded_activations(torch.zeros(3, 3)).any()


def test_one_outlier_makes_all_others_coarse():
    x = torch.linspace(-1, 1, 1001)
    near, far = x.clone(), torch.cat([x, torch.tensor([1000.0])])
    assert float((rounded_activations(near) - near).abs().max()) < 0.005
    assert len(rounded_activations(far)[:-1].unique()) == 1


@pytest.mark.parametrize(("kind", "each"), [("gpt2", 4), ("llama", 7)])
def test_a_model_multiplies_in_few_bits_within_and_is_itself_afterwards(tiny_bases, kind, each):
    model = AutoModelForCausalLM.from_pretrained(tiny_bases[kind]).eval()
    whole, state = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    errors = {}
    for bits in (3, 8, 16):
        with rounded(model, bits) as names:
            errors[bits] = float((logits(model) - whole).abs().max())
        assert len(names) == each * model.config.num_hidden_layers
    assert errors[3] > 4 * errors[8] > 8 * errors[16] > 0
    with pytest.raises(ZeroDivisionError), rounded(model):
        raise ZeroDivisionError
    assert torch.equal(logits(model), whole)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_bits_are_a_number_of_bits(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    with pytest.raises(CurvekitError, match="bits is 1; give 2 to 16"), rounded(model, 1):
        pass
