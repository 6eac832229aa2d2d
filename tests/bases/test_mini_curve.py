"""The base that ships with its curve: it opens as it was trained, its recipe starts from it, and its card is true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.bases.hub import SHIPPED, own_recipe
from curvekit.bases.opening import open_model
from curvekit.causality import future_leak
from curvekit.experiments import shipping
from curvekit.files import read_json
from curvekit.training.settings import RunConfig, main_recipes

ROOT = Path(__file__).parents[2]


def test_it_opens_as_it_was_trained_and_sees_no_later_word():
    model, tokenizer = open_model("mini-curve")
    assert model.config.recipe == "curve3+sites+softemax" and not model.config.leaks
    ids = tokenizer("The river was low in summer, and the boats lay on the sand.", return_tensors="pt").input_ids
    assert future_leak(model, ids.to(model.device)) == 0
    gate = model.base_model.curve.gate
    assert (gate != 0).any(), "its gate is open"
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
        other = build_model("curve3+sites+softemax", "mini-curve", tokenizer)(ids, labels=ids).loss.item()
        closed = build_model("softemax", "mini-curve", tokenizer)(ids, labels=ids).loss.item()
    assert other == pytest.approx(loss, abs=1e-4), "its recipe starts from its trained curve"
    assert loss < 5 < closed, "without its curve it is another model"


def test_a_saved_curve_is_trained_on_with_its_own_recipe_wherever_it_lies(make, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(SHIPPED["mini-curve"], copied)
    make("gpt2").save_pretrained(tmp_path / "bare")
    for base, own in ((str(copied), "curve3+sites+softemax"), (str(tmp_path / "bare"), None)):
        assert own_recipe(base) == own
        assert RunConfig(base=base).recipe == (own or "curve3")
        assert main_recipes(base)[0] == (own or "gpt2")
    assert own_recipe("no/such\0folder") is None


def test_the_card_says_what_was_measured_and_the_base_is_below_mini():
    folder = SHIPPED["mini-curve"]
    card = read_json(folder / "card.json")
    assert (folder / "README.md").read_text(encoding="utf-8") == shipping.markdown(card)
    beside = read_json(SHIPPED["mini"] / "card.json")["figures"]
    for text, figures in card["figures"].items():
        assert figures["tokens"] == beside[text]["tokens"]
        assert figures["bits_per_byte"] < beside[text]["bits_per_byte"], text
    assert card["figures"]["wikitext-2 test"]["bits_per_byte"] < 1.3316
    assert card["figures"]["stories test"]["bits_per_byte"] < 1.4270
    rows = {row["candidate"]: row for row in json.loads((ROOT / "reports/which-curve/long.json").read_text())}
    for tried in card["tried"]:
        assert tried["test"] == pytest.approx(rows[tried["candidate"]]["loss"], abs=1e-4)
