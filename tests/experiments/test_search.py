"""A search: its space, its folds, its trials that survive a kill, and a winner that is tested once."""

from __future__ import annotations

import dataclasses
import errno
import json
import random
import subprocess
import sys

import pytest
from sentences import SENTENCES
from wandb_files import begun, history

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.experiments import search as room
from curvekit.experiments import trials as trial_room
from curvekit.experiments.folds import Folds
from curvekit.experiments.search import Plan, load_search, overhead, search, to_markdown, verdict
from curvekit.experiments.spaces import Dimension, grid_size, parse_space, tokens_of_step, with_values
from curvekit.files import write_json
from curvekit.text.corpora import load_corpus
from curvekit.text.duplicates import find_duplicates
from curvekit.training.settings import RunConfig

pytest.importorskip("optuna", reason="a search needs the extra `search`")
WORDS = sorted({word.strip(".,").lower() for sentence in SENTENCES for word in sentence.split()})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of words in random order: no two are alike, but for one that repeats a test document."""
    folder, draw = tmp_path_factory.mktemp("searched") / "words", random.Random(1)
    folder.mkdir()
    texts = [" ".join(draw.choice(WORDS) for _ in range(40)) for _ in range(40)]
    splits = {"train": [*texts[:27], texts[-1]], "validation": texts[28:34], "test": texts[34:]}
    for name, lines in splits.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def config(tiny_base, corpus):
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(corpus), steps=4, block_size=16, batch_size=4, sample_prompts=0,
        validation_documents=3, eval_documents=4, precision="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def plan(config):
    space = parse_space(["learning_rate=1e-4:1e-2:log", "batch_size=2,4"], config)
    return Plan(recipes=("gpt2",), space=space, folds=2, trials=3, seeds=(1,))


@pytest.fixture(scope="module")
def found(config, plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searches") / "one"
    return folder, search(config, plan, folder, announce=lambda _: None)


# The space


def test_a_space_is_read_from_words(config):
    words = ["learning_rate=1e-4:1e-2:log", "dropout=0:0.3", "model.degree=1:4", "optimizer=adamw,muon"]
    assert parse_space(words, config) == (
        Dimension("learning_rate", 1e-4, 1e-2, log=True),
        Dimension("dropout", 0.0, 0.3),
        Dimension("model.degree", 1, 4),
        Dimension("optimizer", choices=("adamw", "muon")),
    )
    assert grid_size(parse_space(["batch_size=2,4", "rank=1:3"], config)) == 6


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("learning_rat=1:2", "unknown setting to search 'learning_rat'; did you mean 'learning_rate'"),
        ("learning_rate", "is no part of a space; write NAME=LOW:HIGH"),
        ("learning_rate=1e-2:1e-4", "the range of learning_rate, 1e-2:1e-4, is empty"),
        ("learning_rate=0:1:log", "begins at 0.0, where a log scale has no place"),
        ("learning_rate=1:2:linear", "is no range"),
        ("learning_rate=fast,slow", "'fast', which is no number"),
        ("dropout=0:3", "dropout is 3.0; give at most 0.9"),
        ("batch_size=0:4", "batch_size is 0; give 1 or more"),
        ("batch_size=4", "nothing to search; give it as a setting"),
        ("optimizer=adamw,adam", "unknown optimizer 'adam'"),
        ("optimizer=adamw:muon", "is no range of numbers; list its values"),
        ("seed=0:9", "a good seed is no good setting"),
        ("recipe=gpt2,curve", "give --recipes"),
        ("stride=1:9", "how a model is measured"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_a_sentence(config, word, said):
    with pytest.raises(CurvekitError, match=said):
        parse_space([word], config)


def test_every_trial_has_the_same_budget_of_tokens(config):
    for values in ({"batch_size": 2}, {"block_size": 32, "accumulate": 2}, {}):
        other = with_values(config, values)
        assert other.steps * tokens_of_step(other) == config.steps * tokens_of_step(config)


# The folds


def test_folds_hold_out_every_document_once_and_train_no_copy(config, corpus, tmp_path):
    documents = load_corpus(corpus)
    folds = Folds(documents, 3, 0, tmp_path / "folds.json")
    held = sorted(i for fold in folds.held for i in fold)
    assert len(held) == len(set(held)) == len(folds.texts) - folds.removed
    assert folds.removed == 1, "the document that repeats a test document is in no fold"
    for out, trained in zip(folds.held, folds.trained, strict=True):
        assert not set(out) & set(trained)
        assert not find_duplicates([folds.texts[i] for i in trained], [folds.texts[i] for i in out])
    assert Folds(documents, 3, 0, tmp_path / "folds.json").held == folds.held
    with pytest.raises(CurvekitError, match="is of other documents or folds"):
        Folds(documents, 2, 0, tmp_path / "folds.json")
    with pytest.raises(CurvekitError, match="99 folds of 33 documents"):
        Folds(documents, 99, 0, tmp_path / "more.json")


# The search


def test_a_search_finds_trains_anew_and_tests_once(found, plan):
    folder, results = found
    own = results["recipes"]["gpt2"]
    assert len(own["trials"]) == plan.trials and results == load_search(folder)
    scored = [each for each in own["trials"] if each["bits"] is not None]
    assert own["best"]["bits"] == min(each["bits"] for each in scored)
    assert all(len(each["folds"]) == plan.folds for each in scored)
    test = own["test"]
    assert test["advantage"] == pytest.approx(test["kept"] + test["optimism"])
    assert test["seeds"] == [1]
    said = to_markdown(results)
    assert "| gpt2 |" in said and "optimism" in said


def test_a_search_is_one_project_of_wandb_with_a_group_for_trials_and_one_for_seeds(config, plan, tmp_path):
    tracked = dataclasses.replace(config, track="wandb", wandb_project="curves")
    results = search(tracked, dataclasses.replace(plan, trials=2), tmp_path / "searched", announce=lambda _: None)
    folders = sorted(tmp_path.rglob("offline-run-*"))
    runs = [begun(folder) for folder in folders]
    assert {run.project for run in runs} == {"curves"}
    better = results["recipes"]["gpt2"]["test"]["advantage"] != 0
    seeds = ["searched/gpt2/given", *(["searched/gpt2/winner"] if better else [])]
    assert sorted(run.run_group for run in runs) == ["searched/gpt2"] * 2 + seeds
    trials = {run.display_name: folder for run, folder in zip(runs, folders, strict=True) if run.job_type == "trial"}
    assert sorted(trials) == ["gpt2 trial 0", "gpt2 trial 1"]
    for row in results["recipes"]["gpt2"]["trials"]:
        steps = history(trials[f"gpt2 trial {row['number']}"]).values()
        logged = {name: value for step in steps for name, value in step.items()}
        assert logged["trial_bits"] == row["bits"] and {f"bits, fold {k}" for k in range(plan.folds)} <= logged.keys()


def test_a_finished_search_returns_at_once(found, config, plan, monkeypatch):
    folder, results = found
    monkeypatch.setattr(trial_room.Trials, "fold", lambda *_: pytest.fail("a fold was trained again"))
    assert search(config, plan, folder, announce=lambda _: None) == results


class Killed(BaseException):
    pass


def test_a_search_that_is_killed_goes_on_and_trains_no_fold_again(config, plan, tmp_path, monkeypatch):
    trained, whole = [], trial_room.Trials.fold

    def fold(self, config, number, report):
        if len(trained) == 5 and "killed" not in trained:
            trained.append("killed")
            raise Killed
        trained.append((config.learning_rate, config.batch_size, number))
        return whole(self, config, number, report)

    monkeypatch.setattr(trial_room.Trials, "fold", fold)
    with pytest.raises(Killed):
        search(config, plan, tmp_path / "search", announce=lambda _: None)
    results = search(config, plan, tmp_path / "search", announce=lambda _: None)
    own = results["recipes"]["gpt2"]
    assert len(own["trials"]) == plan.trials
    folds = [each for each in trained if each != "killed"]
    assert len(folds) == len(set(folds)), "each fold of each trial was trained once"


def test_a_trial_after_another_starts_from_the_same_weights(config, corpus, tmp_path):
    from curvekit.experiments.folds import FoldTokens
    from curvekit.text.tokenization import run_tokenizer

    folds = Folds(load_corpus(corpus), 2, 0, tmp_path / "folds.json")
    tokenizer = run_tokenizer("base", config.base, folds.texts, 400)
    tokens = FoldTokens(folds, tokenizer, tmp_path / "tokens.safetensors", "words", 3)
    work = trial_room.Trials(tokens)
    first, again = (work.fold(config, 0, lambda *_: None) for _ in range(2))
    assert first["bits"] == again["bits"]
    assert trial_room.Trials(tokens).fold(config, 0, lambda *_: None)["bits"] == first["bits"]


def test_another_search_in_the_folder_is_refused(found, config, plan, tmp_path):
    folder, _ = found
    space = parse_space(["learning_rate=1e-4:1e-3:log"], config)
    other = Plan(recipes=("gpt2",), space=space, folds=2, trials=3, seeds=(1,))
    with pytest.raises(CurvekitError, match="holds another search: its space is .*choose another folder"):
        search(config, other, folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CurvekitError, match="holds notes.txt"):
        search(config, plan, tmp_path)


def test_a_full_disk_in_a_trial_is_a_sentence(config, plan, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_room.Trials, "fold", full)
    with pytest.raises(CurvekitError, match="No space left on device; free some space and give the same command"):
        search(config, plan, tmp_path / "search", announce=lambda _: None)


def test_a_trial_whose_loss_is_no_number_is_given_up(config, tmp_path, monkeypatch):
    whole = trial_room.Trials.fold

    def fold(self, own, number, report):
        if own.batch_size == 2:
            raise trial_room.Diverged
        return whole(self, own, number, report)

    monkeypatch.setattr(trial_room.Trials, "fold", fold)
    plan = Plan(("gpt2",), parse_space(["batch_size=2,4"], config), folds=2, trials=9, sampler="grid", seeds=(1,))
    own = search(config, plan, tmp_path / "search", announce=lambda _: None)["recipes"]["gpt2"]
    assert {each["values"]["batch_size"]: each["ended"] for each in own["trials"]} == {
        2: "the loss is not a number",
        4: "scored in every fold",
    }


def test_the_seed_of_the_trials_does_not_test(config, plan, tmp_path):
    same = Plan(plan.recipes, plan.space, folds=2, trials=3, seeds=(0, 1))
    with pytest.raises(CurvekitError, match="seed 0 is that of the trials"):
        search(config, same, tmp_path / "search")


def test_overhead_is_what_was_neither_training_nor_scoring():
    folds = [{"train_seconds": 10.0, "score_seconds": 1.0}] * 2
    assert overhead([{"bits": 1.0, "seconds": 22.4, "folds": folds}]) == pytest.approx(0.02)
    assert overhead([{"bits": None, "seconds": 5.0, "folds": folds}]) is None


def test_a_winner_that_is_what_was_given_has_no_advantage(found):
    run = [type("Run", (), {"metrics": {"bits_per_byte": 2.0}, "config": RunConfig(seed=1)})]
    row = verdict(1.5, 1.5, run, run)
    assert row["advantage"] == row["kept"] == row["optimism"] == 0 and row["low"] is None


def test_the_command_says_in_a_sentence_what_is_wrong(config, tmp_path, capsys):
    write_json(tmp_path / "settings.json", config.to_dict())
    words = ["search", "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "search")]
    assert main([*words, "--space", "dropout=0.3:0"]) == 2
    assert "is empty" in capsys.readouterr().err
    assert main([*words, "--space", "dropout=0:0.3", "--sampler", "grid"]) == 2
    assert "a grid has no end of values" in capsys.readouterr().err
    assert main([*words, "--space", "dropout=0,0.1", "--sampler", "bayes"]) == 2
    assert "unknown sampler 'bayes'" in capsys.readouterr().err
    assert main([*words, "--space", "dropout=0,0.1", "--folds", "400"]) == 2
    assert "400 folds of 33 documents" in capsys.readouterr().err
    assert not (tmp_path / "search" / "search.json").exists()


@pytest.mark.slow
def test_two_processes_share_a_study(config, plan, tmp_path):
    write_json(tmp_path / "settings.json", config.to_dict())
    words = [sys.executable, "-m", "curvekit", "search", "--config", str(tmp_path / "settings.json"), "--out",
             str(tmp_path / "search"), "--space", "learning_rate=1e-4:1e-2:log", "--recipes", "gpt2", "--folds", "2",
             "--trials", "6", "--seeds", "1"]  # fmt: skip
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate(timeout=600) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    results = json.loads((tmp_path / "search" / "results.json").read_text())
    assert len(results["recipes"]["gpt2"]["trials"]) == 6
    assert sum(err.count(", trial ") for _, err in said) == 6, "each trial was one process's"
    assert room.load_search(tmp_path / "search") == results
