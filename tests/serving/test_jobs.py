"""Work on a Ray cluster: the results of one machine, also when a process of it is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from sentences import words_in_disorder

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.experiments.search import Plan
from curvekit.experiments.spaces import parse_space
from curvekit.serving.jobs import search_on, train_on
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig


@pytest.fixture
def config(tiny_base, tmp_path):
    corpus = tmp_path / "words"
    corpus.mkdir()
    words_in_disorder(corpus)
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(corpus), steps=6, block_size=16, batch_size=4, sample_prompts=0,
        validation_documents=3, precision="float32",
    )  # fmt: skip


def plan(config, trials=4):
    return Plan(("gpt2",), parse_space(["dropout=0:0.3"], config), folds=2, trials=trials, seeds=(1,))


def test_a_cluster_that_does_not_answer_is_said_within_seconds(config, tmp_path, monkeypatch):
    ray = types.ModuleType("ray")
    ray.exceptions = types.ModuleType("ray.exceptions")
    ray.exceptions.RayError = ray.exceptions.RayTaskError = RuntimeError
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
    began = time.monotonic()
    for address in ("127.0.0.1:9", "nowhere"):
        with pytest.raises(CurvekitError, match="no Ray answers at .* within 5 s"):
            search_on(address, config, plan(config), tmp_path / "search", None, lambda _: None)
    with pytest.raises(CurvekitError, match="no Ray answers at .* within 5 s"):
        train_on("nowhere", {tmp_path / "run": config}, lambda _: None)
    assert time.monotonic() - began < 12


def is_at_work(process: str, folder: Path) -> bool:
    """Whether a process holds a trial of a search."""
    files = (f"/proc/{process}/fd/{file}" for file in os.listdir(f"/proc/{process}/fd"))
    return any(f"{folder}/locks/" in os.readlink(file) for file in files)


def killing(wanted) -> tuple[list[str], threading.Thread]:
    """Who was killed, the first process that is wanted by its number and command; and the thread that watches."""
    killed: list[str] = []

    def kill() -> None:
        until = time.monotonic() + 300
        while not killed and time.monotonic() < until:
            for process in filter(str.isdecimal, os.listdir("/proc")):
                try:
                    name = Path(f"/proc/{process}/cmdline").read_bytes()
                    found = wanted(process, name)
                except OSError:
                    continue
                if found:
                    os.kill(int(process), signal.SIGKILL)
                    killed.append(process)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return killed, thread


@pytest.mark.slow
def test_two_searchers_of_which_one_is_killed_end_the_search(config, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
    folder = tmp_path / "search"
    killed, watch = killing(lambda process, name: name.startswith(b"ray::_search") and is_at_work(process, folder))
    found = search_on("local", config, plan(config), folder, 2, lambda _: None)
    watch.join()
    assert killed and len(found["recipes"]["gpt2"]["trials"]) == 4


@pytest.mark.long
def test_a_scheduler_that_is_killed_loses_nothing(config, tmp_path):
    """What is at work may still end, or Ray takes it along, which is said; the same command then has the whole."""
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
    folder, own = tmp_path / "search", f"PPid:\t{os.getpid()}\n"

    def ours(process: str, name: bytes) -> bool:  # other tests have a Ray of their own
        if not name.split(b"\0")[0].endswith(b"/raylet") or own not in Path(f"/proc/{process}/status").read_text():
            return False
        return any((folder / "locks").glob("*"))

    killed, watch = killing(ours)
    try:
        search_on("local", config, plan(config), folder, 1, lambda _: None)
    except CurvekitError as error:
        assert "ended in the middle of the work" in str(error) and "give the same command again" in str(error)
    watch.join()
    assert killed
    found = search_on("local", config, plan(config), folder, 1, lambda _: None)
    assert len(found["recipes"]["gpt2"]["trials"]) >= 4


@pytest.mark.slow
def test_a_report_s_runs_are_trained_on_a_cluster_and_a_killed_one_again(config, tmp_path, capsys):
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
    file = tmp_path / "mine.py"
    file.write_text(
        "from curvekit import register_recipe\nregister_recipe('mine', {'source': 'self'}, 'a curve of my own')\n"
    )
    names = "recipes = []\nseeds = []\nbaseline = ''\nreport_dir = ''\nbase = ''\ncorpus = ''\nsettings = {}"
    cells = [new_code_cell(names, metadata={"tags": ["parameters"]})]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "one.ipynb")
    runs = tmp_path / "report" / "runs"
    killed, watch = killing(lambda _, name: name.startswith(b"ray::_train") and any(runs.glob("*/checkpoints/*")))
    words = ["report", "--ray", "local", "--recipes", "gpt2", "mine", "--plugin", str(file)]
    words += ["--notebooks", str(tmp_path / "one.ipynb"), "--out", str(tmp_path / "report"), "--steps", "40"]
    words += ["--base", config.base, "--corpus", config.corpus, "--block-size", "16", "--batch-size", "4"]
    words += ["--save-every", "5", "--sample-prompts", "0", "--validation-documents", "3", "--precision", "float32"]
    assert main(words) == 0, capsys.readouterr().err
    watch.join()
    assert killed and {load_run(place).config.recipe for place in runs.iterdir()} == {"gpt2", "mine"}
    assert {load_run(place).config.wandb_group for place in runs.iterdir()} == {"report/gpt2", "report/mine"}
