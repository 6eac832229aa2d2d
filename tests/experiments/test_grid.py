"""Runs become cells of a grid, validation chooses a recipe's best, and the page compares cells with it."""

from __future__ import annotations

import copy
import dataclasses
import runpy
import sys

import pytest

from curvekit.errors import CurvekitError
from curvekit.evaluation.significance import paired_bootstrap
from curvekit.experiments.grid import add, best, cells, load, unsaid
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json, write_json
from curvekit.reports.grid import differences, main, pairs, rows_of, told
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture(scope="module")
def runs(tiny_base, tiny_encoder, tiny_corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    config = RunConfig(
        recipe="plain", base=str(tiny_base), corpus=str(tiny_corpus), encoder=str(tiny_encoder), steps=2, batch_size=2,
        block_size=16, learning_rate=1e-3, keep_tokens=0, sample_prompts=0,
    )  # fmt: skip
    for name, changed in {
        "plain": {},
        "plain-fast": {"learning_rate": 1e-2},
        "plain-fast-1": {"learning_rate": 1e-2, "seed": 1},
        "curve": {"recipe": "curve", "model": {"degree": 3}, "learning_rate": None},  # what is recommended
        "plain-faster": {"added_rate": 8.0},  # of nothing
        "curve-faster": {"recipe": "curve", "added_rate": 8.0},
        "plain-milder": {"dropout": 0.1, "sink_share": 0.2},
        "put-in": {"model": {"attention": "sink"}, "sink_share": 0.2},
    }.items():
        train(dataclasses.replace(config, **changed), root / name, progress="none")
    return root


def test_runs_become_cells_and_validation_chooses(runs, tmp_path):
    results = add(tmp_path, [runs / name for name in ("plain", "plain-fast", "plain-fast-1", "curve")])
    plain, fast, curve = cells(results)
    assert [len(cell.runs) for cell in (plain, fast, curve)] == [1, 2, 1]
    assert plain.name == "plain, rate 0.001" and curve.name == "curve, degree=3, rate 0.0001"
    assert curve.runs[0]["gate"] > 0 and plain.runs[0]["gate"] is None
    assert plain.validation == read_json(runs / "plain" / "metrics.json")["validation"]["loss"]
    assert best([plain, fast, curve]) == {
        "plain": min(plain, fast, key=lambda c: c.runs[0]["validation"]),
        "curve": curve,
    }
    assert add(tmp_path, [runs / "curve"]) == load(tmp_path / "results.json")  # once, whoever adds it again
    assert len(load(tmp_path / "results.json")["rows"]) == 4


def test_a_rate_of_what_is_added_says_nothing_where_nothing_is(runs, tmp_path):
    results = add(tmp_path, [runs / name for name in ("plain", "plain-faster", "plain-fast", "curve-faster")])
    plain, _, curve = grid = cells(results)
    assert plain.runs[0] == results["rows"][0] and plain.name == "plain, rate 0.001"
    assert curve.name == "curve, added at 8 times the rate, rate 0.001"
    assert pairs(grid, "plain", "same") == {curve.name: (curve, plain)}


def test_runs_that_differ_in_more_than_their_seed_are_cells_of_their_own(runs, tmp_path):
    results = add(tmp_path, [runs / name for name in ("plain", "plain-milder", "put-in")])
    assert [cell.name for cell in cells(results)] == [
        "plain, rate 0.001",
        "plain, dropout=0.1, rate 0.001",
        "plain, attention=sink, sink_share 0.2, rate 0.001",
    ]
    assert unsaid("plain", {}).keys() == {"added_rate", "sink_share"} and not unsaid("curve+sink", {})
    assert unsaid("softemax", {}) == unsaid("plain", {}) and unsaid("sites", {}).keys() == {"sink_share"}


def test_a_cell_is_compared_at_the_same_settings_or_with_the_best(runs, tmp_path):
    results = add(tmp_path, [runs / name for name in ("plain", "plain-fast", "plain-fast-1", "curve")])
    twin = copy.deepcopy(results["rows"][1]) | {"recipe": "softemax"}  # of the fast, at the same settings, one seed
    twin["score"]["nll"] = [x + 1 for x in twin["score"]["nll"]]
    write_json(tmp_path / "results.json", results | {"rows": [*results["rows"], twin]})
    grid = cells(load(tmp_path / "results.json"))
    assert {name: other.name for name, (_, other) in pairs(grid, "plain", "same").items()} == {
        "softemax, rate 0.01": "plain, rate 0.01"
    }
    chosen = best(grid)["plain"]
    assert {other for _, other in pairs(grid, "plain", "best").values()} == {chosen}
    assert chosen.name not in pairs(grid, "plain", "best")
    found = differences(grid, "plain", "same", samples=100)["softemax, rate 0.01"]
    fast = next(cell for cell in grid if cell.name == "plain, rate 0.01")
    twins = next(cell for cell in grid if cell.recipe == "softemax")
    assert found["difference"] == paired_bootstrap(twins.scores([0]), fast.scores([0]), 100).difference > 0
    rows = rows_of(grid, {}, "plain")
    assert [row["chosen"] == "yes" for row in rows] == [cell in best(grid).values() for cell in grid]
    for at in ("same", "best"):
        main([str(tmp_path), "--at", at])
        assert told(load(tmp_path / "results.json"), "plain", at) in (tmp_path / "README.md").read_text("utf-8")
    assert is_figure(tmp_path / "figures" / "grid.svg")
    with pytest.raises(CurvekitError, match="no run of 'canon' in the grid; it has plain, curve, softemax"):
        pairs(grid, "canon", "best")


def test_settings_without_a_common_seed_have_no_best(runs, tmp_path):
    grid = cells(add(tmp_path, [runs / "plain", runs / "plain-fast-1"]))
    with pytest.raises(CurvekitError, match="no seed in common"):
        best(grid)


def test_what_cannot_be_added_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grid", str(tmp_path), str(tmp_path / "nowhere")])
    monkeypatch.delitem(sys.modules, "curvekit.experiments.grid")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("curvekit.experiments.grid", run_name="__main__")
    assert end.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: there is no run in {tmp_path / 'nowhere'} (no config.json); give the folder of a run\n"
    )
