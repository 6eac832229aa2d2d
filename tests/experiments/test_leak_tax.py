"""What a look at the answer is worth: arms that are scored both ways, a page, and the block of the README."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curvekit.cli import main as cli
from curvekit.cli.readme import LEAK_BEGIN, LEAK_END
from curvekit.errors import CurvekitError
from curvekit.experiments import leak_tax
from curvekit.experiments.leak_tax import ARMS, COMMON, MILDER, PLAIN, load, run_all, scores_of
from curvekit.figures.drawing import is_figure
from curvekit.reports.leak_tax import main, page, rows_of, said
from curvekit.training.settings import RunConfig

COMMITTED = Path(__file__).parents[2] / "reports" / "leak-tax"


@pytest.fixture(scope="module")
def measured(tiny_base, tiny_corpus, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leak-tax")
    config = RunConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), encoder=str(tiny_encoder), steps=3, block_size=16, batch_size=4,
        learning_rate=1e-2, precision="float32", **COMMON,
    )  # fmt: skip
    run_all(folder, config, [0, 1], documents=4, tokens=12)
    return folder, config


def test_every_arm_is_scored_both_ways_and_only_what_leaks_is_apart(measured):
    folder, _ = measured
    results = load(folder / "results.json")
    assert [(row["arm"], row["seed"]) for row in results["rows"]] == [(arm, seed) for seed in (0, 1) for arm in ARMS]
    for arm in ARMS:
        for both in scores_of(results, arm):
            assert both.blind.tokens.tolist() == [12] * 4
            apart = np.abs(both.looking.nll - both.blind.nll).max()  # over documents: gains and losses hide each other
            assert abs(both.tax - 1) < 1e-5 if arm == PLAIN else arm != MILDER or apart > 1e-2, (arm, apart)
            assert both.looking.leaks == (arm != PLAIN)


def test_a_run_that_is_there_is_not_made_again(measured, monkeypatch):
    folder, config = measured
    monkeypatch.setattr(leak_tax, "train", lambda *_: pytest.fail("a run was trained again"))
    before = (folder / "results.json").read_text()
    run_all(folder, config, [0, 1], documents=4, tokens=12)
    for other, tokens, what in ((replace(config, steps=4), 12, "settings"), (config, 13, "tokens")):
        with pytest.raises(CurvekitError, match=f"was measured with {what} .*; choose another folder"):
            run_all(folder, other, [0, 1], documents=4, tokens=tokens)
    assert (folder / "results.json").read_text() == before


def test_the_page_and_the_readme_say_what_the_results_say(measured, tmp_path, capsys):
    folder, _ = measured
    main([str(folder)])
    results = load(folder / "results.json")
    rows = rows_of(results, samples=200)
    assert [row["seeds"] for row in rows] == [2, 2, 2] and "low" in rows[1] and "low" not in rows[0]
    text = (folder / "README.md").read_text()
    assert text == page(results) and said(results) in text and is_figure(folder / "figures" / "leak-perplexity.svg")
    assert str(folder.parent) not in text + (folder / "results.json").read_text(), "no folder of a machine"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{LEAK_BEGIN}\nold\n{LEAK_END}\nafter\n")
    assert cli(["compare", str(folder), "--readme", str(readme)]) == 0
    held = readme.read_text()
    assert said(results) in held and "old" not in held and held.endswith("after\n")
    assert cli(["compare", str(folder)]) == 0 and said(results) in capsys.readouterr().out


@pytest.mark.skipif(not COMMITTED.exists(), reason="no report is committed")
def test_the_committed_page_is_what_its_committed_results_say():
    text = (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert page(load(COMMITTED / "results.json")) == text, "run: python -m curvekit.reports.leak_tax reports/leak-tax"
