"""SoftEMax on its own ground: models are measured once, compared in what fewer bits cost them, and make a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.experiments import sinks
from curvekit.experiments.sinks import BITS, costs_of, load, run_all, scores_of
from curvekit.figures.drawing import is_figure
from curvekit.reports.sinks import contrasts, main, rows_of, told

COMMITTED = Path(__file__).parents[2] / "reports" / "sinks"


@pytest.fixture(scope="module")
def measured(make, tiny_tokenizer, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sinks")
    models = []
    for name, recipe, log_sink in (
        ("plain", "gpt2", 0), ("plain", "gpt2", 1), ("ours", "softemax", 0), ("ours", "sink", 1),
    ):  # fmt: skip
        path = folder / "models" / f"{name}-{log_sink}"
        make(recipe, log_sink=float(log_sink)).save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        models.append((name, str(path)))
    run_all(folder, models, str(tiny_corpus), documents=3, characters=60)
    return folder, models, str(tiny_corpus)


def test_every_model_is_measured_once_and_one_seed_beside_the_other(measured, monkeypatch):
    folder, models, corpus = measured
    results = load(folder / "results.json")
    assert [row["name"] for row in results["rows"]] == ["plain", "plain", "ours", "ours"]
    assert [row["attention"] for row in results["rows"]] == ["softmax", "softmax", "softemax", "sink"]
    for name in ("plain", "ours"):
        for bits in BITS:
            costs = costs_of(results, name, bits)
            assert len(costs) == 2 and all(np.abs(each.nll).max() > 0 for each in costs)
            whole, fewer = scores_of(results, name)[0], scores_of(results, name, bits)[0]
            assert costs[0].nll.tolist() == pytest.approx((fewer.nll - whole.nll).tolist())
    (folder / "cut").mkdir()
    twins = [(name, str(Path(path).parent / f"seed{seed}" / "model")) for seed, (name, path) in enumerate(models[:2])]
    for (_, twin), (_, path) in zip(twins, models, strict=False):
        shutil.copytree(path, twin)
    run_all(folder / "cut", twins[:1], corpus, documents=3, characters=60)  # what a kill leaves of both
    both = run_all(folder / "cut", twins, corpus, documents=3, characters=60)
    assert [(row["name"], row["model"]) for row in both["rows"]] == [("plain", "model")] * 2, "two seeds of one name"
    monkeypatch.setattr(sinks, "measure", lambda *_: pytest.fail("a model was measured again"))
    run_all(folder, models, corpus, documents=3, characters=60)
    with pytest.raises(CurvekitError, match="characters 60, not 50"):
        run_all(folder, models, corpus, documents=3, characters=50)


def test_the_page_says_what_the_results_say(measured):
    folder, *_ = measured
    results = load(folder / "results.json")
    rows = rows_of(results, samples=100)
    assert [row["seeds"] for row in rows] == ["2", "2"] and rows[0]["to nobody"] == "0 %" != rows[1]["to nobody"]
    (contrast,) = contrasts(results, samples=100)
    assert contrast["model"] == "ours − plain"
    for _ in range(2):  # what stands around the marks stays
        main([str(folder)])
        page = folder / "README.md"
        assert told(results) in page.read_text(encoding="utf-8")
        page.write_text(page.read_text(encoding="utf-8") + "after\n", encoding="utf-8")
    assert page.read_text(encoding="utf-8").endswith("after\nafter\n") and is_figure(folder / "figures" / "sinks.svg")


def test_a_model_has_a_name(capsys):
    with pytest.raises(SystemExit):
        sinks.main(["folder", "mini"])
    assert "'mini' is not NAME=MODEL" in capsys.readouterr().err


def test_a_base_is_converted_with_sinks_of_a_share(tiny_base, tiny_corpus, tmp_path):
    models = [
        ("softmax", str(tiny_base)), ("as it is", f"{tiny_base}:softemax"), ("converted", f"{tiny_base}:sink@1e-6"),
    ]  # fmt: skip
    results = run_all(tmp_path, models, str(tiny_corpus), documents=3, characters=60)
    whole, plain, converted = (scores_of(results, name)[0].loss for name, _ in models)
    assert abs(converted - whole) < 1e-5 < abs(plain - whole)
    nobody = {row["name"]: max(row["nobody"]) for row in results["rows"]}
    assert nobody["softmax"] == 0 < nobody["converted"] <= 1e-6 < nobody["as it is"]
    for wrong, says in ((":sink@much", "no share"), (":sink@1", "between|more than 0"), (":softemax@0.1", "sink")):
        with pytest.raises(CurvekitError, match=says):
            sinks.opened(f"{tiny_base}{wrong}", ["words " * 999])


@pytest.mark.skipif(not COMMITTED.exists(), reason="no report is committed")
def test_the_committed_page_is_what_its_committed_results_say():
    assert told(load(COMMITTED / "results.json")) in (COMMITTED / "README.md").read_text(encoding="utf-8")
