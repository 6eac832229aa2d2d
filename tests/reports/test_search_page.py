"""The page of a search: what it says is what the search found, and its command makes the search again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from sentences import words_in_disorder

from curvekit.cli.frame import parser
from curvekit.experiments.search import Plan, search
from curvekit.experiments.spaces import parse_space, written
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json
from curvekit.reports.search import command_of, main, page
from curvekit.training.settings import RunConfig

pytest.importorskip("optuna", reason="a search needs the extra `search`")
COMMITTED = Path(__file__).parents[2] / "reports" / "search"
SPACE = ["learning_rate=1e-4:1e-2:log", "batch_size=2,4"]


@pytest.fixture(scope="module")
def searched(tiny_base, tmp_path_factory):
    folder = words_in_disorder(tmp_path_factory.mktemp("of-a-page"))
    config = RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(folder), steps=4, block_size=16, batch_size=4, sample_prompts=0,
        validation_documents=3, precision="float32",
    )  # fmt: skip
    plan = Plan(recipes=("gpt2",), space=parse_space(SPACE, config), folds=2, trials=2, seeds=(7,))
    search(config, plan, folder / "search", announce=lambda _: None)
    return folder / "search"


def test_the_page_says_what_was_found_and_again_of_its_results(searched, tmp_path):
    main([str(tmp_path), "--search", str(searched), "--given", "as a study has them"])
    found, text = read_json(tmp_path / "results.json"), (tmp_path / "README.md").read_text()
    best = found["recipes"]["gpt2"]["best"]
    for word in ("as a study has them", f"{best['bits']:.4f}", f"{best['values']['learning_rate']:.3g}", "optimism"):
        assert word in text
    assert "gpt2-importance" not in text, "two trials do not tell it"
    for name in ("gpt2-slices", "gpt2-parallel", "gpt2-folds", "gpt2-cost"):
        assert f"figures/{name}.png" in text and is_figure(tmp_path / "figures" / f"{name}.svg")
    assert str(searched.parent) not in text + (tmp_path / "results.json").read_text(), "no folder of a machine"
    main([str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == text


def test_its_command_makes_the_search_again(searched, tmp_path):
    main([str(tmp_path), "--search", str(searched)])
    words = shlex.split(command_of(read_json(tmp_path / "results.json")))
    asked = parser().parse_args(words[1:])
    assert words[:2] == ["curvekit", "search"] and asked.trials == 2 and asked.folds == 2 and asked.seeds == ["7"]
    assert "--recipe" not in words and "path/to/of-a-page0" in words
    config = RunConfig(base="mini")
    assert parse_space(asked.space, config) == parse_space(SPACE, config)
    assert [written(each.to_dict()) for each in parse_space(["dropout=0:0.3"], config)] == ["0.0:0.3"]


@pytest.mark.skipif(not COMMITTED.exists(), reason="no search is committed")
@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_a_committed_page_is_what_its_committed_results_say(path):
    text = path.with_name("README.md").read_text(encoding="utf-8")
    assert page(read_json(path)) == text, f"run: python -m curvekit.reports.search reports/search/{path.parent.name}"
