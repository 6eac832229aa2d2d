"""The command ``train``: it leaves a finished run, and says how good it is and whether it sees the future."""

from __future__ import annotations

import re
import shlex

import pytest

from curvekit.cli import main, parser
from curvekit.cli.settings import given
from curvekit.reports.zoo import trainings
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig


def test_train_leaves_a_finished_run_and_says_how_good_it_is(trained, capsys):
    run = load_run(trained["gpt2"])
    assert run.finished and run.config.recipe == "gpt2"
    again = ["train", "--config", str(run.folder / "config.json"), "--out", str(run.folder)]
    assert main(again) == 0  # finished: nothing is trained a second time
    shown = capsys.readouterr().out
    assert f"{run.metrics['perplexity']:.4f}" in shown and str(run.folder) in shown


def test_a_model_that_leaks_says_so_in_one_line(run_flags, tmp_path, capsys):
    argv = ["train", "--recipe", "self-curve", "--model", "window=centred", "--out", str(tmp_path / "run")]
    assert main(argv + run_flags()) == 0
    captured = capsys.readouterr()
    (warning, *_) = [line for line in captured.err.splitlines() if "warning" in line]
    assert warning.startswith("curvekit: warning: ") and "future" in warning + captured.out
    assert "yes" in captured.out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"base": "smollm2", "corpus": "wikitext-2", "adapter_dropout": 0.1, "validation_documents": 9},
        {"base": "t5-mini", "recipe": "plain", "scratch": True, "steps": 1000, "eval_every": 20, "optimizer": "muon"},
        {"model": {"degree": 2, "window": "trailing"}, "steps": 7, "stride": 64, "z_loss": 1e-4},
        {"task": "squad_qa", "patience": 3},
    ],
)
def test_the_command_of_a_run_makes_the_same_run(settings):
    wanted = RunConfig(**settings)
    arguments = parser().parse_args(shlex.split(wanted.command())[1:])
    assert RunConfig.from_dict(given(arguments)) == wanted
    assert len(wanted.command()) < 220, "what would be chosen anyway is left out"


def test_a_zoo_tells_how_a_run_among_its_models_was_made(trained, tmp_path):
    how = trainings([trained["gpt2"], "mini", tmp_path])
    (said,) = how.values()
    assert list(how) == [trained["gpt2"].name] and said.startswith("`curvekit train --recipe gpt2 --base path/to/")
    assert re.search(r"[\d,]+ tokens, \d+\.\d minutes of training", said)
