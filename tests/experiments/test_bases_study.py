"""Two bases are measured once, paired text by text and seed by seed, and make a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.experiments import bases
from curvekit.experiments.bases import load, pairs, run_all, scores_of
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json, write_json
from curvekit.reports.bases import main, rows_of, told
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

COMMITTED = Path(__file__).parents[2] / "reports" / "mini-curve"


@pytest.fixture(scope="module")
def measured(tiny_base, tiny_tokenizer, tiny_corpus, tmp_path_factory):
    """A base, one of its shape with other weights, and a run on each."""
    from curvekit.bases.building import build_model

    root = tmp_path_factory.mktemp("bases")
    other = root / "other"
    build_model("plain", str(tiny_base), tiny_tokenizer, seed=7, scratch=True).save_pretrained(other)
    tiny_tokenizer.save_pretrained(other)
    config = RunConfig(
        recipe="plain", base=str(tiny_base), corpus=str(tiny_corpus), steps=2, batch_size=2, block_size=16,
        learning_rate=1e-3, keep_tokens=0, sample_prompts=0,
    )  # fmt: skip
    runs = []
    for base in (tiny_base, other):
        runs.append(root / f"run-{base.name}")
        train(dataclasses.replace(config, base=str(base)), runs[-1], progress="none")
    return root, (str(tiny_base), str(other)), {"tiny": str(tiny_corpus)}, runs


def test_each_is_measured_once_and_paired_with_its_like(measured, monkeypatch):
    root, both, texts, runs = measured
    results = run_all(root, both, texts, runs, documents=3, characters=60)
    assert results["bases"] == [Path(base).name for base in both]
    as_they_are, tuned = pairs(results, False), pairs(results, True)
    assert list(as_they_are) == ["tiny"] and list(tuned) == ["tiny-corpus0"]
    for first, second in (*as_they_are.values(), *tuned.values()):
        a, b = scores_of(first)[0], scores_of(second)[0]
        assert a.tokens.tolist() == b.tokens.tolist() and np.abs(a.nll - b.nll).min() > 0
    row = rows_of(results, False, samples=100)[0]
    a, b = (scores_of(each)[0] for each in as_they_are["tiny"])
    assert row["difference"] == pytest.approx(b.loss - a.loss) and row["bits_per_byte"][0] == a.bits_per_byte
    assert row["low"] <= row["difference"] <= row["high"]
    monkeypatch.setattr(bases, "score_documents", lambda *_, **__: pytest.fail("a base was measured again"))
    assert run_all(root, both, texts, runs, documents=3, characters=60) == load(root / "results.json")


def test_what_does_not_belong_is_refused(measured):
    root, both, texts, runs = measured
    run_all(root, both, texts, runs, documents=3, characters=60)
    with pytest.raises(CurvekitError, match="characters 60, not 50"):
        run_all(root, both, texts, documents=3, characters=50)
    with pytest.raises(CurvekitError, match="two runs are .*, seed 0: leave one out"):
        run_all(root, both, texts, [*runs, runs[0]], documents=3, characters=60)
    with pytest.raises(CurvekitError, match="began from"):
        run_all(root / "new", (both[0], "mini"), {}, runs)


def test_the_page_says_what_the_results_say(measured, tmp_path):
    root, both, texts, runs = measured
    write_json(tmp_path / "results.json", run_all(root, both, texts, runs, documents=3, characters=60))
    main([str(tmp_path)])
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert told(load(tmp_path / "results.json")) in page and "other against tiny-gpt2" in page
    assert is_figure(tmp_path / "figures" / "bases.svg")


@pytest.mark.skipif(not COMMITTED.exists(), reason="no report is committed")
def test_the_committed_page_is_what_its_committed_results_say():
    results = load(COMMITTED / "results.json")
    assert told(results) in (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert "/" not in "".join(str(row["score"]["signature"]["corpus"]) for row in results["rows"])
    assert read_json(COMMITTED / "results.json")["bases"] == ["mini", "mini-curve"]
