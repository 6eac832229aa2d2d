"""Reports: parameters that exist, this interpreter's kernel, failures that are kept, pages that open offline."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from curvekit.errors import CurvekitError
from curvekit.experiments.comparison import Comparison
from curvekit.files import append_jsonl, write_json
from curvekit.ownership import MARKER
from curvekit.reports.execution import _command, execute, plan_parameters, report
from curvekit.reports.markup import conclusion, headline, marked, table, texts
from curvekit.reports.pages import Chapter, duration, formula, index_page, markdown, notebook_page
from curvekit.training.settings import RunConfig

EVIL = "<script>alert('x')</script>"


def notebook(*cells, parameters="steps: int = 5  # how many\nreport_dir: str = ''\nsettings: dict = {}"):
    parts = [new_markdown_cell("# A title\n\n**Claim.** It *works*, by $a_1 = b^2$.")]
    parts.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    parts += [new_markdown_cell(c[1:]) if c.startswith("#") else new_code_cell(c) for c in cells]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=parts, metadata={"kernelspec": spec})


def written(folder, name, *cells, **more):
    path = folder / name
    nbformat.write(notebook(*cells, **more), path)
    return path


def row(recipe, verdict, difference=None, reach=0.01, p=0.001, p_holm=0.004):
    tested = difference is not None
    return {
        "recipe": recipe, "leaks": verdict.startswith("leaks"), "verdict": verdict, "seeds": 2,
        "perplexity": 20.0, "perplexity_sd": 0.5, "word_perplexity": 30.0, "word_perplexity_sd": 0.5,
        "bits_per_byte": 1.0, "bits_per_byte_sd": 0.1, "token_accuracy": 0.3, "token_accuracy_sd": 0.1,
        "bleu": 1.0, "bleu_sd": 0.1, "tokens_per_second": 1000.0, "tokens_per_second_sd": 1.0,
        "parameters": 10.0, "parameters_sd": 0.0, "trainable_parameters": 9.0, "trainable_parameters_sd": 0.0,
        "perplexities": [19.5, 20.5], "per_seed": [difference] * 2 if tested else None,
        "difference": difference, "low": difference - reach if tested else None,
        "high": difference + reach if tested else None, "p": p if tested else None,
        "p_holm": p_holm if tested else None,
        "relative_perplexity": 2.718281828 ** difference - 1 if tested else None,
    }  # fmt: skip


def comparison(*rows, corpus="wikitext-2", base_is_random=False):
    return Comparison(
        rows=[row("gpt2", "baseline"), *rows], contrasts=[], baseline="gpt2", documents=60, seeds=[0, 1], samples=100,
        runs=[], settings={"corpus": corpus}, differing=[], signature="corpus:x|stride:2", command="make report",
        base_is_random=base_is_random,
    )  # fmt: skip


def index(found, tmp_path, config=None, chapters=()):
    return index_page(config or RunConfig(), found, chapters, tmp_path, "curvekit report", {"python": "3"})


def assert_offline(page):
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "@import" not in page and "url(" not in page


@pytest.fixture(scope="module")
def small_report(tmp_path_factory):
    """A report of two stand-in notebooks, and what was said while it was made."""
    home = tmp_path_factory.mktemp("reports")
    first = written(
        home, "01_first.ipynb",
        "import sys\nprint('ran by', sys.executable)",
        "import json, pathlib\npathlib.Path(report_dir, 'given.json').write_text(json.dumps([steps, settings]))",
        f"print({EVIL!r})",
        "print('\\n'.join(map(str, range(200))))",
    )  # fmt: skip
    second = written(home, "02_second.ipynb", "secret_code = 41 + 1\nsecret_code", parameters="seed: int = 7")
    said = []
    config = RunConfig(steps=123, batch_size=3)
    page = report(config, home / "out", seeds=[4, 5], notebooks=[first, second], progress=said.append)
    return page, said


def test_notebooks_run_in_the_interpreter_that_runs_curvekit(small_report):
    page, _ = small_report
    assert f"ran by {sys.executable}" in (page.parent / "01_first.html").read_text()


def test_a_notebook_gets_its_own_parameters_and_the_rest_as_settings(small_report):
    page, _ = small_report
    steps, settings = json.loads((page.parent / "given.json").read_text())
    assert steps == 123
    assert settings["batch_size"] == 3
    assert "steps" not in settings
    assert "42" in (page.parent / "02_second.html").read_text()


def test_progress_is_plain_lines_with_the_notebooks_own_among_them(small_report):
    _, said = small_report
    assert said[0] == "[1/2] 01_first"
    assert any(line.startswith("    ran by ") for line in said)
    assert not any("\r" in line or "\x1b" in line for line in said)


def test_pages_show_results_without_code_and_load_nothing(small_report):
    folder = small_report[0].parent
    for name in ("01_first.html", "02_second.html", "index.html"):
        page = (folder / name).read_text()
        assert_offline(page)
        assert "secret_code" not in page
    assert "secret_code" in (folder / "02_second.ipynb").read_text()


def test_what_a_notebook_prints_is_escaped_and_long_logs_are_folded(small_report):
    page = (small_report[0].parent / "01_first.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert re.search(r"<details><summary>printed: \d+ lines</summary>", page)


def test_the_index_links_every_notebook_with_its_claim(small_report):
    page = small_report[0].read_text()
    for name in ("01_first", "02_second"):
        assert f'href="{name}.html"' in page and f'href="{name}.ipynb"' in page
    assert "It <em>works</em>" in page
    assert 'alt="a_1 = b^2"' in page


def test_the_executed_notebook_names_no_path_of_the_machine_and_leaves_no_partial_one(small_report):
    folder = small_report[0].parent
    executed = nbformat.read(folder / "01_first.ipynb", 4)
    assert not {"input_path", "output_path"} & set(executed.metadata.papermill)
    assert not list(folder.glob("*.partial.ipynb"))


def test_metrics_json_names_command_settings_and_versions(small_report):
    metrics = json.loads((small_report[0].parent / "metrics.json").read_text())
    assert metrics["seeds"] == [4, 5]
    assert metrics["settings"]["steps"] == 123
    assert {"torch", "transformers", "curvekit", "python"} <= set(metrics["versions"])


def test_the_command_makes_the_same_configuration_again(monkeypatch):
    from curvekit.cli import parser, settings

    config = RunConfig(steps=7, data_dir="a b", learning_rate=3e-4, compile=True, model={"degree": 3, "place": 0.25})
    words = shlex.split(_command(config, ["gpt2", "curve"], [1, 2], Path("out dir"), None, {}))
    arguments = parser().parse_args(words[1:])
    assert settings.config(arguments) == config
    assert (arguments.recipes, arguments.seeds, arguments.out) == (["gpt2", "curve"], ["1", "2"], Path("out dir"))


def test_a_parameter_that_no_notebook_has_is_refused_with_the_nearest_name(tmp_path):
    path = written(tmp_path, "01_a.ipynb")
    with pytest.raises(CurvekitError, match="unknown notebook parameter 'stepz'; did you mean 'steps'"):
        report(RunConfig(), tmp_path / "out", notebooks=[path], parameters={"stepz": 1})
    assert not (tmp_path / "out").exists()


def test_a_parameter_goes_to_the_notebooks_that_have_it_and_over_the_configuration(tmp_path):
    paths = [written(tmp_path, "01_a.ipynb"), written(tmp_path, "02_b.ipynb", parameters="word: str = 'x'")]
    plan = plan_parameters(paths, RunConfig(steps=9), {"report_dir": "out"}, {"word": "bank", "steps": 2})
    assert plan[paths[0]] == {"steps": 2, "report_dir": "out", "settings": {}}
    assert plan[paths[1]] == {"word": "bank"}


def test_a_report_s_folder_is_marked_before_anything_is_put_into_it(tmp_path, monkeypatch):
    path, marked_before, mkdir = written(tmp_path, "01_a.ipynb"), [], Path.mkdir

    def watched(self, *given, **named):
        if self.name == "figures":
            marked_before.append((self.parent / MARKER).exists())
        mkdir(self, *given, **named)

    monkeypatch.setattr(Path, "mkdir", watched)
    report(RunConfig(), tmp_path / "out", notebooks=[path])
    assert marked_before and all(marked_before), "a kill in between would leave what no report takes for its own"


@pytest.mark.parametrize(
    "given",
    [{}, {"steps": 9, "clip": 2.0}, {"base": "gpt2"}, {"base": "smollm2", "optimizer": "muon"}, {"scratch": True}],
    ids=str,
)
def test_settings_that_were_chosen_by_the_configuration_itself_are_not_called_changed(given):
    assert RunConfig(**given).unusual() == given


@pytest.mark.parametrize("content", ["not json", "[]", '{"nbformat": 99}', ""])
def test_a_file_that_is_no_notebook_is_refused(content, tmp_path):
    path = tmp_path / "01_a.ipynb"
    path.write_text(content)
    with pytest.raises(CurvekitError, match="cannot be read as a notebook"):
        report(RunConfig(), tmp_path / "out", notebooks=[path])


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(CurvekitError, match=r"there is no notebook .*01_gone\.ipynb"):
        report(RunConfig(), tmp_path / "out", notebooks=[tmp_path / "01_gone.ipynb"])


def test_a_report_replaces_no_notebook_of_its_own_and_no_page_of_another(tmp_path):
    path = written(tmp_path, "01_a.ipynb")
    before = path.read_bytes()
    with pytest.raises(CurvekitError, match=r"would replace .*01_a\.ipynb; choose another folder"):
        report(RunConfig(), tmp_path, notebooks=[path])
    (tmp_path / "two").mkdir()
    with pytest.raises(CurvekitError, match="two notebooks are called 01_a"):
        report(RunConfig(), tmp_path / "out", notebooks=[path, written(tmp_path / "two", "01_a.ipynb")])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my page")
    with pytest.raises(CurvekitError, match="index.html is not curvekit's own"):
        report(RunConfig(), tmp_path / "site", notebooks=[path])
    assert path.read_bytes() == before and (tmp_path / "site" / "index.html").read_text() == "my page"


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(CurvekitError, match="0 seeds give no run"):
        report(RunConfig(), tmp_path, seeds=[])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = written(tmp_path, "01_a.ipynb")
    with pytest.raises(CurvekitError, match=r"file is a file; name a folder"):
        report(RunConfig(), tmp_path / "file" / "out", notebooks=[path])


def test_runs_of_other_settings_are_found_before_anything_is_executed(tmp_path):
    place = tmp_path / "out" / "runs" / "curve3-seed1"
    write_json(place / "config.json", RunConfig(recipe="curve3", seed=1, steps=5, eval_every=1).to_dict())
    append_jsonl(place / "history.jsonl", {"step": 1, "loss": 6.0})
    said = []
    path = written(tmp_path, "01_a.ipynb")
    with pytest.raises(CurvekitError, match=r"curve3-seed1 holds another run: its steps is 5, not 6"):
        report(RunConfig(steps=6, eval_every=1), tmp_path / "out", seeds=[0, 1], notebooks=[path], progress=said.append)
    assert said == []


def test_a_failing_cell_fails_keeps_the_partial_notebook_and_the_older_one(tmp_path):
    path = written(
        tmp_path, "01_a.ipynb", "print('before')",
        "from curvekit.errors import CurvekitError\nraise CurvekitError('unknown recipe; did you mean y?')",
        "print('never')",
    )  # fmt: skip
    out = tmp_path / "out.ipynb"
    out.write_text("older")
    with pytest.raises(CurvekitError, match=r"01_a failed at In \[4\] \(unknown recipe; did you mean y\?\)"):
        execute(path, out, {"steps": 3})
    partial = (tmp_path / "out.partial.ipynb").read_text()
    assert "before" in partial
    assert '"never\\n"' not in partial
    assert out.read_text() == "older"


@pytest.mark.parametrize("other", ["/nowhere/python", "false"])
def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(other, tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": [other], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    path = written(tmp_path, "01_a.ipynb", "import sys\nprint(sys.executable)")
    executed = execute(path, tmp_path / "out.ipynb", {})
    assert sys.executable in executed.cells[-1].outputs[0].text


def test_formulas_are_images_with_their_tex_and_what_cannot_be_drawn_stays_as_tex():
    assert 'alt="\\frac{a}{b}"' in formula(r"\frac{a}{b}")
    assert formula(r"\begin{align} a < b").startswith("<code>")
    assert "&lt;" in formula(r"\begin{align} a < b")
    page = markdown("Before $x_1 < y$ after, then\n\n$$w = \\exp(x)$$\n\nand `$not$`.")
    assert page.count("<img") == 2
    assert "MathJax" not in page and "$not$" in page


def test_folding_leaves_the_notebook_itself_as_it_was():
    nb = notebook("1")
    nb.cells[-1].outputs = [new_output("stream", name="stderr", text="warned\n")]
    page = notebook_page(nb, Chapter("01_a", "A", ""), [])
    assert "warnings and progress: 1 line" in page
    assert nb.cells[-1].outputs[0].output_type == "stream"


@pytest.mark.parametrize("kind", ["application/javascript", "application/vnd.jupyter.widget-view+json"])
def test_what_would_need_a_script_is_left_out_of_the_page(kind):
    nb = notebook("1")
    nb.cells[-1].outputs = [new_output("display_data", {kind: "{}", "text/plain": "a bar"})]
    nb.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    assert_offline(notebook_page(nb, Chapter("01_a", "A", ""), []))


def test_a_chapter_takes_title_and_claim_from_its_first_lines():
    chapter = Chapter.of("01_a", notebook())
    assert (chapter.title, chapter.claim) == ("A title", "It *works*, by $a_1 = b^2$.")


HEADLINES = {
    "On wikitext-2, curve lowers the perplexity of gpt2 by 3 %; softemax makes no significant difference.": [
        row("curve", "better", -0.03), row("softemax", "no significant difference", 0.001),
    ],
    "On wikitext-2, curve and softemax lower the perplexity of gpt2 by 3 % and 2 %.": [
        row("curve", "better", -0.03), row("softemax", "better", -0.02),
    ],
    "On wikitext-2, no recipe is better than gpt2; curve and softemax make no significant difference.": [
        row("curve", "no significant difference", -0.001), row("softemax", "no significant difference", 0.001),
    ],
    "On wikitext-2, no recipe is better than gpt2; curve raises its perplexity by 3 %.": [row("curve", "worse", 0.03)],
    "On wikitext-2 nothing could be compared with gpt2.": [row("published", "leaks: not comparable")],
    (
        "On wikitext-2, curve lowers the perplexity of gpt2 by 3 %; "
        "corrected for the number of comparisons, that of curve is not significant."
    ): [row("curve", "better", -0.03, p_holm=0.08)],
}  # fmt: skip


@pytest.mark.parametrize("said", HEADLINES)
def test_the_headline_says_what_was_found_and_a_null_or_negative_result_too(said):
    assert headline(comparison(*HEADLINES[said])) == said


def test_the_headline_says_when_it_rests_on_a_single_seed():
    found = replace(comparison(row("curve", "better", -0.03)), seeds=[0])
    assert headline(found) == "On wikitext-2, under a single seed, curve lowers the perplexity of gpt2 by 3 %."


def test_the_index_says_when_the_base_was_random_and_who_leaks(tmp_path):
    page = index(comparison(row("published", "leaks: not comparable"), base_is_random=True), tmp_path)
    assert "random weights" in page
    assert re.search(r"published</span> sees the tokens it is to predict", page)
    assert "leaks: not comparable" in page


def test_the_index_shows_the_key_figure_within_itself(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "intervals.svg").write_text("<svg/>")
    page = index(comparison(row("curve", "better", -0.03)), tmp_path)
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page
    assert_offline(page)


def test_names_from_users_are_escaped_on_the_index(tmp_path):
    found = comparison(row(EVIL, "better", -0.03), corpus=EVIL)
    config = replace(RunConfig(), corpus=EVIL, base=EVIL)
    page = index(found, tmp_path, config, [Chapter(f"01_{EVIL}", EVIL, "claim", 1.0)])
    assert_offline(page)
    assert EVIL not in str(conclusion(found))


def test_every_recipe_is_described_and_has_its_colour_and_its_parts():
    from curvekit.figures import INGREDIENTS
    from curvekit.figures.drawing import COLOURS
    from curvekit.recipes import RECIPES
    from curvekit.reports.pages import WHAT

    for known in (WHAT, COLOURS, INGREDIENTS):
        assert set(RECIPES) <= set(known)


def test_an_index_without_a_comparison_says_so(tmp_path):
    assert "No recipes were compared" in index(None, tmp_path)


def test_tables_escape_align_and_write_numbers_as_readers_do():
    rows = [
        {"recipe": "curve", "loss": 1234.5, "n": 1234567, "note": EVIL, "share": 0.25},
        {"recipe": "other", "loss": None, "n": 3, "note": "b", "share": 1e-7},
    ]
    text = str(table(rows, caption="<b>"))
    assert EVIL not in text and "&lt;b&gt;" in text
    assert re.search(r"text-align:right[^>]*>1,234.5<", text) and ">1,234,567<" in text
    assert ">–<" in text and ">0.2500<" in text and ">1.0e-07<" in text
    assert re.search(r'color:#0072b2">curve', text)
    assert EVIL not in str(texts([{"prompt": EVIL, "text": "a\nb"}]))
    assert str(table([]))


def test_recipes_in_prose_are_marked_whole():
    text = marked("curve+softemax and curve, not curves; self-curve <b>")
    assert text.count("<span") == 3
    assert ">curve+softemax<" in text and ">self-curve<" in text and "curves;" in text and "&lt;b&gt;" in text


def test_durations_are_said_in_their_unit():
    assert [duration(s) for s in (4.4, 89, 600, 12_000)] == ["4 s", "89 s", "10 min", "3 h 20 min"]
