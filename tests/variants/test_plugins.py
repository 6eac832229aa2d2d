"""A plugin is run when it is named, and one that fails tells its own error with the line and leaves nothing behind."""

from __future__ import annotations

import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES
from curvekit.variants import load_plugin
from curvekit.variants.recipes import registered


def test_the_same_file_is_run_once_and_again_when_it_changed(plugin, tmp_path):
    plugin.write_text(plugin.read_text() + f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    load_plugin(plugin)
    load_plugin(str(plugin))
    assert (tmp_path / "ran").read_text() == "x"
    assert registered() == ["mine", "sigmoid", "fading"]


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("x = tosrch.zeros(3)", r"the plugin my_recipe.py, line 29: NameError: name 'tosrch' is not defined"),
        ("def f(:", r"the plugin my_recipe.py, line 29: SyntaxError: invalid syntax"),
        ("register_recipe('curve', {})", r"the plugin my_recipe.py, line 29: the name 'curve' of the recipe is taken"),
        ("raise SystemExit(3)", r"the plugin my_recipe.py, line 29: SystemExit: 3"),
        ("import no_such_package", r"line 29: ModuleNotFoundError: No module named 'no_such_package'"),
        (
            "register_normaliser('b', lambda s: s.nope())",
            r"line 29: the normaliser 'b' failed at my_recipe.py, line 29",
        ),
    ],
)
def test_a_plugin_that_fails_tells_its_own_error_and_leaves_nothing_registered(plugin, last, told, capsys):
    assert len(plugin.read_text().splitlines()) == 28
    plugin.write_text(plugin.read_text() + last + "\n")
    before = list(RECIPES)
    with pytest.raises(CurvekitError, match=told) as raised:
        load_plugin(plugin)
    assert "\n" not in str(raised.value)
    assert registered() == [] and list(RECIPES) == before
    assert main(["check", "mini", "--plugin", str(plugin)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("curvekit: error: the plugin my_recipe.py, line 29") and "Traceback" not in err


@pytest.mark.slow
def test_a_report_runs_it_in_the_kernels_of_its_notebooks(plugin, tmp_path):
    import nbformat

    from curvekit.reports.execution import execute

    cells = [nbformat.v4.new_code_cell("from curvekit import RECIPES\nprint(RECIPES['mine'])")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    done = execute(tmp_path / "one.ipynb", tmp_path / "done.ipynb", {}, plugins=[plugin])
    assert "'attention': 'sigmoid'" in done.cells[-1].outputs[0].text
    with pytest.raises(CurvekitError, match="KeyError: 'mine'"):
        execute(tmp_path / "one.ipynb", tmp_path / "again.ipynb", {})


def test_a_class_of_a_notebook_is_told_from_a_changed_one():
    """Whose class has no file: its methods have a source, as IPython keeps it."""
    import linecache

    from curvekit.variants.names import digits

    found = []
    for number, rate in enumerate((1, 2)):
        text = f"class Own:\n    def forward(self, points):\n        return points[-1] * {rate}\n"
        linecache.cache[f"<cell {number}>"] = (len(text), None, text.splitlines(True), f"<cell {number}>")
        space = {"__name__": "of_no_module"}
        exec(compile(text, f"<cell {number}>", "exec"), space)
        found.append(digits(space["Own"]))
    assert found[0] != found[1]


def test_what_is_no_python_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.py", "notes.txt", ""):
        with pytest.raises(CurvekitError, match="there is no plugin"):
            load_plugin(tmp_path / name)
    with pytest.raises(CurvekitError):
        load_plugin(tmp_path / "bytes.py")
