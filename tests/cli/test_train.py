"""The command ``train``: it leaves a finished run, and says how good it is and whether it sees the future."""

from __future__ import annotations

from curvekit.cli import main
from curvekit.training.runs import load_run


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
