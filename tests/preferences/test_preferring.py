"""Preference runs: they start from invariants that hold, end measured, go on after a kill, and refuse bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import sys

import pytest
import torch

from curvekit.bases.adapters import adapter_off
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.preferences import invariants, tuning
from curvekit.preferences.gathering import Preference
from curvekit.preferences.invariants import check_start
from curvekit.preferences.measuring import preferred_share
from curvekit.preferences.policies import base_of, forced, start, write
from curvekit.preferences.preferring import prefer
from curvekit.preferences.prompting import encoded, gather_prompts
from curvekit.preferences.ratings import read_ratings
from curvekit.preferences.reinforcing import next_prompts
from curvekit.preferences.runs import load_preferences
from curvekit.preferences.settings import PreferenceConfig
from curvekit.text.corpora import load_corpus

RULE = "at_most_words:3"  # what a model with random weights keeps now and then
METHODS = ("dpo", "kto", "sft", "grpo", "rloo", "ppo")


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus):
    def config(**settings):
        small = {"base": str(tiny_base), "corpus": str(tiny_corpus), "prompt_tokens": 20, "answer_tokens": 8}
        small |= {"prompt_count": 8, "test_prompts": 4, "steps": 3, "batch_size": 4, "eval_documents": 2}
        small |= {"block_size": 16, "save_every": 1, "rule": RULE, "generations": 2, "rank": 2}
        return PreferenceConfig.from_dict(small | settings)

    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished run of each method, made when it is first asked for."""
    made = {}

    def finished(method):
        if method not in made:
            made[method] = prefer(config(method=method), tmp_path_factory.mktemp(method) / "run", progress="none")
        return made[method]

    return finished


def killed(config, folder, step):
    """A run in a process that got SIGKILL when ``step`` had been computed."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            kill = lambda row: row["step"] == step and os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            prefer(config, folder, progress="none", on_row=kill)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not (folder / "metrics.json").exists() and (folder / "history.jsonl").exists()
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_says_what_it_brought_and_cost(finished, method):
    run = finished(method)
    metrics = load_preferences(run.folder).metrics
    assert [row["step"] for row in run.history] == [1, 2, 3]
    assert {"start", "end", "kl", "changes", "win_rate"} <= metrics.keys()
    for side in ("start", "end"):
        assert {"reward", "judge", "tokens", "perplexity", "distinct_2"} <= metrics[side].keys()
    assert set(metrics["changes"]) == {"reward", "judge", "tokens", "perplexity"}
    assert len(run.samples) == 4 and {"prompt", "before", "after", "kl"} <= run.samples[0].keys()
    assert not (run.folder / "checkpoints").exists() and not (run.folder / "progress.safetensors").exists()
    assert abs(metrics["kl"]) > 1e-6, "it moved"


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_opens_as_a_model_whose_base_has_not_moved(finished, method, tiny_base):
    model, tokenizer = open_model(finished(method).folder)
    start = open_model(str(tiny_base))[0]
    ids = torch.tensor([tokenizer("The river was low")["input_ids"]])
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, start(ids).logits)
        with adapter_off(model):
            assert torch.equal(model(ids).logits, start(ids).logits)


def test_what_was_judged_is_a_file_of_blind_ratings(finished):
    ratings = read_ratings(finished("dpo").folder / "judged.jsonl")
    assert {row["first"] for row in ratings} | {row["second"] for row in ratings} == {"start", "end"}
    assert all(row["rater"].startswith("judge: ") for row in ratings)


@pytest.mark.parametrize(("method", "loss"), [("dpo", math.log(2)), ("kto", 0.5)])
def test_the_start_is_checked_and_kept(finished, method, loss):
    checked = finished(method).metrics["invariants"]
    assert checked["loss"] == pytest.approx(loss, abs=1e-5)
    assert checked["margin"] == pytest.approx(0, abs=1e-6)
    assert checked["kl"] == 0 and checked["dropout"] == 0


def test_the_start_is_said(config, tmp_path, capsys):
    prefer(config(steps=1), tmp_path / "run", progress="lines")
    said = capsys.readouterr().err
    assert "dropout off; KL 0.0e+00; loss 0.693147 (ln 2); margin" in said


@pytest.mark.parametrize(("loss", "expected"), [("hinge", 1.0), ("ipo", 25.0)])
def test_other_losses_of_dpo_start_where_their_formulas_say(config, tmp_path, loss, expected):
    run = prefer(config(loss=loss, steps=1), tmp_path / "run", progress="none")
    assert run.metrics["invariants"]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_policy_that_is_not_its_reference_is_refused(config, tmp_path):
    policy = start(config())
    rollout = write(policy.model, policy.tokenizer, [[1, 2, 3]], 4, seed=0)
    layer = next(p for name, p in policy.model.named_parameters() if ".lora_B." in name)
    torch.nn.init.normal_(layer)
    with pytest.raises(CurvekitError, match="the reference is not the policy at step 0: .*lora_B.* differs"):
        check_start(policy, config(), tmp_path, rollout)
    assert not (tmp_path / "invariants.json").exists()


def test_a_step_in_parts_is_the_step(config, finished, tmp_path):
    whole, parts = finished("dpo"), prefer(config(method="dpo", at_once=1), tmp_path / "run", progress="none")
    assert parts.config.held == 1 and whole.config.held == whole.config.batch_size == 4
    assert [row["step"] for row in parts.history] == [row["step"] for row in whole.history]
    for mine, theirs in zip(parts.history, whole.history, strict=True):
        for name in ("loss", "reward_margin", "grad_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-6), name
    assert PreferenceConfig(base="smollm2", rule=RULE).held == 1
    assert PreferenceConfig(base="smollm2", rule=RULE, batch_size=3).validate().held == 1
    assert PreferenceConfig(base="smollm2", rule=RULE, method="kto").held == 4


def test_a_reference_that_was_opened_again_from_elsewhere_is_refused(config, tmp_path):
    policy = start(config(adapter="none"))
    rollout = write(policy.model, policy.tokenizer, [[1, 2, 3]], 4, seed=0)
    with torch.no_grad():
        next(policy.copy.parameters()).add_(0.1)
    with pytest.raises(CurvekitError, match="the reference is not the policy at step 0"):
        check_start(policy, config(), tmp_path, rollout)


def test_dropout_that_is_left_on_is_refused(config, tmp_path):
    policy = start(config())
    assert invariants.dropouts(policy.model) == []
    rollout = write(policy.model, policy.tokenizer, [[1, 2, 3]], 4, seed=0)
    next(m for m in policy.model.modules() if isinstance(m, torch.nn.Dropout)).p = 0.1
    with pytest.raises(CurvekitError, match="still drops out"):
        check_start(policy, config(), tmp_path, rollout)


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_without_an_adapter_all_weights_train_and_the_reference_is_a_copy(config, tmp_path, method):
    run = prefer(config(method=method, adapter="none", steps=2), tmp_path / "run", progress="none")
    assert run.metrics["invariants"]["reference"] == "a frozen copy of the start"
    assert abs(run.metrics["kl"]) > 1e-6
    assert open_model(run.folder)[0].num_parameters() == run.metrics["trainable_parameters"]


@pytest.mark.parametrize("method", ["dpo", "kto", "ppo", "rloo"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(config, finished, tmp_path, method):
    folder = killed(config(method=method), tmp_path / "run", 2)
    resumed = prefer(config(method=method), folder, progress="none")
    undisturbed = finished(method)
    losses = [[row["loss"] for row in run.history] for run in (undisturbed, resumed)]
    assert losses[0] == losses[1]
    assert resumed.metrics["end"] == undisturbed.metrics["end"] and resumed.metrics["kl"] == undisturbed.metrics["kl"]


def test_without_trl_one_sentence_says_what_to_install(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(CurvekitError, match=r"needs trl; pip install 'curvekit\[align\]'"):
        prefer(config(), tmp_path / "run", progress="none")
    prefer(config(method="ppo", steps=1), tmp_path / "ppo", progress="none")


def test_a_tracker_is_told_the_same_rows(config, tmp_path):
    run = prefer(config(method="ppo", steps=1, track="tensorboard"), tmp_path / "run", progress="none")
    assert list((run.folder / "tensorboard").iterdir())


def test_pairs_and_reference_are_made_once(config, tmp_path, monkeypatch):
    folder = killed(config(), tmp_path / "run", 2)
    pairs = (folder / "pairs.jsonl").read_bytes()

    def again(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(tuning, "_computed", again)
    prefer(config(), folder, progress="none")
    assert (folder / "pairs.jsonl").read_bytes() == pairs


def test_a_cut_off_file_of_progress_is_said_and_training_begins_anew(config, finished, tmp_path):
    folder = killed(config(method="ppo"), tmp_path / "run", 2)
    whole = (folder / "progress.safetensors").read_bytes()
    (folder / "progress.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is not whole; training begins anew"):
        run = prefer(config(method="ppo"), folder, progress="none")
    assert [row["loss"] for row in run.history] == [row["loss"] for row in finished("ppo").history]


def test_another_run_in_the_folder_is_named_and_untouched(config, finished):
    run = finished("dpo")
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(CurvekitError, match="holds another run: its seed is 0, not 1"):
        prefer(config(seed=1), run.folder, progress="none")
    assert {path: path.read_bytes() for path in before} == before


def test_of_a_file_of_pairs_every_fifth_judges_and_trains_nothing(config, tmp_path):
    money = [
        {"prompt": f"{prompt} {i}", "chosen": " is a place for money.", "rejected": " is the side of a river."}
        for i in range(5)
        for prompt in ("A bank", "The river", "The curve", "Every weight")
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in money))
    run = prefer(config(pairs=str(path), rule=None, steps=12, learning_rate=5e-3), tmp_path / "run", progress="none")
    assert run.metrics["held_out_pairs"] == 4 and run.metrics["held_out_accuracy"] == 1
    assert run.metrics["held_out_low"] < 1


def test_pairs_that_a_policy_has_not_learned_are_ties(config):
    policy = start(config())
    pair = Preference("The river", " was low.", " river river.", True, False)
    assert preferred_share(config(), policy, [pair, pair])["held_out_accuracy"] == 0.5


def test_a_command_that_is_refused_leaves_nothing_behind(config, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "y", "rejected": "y"}) + "\n")
    with pytest.raises(CurvekitError, match="the two answers are the same"):
        prefer(config(pairs=str(tmp_path / "pairs.jsonl")), tmp_path / "run", progress="none")
    assert not list((tmp_path / "run").glob("*.jsonl")) if (tmp_path / "run").exists() else True


def test_too_few_prompts_for_a_step_are_refused(config, tmp_path):
    with pytest.raises(CurvekitError, match="there are 1 prompts to train with, and a step of batch_size 4 takes 2"):
        prefer(config(method="grpo", prompt_count=1), tmp_path / "run", progress="none")


def test_pairs_longer_than_the_model_are_named(config, tmp_path):
    rows = [{"prompt": "The river " * n, "chosen": "a", "rejected": "b"} for n in (1, 60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CurvekitError, match="1 of 2 pairs are longer than the model's 64 positions, pair 2 with"):
        prefer(config(pairs=str(path)), tmp_path / "run", progress="none")


def test_prompts_longer_than_the_model_are_named(config, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("The river\nA bank\n" + "The river " * 60 + "\n" + "".join(f"prompt {i}\n" for i in range(9)))
    with pytest.raises(CurvekitError, match="prompts are longer than the model's 64 positions"):
        prefer(config(method="ppo", prompts=str(path)), tmp_path / "run", progress="none")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rule": None}, "learns from pairs, and there are none"),
        ({"method": "ppo", "rule": None}, "needs one reward, and neither is given"),
        ({"method": "ppo", "reward": "runs/x"}, "needs one reward, and both are given"),
        ({"method": "rloo", "batch_size": 3}, "no multiple of the 2 generations"),
        ({"method": "ppo", "batch_size": 3}, "minibatches cannot share"),
        ({"method": "ppo", "temperature": 0.7}, "learns of the distribution that it draws from"),
        ({"beta": 0.0}, "teaches nothing"),
        ({"method": "kto", "at_once": 2}, "only DPO's own loss is the mean of its pairs' losses"),
        ({"sft_weight": 0.5, "at_once": 2}, "only DPO's own loss is the mean of its pairs' losses"),
        ({"batch_size": 4, "at_once": 3}, "cannot be held 3 at once"),
        ({"rule": "no_number"}, "did you mean 'no_numbers'"),
        ({"method": "dpp"}, "unknown method 'dpp'; did you mean 'ppo' or 'dpo'"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, settings, told):
    with pytest.raises(CurvekitError, match=told):
        config(**settings).validate()


def test_a_setting_that_is_none_is_named_with_its_nearest():
    with pytest.raises(CurvekitError, match="unknown setting 'bta'; did you mean 'beta'"):
        PreferenceConfig.from_dict({"bta": 1})


def test_an_adapter_is_trained_on_when_it_is_merged(finished):
    with pytest.raises(CurvekitError, match="curvekit merge"):
        base_of(str(finished("dpo").folder))


def test_training_prompts_and_held_out_ones_share_nothing(config, tiny_tokenizer):
    wanted = config(prompt_count=30, test_prompts=6)
    found = gather_prompts(wanted, tiny_tokenizer, load_corpus(wanted.corpus))
    assert found.train and len(found.test) == 6 and not set(found.train) & set(found.test)


def test_every_prompt_comes_once_before_any_comes_again():
    prompts = [str(i) for i in range(10)]
    first = [prompt for number in range(5) for prompt in next_prompts(prompts, 4, number, seed=0)]
    assert sorted(first[:10]) == sorted(first[10:]) == prompts and first[:10] != first[10:]


def test_padding_before_a_prompt_changes_no_probability(config):
    policy = start(config())
    short, long = encoded(config(), policy.tokenizer, ["A bank", "Every weight lies between zero and one"])
    both = write(policy.model, policy.tokenizer, [short, long], 5, seed=0)
    with torch.no_grad():
        together = forced(policy.model, both.ids, both.mask, 5)[0][0]
        alone = both.ids[:1, len(long) - len(short) :]
        apart = forced(policy.model, alone, torch.ones_like(alone), 5)[0][0]
    assert (together - apart).abs().max() < 1e-5


def test_the_same_seed_writes_the_same_and_leaves_the_dice_alone(config):
    policy = start(config())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = [write(policy.model, policy.tokenizer, [[1, 2], [3]], 6, seed).ids for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)
