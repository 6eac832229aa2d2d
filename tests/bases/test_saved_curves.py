"""A base that was trained with a curve: a recipe of the same settings starts from it, another starts its parts anew."""

from __future__ import annotations

import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.curves import CurveEmbedding
from curvekit.mixers import Mixer

IDS = torch.tensor([[3, 17, 4, 5, 60, 7, 8, 3, 17]])
TRAINED = "curve3+sites+softemax"


@pytest.fixture
def trained(make, tiny_tokenizer, tmp_path):
    """A folder of a saved model none of whose parts are where they start."""
    model = make(TRAINED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return model.eval(), str(tmp_path)


def built(recipe, folder, tokenizer, encoder, **settings):
    return build_model(recipe, folder, tokenizer, encoder=str(encoder), **settings)


def part(model, name):
    return {key: value for key, value in model.base_model.state_dict().items() if key.startswith(f"{name}.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_recipe_of_the_base_starts_from_its_trained_curve(trained, tiny_tokenizer, tiny_encoder):
    model, folder = trained
    again = built(TRAINED, folder, tiny_tokenizer, tiny_encoder, seed=3)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)
    again.save_pretrained(folder)  # what was taken is saved under its own names
    assert same(built(TRAINED, folder, tiny_tokenizer, tiny_encoder).state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("recipe", "settings", "taken", "anew"),
    [
        (TRAINED, {"degree": 3}, ("encoder",), ("curve", "mixers")),
        (TRAINED, {"place": 0.25}, ("encoder", "mixers"), ("curve",)),
        (TRAINED, {"sites": ["mlp"]}, ("encoder", "curve"), ("mixers",)),
        ("curve3", {}, ("encoder", "curve"), ()),
        ("curve", {}, ("encoder",), ("curve",)),
        ("self-curve3", {}, (), ("curve",)),
        ("sites", {}, (), ("mixers",)),
        ("canon", {}, (), ("mixers",)),
        ("plain", {}, (), ()),
    ],
)
def test_what_was_trained_with_other_settings_starts_anew(
    trained, tiny_tokenizer, tiny_encoder, recipe, settings, taken, anew
):
    model, folder = trained
    other = built(recipe, folder, tiny_tokenizer, tiny_encoder, **settings)
    assert all(same(part(other, name), part(model, name)) for name in (*taken, "h", "wte", "wpe", "ln_f"))
    for name in {"encoder", "curve", "mixers"} - {*taken, *anew}:
        assert not part(other, name)
    kinds = tuple({"curve": CurveEmbedding, "mixers": Mixer}[name] for name in anew)
    fresh = [module for module in other.modules() if isinstance(module, kinds) and module.kind != "canon"]  # drawn
    assert fresh or recipe == "canon" or not anew
    for module in fresh:
        assert all(torch.equal(parameter, start) for parameter, start in module.starts())
    assert not any(same(part(other, name), part(model, name)) for name in anew)


def test_another_encoder_is_read_and_the_curve_through_it_starts_anew(trained, tiny_tokenizer, tiny_encoder, tmp_path):
    from shutil import copytree

    model, folder = trained
    copied = copytree(tiny_encoder, tmp_path / "another")
    other = built(TRAINED, folder, tiny_tokenizer, copied)
    assert not same(part(other, "encoder"), part(model, "encoder")), "the checkpoint's table was disturbed"
    assert not other.base_model.curve.gate.any() and same(part(other, "mixers"), part(model, "mixers"))
