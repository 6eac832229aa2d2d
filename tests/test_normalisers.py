"""SoftEMax keeps its promises: reference values, limits, gradients, empty rows, learned sinks."""

import math

import pytest
import torch

from curvekit.errors import CurvekitError
from curvekit.normalisers import LOG_C, MEMBERS, VARIANTS, SoftEMax, softemax

C = 1 + math.e**math.e
X = [0.5, 1.0, 1.5]
# Worked out in extended precision from the published formulas exp(x)/C, exp(-x)/C, exp(x)/(1+C), exp(-x)/(1+C).
PUBLISHED = {
    "published": [math.exp(x) / C for x in X],
    "inverse": [math.exp(-x) / C for x in X],
    "plus": [math.exp(x) / (1 + C) for x in X],
    "plus-inverse": [math.exp(-x) / (1 + C) for x in X],
}


def formula(x, variant, log_sink=LOG_C, dim=-1):
    """The family as its definition reads, in float64."""
    member = MEMBERS[variant]
    s = torch.exp(member.sign * x.double())
    sink = {"none": 0.0, "zero": 1.0, "log_sink": math.exp(log_sink), "log(1 + sink)": 1 + math.exp(log_sink)}
    return s / (member.sums_keys * s.sum(dim, keepdim=True) + sink[member.sink])


def test_the_constant_is_the_published_one():
    steps = torch.linspace(0, math.e, steps=int(math.e), dtype=torch.float64)
    assert math.exp(LOG_C) == pytest.approx(steps.exp().sum().item(), rel=1e-14)
    assert math.exp(LOG_C) == pytest.approx(16.154262241479262, rel=1e-14)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_members_have_their_reference_values(variant):
    got = softemax(torch.tensor(X, dtype=torch.float64), variant=variant)
    assert got.tolist() == pytest.approx(PUBLISHED[variant], rel=1e-12)


def test_published_values_to_six_digits():
    assert softemax(torch.tensor(X), variant="published").tolist() == pytest.approx(
        [0.102061, 0.168270, 0.277431], abs=5e-7
    )


@pytest.mark.parametrize("scale", [1e-5, 1.0, 10.0])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_member_is_its_formula(variant, dim, scale):
    x = scale * torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = (softemax(x, dim, variant) - formula(x, variant, dim=dim)).abs().max() / formula(x, variant).max()
    assert difference < 1e-12, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_exact(variant, masked):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = torch.rand(2, 3, 4, generator=generator) > 0.3 if masked else None
    assert torch.autograd.gradcheck(lambda x: softemax(x, -1, variant, mask=mask), (x,))
    assert torch.autograd.gradgradcheck(lambda x: softemax(x, -1, variant, mask=mask), (x,))


@pytest.mark.parametrize("variant", ["stable", "published", "inverse", "plus", "plus-inverse"])
def test_a_learned_sink_has_its_exact_gradient(variant):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    sink = torch.randn(3, 1, 1, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, sink: softemax(x, -1, variant, sink), (x, sink))
    assert torch.autograd.gradgradcheck(lambda x, sink: softemax(x, -1, variant, sink), (x, sink))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stable_never_overflows(dtype):
    largest = torch.finfo(dtype).max
    rows = torch.tensor([[largest, 0.0], [largest, largest], [-largest, -largest], [1e4, -1e4]], dtype=dtype)
    weights = softemax(rows)
    assert weights.isfinite().all() and (weights >= 0).all() and (weights.sum(-1) <= 1).all()
    assert weights[0].tolist() == [1.0, 0.0]
    assert weights[2].tolist() == [0.0, 0.0]


def test_published_overflows_where_stable_does_not():
    x = torch.tensor([200.0, 0.0])
    assert softemax(x, variant="published").isinf().any()
    assert softemax(x).isfinite().all()


def test_stable_row_sums_stay_below_one_and_published_grow_with_the_keys():
    keys = torch.zeros(1, 1000)
    assert 0 < softemax(keys).sum() < 1
    assert softemax(keys, variant="published").sum() == pytest.approx(1000 / C, rel=1e-5)


def test_stable_is_published_for_small_scores_and_softmax_for_large():
    x = torch.tensor([-14.0, -12.0, -13.0], dtype=torch.float64)
    assert torch.allclose(softemax(x), softemax(x, variant="published"), rtol=1e-5)
    assert torch.allclose(softemax(x + 40), torch.softmax(x, -1), rtol=1e-10)
    assert not torch.allclose(softemax(x), torch.softmax(x, -1), rtol=0.1)


def test_a_sink_of_minus_infinity_is_softmax_exactly():
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(softemax(x, log_sink=-math.inf), torch.softmax(x, -1), atol=1e-7)
    assert torch.allclose(softemax(x, variant="softmax"), torch.softmax(x, -1), atol=1e-7)
    assert torch.allclose(softemax(x, log_sink=0.0), softemax(x, variant="softmax1"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("additive", [False, True])
def test_an_empty_row_is_zero_and_passes_no_gradient(variant, additive):
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    given = torch.zeros(2, 3).masked_fill(~mask, -math.inf) if additive else mask
    weights = softemax(x, variant=variant, mask=given)
    weights.square().sum().backward()
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()
    assert x.grad.isfinite().all() and (x.grad[~mask] == 0).all() and (x.grad[mask] != 0).all()


def test_a_mask_is_the_shorter_row():
    x = torch.randn(6, generator=torch.Generator().manual_seed(5))
    keep = torch.tensor([True, False, True, True, False, True])
    for variant in VARIANTS:
        assert torch.allclose(softemax(x, variant=variant, mask=keep)[keep], softemax(x[keep], variant=variant))


def test_the_module_learns_one_sink_a_head():
    module = SoftEMax(heads=3)
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(6))
    assert torch.allclose(module(scores), softemax(scores))
    module(scores).square().sum().backward()
    assert module.log_sink.shape == (3,) and (module.log_sink.grad != 0).all()
    with torch.no_grad():
        module.log_sink[1] = 50.0
    assert module(scores)[:, 1].max() < 1e-12 < module(scores)[:, 0].min()
    assert "stable" in repr(module) and SoftEMax("published")(scores).shape == scores.shape


def test_half_precision_is_normalised_in_float32():
    x = torch.randn(64, generator=torch.Generator().manual_seed(7)).bfloat16()
    assert torch.equal(softemax(x), softemax(x.float()).bfloat16())


def test_wrong_input_is_refused_in_one_sentence():
    with pytest.raises(CurvekitError, match="did you mean 'published'"):
        softemax(torch.ones(2), variant="publishd")
    with pytest.raises(CurvekitError, match="floating-point"):
        softemax(torch.tensor([1, 2]))
    with pytest.raises(CurvekitError, match="give a boolean one"):
        softemax(torch.ones(2), mask=torch.tensor([1, 0]))
    with pytest.raises(CurvekitError, match="fixed sink"):
        softemax(torch.ones(2), variant="softmax1", log_sink=1.0)
    with pytest.raises(CurvekitError, match="learned sinks"):
        SoftEMax("softmax", heads=2)


def test_it_traces_under_compile():
    compiled = torch.compile(softemax, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(8), requires_grad=True)
    y = x.detach().clone().requires_grad_()
    compiled(x).square().sum().backward()
    softemax(y).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-7)
