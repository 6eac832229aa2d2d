"""trl's trainers call the base model and the head themselves, and train the curve all the same."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from tiny import builder
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from curvekit.modeling import ARCHITECTURES

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
         "max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-2}  # fmt: skip
RECIPES = ["self-curve", "curve+softemax", "curve-causal"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def make(request, tiny_bases, tiny_encoder, tiny_tokenizer):
    return builder(tiny_bases[request.param], tiny_encoder, tiny_tokenizer)


def moved(model, before):
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def copies(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_the_curve_moved(model, before):
    """Everything of the curve, its gate first of all, and nothing of an encoder that is frozen."""
    changed = moved(model, before)
    unmoved = {f"{model.base_model_prefix}.curve.{name}" for name, _ in model.base_model.curve.named_parameters()}
    assert not unmoved - changed
    assert not any(".encoder." in name for name in changed)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_supervised_tuning_moves_the_curve(make, recipe, packing, tiny_tokenizer, tiny_texts, tmp_path):
    model = make(recipe)
    before = copies(model)
    settings = SFTConfig(str(tmp_path), max_length=32, packing=packing, **QUIET)
    rows = Dataset.from_dict({"text": tiny_texts})
    trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tiny_tokenizer)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert_the_curve_moved(trainer.model, before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_preference_tuning_starts_at_ln_2_and_moves_the_curve(make, recipe, tiny_tokenizer, tiny_texts, tmp_path):
    model = make(recipe)
    before = copies(model)
    model.save_pretrained(tmp_path / "start")  # trl opens its reference from where the model was opened
    model.config._name_or_path = str(tmp_path / "start")
    rows = Dataset.from_dict({"prompt": ["The river"] * 8, "chosen": tiny_texts[:8], "rejected": tiny_texts[8:16]})
    settings = DPOConfig(str(tmp_path), max_length=48, **QUIET)
    trainer = DPOTrainer(model, args=settings, train_dataset=rows, processing_class=tiny_tokenizer)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and losses[-1] != losses[0]
    assert_the_curve_moved(trainer.model, before)
