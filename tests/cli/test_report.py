"""The command ``report``: what was asked on the command line reaches the notebooks."""

from __future__ import annotations

import nbformat

from curvekit.cli import main
from curvekit.training.settings import main_recipes


def test_report_hands_its_settings_to_the_notebooks(tmp_path, capsys):
    names = "recipes = []\nseeds = []\nreport_dir = ''\ncorpus = ''\nsettings = {}\nspread = 0.0"
    cells = [
        nbformat.v4.new_code_cell(names, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(recipes, seeds, corpus, settings['steps'], spread)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "01_probe.ipynb")
    out = tmp_path / "report"
    argv = ["report", "--notebooks", str(tmp_path / "01_probe.ipynb"), "--out", str(out), "--recipes", "gpt2,curve"]
    assert main([*argv, "--seeds", "0 3", "--steps", "7", "--parameter", "spread=2.5"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n" and (out / "index.html").exists()
    executed = nbformat.read(out / "01_probe.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert printed == "['gpt2', 'curve'] [0, 3] pydocs 7 2.5\n"


def test_the_baseline_is_the_base_itself(tiny_bases, monkeypatch):
    from curvekit.reports import execution

    rest = ("curve3", "sink", "curve3+sink")
    assert main_recipes("mini") == main_recipes(str(tiny_bases["gpt2"])) == ("gpt2", *rest)
    assert main_recipes("mini-curve") == ("curve3+sites+softemax", "gpt2")
    for base in ("mini", "mini-curve"):
        assert main_recipes(base, scratch=True) == ("gpt2", "curve3", "softemax", "curve3+sites+softemax")
    for base in ("t5-mini", "t5-small", "google/flan-t5-small"):
        assert main_recipes(base, scratch=True) == ("plain", "curve3", "softemax", "curve3+softemax")
    for base in (
        "smollm2",
        "t5-small",
        "EleutherAI/gpt-neo-125m",
        str(tiny_bases["gpt_neo"]),
        str(tiny_bases["llama"]),
    ):
        assert main_recipes(base) == ("plain", *rest)
    asked = []
    monkeypatch.setattr(execution, "report", lambda config, out, **rest: asked.append(rest["recipes"]))
    main(["report", "--base", str(tiny_bases["llama"])])
    main(["report", "--base", str(tiny_bases["llama"]), "--recipes", "curve"])
    assert asked == [["plain", *rest], ["curve"]]
