"""What tests of registered variants share: nothing stays registered after a test, and a plugin that works."""

from __future__ import annotations

from pathlib import Path

import pytest

PLUGIN = '''"""Sigmoid attention, a blend that fades with distance, and a recipe of both."""

import math

import torch
from torch import nn

from curvekit.variants import register_blend, register_normaliser, register_recipe


def sigmoid(scores):
    seen = (scores > -math.inf).sum(-1, keepdim=True)
    return torch.sigmoid(scores - seen.to(scores.dtype).log())


class Fading(nn.Module):
    def __init__(self, width, degree):
        super().__init__()
        self.rate = nn.Parameter(torch.linspace(0.5, 2, width))

    def forward(self, points):
        weights = [torch.exp(-self.rate * age) for age in reversed(range(len(points)))]
        return sum(weight * point for weight, point in zip(weights, points)) / sum(weights)


register_normaliser("sigmoid", sigmoid)
register_blend("fading", Fading)
register_recipe("mine", {"source": "self", "curve_weights": "fading", "attention": "sigmoid"}, "a curve of my own")
'''


@pytest.fixture
def plugin(tmp_path) -> Path:
    """The file of a plugin."""
    file = tmp_path / "my_recipe.py"
    file.write_text(PLUGIN)
    return file
