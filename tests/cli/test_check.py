"""The command ``check``: one line of measured differences, and a status that says whether they are small enough."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import builder

from curvekit import attention
from curvekit.bases.adapters import Lora, add_adapter
from curvekit.cli import main
from curvekit.evaluation import conformance as room
from curvekit.evaluation.conformance import conformance, formula
from curvekit.modeling import ARCHITECTURES
from curvekit.normalisers import VARIANTS
from curvekit.recipes import RECIPES


@pytest.fixture(scope="module", params=ARCHITECTURES)
def make(request, tiny_bases, tiny_encoder, tiny_tokenizer):
    return builder(tiny_bases[request.param], tiny_encoder, tiny_tokenizer)


def test_check_prints_one_line_and_ends_well(tiny_base, trained, capsys):
    for argv in ([tiny_base], [tiny_base, "--recipe", "softemax"], [trained["softemax"]]):
        assert main(["check", *map(str, argv)]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == 1 and "leak 0" in shown[0] and "TOO LARGE" not in shown[0]
        assert all(f"{name} " in shown[0] for name in ("attention", "cached", "padding"))
    assert main(["check", str(tiny_base), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == room.TOKENS


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_conforms_but_the_one_that_leaks(make, recipe, tiny_tokenizer):
    model = make(recipe, open_gate=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dice = torch.get_rng_state()
    found = conformance(model, tiny_tokenizer)
    assert found.failures == (["leak"] if recipe == "published" else [])
    assert ("IT LEAKS" in found.line()) == (recipe == "published") == (found.cached is None)
    assert torch.equal(dice, torch.get_rng_state()), "a run's dice are its own"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_closed_gate_hides_no_leak(make, tiny_tokenizer):
    model = make("curve", open_gate=False, window="centred")
    assert not model.base_model.curve.gate.any()
    assert conformance(model, tiny_tokenizer).failures == ["leak"]


def test_a_model_that_leaks_ends_with_status_one(tiny_bases, monkeypatch, capsys, make, tiny_tokenizer):
    from curvekit.bases import opening

    monkeypatch.setattr(opening, "open_model", lambda *_, **__: (make("published"), tiny_tokenizer))
    assert main(["check", "mini"]) == 1
    assert "IT LEAKS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("scale", {"attention"}),
        ("padding", {"padding"}),
        ("positions", {"cached"}),
        ("sink", {"attention"}),
        ("not a number", {"attention", "cached", "padding"}),
    ],
)
def test_what_is_broken_is_named(make, tiny_tokenizer, monkeypatch, broken, named):
    model = make("softemax")
    with torch.no_grad():  # of 0.02 wide random weights attention is nearly the mean of all values
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and ("attn" in name):
                parameter.mul_(8)
    assert not conformance(model, tiny_tokenizer).failures
    whole = attention.softemax_attention

    def wrong(query, key, value, **kwargs):
        mask = kwargs.get("mask")
        if broken == "scale":
            query = query * 1.05
        elif broken == "sink":
            kwargs["log_sink"] = kwargs["log_sink"] + 0.1
        elif broken == "padding" and mask is not None and query.shape[0] == 2:
            kwargs |= {"mask": None, "is_causal": True}
        elif broken == "positions" and query.shape[2] == 1:
            key = key.flip(2)
        elif broken == "not a number":
            value = value * torch.nan
        return whole(query, key, value, **kwargs)

    monkeypatch.setattr(attention, "softemax_attention", wrong)
    if broken == "not a number":
        from curvekit.errors import CurvekitError

        with pytest.raises(CurvekitError, match="not numbers"):
            conformance(model, tiny_tokenizer)
        return
    assert set(conformance(model, tiny_tokenizer).failures) == named


def test_a_wrong_merge_is_named(tiny_bases, make, tiny_tokenizer, monkeypatch):
    model = make("plain")
    add_adapter(model, str(tiny_bases[model.config.model_type.removeprefix("curve_")]), Lora())
    assert not conformance(model, tiny_tokenizer).failures
    from peft.tuners.lora import LoraLayer, layer

    right = layer.Linear.get_delta_weight
    monkeypatch.setattr(layer.Linear, "get_delta_weight", lambda self, name: 2 * right(self, name))
    assert issubclass(layer.Linear, LoraLayer) and conformance(model, tiny_tokenizer).failures == ["merge"]


@pytest.mark.parametrize("member", [name for name in VARIANTS if name != "softmax"])
def test_the_formula_is_the_members_own(member):
    from curvekit.attention import eager_softemax_attention

    q, k, v = (torch.randn(2, heads, 5, 8) for heads in (4, 2, 2))
    sinks = {} if member == "softmax1" else {"log_sink": torch.randn(4)}
    module = torch.nn.Module()
    module.log_sink = sinks.get("log_sink")
    module.config = None
    ours = formula(module, q, k, v, None, scaling=0.3, member=member)[0].transpose(1, 2)
    theirs = eager_softemax_attention(q, k, v, is_causal=True, scale=0.3, variant=member, **sinks)[0]
    assert torch.allclose(ours, theirs, atol=1e-5), f"max_diff {(ours - theirs).abs().max():.2e}"
