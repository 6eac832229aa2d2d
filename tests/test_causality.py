"""The leak of every recipe is what its configuration says: exactly 0, or above 0 and warned of."""

import warnings

import pytest
import torch
from transformers import GPT2LMHeadModel

from curvekit.bases.building import build_model
from curvekit.causality import LeakWarning, future_leak, leak_by_position, warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES

IDS = torch.randint(1, 300, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def make(tiny_base, tiny_encoder, tiny_tokenizer):
    def build(recipe, **overrides):
        model = build_model(recipe, str(tiny_base), tiny_tokenizer, encoder=str(tiny_encoder), **overrides)
        curve = getattr(model.base_model, "curve", None)
        if curve is not None and curve.gate is not None:
            torch.nn.init.constant_(curve.gate, 0.7)  # a closed gate would hide a leak
        return model

    return build


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_leaks_exactly_as_it_says(make, recipe):
    model = make(recipe)
    leak = future_leak(model, IDS, probes=range(19))
    assert (leak > 1e-4) if model.config.leaks else (leak == 0.0), f"{recipe}: {leak}"


@pytest.mark.parametrize(
    "settings,leaks",
    [
        ({"window": "centred"}, True),
        ({"window": "centred", "degree": 1}, True),
        ({"window": "centred", "degree": 0}, False),
        ({"context": "bidirectional"}, True),
        ({"context": "causal", "degree": 5}, False),
        ({"curve_weights": "learned", "degree": 4}, False),
        ({"curve_weights": "bspline", "channels": ["point", "tangent", "curvature"], "learn_place": True}, False),
        ({"source": "self", "window": "centred"}, True),
        ({"fusion": "replace", "positions": "sinusoidal", "normalisation": "softemax"}, False),
        ({"attention": "published"}, False),
    ],
)
def test_settings_leak_exactly_as_their_configuration_says(make, settings, leaks):
    model = make("curve", **settings)
    assert model.config.leaks == leaks
    leak = future_leak(model, IDS, probes=range(19))
    assert (leak > 1e-5) == leaks and (leaks or leak == 0.0), leak


def test_a_centred_curve_shows_only_the_next_word(make):
    changes = leak_by_position(make("self-curve", window="centred"), IDS)
    for p in range(19):
        assert (changes[p, :p] == 0).all() and changes[p, p] > 0


def test_a_future_that_reaches_far_is_found_by_the_default_probes(make):
    assert future_leak(make("published"), IDS) > 0
    assert future_leak(make("curve"), IDS) == 0.0


def test_transformers_gpt2_is_causal_and_stays_in_its_mode(tiny_base):
    model = GPT2LMHeadModel.from_pretrained(tiny_base).train()
    assert future_leak(model, IDS) == 0.0 and model.training


def test_leaking_models_are_warned_of(make):
    with pytest.warns(LeakWarning, match="'published' sees the tokens"):
        assert warn_if_leaking(make("published"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_if_leaking(make("curve"))


def test_what_cannot_be_probed_is_refused(make, tiny_base):
    model = make("gpt2")
    with pytest.raises(CurvekitError, match="at least 2 tokens"):
        future_leak(model, IDS[:, :1])
    with pytest.raises(CurvekitError, match="positions 0 to time - 2"):
        future_leak(model, IDS, probes=[19])
    broken = GPT2LMHeadModel.from_pretrained(tiny_base)
    torch.nn.init.constant_(broken.transformer.ln_f.weight, float("nan"))
    with pytest.raises(CurvekitError, match="not numbers"):
        future_leak(broken, IDS)
