"""The base that ships with its curve: it opens as it was trained, its recipe starts from it, and its card is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.bases.hub import SHIPPED
from curvekit.bases.opening import open_model
from curvekit.causality import future_leak

ROOT = Path(__file__).parents[2]
CARD = (SHIPPED["mini-curve"] / "README.md").read_text(encoding="utf-8")


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


def test_the_card_says_what_the_ladder_measured():
    rows = {row["candidate"]: row for row in json.loads((ROOT / "reports/which-curve/long.json").read_text())}
    for name, column in (("curve3+sites+softemax", 1), ("plain", 2)):
        for key, label in (
            ("loss", "test loss, nats a token"),
            ("bits_per_byte wikitext-2", "bits a byte, WikiText-2 test"),
            ("bits_per_byte stories", "bits a byte, held-out stories"),
        ):
            (line,) = re.findall(rf"^\| {label} \|(.*)\|$", CARD, flags=re.MULTILINE)
            assert line.split("|")[column - 1].strip() == f"{rows[name][key]:.4f}"
