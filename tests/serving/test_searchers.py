"""A search on a Ray cluster: the results of one machine, also when a searcher is killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from sentences import SENTENCES

from curvekit.errors import CurvekitError
from curvekit.experiments.search import Plan
from curvekit.experiments.spaces import parse_space
from curvekit.serving.searchers import search_on
from curvekit.training.settings import RunConfig


@pytest.fixture
def config(tiny_base, tmp_path):
    draw, corpus = random.Random(0), tmp_path / "words"
    corpus.mkdir()
    for name, count in {"train": 16, "validation": 4, "test": 4}.items():
        lines = (" ".join(draw.choice(" ".join(SENTENCES).split()) for _ in range(40)) for _ in range(count))
        (corpus / f"{name}.txt").write_text("\n".join(lines) + "\n")
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
    assert time.monotonic() - began < 12


@pytest.mark.slow
def test_two_searchers_of_which_one_is_killed_end_the_search(config, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
    folder, killed = tmp_path / "search", []

    def kill() -> None:  # the first searcher that holds a trial
        until = time.monotonic() + 300
        while not killed and time.monotonic() < until:
            for process in os.listdir("/proc"):
                if process.isdecimal():
                    try:
                        name = Path(f"/proc/{process}/cmdline").read_bytes()
                        files = [os.readlink(f"/proc/{process}/fd/{f}") for f in os.listdir(f"/proc/{process}/fd")]
                    except OSError:
                        continue
                    if b"ray::" in name and any(f"{folder}/locks/" in file for file in files):
                        os.kill(int(process), signal.SIGKILL)
                        killed.append(process)
                        return
            time.sleep(0.02)

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    found = search_on("local", config, plan(config), folder, 2, lambda _: None)
    watch.join()
    assert killed and len(found["recipes"]["gpt2"]["trials"]) == 4
