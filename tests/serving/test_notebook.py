"""Notebook 06 starts a service and asks it, and shows the demo inside."""

from __future__ import annotations

import re

import nbformat
import papermill
import pytest

from curvekit.reports.execution import NOTEBOOKS

pytest.importorskip("gradio", reason="the extra serve is not installed")
pytestmark = pytest.mark.slow


def test_its_service_answers_requests_and_openais_client_and_the_demo_stands_below(tiny_base, tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOKS / "06_generation_demo.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("parameters", "imports", "serving", "demo")]
    nbformat.write(notebook, tmp_path / "short.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", "06.ipynb")  # as under a front end
    small = {"models": [str(tiny_base)], "max_new_tokens": 12, "report_dir": str(tmp_path)}
    done = papermill.execute_notebook(
        tmp_path / "short.ipynb", tmp_path / "done.ipynb", small, kernel_name="python3", progress_bar=False
    )
    told = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in told)
    assert "OpenAI's client got the same text: True" in printed and "The river rose in the spring" in printed
    pages = [output.data.get("text/html", "") for output in told if output.output_type == "display_data"]
    assert any(re.search(r'<iframe src="http://127\.0\.0\.1:\d+/"', page) for page in pages), pages
