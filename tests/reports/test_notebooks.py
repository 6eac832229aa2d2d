"""The notebooks: clean, short and told apart by tagged parameters; executed at small size, they make a whole report."""

from __future__ import annotations

import ast
import html
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from sentences import SENTENCES
from taskrows import short, write

from curvekit.reports.execution import NOTEBOOKS, report
from curvekit.reports.markup import headline
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
SEARCH = NOTEBOOKS / "13_search.ipynb"  # executed apart: it needs documents of which none repeats another
REPORTED = [path for path in PATHS if path != SEARCH]
RECIPES = ["gpt2", "curve", "curve+softemax", "published", "encoder"]
FIGURES = {
    "softemax-family", "softemax-limits", "softemax-overflow", "softemax-gradients", "softemax-row-sums",
    "softemax-attention", "curve-sentence", "curve-contexts", "curve-family", "curve-weights", "leak-map",
    "leak-perplexity", "training", "intervals", "learning-curves", "ablations", "tokens-curve", "by-position",
    "token-cuts", "transfer-curves", "transfer-intervals", "playground", "columns", "curve", "attention", "ratings",
    "which-rungs", "which-tokens", "which-curves-look-back", "which-canon-looks-back", "which-learning-long",
    "which-bases", "which-sinks", "which-lengths", "which-leak", "own-curves", "own-intervals",
    "steering",
    "document-lengths", "zipf", "scripts", "tokens", "forgetting",
    "chat", "task-colours",
    "preferences-changes", "preferences-histories", "preference-ratings",
}  # fmt: skip


def names(paths):
    return [path.stem for path in paths]


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_the_four_notebooks_of_the_story_are_there():
    story = ["00_data", "01_softemax", "02_curve_embeddings", "03_fine_tuning", "04_metric_analysis"]
    assert names(PATHS)[:5] == story


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_a_notebook_is_valid_carries_no_outputs_and_has_steady_ids(path):
    nb = read(path)
    nbformat.validate(nb)
    assert (nb.nbformat, nb.nbformat_minor) == (4, 5)
    assert nb.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in nb.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z-]*", each) for each in ids), "ids that a reader can cite"
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_nbstripout_finds_nothing_to_strip(path):
    command = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", str(path)]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_a_notebook_opens_with_its_title_one_claim_and_what_it_takes(path):
    first = read(path).cells[0].source
    assert first.startswith("# ")
    assert len(re.findall(r"^\*\*Claim\.\*\* ", first, re.MULTILINE)) == 1
    assert "you can" in first
    assert "minute" in first


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_every_parameter_is_tagged_typed_and_commented(path):
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    seen = papermill.inspect_notebook(str(path))
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements)
    assert set(seen) == {statement.target.id for statement in statements}  # papermill reads what Python reads
    for name, parameter in seen.items():
        assert parameter["inferred_type_name"] != "None", name
    beginnings = [line for line in tagged[0].source.splitlines() if re.match(r"\w+: ", line)]
    assert all("  # " in line for line in beginnings), beginnings


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_cells_are_short_and_formulas_are_such_as_pages_can_draw(path):
    from curvekit.reports.pages import markdown

    for cell in read(path).cells:
        assert len(cell.source.splitlines()) <= 26, f"{cell.id}: longer code belongs into the library"
        if cell.cell_type == "markdown":
            page = markdown(cell.source)
            assert "$" not in page and "\\(" not in page
            assert page.count('class="math" alt') == len(re.findall(r'<img class="math"', page))


def test_every_setting_of_a_run_reaches_the_notebooks_that_train():
    for name in (
        "03_fine_tuning", "04_metric_analysis", "07_transfer", "08_your_own_recipe", "12_tasks", "13_search",
        "14_domains",
    ):  # fmt: skip
        assert "settings" in papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))


@pytest.fixture(scope="module")
def small_report(tiny_base, tiny_corpus, tmp_path_factory):
    """All notebooks, executed at small size: five recipes by two seeds of six steps."""
    config = RunConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), steps=6, block_size=16, batch_size=4, eval_every=3, save_every=3,
        context_eval=16, sample_prompts=2, prompt_tokens=8, sample_tokens=8, learning_rate=1e-3, recipe="curve",
    )  # fmt: skip
    out = tmp_path_factory.mktemp("report")
    said = []
    small = {"leak_steps": 2, "budget_steps": 2, "budget_block": 16, "width": 32, "entries": 300}
    committed = {"which": "which-curve", "bases": "mini-curve", "sinks": "sinks", "conversion": "conversion"}
    committed |= {"put_in": "into-a-base", "lengths": "lengths", "pydocs": "pydocs", "characters": "characters"}
    committed |= {"leak": "leak-tax"}
    small |= {name: str(Path(__file__).parents[2] / "reports" / folder) for name, folder in committed.items()}
    small |= {"study": str(Path(__file__).parents[2] / "reports" / "steering")}
    colours = write(tmp_path_factory.mktemp("rows") / "colours", train=short(40), test=short(8, seed=1))
    small |= {"tasks": [str(colours)], "asked": "{ask} {say}", "room": 64, "items": 6}
    small |= {"start": str(tiny_base), "rounds": 2, "answers": 4, "answer_tokens": 8, "test_prompts": 4}
    domain = tmp_path_factory.mktemp("domain")
    for split, first in (("train", 0), ("validation", 100), ("test", 200)):
        lines = [
            " ".join(f"{word}{(i + 1) * k % 997}" for k, word in enumerate("abcdefghij"))
            for i in range(first, first + 30)
        ]
        (domain / f"{split}.txt").write_text("\n".join(lines) + "\n")
    small |= {"tokenizers": ["characters"], "domain": str(domain), "documents": 3}
    small |= {"models": [str(tiny_base), f"{tiny_base}:softemax"], "max_new_tokens": 8}
    made = report(
        config, out, recipes=RECIPES, seeds=[0, 1], notebooks=REPORTED, parameters=small, progress=said.append
    )
    return made, said


@pytest.mark.slow
def test_the_notebooks_run_and_leave_every_page_figure_and_file(small_report):
    folder = small_report[0].parent
    for name in names(REPORTED):
        assert (folder / f"{name}.html").stat().st_size > 10_000
        assert not [cell for cell in read(folder / f"{name}.ipynb").cells if _failed(cell)]
    made = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert made >= FIGURES
    assert {path.stem for path in (folder / "figures").glob("*.png")} == made
    for name in ("index.html", "metrics.json", "results.md", "results.tex", "comparison.json"):
        assert (folder / name).exists()


def _failed(cell):
    return any(output.output_type == "error" for output in cell.get("outputs", []))


@pytest.mark.slow
def test_every_page_opens_offline_and_hides_the_code(small_report):
    for page in small_report[0].parent.glob("*.html"):
        text = page.read_text()
        assert "<script" not in text and "</script" not in text
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), page.name
        assert "figures.save(" not in text


@pytest.mark.slow
def test_every_image_of_every_page_has_a_description(small_report):
    for page in small_report[0].parent.glob("*.html"):
        images = re.findall(r"<img[^>]*>", page.read_text())
        assert images
        assert all(re.search(r'alt="[^"]+"', image) for image in images)
        assert not any("No description has been provided" in image for image in images)


@pytest.mark.slow
def test_notebook_03_trains_a_run_that_notebook_04_uses_again(small_report):
    page, said = small_report
    assert sum("curve-seed0: 6 steps" in line for line in said) == 1
    assert any("curve, seed 0, finished before" in line for line in said)
    assert sorted(path.name for path in (page.parent / "runs").iterdir()) == sorted(
        f"{recipe}-seed{seed}" for recipe in RECIPES for seed in (0, 1)
    )
    assert load_run(page.parent / "runs" / "curve-seed1").config.block_size == 16


@pytest.mark.slow
def test_the_report_says_what_was_found_and_that_published_leaks(small_report):
    from curvekit.experiments.comparison import load_comparison

    folder = small_report[0].parent
    found = load_comparison(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["headline"] == headline(found)
    assert metrics["leaks"] == ["published"]
    assert metrics["signature"] == found.signature
    for name in ("index.html", "04_metric_analysis.html"):
        assert "leaks: not comparable" in (folder / name).read_text()
    assert "curve against encoder" in (folder / "04_metric_analysis.html").read_text()


@pytest.mark.slow
def test_notebook_02_finds_the_leak_of_published_and_of_no_other(small_report):
    page = (small_report[0].parent / "02_curve_embeddings.html").read_text()
    rows = re.findall(r'<tr><th scope="row"[^>]*>([\w+-]+)</th><td[^>]*>([^<]+)</td><td[^>]*>(yes|no)</td></tr>', page)
    assert len(rows) >= 9
    for recipe, leak, declared in rows:
        assert (float(leak) > 0) == (declared == "yes") == (recipe == "published"), (recipe, leak, declared)


@pytest.mark.slow
def test_notebook_08_judges_what_the_reader_registered(small_report):
    from curvekit.experiments.comparison import load_comparison

    folder = small_report[0].parent
    found = load_comparison(folder / "own")
    assert [row["recipe"] for row in found.rows] == ["plain", "my-normaliser", "my-blend"]
    assert all(row["low"] <= row["difference"] <= row["high"] for row in found.rows[1:])
    page = (folder / "08_your_own_recipe.html").read_text()
    assert "the normaliser 'wrong' sees the future" in html.unescape(page)
    assert re.search(r"color:#[0-9a-f]{6}\">my-blend<", page)
    (own,) = (cell.source for cell in read(NOTEBOOKS / "08_your_own_recipe.ipynb").cells if cell.id == "own")
    assert len([line for line in own.splitlines() if line.strip()]) <= 20


def test_notebook_06_gets_one_text_from_its_service_by_requests_and_by_openais_client(small_report):
    cells = read(small_report[0].parent / "06_generation_demo.ipynb").cells
    printed = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    assert "OpenAI's client got the same text: True" in "".join(printed)


@pytest.mark.slow
def test_a_second_report_trains_nothing_again(small_report, tiny_base, tiny_corpus):
    page, _ = small_report
    config = load_run(page.parent / "runs" / "curve-seed0").config
    before = {p: p.stat().st_mtime_ns for p in (page.parent / "runs").rglob("metrics.json")}
    again = []
    report(
        config,
        page.parent,
        recipes=RECIPES,
        seeds=[0, 1],
        notebooks=[NOTEBOOKS / "04_metric_analysis.ipynb"],
        progress=again.append,
    )
    assert {p: p.stat().st_mtime_ns for p in (page.parent / "runs").rglob("metrics.json")} == before
    assert sum("finished before" in line for line in again) == 10
    assert Path(page).exists()


@pytest.mark.slow
def test_notebook_13_searches_and_says_what_is_left(tiny_base, tmp_path):
    draw = random.Random(0)
    for name, count in {"train": 24, "validation": 6, "test": 6}.items():
        lines = (" ".join(draw.choice(SENTENCES[0].split()) for _ in range(40)) for _ in range(count))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    config = RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tmp_path), steps=4, block_size=16, batch_size=4,
        sample_prompts=0, validation_documents=3,
    )  # fmt: skip
    small = {"trials": 9, "folds": 2, "seeds": [101], "recipe": "gpt2"}
    out = tmp_path.parent / f"{tmp_path.name}-report"
    report(config, out, recipes=["gpt2"], seeds=[0], notebooks=[SEARCH], parameters=small, progress=lambda _: None)
    assert "Optimism:" in (out / "13_search.html").read_text()
    made = {path.stem for path in (out / "figures").glob("search-*.svg")}
    assert made == {f"search-{name}" for name in ("importance", "slices", "parallel", "folds", "cost")}
