"""Tiny models for tests: any recipe on any tiny base, and which recipes are asked of which architecture."""

from __future__ import annotations

import pytest

from curvekit.modeling import ARCHITECTURES

PARTS = (  # recipes in which every source, family of curves, mixer and attention of a causal recipe is there once
    *("plain", "softmax1", "sink", "encoder", "curve-causal", "self-curve", "learned", "bspline", "curve3-places"),
    *("curve3+sites+softemax", "smear", "canon", "token-shift", "trigram"),
)
EVERY_PART = (*PARTS, "published")
WHOLE = ("curve-causal", "curve3+sites+softemax")  # between them the encoder, all places of a curve, and SoftEMax


def everywhere(recipes, parts=EVERY_PART, quick=None):
    """Ask a test of every recipe on GPT-2 and, since their parts do not depend on each other, of every part on each
    other architecture: the parameters ``base``, which the fixture of this name is given, and ``recipe``. With recipes
    that are ``quick`` the others are asked in long runs alone."""
    pairs = [
        pytest.param(base, recipe, marks=() if quick is None or recipe in quick else pytest.mark.long)
        for base in ARCHITECTURES
        for recipe in recipes
        if base == "gpt2" or recipe in parts
    ]
    return pytest.mark.parametrize(("base", "recipe"), pairs, indirect=["base"])


def builder(base, encoder, tokenizer):
    """Build a recipe on a tiny base; with ``open_gate`` its curve takes part, as after training."""
    import torch

    from curvekit.bases.building import build_model

    def build(recipe, open_gate=True, **overrides):
        model = build_model(recipe, str(base), tokenizer, encoder=str(encoder), **overrides)
        curve = getattr(model.curved, "curve", None)
        if open_gate and curve is not None and curve.gate is not None:
            torch.nn.init.constant_(curve.gate, 0.7)
        for mixer in model.curved.mixers.values() if open_gate else ():
            if mixer.kind == "smear":
                torch.nn.init.constant_(mixer.smear, 0.7)
            elif mixer.kind == "curve":
                torch.nn.init.constant_(mixer.gates, 0.7)
        return model

    return build
