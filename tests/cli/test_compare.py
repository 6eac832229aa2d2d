"""The command ``compare``: a table with intervals from runs or a report, and the results in the README."""

from __future__ import annotations

import json

from curvekit.cli import main
from curvekit.evaluation.results import BEGIN, END
from curvekit.experiments.comparison import load_comparison
from curvekit.training.cards import quoted
from curvekit.training.runs import load_run


def test_compare_prints_the_table_of_two_runs_with_an_interval(trained, capsys):
    assert main(["compare", str(trained["gpt2"]), str(trained["softemax"])]) == 0
    shown = capsys.readouterr().out
    assert "softemax" in shown and "95%" in shown and shown.count("|") > 20
    assert main(["compare", str(trained["softemax"]), str(trained["gpt2"]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["verdict"] == "baseline" for row in rows] == [True, False]  # the first one


def test_compare_reads_a_folder_and_fills_the_readme(trained, tmp_path, capsys):
    from curvekit.experiments.comparison import compare

    comparison = compare(list(trained.values()), folder=tmp_path, command="curvekit report")
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == comparison.to_markdown().strip()
    assert main(["compare", str(tmp_path), "--baseline", "softemax"]) == 0
    assert main(["compare", str(trained["softemax"]), str(trained["gpt2"])]) == 0
    first, second = (table.split() for table in capsys.readouterr().out.split("| recipe ")[1:])
    assert sorted(first) == sorted(second), "the same comparison, against the other one"
    page = tmp_path / "PAGE.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert main(["compare", str(tmp_path), "--readme", str(page)]) == 0
    first = page.read_text(encoding="utf-8")
    assert first.startswith(f"before\n{BEGIN}\n") and first.endswith(f"{END}\nafter\n")
    assert "old" not in first and comparison.summary() in first and "| softemax |" in first
    assert main(["compare", str(tmp_path), "--readme", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == first


def test_a_ladders_report_is_printed_as_it_was_saved(capsys):
    from pathlib import Path

    folder = Path(__file__).parents[2] / "reports" / "which-curve"
    for flags, kind in (([], "md"), (["--latex"], "tex"), (["--json"], "json")):
        assert main(["compare", str(folder), *flags]) == 0
        assert capsys.readouterr().out == (folder / f"medium.{kind}").read_text(encoding="utf-8")
    assert main(["compare", str(folder), "--baseline", "canon"]) != 0
    assert "leave --baseline out" in capsys.readouterr().err


def test_runs_are_put_on_a_page_with_figures_samples_and_commands(trained, tmp_path, capsys):
    argv = ["compare", *map(str, trained.values()), "--out", str(tmp_path / "page")]
    assert main(argv) == 0
    page = (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "README.md")
    for run in map(load_run, trained.values()):
        losses = [row["validation_loss"] for row in run.history if "validation_loss" in row]
        assert f"{losses[0]:.4f}" in page and f"{min(losses):.4f}" in page
        assert f"{run.config.command()} --out runs/{run.folder.name}" in page
        assert quoted(run.samples[0]["continuation"]).splitlines()[0] in page
    for name in ("learning", "differences"):
        assert f"figures/{name}.png" in page and (tmp_path / "page" / "figures" / f"{name}.svg").exists()
    assert load_comparison(tmp_path / "page").command.startswith("curvekit compare runs/")
    assert main([*argv, "--samples", "0"]) == 0, "the same page again, without text"
    assert "What they wrote" not in (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    assert load_comparison(tmp_path / "page").command.endswith("--samples 0")

    (tmp_path / "page" / "README.md").write_text("of mine")
    assert main(argv) == 2 and (tmp_path / "page" / "README.md").read_text() == "of mine"
    assert main(["compare", str(tmp_path / "page"), "--out", str(tmp_path / "other")]) == 2
