"""Tasks and chat from the command line: train, evaluate side by side, go on, talk; bad input in one sentence."""

from __future__ import annotations

import io
import json
import sys

import pytest
from taskrows import dialogues, short, write

from curvekit.cli import main

TEMPLATE = "{ask} {say}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "colours", train=short(40), test=short(6, seed=1))


@pytest.fixture(scope="module")
def run(tiny_base, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "qa"
    argv = ["train", "--recipe", "gpt2", "--base", str(tiny_base), "--task", str(folder), "--template", TEMPLATE]
    argv += ["--block-size", "64", "--batch-size", "2", "--steps", "2", "--eval-every", "2", "--precision", "float32"]
    argv += ["--eval-documents", "4", "--validation-documents", "2", "--sample-tokens", "8", "--out", str(out)]
    assert main(argv) == 0
    return out


def test_train_on_a_task_tells_figures_and_what_was_counted(run, capsys):
    assert main(["train", "--config", str(run / "config.json"), "--out", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "exact match" in shown and "4 items" in shown and "truncated" in shown


def test_evaluate_compares_models_on_a_task_and_keeps_what_they_said(run, tiny_base, folder, tmp_path, capsys):
    argv = ["evaluate", str(tiny_base), str(run), "--task", str(folder), "--template", TEMPLATE]
    argv += ["--out", str(tmp_path / "out")]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "| (majority) |" in shown and f"qa - {tiny_base.name}" in shown and "excludes 0" in shown
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(found["models"]) == [tiny_base.name, "qa"] and str(folder) not in json.dumps(found)
    assert len((tmp_path / "out" / "answers-qa.jsonl").read_text().splitlines()) == 6
    before = (tmp_path / "out" / "results.md").read_text()
    assert main(argv) == 0 and (tmp_path / "out" / "results.md").read_text() == before  # nothing is measured again


def test_evaluate_takes_the_task_of_a_run(run, capsys):
    assert main(["evaluate", str(run), "--items", "3"]) == 0
    assert "| qa |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["{run}", "{run}"], "two models are called 'qa'"),
        (["{run}", "--task", "squad_qb"], "did you mean 'squad_qa'"),
        (["{run}", "--task", "{folder}"], "or a template of the keys there are"),
        (["{run}", "--task", "{folder}", "--corpus", "pydocs"], "not both"),
        (["{run}", "--task", "{folder}", "--template", "{ask} {nowhere}"], "has no key 'nowhere'"),
        (["{run}", "--task", "{folder}", "--template", TEMPLATE, "--context", "9999"], "the model has 64 positions"),
        (["{run}", "--task", "{folder}", "--template", TEMPLATE, "--form", "chat"], "no chat template"),
        (["{run}", "mini", "--corpus", "pydocs"], "2 models are compared on a task"),
    ],
)
def test_what_cannot_work_is_one_sentence(run, folder, argv, says, capsys):
    filled = [each.replace("{run}", str(run)).replace("{folder}", str(folder)) for each in argv]
    if filled.count(str(run)) == 2:
        filled += ["--task", str(folder), "--template", TEMPLATE]
    assert main(["evaluate", *filled]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("curvekit: error: ") and says in error


def test_chat_answers_line_by_line_and_exports_what_a_task_reads(tiny_base, tmp_path, monkeypatch, capsys):
    lines = ["Hello there", ":again", ":edit 1 Where is it?", "And now?", ":history", f":export {tmp_path / 'c.jsonl'}"]
    lines += [":edit 77 x", ":nothing", ":new", ":again"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    assert main(["chat", str(tiny_base), "--tokens", "6", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    (row,) = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    said = [turn["text"] for turn in row["turns"] if turn["role"] == "user"]
    assert said == ["Where is it?", "And now?"] and "1 user: Where is it?" in shown.err
    assert "there is no turn 77" in shown.err and "unknown command 'nothing'" in shown.err
    assert "there is no answer yet to write again" in shown.err


def test_a_dialogue_file_of_ones_own_is_a_task(tiny_base, tmp_path, capsys):
    write(tmp_path, talk=dialogues(30))
    assert main(["evaluate", str(tiny_base), "--task", str(tmp_path / "talk.jsonl"), "--items", "2"]) == 0
    assert "perplexity" in capsys.readouterr().out
