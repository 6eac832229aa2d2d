"""The committed report of the ladder is what its committed results give: tables, page, and what figures show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.experiments.ladder import PLAIN, Candidate, as_latex, as_markdown, load_results, table
from curvekit.figures.drawing import is_figure
from curvekit.reports import ladder
from curvekit.reports.ladder import BEST, CANON, CONTRASTS, contrasts, page, pictures, written

FOLDER = Path(__file__).parents[2] / "reports" / "which-curve"
RESULTS = FOLDER / "results.json"


@pytest.fixture(scope="module")
def files():
    return written(RESULTS)


def test_the_committed_tables_are_those_of_the_committed_results(files):
    for name, text in files.items():
        committed = (FOLDER / name).read_text(encoding="utf-8")
        if name.endswith(".json"):
            for mine, theirs in zip(json.loads(text), json.loads(committed), strict=True):
                assert mine.keys() == theirs.keys()
                for column, value in mine.items():
                    near = (
                        pytest.approx(theirs[column], abs=2e-6) if isinstance(value, float | list) else theirs[column]
                    )
                    assert value == near, f"{name}, {column} of {mine.get('candidate', mine.get('a'))}"
        elif name.startswith(("contrasts", "time")):
            assert committed == text, "run: python -m curvekit.reports.ladder reports/which-curve"
        else:
            rows = json.loads((FOLDER / name).with_suffix(".json").read_text(encoding="utf-8"))
            assert committed == (as_markdown if name.endswith(".md") else as_latex)(rows)


def test_the_page_shows_these_tables(files):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page(text, files) == text, "run: python -m curvekit.reports.ladder reports/which-curve"
    with pytest.raises(CurvekitError, match="medium:begin"):
        page(text.replace("<!-- medium:begin -->", ""), files)


def test_every_contrast_that_was_fixed_pairs_the_same_seeds_and_says_who_is_better():
    rows = contrasts(RESULTS, samples=200)
    assert [(row["a"], row["b"]) for row in rows] == [(each.a, each.b) for each in CONTRASTS]
    medium = load_results(RESULTS, "medium")
    canon = next(row for row in rows if (row["a"], row["b"]) == (BEST, CANON))
    ours, theirs = ({run["seed"]: run["scores"]["test"]["loss"] for run in medium[name]} for name in (BEST, CANON))
    seeds = ours.keys() & theirs.keys()
    assert canon["seeds"] == len(seeds) > 2
    assert canon["difference"] == pytest.approx(np.mean([ours[seed] - theirs[seed] for seed in seeds]), abs=1e-4)
    assert canon["verdict"] == "worse" and canon["low"] > 0, "the negative result of the page"


def test_nothing_that_leaks_and_no_other_terms_are_in_the_results():
    for rung in ladder.SPLITS:
        of_rung = load_results(RESULTS, rung)
        assert PLAIN in of_rung
        orders: dict[int, set] = {}
        for runs in of_rung.values():
            for run in runs:
                if "steps" not in Candidate.parse(run["candidate"]).training:
                    orders.setdefault(run["seed"], set()).add((run["order"], run["tokens"]))
                assert not any(score["leaks"] for score in run["scores"].values())
        assert all(len(each) == 1 for each in orders.values()), "one order of blocks a seed"


@pytest.mark.slow
def test_the_figures_are_drawn_of_the_results_and_lie_in_the_folder(files):
    rows_of = {rung: json.loads(files[f"{rung}.json"]) for rung in ladder.PANELS.values()}
    drawn = pictures(RESULTS, rows_of)
    kept = {path.name for path in (FOLDER / "figures").iterdir()}
    assert kept == {f"{name}.{kind}" for name in drawn for kind in ("svg", "png")}
    assert all(is_figure(path) for path in (FOLDER / "figures").iterdir())
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all((FOLDER / link).is_file() for link in re.findall(r"\]\(([^)]+)\)", text))


def test_the_table_of_an_encoder_s_layers_is_that_of_its_results():
    folder = FOLDER.parent / "encoder-layers"
    held = (folder / "README.md").read_text(encoding="utf-8").partition("<!-- small:begin -->\n")[2]
    rows = table(folder / "results.json", "small", "validation")
    assert held.partition("<!-- small:end -->")[0] == as_markdown(rows)
    layers = {row["candidate"] for row in rows if row["candidate"].startswith("curve-causal")}
    assert layers == {"curve-causal", "curve-causal:encoder_layers=2", "curve-causal:encoder_layers=1"}


def test_the_claims_are_those_that_were_to_be_made():
    """Over five seeds at least 5 % less perplexity than plain at equal steps, 3 % at equal time, intervals below 0."""
    for name, most in (("medium", -0.05), ("time", -0.03)):
        rows = {row["candidate"]: row for row in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))}
        assert rows[BEST]["seeds"] >= 5 and rows[BEST]["high"] < 0 and rows[BEST]["relative_perplexity"] <= most
