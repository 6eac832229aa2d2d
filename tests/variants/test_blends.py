"""A blend of one's own takes the place of a curve's weights, trains with it, and is refused where it would leak."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvekit.causality import future_leak
from curvekit.curves import CurveEmbedding
from curvekit.errors import CurvekitError
from curvekit.variants import register_blend, register_recipe


class Mixing(nn.Module):
    """One matrix for each age."""

    def __init__(self, width, degree):
        super().__init__()
        self.mixes = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(degree + 1))

    def forward(self, points):
        return sum(mix(point) for mix, point in zip(self.mixes, points, strict=True))


def largest(points):
    return torch.stack(points).amax(0)


def test_a_function_takes_the_place_of_the_weights():
    register_blend("largest", largest, degree=3)
    curve = CurveEmbedding(8, 6, degree=3, weights="largest", normalisation="none", fusion="replace")
    points = tuple(torch.randn(2, 5, 8) for _ in range(4))
    wanted = curve.projection(torch.stack(points).amax(0))
    assert torch.equal(curve(points, torch.zeros(2, 5, 6)), wanted)
    with pytest.raises(CurvekitError, match="'largest' takes 4 points, not the 3 of degree 2; give degree=3"):
        CurveEmbedding(8, 6, weights="largest")
    with pytest.raises(CurvekitError, match="has no place and no derivative"):
        CurveEmbedding(8, 6, degree=3, weights="largest", channels=("point", "tangent"))
    with pytest.raises(CurvekitError, match="no weights to show"):
        curve.weights()


def test_a_modules_parameters_start_as_it_says_train_and_come_back(make, tmp_path):
    register_blend("mixing", Mixing)
    register_recipe("mine", {"source": "self", "curve_weights": "mixing"})
    model = make("mine")
    own = model.base_model.curve.own
    assert isinstance(own, Mixing)
    assert all(0.05 < each.weight.std() < 0.2 for each in own.mixes), "drawn as torch draws a Linear of 32"
    ids = torch.randint(0, 300, (2, 12))
    assert future_leak(model, ids) == 0
    again = make("mine")
    assert all(
        torch.equal(a, b) for a, b in zip(own.parameters(), again.base_model.curve.own.parameters(), strict=True)
    )
    model(ids, labels=ids).loss.backward()
    assert all(each.grad.abs().sum() > 0 for each in own.parameters())
    with torch.no_grad():
        own.mixes[0].weight.fill_(0.25)
    model.save_pretrained(tmp_path)
    from curvekit.bases.opening import load_model

    assert torch.equal(load_model(tmp_path)(ids).logits, model(ids).logits)


def test_generation_with_a_cache_and_without_it_is_the_same(make):
    register_blend("largest", largest, degree=3)
    register_recipe("mine", {"source": "self", "curve_weights": "largest", "degree": 3})
    model = make("mine")
    ids = torch.randint(0, 300, (2, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    told = [
        model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=cache, pad_token_id=0)
        for cache in (True, False)
    ]
    assert torch.equal(*told)


class Growing(nn.Module):
    """Of another width than it was given."""

    def __init__(self, width, degree):
        super().__init__()
        self.out = nn.Linear(width, 2 * width)

    def forward(self, points):
        return self.out(points[-1])


class Fixed(Growing):
    """Of a width that a user wrote down."""

    def __init__(self, width, degree):
        super().__init__(width, degree)
        self.out = nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("blend", "told"),
    [
        (Growing, r"the blend 'bad' gave \[2, 7, 16\] of points \[2, 7, 8\]; return states of the points' own width"),
        (Fixed, r"the blend 'bad' failed at test_blends.py, line \d+: RuntimeError: mat1 and mat2"),
        (lambda points: points[-1].flip(1), "'bad' sees the future: what it gives a position changes with later ones"),
        (lambda points: points[-1] - points[-1].mean(1, keepdim=True), "'bad' sees the future"),
        (lambda points: points[-1].cumsum(1), "'bad' reads other positions or texts than the points"),
        (lambda points: points[-1] - points[-1].mean(0, keepdim=True), "'bad' reads other positions or texts"),
        (lambda points: (points[-1] - points[-1]).sqrt() + points[-1], "not numbers"),
        (lambda points: points[-1] / 0, "not numbers"),
        (lambda points: points, "gave tuple of points"),
    ],
)
def test_a_blend_that_a_curve_cannot_be_built_on_is_refused(blend, told):
    with pytest.raises(CurvekitError, match=told) as raised:
        register_blend("bad", blend)
    assert "\n" not in str(raised.value)


def test_names_that_are_taken_and_degrees_that_are_none_are_refused():
    for name in ("bernstein", "learned", "softemax"):
        with pytest.raises(CurvekitError, match="is taken"):
            register_blend(name, largest)
    for degree in (-1, 1.5):
        with pytest.raises(CurvekitError, match="give 0 or more"):
            register_blend("mine", largest, degree)
    register_blend("mine", largest)
    with pytest.raises(CurvekitError, match="a curve at sites has Bernstein's"):
        register_recipe("both", {"sites": ("mlp",), "curve_weights": "mine"})
