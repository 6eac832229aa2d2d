"""The page on scale: its table is what the formulas give, and a simulation agrees with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import (
    BEGIN,
    END,
    GPUS,
    MEASURED_BEGIN,
    MEASURED_END,
    MODELS,
    Machine,
    memory,
    plan,
    sent,
    simulated,
    step,
    tables,
)
from benchmarks.several import measured

ROOT = Path(__file__).parent.parent


def test_the_page_holds_the_table_of_the_formulas():
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == tables().strip()
    assert page.partition(MEASURED_BEGIN)[2].partition(MEASURED_END)[0].strip() == measured().strip()


@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_simulation_takes_about_the_time_of_the_formula(model, shard):
    for gpus in GPUS:
        ratio = simulated(model, gpus, shard, Machine()) / step(model, gpus, shard, Machine())["seconds"]
        assert 0.85 < ratio < 1.3, (gpus, ratio)


def test_parameters_are_those_of_gpt2():
    assert MODELS[0].parameters == pytest.approx(124.4e6, rel=0.01)
    assert MODELS[3].parameters == pytest.approx(1558e6, rel=0.01)


def test_sharding_divides_what_training_keeps():
    whole, part = memory(MODELS[3]), memory(MODELS[3], 8, shard=True)
    for name in ("weights", "gradients", "optimiser"):
        assert part[name] == whole[name] / 8
    assert sent(MODELS[3], 1, False) == 0


def test_what_does_not_fit_is_checkpointed_then_sharded():
    small = Machine(room=24e9)
    assert plan(MODELS[0], 1, small) == (8, False, False)
    assert plan(MODELS[2], 1, small) == (8, False, True)
    assert plan(MODELS[3], 8, small)[1:] == (True, True)
