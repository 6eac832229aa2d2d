"""The command ``evaluate``: the run's own figure with its signature, and JSON that a program can read."""

from __future__ import annotations

import json

from curvekit.cli import main
from curvekit.training.runs import load_run


def test_evaluate_gives_the_figure_of_the_run_with_its_signature(trained, tiny_corpus, capsys):
    argv = ["evaluate", str(trained["gpt2"]), "--corpus", str(tiny_corpus), "--batch-size", "3"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    metrics = load_run(trained["gpt2"]).metrics
    assert f"perplexity        {metrics['perplexity']:.4f}" in shown
    assert "context:32|stride:16" in shown and "split:test" in shown
    assert str(tiny_corpus.parent) not in shown
    signature = load_run(trained["gpt2"]).scores("test").signature
    assert all(f"|{name}:{signature[name]}|" in shown for name in ("tokenizer", "tokenizer_hash", "context", "stride"))


def test_evaluate_prints_json_and_nothing_else(trained, tiny_base, tiny_corpus, capsys):
    for model in (trained["softemax"], trained["softemax"] / "model", tiny_base):
        argv = [
            "evaluate",
            str(model),
            "--corpus",
            str(tiny_corpus),
            "--json",
            "--split",
            "validation",
            "--documents",
            "3",
        ]
        assert main(argv) == 0
        score = json.loads(capsys.readouterr().out)
        assert len(score["nll"]) == 3 and score["signature"]["recipe"] == ("gpt2" if model == tiny_base else "softemax")
