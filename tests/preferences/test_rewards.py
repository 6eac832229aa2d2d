"""Reward models: what they learn, that padding changes nothing, and that what they reward is trained for."""

from __future__ import annotations

import json

import pytest
import torch

from curvekit.errors import CurvekitError
from curvekit.preferences.gathering import Answer
from curvekit.preferences.preferring import prefer
from curvekit.preferences.rewards import new_model, reward_of, score
from curvekit.preferences.settings import PreferenceConfig

STARTS = ["The river", "A bank", "Every weight", "She read", "The curve"]


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus):
    def config(**settings):
        small = {"base": str(tiny_base), "corpus": str(tiny_corpus), "prompt_tokens": 20, "answer_tokens": 6}
        small |= {"prompt_count": 6, "test_prompts": 4, "batch_size": 8, "eval_documents": 2, "block_size": 16}
        return PreferenceConfig.from_dict(small | {"generations": 2, "rank": 4} | settings)

    return config


@pytest.fixture(scope="module", params=["lora", "none"])
def trained(request, config, tmp_path_factory):
    """A reward model of pairs in which the answer about money is preferred, whatever the prompt."""
    folder = tmp_path_factory.mktemp("reward")
    rows = [
        {"prompt": start, "chosen": f" is a place for money {i}.", "rejected": f" is the side of a river {i}."}
        for start in STARTS
        for i in range(8)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"method": "reward", "pairs": str(path), "steps": 30, "learning_rate": 5e-3, "adapter": request.param}
    return prefer(config(**settings), folder / "run", progress="none")


def test_a_reward_model_tells_held_out_pairs_apart(trained):
    assert trained.metrics["held_out_pairs"] == 8 and trained.metrics["train_pairs"] == 32
    assert trained.metrics["held_out_accuracy"] == 1
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2


def test_it_rewards_as_it_was_trained_whatever_stands_beside_it_in_a_batch(trained):
    reward = reward_of(str(trained.folder))
    short, long = Answer(" money.", True), Answer(" is a place for money, and a bank is also the side", True)
    together = reward(["A bank", "The river"], [short, long])
    apart = [reward(["A bank"], [short])[0], reward(["The river"], [long])[0]]
    assert together == pytest.approx(apart, abs=1e-5)
    good, bad = (Answer(f" is {what} 3.", True) for what in ("a place for money", "the side of a river"))
    assert reward(["The curve"], [good]) > reward(["The curve"], [bad])


def test_whether_an_answer_ended_is_part_of_it(config):
    model, tokenizer = new_model(config(method="reward", pairs="x"))
    torch.nn.init.normal_(model.score.weight)
    answers = [Answer(" was low.", ended) for ended in (True, False)]
    with_end, without = (score(model, tokenizer, ["The river"], [each])[0] for each in answers)
    assert with_end != without


@pytest.mark.parametrize("method", ["rloo", "ppo"])
def test_a_policy_learns_of_a_reward_model_and_is_judged_by_a_rule(trained, config, tmp_path, method):
    settings = {"method": method, "reward": str(trained.folder), "held_out": "no_numbers", "steps": 2}
    run = prefer(config(**settings), tmp_path / "run", progress="none")
    assert run.metrics["rewarded_by"] == trained.folder.name and run.metrics["judge"] == "no_numbers"
    assert run.samples[0]["before_reward"] not in (0, 1) and run.samples[0]["before_judge"] in (0, 1)


def test_what_is_no_reward_is_told(trained, config, tmp_path):
    with pytest.raises(CurvekitError, match="holds no run of method reward; name its folder, or a rule"):
        reward_of("runs/nothing")
    run = prefer(config(rule="at_most_words:1", steps=1), tmp_path / "run", progress="none")
    with pytest.raises(CurvekitError, match="is of method 'dpo'; name one of method reward"):
        reward_of(str(run.folder))


def test_a_base_with_a_curve_is_no_base_of_a_reward_model(config):
    with pytest.raises(CurvekitError, match="has a curve"):
        new_model(config(base="mini-curve", method="reward", pairs="x"))


def test_a_reward_model_of_a_rule_is_refused(config, tmp_path):
    with pytest.raises(CurvekitError, match="which is a reward already; give pairs"):
        prefer(config(method="reward", rule="no_numbers", steps=1), tmp_path / "run", progress="none")
