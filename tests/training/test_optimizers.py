"""Muon beside AdamW: every parameter has one of them, a schedule reaches both, and a run goes on where it was."""

import dataclasses

import pytest
import torch

from curvekit.errors import CurvekitError
from curvekit.training.optimizers import DeviceMuon, StackedMuon, adamw, muon
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture
def config(tiny_base, tiny_corpus) -> RunConfig:
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), scratch=True, optimizer="muon", block_size=32,
        batch_size=4, steps=12, learning_rate=1e-2, precision="float32", eval_every=6, save_every=3, sample_prompts=0,
    )  # fmt: skip


def test_each_parameter_is_stepped_by_one_of_the_two(make):
    model = make("curve")
    optimizer = muon(model, 0.01, 0.1)
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(stepped) == len(trained) and set(map(id, stepped)) == set(map(id, trained))
    assert all(p.ndim >= 2 for group in optimizer.param_groups if group["weight_decay"] for p in group["params"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = {names[id(parameter)] for parameter in optimizer.parts[0].param_groups[0]["params"]}
    assert len(blocks) == 4 * model.config.n_layer and all(".h." in name for name in blocks)


def after_a_step(model, *rates, **named):
    """The names of what is trained, and of that what a step of ones for gradients left as it was."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    DeviceMuon(model, 0.0, *rates, **named).step(torch.tensor(1e-2))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained.keys(), {name for name, parameter in trained.items() if torch.equal(parameter, before[name])}


@pytest.mark.parametrize("recipe", ["canon", "curve3+sites+softemax", "smear", "sink"])
def test_a_rate_of_their_own_reaches_all_that_is_added_and_nothing_else(make, recipe):
    trained, still = after_a_step(make(recipe), own_rate=0.0)
    assert still == {name for name in trained if {"curve", "mixers", "log_sink"} & {*name.split(".")}}


def test_what_stands_in_the_blocks_has_a_rate_of_its_own_or_that_of_all_that_is_added(make):
    still = {}
    for rates in ((1.0, 0.0), (0.0, 1.0), (0.0, None)):
        trained, still[rates] = after_a_step(make("curve3+sites"), *rates)
    curve, mixers = ({n for n in trained if part in n.split(".")} for part in ("curve", "mixers"))
    assert curve and mixers
    assert still == {(1.0, 0.0): mixers, (0.0, 1.0): curve, (0.0, None): curve | mixers}


@pytest.mark.parametrize(
    ("rates", "multiples"),
    [
        ((1.0, None), (1, 1, 1)),
        ((8.0, None), (1, 8, 8)),
        ((8.0, 4.0), (1, 8, 4)),
        ((1.0, 4.0), (1, 1, 4)),
        ((4.0, 1.0), (1, 4, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("make_optimizer", [adamw, muon])
def test_every_parameter_learns_at_the_rate_of_its_kind_in_few_groups(make, make_optimizer, rates, multiples):
    model = make("curve3+sites", freeze="none")
    optimizer = make_optimizer(model, 0.01, 0.1, *rates)
    names = {id(parameter): name.split(".") for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            expected = multiples[2 if "mixers" in name else 1 if "curve" in name else 0]
            assert group["lr"] == pytest.approx(0.01 * expected), name
    assert optimizer.param_groups[0]["lr"] == 0.01, "the rate that is logged is the base's"
    most = 2 * len(set(multiples)) + (make_optimizer is muon)
    assert len(optimizer.param_groups) <= most


def test_muons_steps_have_singular_values_of_one_length(make):
    model = make("gpt2")
    optimizer = muon(model, 0.01, 0.0)
    matrix = model.transformer.h[0].mlp.c_fc.weight
    before = matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    lengths = torch.linalg.svdvals(before - matrix.detach()) / (0.01 * 0.2 * max(matrix.shape) ** 0.5)
    assert lengths.min() > 0.6 and lengths.max() < 1.3  # Newton-Schulz stops where they are near one


def test_matrices_are_stepped_as_by_torchs_muon_and_either_goes_on_from_the_others_state():
    weights = [torch.randn(shape) for shape in ((8, 24), (24, 8), (8, 24), (8, 8))]
    mine, theirs = ([torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    stacked = StackedMuon(mine, 0.01, 0.1)
    torchs = torch.optim.Muon(theirs, 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    for number in range(4):
        if number == 2:
            states = stacked.state_dict(), torchs.state_dict()
            torchs.load_state_dict(states[0])
            stacked.load_state_dict(states[1])
        for a, b, w in zip(mine, theirs, weights, strict=True):
            a.grad = torch.randn_like(w)
            b.grad = a.grad.clone()
        stacked.step()
        torchs.step()
    moved = max((a - w).abs().max() for a, w in zip(mine, weights, strict=True))
    apart = max((a - b).abs().max() for a, b in zip(mine, theirs, strict=True))
    assert apart < 0.02 * moved, f"{apart:.1e} of {moved:.1e}"


def test_a_schedule_reaches_both(make):
    optimizer = muon(make("gpt2"), 0.01, 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.005}
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = 0.1
    assert all(part.param_groups[end]["lr"] == 0.1 for part, end in zip(optimizer.parts, (0, -1), strict=True))
    assert schedule.get_last_lr() == [0.005] * 3


def test_a_run_goes_on_with_the_losses_of_an_undisturbed_one(config, tmp_path, interrupted):
    whole = train(config, tmp_path / "whole", progress="none")
    resumed = train(config, interrupted(config, tmp_path / "killed", step=8), progress="none")
    losses, again = ([row.get("loss", row.get("validation_loss")) for row in run.history] for run in (whole, resumed))
    assert losses == again
    assert losses[-1] < losses[0]
    other = train(dataclasses.replace(config, optimizer="adamw"), tmp_path / "adamw", progress="none")
    assert [row["loss"] for row in other.history if "loss" in row] != [r["loss"] for r in whole.history if "loss" in r]


def test_frozen_blocks_have_nothing_to_step(config, tmp_path):
    with pytest.raises(CurvekitError, match="all of them are frozen; use optimizer 'adamw'"):
        train(dataclasses.replace(config, scratch=False, freeze="all_but_head"), tmp_path / "run", progress="none")
