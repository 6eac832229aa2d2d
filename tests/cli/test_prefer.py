"""The commands ``prefer`` and ``constitution``: what they leave and say, and how they refuse."""

from __future__ import annotations

import json

import pytest

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.preferences.runs import load_preferences

SHORT = ("--prompt-tokens", "20", "--answer-tokens", "8", "--prompt-count", "6", "--test-prompts", "4", "--steps", "1",
         "--batch-size", "4", "--eval-documents", "2", "--block-size", "16", "--rank", "2")  # fmt: skip


@pytest.fixture(scope="module")
def flags(tiny_base, tiny_corpus):
    return ["--base", str(tiny_base), "--corpus", str(tiny_corpus), *SHORT]


def test_seeds_are_runs_of_their_own_and_each_says_what_it_brought(flags, tmp_path, capsys):
    argv = [
        "prefer",
        "--method",
        "ppo",
        "--rule",
        "at_most_words:3",
        "--seeds",
        "0",
        "1",
        "--out",
        str(tmp_path / "ppo"),
    ]
    assert main(argv + flags) == 0
    said = capsys.readouterr().out
    for word in ("held-out reward", "perplexity", "nats an answer", "win rate", "seed1"):
        assert word in said
    assert [load_preferences(tmp_path / "ppo" / f"seed{i}").config.seed for i in range(2)] == [0, 1]
    assert open_model(tmp_path / "ppo" / "seed0")[0] is not None
    assert main(["generate", str(tmp_path / "ppo" / "seed0"), "The river", "--max-new-tokens", "2"]) == 0


def test_a_run_is_made_again_from_its_settings_file(flags, tmp_path, capsys):
    argv = ["prefer", "--method", "ppo", "--rule", "at_most_words:3", "--out", str(tmp_path / "a")]
    assert main(argv + flags) == 0
    assert main(["prefer", "--config", str(tmp_path / "a" / "config.json"), "--out", str(tmp_path / "b")]) == 0
    assert load_preferences(tmp_path / "b").config == load_preferences(tmp_path / "a").config


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["prefer"], "learns from pairs, and there are none"),
        (["prefer", "--pairs", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["prefer", "--rule", "full_sentense"], "did you mean 'full_sentence'"),
        (["prefer", "--rule", "no_numbers", "--seeds", "one"], "seeds holds 'one'"),
        (["prefer", "--rule", "no_numbers", "--chat"], "has no chat template"),
        (["constitution"], "no constitution is given"),
        (["constitution", "nothing.yaml"], "there is no file nothing.yaml"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_status_2(argv, told, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*argv, *(flags if "--chat" in argv else [])]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("curvekit: error: ") and told in said[-1]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_endpoint_without_a_model_is_refused(tmp_path, capsys):
    assert main(["constitution", "--example"]) == 0
    (tmp_path / "plain.yaml").write_text(capsys.readouterr().out)
    assert main(["constitution", str(tmp_path / "plain.yaml"), "--critic", "http://127.0.0.1:9/v1"]) == 2
    assert "give --critic-model" in capsys.readouterr().err


def test_what_a_constitution_drafted_is_kept_where_there_is_nothing_to_learn(flags, tmp_path, capsys):
    (tmp_path / "brief.yaml").write_text(
        "principles:\n  - {name: lower, critique: 'Is it long?', revision: Cut it, rule: 'at_most_words:1'}\n"
    )
    argv = ["constitution", str(tmp_path / "brief.yaml"), "--out", str(tmp_path / "out"), *flags]
    status = main(argv)
    said = capsys.readouterr()
    # Random weights write no sentences, so rules have nothing to cut at: told in a sentence, and the loop is kept.
    assert status == 2 and "too few to learn from" in said.err
    rounds = (tmp_path / "out" / "loop" / "rounds.jsonl").read_text().splitlines()
    assert json.loads(rounds[0])["principle"] == "lower"
