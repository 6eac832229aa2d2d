"""What the README and the docstrings show is what happens: their examples run, and the results are the report's."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_the_example_prints_what_the_readme_shows():
    (block,) = re.findall(r"```python\n(>>>.*?)```", README, flags=re.DOTALL)
    example = doctest.DocTestParser().get_doctest(block, {}, "README", "README.md", 0)
    assert len(example.examples) >= 7
    outcome = doctest.DocTestRunner(optionflags=FLAGS).run(example)
    assert outcome.failed == 0


@pytest.mark.parametrize(
    "module", [path.stem for path in sorted((ROOT / "curvekit").glob("*.py")) if ">>> " in path.read_text()]
)
def test_the_examples_of_a_docstring_print_what_they_show(module):
    outcome = doctest.testmod(importlib.import_module(f"curvekit.{module}"), optionflags=FLAGS)
    assert outcome.attempted and outcome.failed == 0


def test_every_make_target_of_the_readme_exists_and_none_is_dead():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split())
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= targets
    assert {*re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE)} == targets
    assert {"report", "test", "check", "lab", "setup"} <= targets


RESULT = ROOT / "reports" / "pydocs"  # what the README shows of fine-tuning


def test_every_local_link_of_the_pages_leads_somewhere():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            assert (ROOT / link).exists(), f"{page} links to {link}"


def test_the_recipes_table_lists_the_recipes_and_says_which_leak():
    from curvekit.recipes import RECIPES

    rows = re.findall(r"^\| `([\w+-]+)` \|.*\| (\*\*yes\*\*|no) \|$", README, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(RECIPES)
    for name, leaks in rows:
        recipe = RECIPES[name]
        sees_future = recipe.get("window") == "centred" or recipe.get("context") == "bidirectional"
        assert (leaks == "**yes**") == sees_future, name


def test_the_ladders_findings_are_those_of_its_committed_report():
    from curvekit.cli.readme import LADDER_BEGIN, LADDER_END, ladder_block

    shown = README.partition(LADDER_BEGIN)[2].partition(LADDER_END)[0]
    told = ladder_block(Path("reports/which-curve") if Path.cwd() == ROOT else ROOT / "reports" / "which-curve")
    told = told.replace(f"{ROOT.as_posix()}/", "")
    assert shown.strip() == told.strip(), "run: curvekit compare reports/which-curve --readme README.md"


def test_the_zoo_is_that_of_its_committed_report():
    from curvekit.cli.readme import ZOO_BEGIN, ZOO_END
    from curvekit.reports.zoo import block

    shown = README.partition(ZOO_BEGIN)[2].partition(ZOO_END)[0]
    assert shown.strip() == block(ROOT / "reports" / "zoo").strip(), "run: curvekit zoo --readme README.md"


def test_the_results_are_those_of_the_committed_report():
    from curvekit.cli.readme import results_block
    from curvekit.evaluation.results import BEGIN, END

    shown = README.partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == results_block(RESULT).strip(), "run: curvekit compare reports/pydocs --readme README.md"
