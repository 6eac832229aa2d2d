"""What a report can find out it finds out before the first notebook, and leaves nothing behind when it is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from curvekit.errors import CurvekitError
from curvekit.reports import execution
from curvekit.reports.execution import report
from curvekit.reports.pages import Chapter, _card
from curvekit.reports.pages import page as _page
from curvekit.training.settings import RunConfig


@pytest.fixture
def quick(tiny_base, tiny_corpus, tiny_encoder, monkeypatch):
    monkeypatch.setattr(execution, "execute", lambda *_: pytest.fail("a notebook was executed"))
    return {
        "base": str(tiny_base), "corpus": str(tiny_corpus), "encoder": str(tiny_encoder), "block_size": 16, "steps": 2,
        "sample_prompts": 0,
    }  # fmt: skip


FAULTS = {
    "a corpus that is nowhere": ({"corpus": "wikitext-2"}, {}, "corpus wikitext-2 is not on this machine"),
    "a base that is nowhere": ({"base": "owner/none", "steps": 2}, {}, "the base 'owner/none' is not on this machine"),
    "an encoder that is nowhere": ({"encoder": "owner/bert"}, {}, "the encoder 'owner/bert' is not on this machine"),
    "a baseline that leaks": ({}, {"recipes": ["published", "gpt2"]}, "the baseline 'published' leaks"),
    "two recipes that are one": (
        {"model": {"degree": 0}}, {"recipes": ["gpt2", "curve", "encoder"]}, "encoder the same model as curve",
    ),
    "a block too long": ({"block_size": 65}, {}, "block_size is 65, longer than the 64 positions"),
    "a sample too long": ({"sample_prompts": 1, "sample_tokens": 64}, {}, "sample_tokens is 64, longer than"),
    "an impossible seed": ({}, {"seeds": [2**40]}, "seed is 1099511627776"),
    "a precision that is not here": ({"precision": "fp16"}, {}, "needs a GPU"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_train_says_at_once_a_report_says_before_the_first_notebook(fault, quick, tmp_path):
    changes, asked, said = FAULTS[fault]
    began = time.monotonic()
    with pytest.raises(CurvekitError, match=said):
        report(RunConfig(**quick | changes), tmp_path / "new" / "report", progress=lambda _: None, **asked)
    assert time.monotonic() - began < 20
    assert not list(tmp_path.iterdir()), "a refused report leaves nothing"


@pytest.mark.parametrize(
    ("text", "said"), [("", "is empty"), ("one\ntwo words\nthree\nfour\n", "fewer than one block")]
)
def test_an_empty_or_short_corpus_is_found_out_first(text, said, quick, tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text(text)
    with pytest.raises(CurvekitError, match=said):
        report(RunConfig(**quick | {"corpus": str(tmp_path)}), tmp_path / "report", progress=lambda _: None)
    assert not (tmp_path / "report").exists()


def test_damaged_weights_of_the_base_are_found_out_first(quick, tiny_base, tmp_path):
    import shutil

    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CurvekitError, match=r"model\.safetensors is not whole"):
        report(RunConfig(**quick | {"base": str(base)}), tmp_path / "report", progress=lambda _: None)


def test_a_report_that_trains_nothing_looks_nothing_up(quick, tmp_path, monkeypatch):
    monkeypatch.undo()
    cell = new_code_cell("report_dir: str = ''", metadata={"tags": ["parameters"]})
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": spec}), tmp_path / "one.ipynb")
    config = RunConfig(**quick | {"corpus": "wikitext-2"})
    assert report(config, tmp_path / "out", notebooks=[tmp_path / "one.ipynb"], progress=lambda _: None).exists()


@pytest.mark.parametrize("name", ["javascript:alert(1)", "a b", "data:text&html", "what?#now", "50%"])
def test_a_notebook_s_name_is_a_relative_address_and_nothing_else(name):
    chapter = Chapter(name, "A title", "")
    page = _page("title", _card(chapter), [chapter], "index")
    import html
    import re
    from urllib.parse import unquote, urlsplit

    for href in re.findall(r'href="([^"]*)"', page):
        address = urlsplit(html.unescape(href))
        assert not address.scheme and not address.netloc and not address.query and not address.fragment
        assert unquote(address.path) in ("index.html", f"{name}.html", f"{name}.ipynb")


KILLED = """
import sys
from curvekit.reports.execution import execute
from pathlib import Path
execute(Path(sys.argv[1]), Path(sys.argv[2]), {}, lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_kernel_outlives_a_report_that_is_killed(tmp_path):
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = new_code_cell("import os, time\nprint('kernel', os.getpid(), flush=True)\ntime.sleep(600)")
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": spec}), tmp_path / "slow.ipynb")
    asked = [sys.executable, "-c", KILLED, str(tmp_path / "slow.ipynb"), str(tmp_path / "out.ipynb")]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "kernel" in line)
        os.kill(process.pid, signal.SIGKILL)
    kernel = Path("/proc") / line.split()[-1]
    until = time.monotonic() + 15
    while kernel.exists() and "Z" not in (kernel / "stat").read_text().split()[2] and time.monotonic() < until:
        time.sleep(0.2)
    assert not kernel.exists() or (kernel / "stat").read_text().split()[2] == "Z", "the kernel goes on"
