"""Curves keep their promises: weights, clamped ends, causality of the trailing window, the neutral start."""

import math

import pytest
import torch

from curvekit.curves import (
    CurveEmbedding,
    bernstein_weights,
    bspline_weights,
    control_points,
    curve,
    reference_curve,
    sinusoidal_positions,
)
from curvekit.errors import CurvekitError


def states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_published_blend_is_the_quadratic_bezier_at_its_middle():
    assert bernstein_weights(2, 0.5).tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("degree", range(6))
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_bernstein_weights_are_de_casteljau(degree, place):
    """De Casteljau's repeated interpolation, the other definition of the same curve."""
    points = states(degree + 1)
    level = points.clone()
    while len(level) > 1:
        level = (1 - place) * level[:-1] + place * level[1:]
    weights = bernstein_weights(degree, place)
    assert weights.sum().item() == pytest.approx(1) and (weights >= 0).all()
    assert (weights @ points).item() == pytest.approx(level.item())


def test_cubic_bspline_weights_are_the_textbooks():
    assert bspline_weights(3, 0.0).tolist() == pytest.approx([1 / 6, 4 / 6, 1 / 6, 0])
    t = 0.3
    textbook = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    assert bspline_weights(3, t).tolist() == pytest.approx([w / 6 for w in textbook])


def test_a_bspline_is_continuous_from_word_to_word():
    e = states(1, 9, 4)
    end, start = curve(e, bspline_weights(3, 1.0)), curve(e, bspline_weights(3, 0.0))
    assert torch.allclose(end[:, :-1], start[:, 1:])
    bend = {place: curve(e, bspline_weights(3, place, derivative=1)) for place in (0.0, 1.0)}
    assert torch.allclose(bend[1.0][:, :-1], bend[0.0][:, 1:])


@pytest.mark.parametrize("family", [bernstein_weights, bspline_weights])
@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("derivative", [1, 2])
def test_tangent_and_curvature_are_the_derivatives(family, degree, derivative):
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda t: family(degree, t, derivative - 1), t, create_graph=False)
    assert torch.allclose(family(degree, 0.4, derivative), jacobian)
    assert family(degree, 0.4, derivative).sum().abs() < 1e-12


@pytest.mark.parametrize("window", ["trailing", "centred"])
@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_convolution_is_the_definition(window, degree, per_channel):
    e = states(2, 7, 3)
    weights = states(*((3, degree + 1) if per_channel else (degree + 1,)), seed=1)
    difference = (curve(e, weights, window) - reference_curve(e, weights, window)).abs().max()
    assert difference < 1e-12, f"max_diff {difference:.2e}"


def test_it_is_pytorchs_depthwise_convolution():
    e, weights = states(2, 7, 3), states(3, 4, seed=1)
    padded = torch.cat([e[:, :1].expand(-1, 3, -1), e], 1).transpose(1, 2)
    convolution = torch.nn.functional.conv1d(padded, weights.unsqueeze(1), groups=3).transpose(1, 2)
    assert torch.allclose(curve(e, weights), convolution)


@pytest.mark.parametrize("degree", range(1, 5))
def test_a_trailing_window_sees_no_later_word_and_a_centred_one_does(degree):
    e = states(1, 8, 2)
    later = e.clone()
    later[:, 5:] += 1
    weights = bernstein_weights(degree)
    assert torch.equal(curve(e, weights)[:, :5], curve(later, weights)[:, :5])
    assert not torch.equal(curve(e, weights, "centred")[:, :5], curve(later, weights, "centred")[:, :5])


def test_the_curve_starts_in_the_first_word():
    e = states(1, 5, 2)
    assert torch.allclose(curve(e, bernstein_weights(3))[:, 0], e[:, 0])
    assert torch.allclose(curve(e, bernstein_weights(3, derivative=1))[:, 0], torch.zeros(2, dtype=e.dtype))


@pytest.mark.parametrize("window", ["trailing", "centred"])
@pytest.mark.parametrize("left,right", [(2, 0), (0, 3), (1, 2)])
def test_padding_takes_no_part(window, left, right):
    e, weights = states(2, 6, 3), bernstein_weights(4)
    padded = torch.nn.functional.pad(e, (0, 0, left, right), value=99.0)
    mask = torch.zeros(2, padded.shape[1])
    mask[:, left : left + 6] = 1
    ours = curve(padded, weights, window, mask)[:, left : left + 6]
    assert torch.allclose(ours, curve(e, weights, window))


def test_positions_one_at_a_time_are_the_whole():
    e = states(2, 7, 3)
    weights = bernstein_weights(3)
    rows = [control_points(e[:, : i + 1], 3, past=i, length=1) for i in range(7)]
    ours = torch.cat([sum(w * point for w, point in zip(weights, points, strict=True)) for points in rows], 1)
    assert torch.allclose(ours, curve(e, weights))


def test_sinusoidal_positions_by_hand():
    table = sinusoidal_positions(torch.tensor([[0, 3]]), 4)
    assert table[0, 0].tolist() == [0, 1, 0, 1]
    assert table[0, 1].tolist() == pytest.approx([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)], abs=1e-6)


def embed(module, e, tokens):
    return module(control_points(e, module.degree, module.window), tokens)


@pytest.mark.parametrize("weights", ["bernstein", "bspline", "learned"])
@pytest.mark.parametrize("normalisation", ["layernorm", "softemax", "published", "none"])
def test_a_gated_curve_starts_as_the_token_and_learns(weights, normalisation):
    module = CurveEmbedding(6, 4, degree=3, weights=weights, normalisation=normalisation)
    e, tokens = states(2, 5, 6).float(), states(2, 5, 4, seed=1).float()
    output = embed(module, e, tokens)
    assert torch.equal(output, tokens)
    output.square().sum().backward()
    assert module.gate.grad.abs().max() > 0


def test_fusions_by_hand():
    e, tokens = states(2, 5, 6).float(), states(2, 5, 4, seed=1).float()
    modules = {name: CurveEmbedding(6, 4, fusion=name, normalisation="none") for name in ("add", "replace", "gate")}
    for module in modules.values():
        module.load_state_dict(modules["add"].state_dict(), strict=False)
    torch.nn.init.constant_(modules["gate"].gate, 0.5)
    points = curve(e, bernstein_weights(2).float())
    z = points @ modules["add"].projection.weight.T + modules["add"].projection.bias
    for name, expected in {"add": tokens + z, "replace": z, "gate": tokens + 0.5 * z}.items():
        assert torch.allclose(embed(modules[name], e, tokens), expected, atol=1e-6), name


def test_channels_stand_side_by_side_and_places_are_learned():
    module = CurveEmbedding(
        6, 4, channels=("point", "tangent", "curvature"), learn_place=True, fusion="add", place=0.25
    )
    assert module.projection.in_features == 18
    assert torch.allclose(module.weights().detach(), bernstein_weights(2, 0.25).float().expand(6, 3), atol=1e-6)
    embed(module, states(2, 5, 6).float(), torch.zeros(2, 5, 4)).square().sum().backward()
    assert (module.place_logit.grad != 0).all()


def test_learned_weights_start_near_bernsteins_and_stay_normalised():
    module = CurveEmbedding(6, 4, weights="learned")
    weights = module.weights().detach()
    assert weights.shape == (6, 3) and (weights.sum(-1) < 1).all()
    assert (weights - bernstein_weights(2).float()).abs().max() < 0.03


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"window": "centered"}, "did you mean 'centred'"),
        ({"fusion": "gates"}, "did you mean 'gate'"),
        ({"channels": ("normal",)}, "unknown curve channel"),
        ({"degree": -1}, "0 or more"),
        ({"place": 1.5}, "between 0 and 1"),
        ({"weights": "learned", "channels": ("tangent",)}, "no derivative"),
        ({"weights": "learned", "learn_place": True}, "no place to learn"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(CurvekitError, match=message):
        CurveEmbedding(6, 4, **arguments)


@pytest.mark.parametrize("arguments", [{}, {"weights": "bspline"}, {"degree": 0}, {"channels": ("point", "tangent")}])
@pytest.mark.parametrize("learn_place", [False, True])
def test_weights_are_made_where_the_module_is(arguments, learn_place):
    """The meta device stands in for a GPU: whatever is made elsewhere cannot be combined with it."""
    with torch.device("cpu"):
        module = CurveEmbedding(6, 4, learn_place=learn_place, **arguments).to("meta")
    points = [torch.empty(2, 5, 6, device="meta")] * (module.degree + 1)
    assert module(points, torch.empty(2, 5, 4, device="meta")).device.type == "meta"
