"""A run on a task: it learns its answers, resumes to the same losses, and says in metrics.json how right it is."""

from __future__ import annotations

import dataclasses

import pytest
from taskrows import dialogues, short, write

from curvekit.errors import CurvekitError
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.files import read_jsonl
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "colours", train=short(60), test=short(10, seed=1))


@pytest.fixture
def config(tiny_base, folder):
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), task=str(folder), template="{ask} {say}", block_size=64, batch_size=4,
        steps=6, eval_every=3, eval_documents=6, validation_documents=4, learning_rate=1e-2, sample_prompts=2,
        precision="float32", sample_tokens=8,
    )  # fmt: skip


def test_a_run_on_a_task_learns_answers_and_says_how_right_they_are(config, tmp_path):
    run = train(config, tmp_path / "run", progress="none")
    history = [row["validation_loss"] for row in run.history if "validation_loss" in row]
    assert history[-1] < history[0] - 0.3, "of the base, and after six steps"
    task = load_run(run.folder).metrics["task"]
    assert task["task"] == "colours" and task["counts"]["items"] == 6 and "f1" in task
    assert {"majority"} <= set(task["baselines"])
    assert run.metrics["perplexity"] == pytest.approx(task["perplexity"])
    assert task["signature"]["prompt"] and task["signature"]["decoding"].startswith("greedy")
    answers = read_jsonl(run.folder / "answers.jsonl")
    assert len(answers) == 6 and [row["answer"] for row in answers[:2]] == [row["continuation"] for row in run.samples]
    assert len(run.scores("test").nll) == 6
    other = train(dataclasses.replace(config, recipe="softemax"), tmp_path / "other", progress="none")
    assert paired_bootstrap(other.scores(), run.scores()).documents == 6


def test_a_stopped_run_on_a_task_ends_with_the_losses_of_an_undisturbed_one(config, tmp_path, interrupted):
    config = dataclasses.replace(config, save_every=2)
    whole = train(config, tmp_path / "whole", progress="none")
    stopped = interrupted(config, tmp_path / "stopped", 5)
    again = train(config, stopped, progress="none")
    losses = [[row["loss"] for row in run.history if "loss" in row] for run in (whole, again)]
    assert losses[0] == losses[1]
    assert whole.metrics["task"]["nats"] == again.metrics["task"]["nats"]


def test_a_run_on_dialogues_trains_every_answer(config, tmp_path):
    folder = write(tmp_path / "talk", train=dialogues(30), test=dialogues(6, seed=1))
    talk = dataclasses.replace(config, task=str(folder), corpus=str(folder), template=None, steps=2, eval_every=2)
    run = train(talk, tmp_path / "run", progress="none")
    assert run.metrics["task"]["kind"] == "dialogue" and run.metrics["task"]["counts"]["cut"] > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "squad"}, "did you mean 'squad_qa'"),
        ({"corpus": "wikitext-2"}, "corpus is 'wikitext-2' with task"),
        ({"template": "no field"}, "template is 'no field'"),
        ({"judged": "dialogue"}, "dialogues have no template"),
        ({"task": None, "corpus": "pydocs"}, "are of a task's rows; give a task"),
        ({"tokenizer": "bpe", "scratch": True}, "a task is asked in the base's own"),
        ({"form": "verse"}, "unknown form 'verse'"),
    ],
)
def test_settings_of_a_task_that_cannot_work_say_so(config, changes, says):
    values = config.to_dict() | changes
    with pytest.raises(CurvekitError, match=says):
        RunConfig.from_dict(values).validate()


def test_bad_rows_leave_nothing_behind(config, tmp_path):
    folder = write(tmp_path / "bad", train=[*short(5), {"ask": "x"}], test=short(2, seed=1))
    with pytest.raises(CurvekitError, match=r"train.jsonl, line 6, has no key 'say' \(it has 'ask'\)"):
        train(dataclasses.replace(config, task=str(folder), corpus=str(folder)), tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()
