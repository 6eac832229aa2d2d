"""Mixers keep their promises: their equations, causality, documents' borders, a base whose names stay its own."""

from __future__ import annotations

import pytest
import torch
from tiny import builder

from curvekit.causality import future_leak
from curvekit.configuration import CurveGPT2Config
from curvekit.curves import control_points
from curvekit.errors import CurvekitError
from curvekit.mixers import MIXERS, Mixer, mixer_degree, reference_mixer
from curvekit.recipes import RECIPES

WITH_SITES = [name for name, settings in RECIPES.items() if settings.get("sites")]
IDS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))


def states(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def stirred(kind, width=16, **settings):
    """A mixer whose every parameter is away from where it starts."""
    mixer = Mixer(kind, width, **settings)
    with torch.no_grad():
        for number, parameter in enumerate(mixer.parameters()):
            parameter.add_(0.3 * states(*parameter.shape) + 0.1 * number)
    return mixer


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in MIXERS),
        ("curve", {"degree": 3, "channels": ("point", "tangent", "curvature")}),
        ("curve", {"degree": 1, "weights": "bspline"}),
    ],
    ids=str,
)
def test_a_mixer_is_its_equation(kind, settings):
    mixer, h = stirred(kind, **settings), states(2, 9, 16)
    found = mixer(control_points(h, mixer.degree))
    difference = (found - reference_mixer(mixer, h)).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"


@pytest.mark.parametrize("kind", [kind for kind in MIXERS if kind != "smear"])
def test_a_mixer_is_a_depthwise_convolution(kind):
    mixer, h = stirred(kind), states(2, 9, 16)
    n = mixer.degree
    padded = torch.cat([h[:, :1].expand(-1, n, -1), h], 1)
    convolved = torch.nn.functional.conv1d(padded.mT, mixer.kernel().unsqueeze(1), groups=16).mT
    assert torch.allclose(mixer(control_points(h, n)), convolved, atol=1e-5)


def test_a_curve_starts_spread_from_far_back_to_its_own_word():
    kernel = Mixer("curve", 100).kernel()
    assert torch.allclose(kernel.sum(-1), torch.ones(100), atol=1e-6), "smooths, and neither adds nor takes away"
    own = kernel[:, -1]
    assert own[0] < 0.01 and own[-1] > 0.98 and (own.diff() > 0).all()


def test_drawn_gates_start_evenly_around_theirs_and_a_curve_then_adds_its_neighbours_or_takes_them_away():
    torch.manual_seed(0)
    mixer = Mixer("curve", 4_000, channels=("point", "tangent", "curvature"), start=0.2, spread=0.5)
    away = mixer.gates - torch.tensor([[0.2], [0.0], [0.0]])
    assert away.abs().max() <= 0.5 and torch.allclose(away.std(1), torch.full((3,), 0.5 / 3**0.5), rtol=0.05)
    kernel = mixer.kernel()
    assert torch.allclose(kernel.sum(-1), torch.ones(4_000), atol=1e-5)
    assert 0.3 < (kernel[:, :-1] < 0).float().mean() < 0.7
    drawn = torch.random.get_rng_state()
    assert (Mixer("curve", 16, start=0.2).gates == 0.2).all() and torch.equal(torch.random.get_rng_state(), drawn)


def test_what_is_gated_shut_changes_nothing():
    h = states(2, 9, 16)
    for mixer in (Mixer("curve", 16, start=0.0), Mixer("smear", 16, start=0.0)):
        assert torch.allclose(mixer(control_points(h, mixer.degree)), h, atol=1e-6)


def test_smear_is_the_published_layer():
    """modded-nanogpt: x + lambda sigmoid(gate(x[..., :12])) x_prev, over normalised embeddings."""
    h = torch.nn.functional.rms_norm(states(1, 6, 16), (16,), eps=1e-6)
    mixer = stirred("smear")
    gate = torch.sigmoid(torch.nn.functional.linear(h[:, 1:, :12], mixer.sight[None]))
    published = torch.cat([h[:, :1], h[:, 1:] + mixer.smear * gate * h[:, :-1]], 1)
    assert torch.allclose(mixer(control_points(h, 1))[:, 1:], published[:, 1:], atol=1e-5)


@pytest.mark.parametrize("kind", MIXERS)
def test_gradients_reach_every_parameter(kind):
    mixer, h = stirred(kind), states(2, 9, 16)
    mixer(control_points(h, mixer.degree)).square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


# In a model


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo", "llama"])
def make(request, tiny_bases, tiny_encoder, tiny_tokenizer):
    return builder(tiny_bases[request.param], tiny_encoder, tiny_tokenizer)


@pytest.mark.parametrize("recipe", WITH_SITES)
def test_nothing_of_the_future_leaks(make, recipe):
    assert future_leak(make(recipe), IDS) == 0


def test_curves_in_the_blocks_have_a_degree_and_channels_of_their_own(make):
    """The word's own embedding at the input, and its neighbours in the blocks; a past is kept as far as these read."""
    own = {"site_degree": 2, "site_channels": ("point", "tangent", "curvature")}
    model = make("encoder", sites=("attention", "mlp"), **own)
    assert model.base_model.curve.degree == 0
    assert {mixer.degree for mixer in model.base_model.mixers.values()} == {2}
    assert {len(mixer.gates) for mixer in model.base_model.mixers.values()} == {3}
    assert future_leak(model, IDS) == 0
    with torch.no_grad():
        whole = model(IDS).logits
        begun = model(IDS[:, :7], use_cache=True)
        rest = model(IDS[:, 7:], past_key_values=begun.past_key_values, use_cache=True).logits
    assert torch.allclose(torch.cat([begun.logits, rest], 1), whole, atol=1e-5)
    shared = make("curve3+sites").state_dict()
    told = make("curve3+sites", **own).state_dict()
    assert all(torch.equal(told[name], each) for name, each in shared.items()), "what they are where nothing is said"


def test_the_bases_names_stay_and_its_weights_are_read(make):
    plain, sites = make("plain").state_dict(), make("sites").state_dict()
    assert plain.keys() < sites.keys() and all(torch.equal(plain[name], sites[name]) for name in plain)
    assert {name.split(".")[1] for name in sites.keys() - plain.keys()} == {"mixers"}


@pytest.mark.parametrize("recipe", ["sites", "canon", "smear"])
def test_shut_gates_leave_the_base_as_it_is_and_open_ones_do_not(make, recipe):
    plain, model = make("plain"), make(recipe)
    with torch.no_grad():
        assert not torch.allclose(model(IDS).logits, plain(IDS).logits, atol=1e-3)
        for mixer in model.base_model.mixers.values():
            for name, parameter in mixer.named_parameters():
                if name in ("gates", "kernel_weights", "smear"):
                    parameter.zero_()
        assert torch.allclose(model(IDS).logits, plain(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("recipe", ["sites", "canon", "smear", "curve3+sites"])
def test_documents_in_one_row_do_not_see_each_other(make, recipe):
    model = make(recipe)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None].expand(2, -1)
    with torch.no_grad():
        packed = model(IDS, position_ids=positions, use_cache=False).logits
        apart = torch.cat([model(IDS[:, :5]).logits, model(IDS[:, 5:]).logits], 1)
    assert torch.allclose(packed, apart, atol=1e-5)


def test_a_block_computed_again_reads_the_mask_it_read_first(make):
    """Two forwards before one backward, under gradient checkpointing, with masks that differ."""

    def gradients(checkpointing):
        model = make("sites").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        mask = torch.ones_like(IDS)
        mask[0, 3:6] = 0
        first = model(IDS, attention_mask=mask, use_cache=False).logits.square().mean()
        second = model(IDS, use_cache=False).logits.square().mean()
        (first + second).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def test_a_copy_is_independent(make):
    import copy

    model = make("sites")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(IDS).logits
        assert torch.equal(twin(IDS).logits, before)
        for parameter in twin.base_model.mixers.parameters():
            parameter.fill_(0.5)
        assert torch.equal(model(IDS).logits, before) and not torch.equal(twin(IDS).logits, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": ("head",)}, "site"),
        ({"sites": ("mlp", "mlp")}, "once"),
        ({"sites": ("mlp",), "mixer": "blend"}, "mixer"),
        ({"sites": ("mlp",), "curve_weights": "learned"}, "canon"),
        ({"sites": ("mlp",), "channels": ("tangent",)}, "point"),
        ({"sites": ("mlp",), "channels": ("point", "neighbours")}, "derivatives"),
        ({"sites": ("mlp",), "site_channels": ("tangent",)}, "point"),
        ({"sites": ("mlp",), "site_degree": -1}, "site_degree is -1"),
        ({"sites": ("mlp",), "site_degree": "two"}, "site_degree"),
        ({"sites": ("mlp",), "site_spread": -0.5}, "site_spread"),
        ({"sites": ("mlp",), "site_spread": float("nan")}, "site_spread"),
    ],
    ids=str,
)
def test_sites_that_cannot_be_are_refused(settings, message):
    with pytest.raises(CurvekitError, match=message):
        CurveGPT2Config(**settings)


def test_a_mixer_reads_as_far_back_as_it_says():
    assert [mixer_degree(kind, 2) for kind in MIXERS] == [2, 3, 1, 1]
    with pytest.raises(CurvekitError, match="mixer"):
        mixer_degree("blur", 2)
