"""Equal time: steps are timed in turns, and plain is given the steps that a slower candidate's time leaves it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.experiments import equal_time, ladder
from curvekit.experiments.equal_time import at, gained, load, ratio, rows_of
from curvekit.experiments.ladder import Job, Rung, load_results, prepare, score_of, work
from curvekit.files import write_json, write_jsonl
from curvekit.training.lean import TokenSet

SHAPE = "n_layer=1,n_embd=40,n_positions=64"
TERMS = {"block_size": 32, "batch_size": 2, "context_eval": 32, "precision": "float32"}
NAMES = ("plain", "self-curve3", "plain:steps=8")


@pytest.fixture(scope="module")
def made(tiny_texts, tmp_path_factory):
    """A ladder whose rung has four steps, of plain, a curve, and plain for eight; named as if the shape were usual."""
    root = tmp_path_factory.mktemp("equal-time")
    for split, texts in {"train": tiny_texts[:40], "validation": tiny_texts[40:45], "test": tiny_texts[45:50]}.items():
        write_jsonl(root / f"{split}.jsonl", [{"text": text, "source": "abc"[i % 2]} for i, text in enumerate(texts)])
    tokens = TokenSet.load(prepare(root, root / "tokens.safetensors"))
    jobs = [Job(f"{name}{',' if ':' in name else ':'}{SHAPE}", "medium", seed) for name in NAMES for seed in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ladder.RUNGS, "medium", Rung(4, ("test",), 32))
        work(jobs, root / "runs", tokens, encoder="minilm", beside=1, device="cpu", **TERMS)
    for name, found in zip(NAMES, ("plain", "self-curve3", "plain:steps=8"), strict=True):
        for seed in (0, 1):
            job = Job(f"{name}{',' if ':' in name else ':'}{SHAPE}", "medium", seed)
            path = job.folder(root / "runs") / "result.json"
            write_json(path, ladder.read_json(path) | {"candidate": found})
    return root, tokens


def timings(**seconds):
    facts = {"machine": "one", "threads": 1, "precision": "bf16", "versions": {}, "tokens": 64}
    return facts | {"seconds": {name.replace("_", "-"): each for name, each in seconds.items()}}


def test_a_ratio_is_the_median_of_rounds_not_of_means():
    times = timings(plain=[1.0, 2.0, 4.0], self_curve3=[1.1, 2.2, 40.0])
    assert ratio(times, "self-curve3") == pytest.approx(1.1)


def test_plain_gets_what_a_slower_step_leaves_it(made):
    results = load_results(made[0] / "runs", "medium")
    short, long = results["plain"], results["plain:steps=8"]
    gain, share, seeds = gained(short, long, "test")
    assert share == pytest.approx(math.log(2)) and seeds == 2
    scores = [score_of(run, "test") for run in short]
    assert np.allclose(at(scores[0], gain, share, 1.0).nll, scores[0].nll)
    assert np.allclose(at(scores[0], gain, share, 0.5).nll, scores[0].nll), "no candidate is given fewer steps' loss"
    longest = [at(score, gain, share, 2.0) for score in scores]
    assert np.mean([x.nll.sum() for x in longest]) == pytest.approx(
        np.mean([score_of(run, "test").nll.sum() for run in long])
    )
    halfway = at(scores[1], gain, share, math.sqrt(2))
    assert np.allclose(halfway.nll, scores[1].nll + gain / 2)
    with pytest.raises(CurvekitError, match=r"2\.10 times the steps are more than the 2\.00"):
        at(scores[0], gain, share, 2.1)


def test_a_claim_at_equal_time_is_less_by_what_plain_gains_meanwhile(made):
    runs = made[0] / "runs"
    (same,) = rows_of(runs, timings(plain=[1.0], self_curve3=[1.0]), longer="plain:steps=8", samples=100)
    (slow,) = rows_of(runs, timings(plain=[1.0], self_curve3=[2.0]), longer="plain:steps=8", samples=100)
    results = load_results(runs, "medium")
    gain, *_ = gained(results["plain"], results["plain:steps=8"], "test")
    tokens = score_of(results["plain"][0], "test").tokens.sum()
    assert slow["difference"] - same["difference"] == pytest.approx(-gain.sum() / tokens)
    assert gain.sum() < 0 and slow["ratio"] == 2 and slow["low"] <= slow["difference"] <= slow["high"]


def test_what_does_not_compare_is_refused(made, tmp_path):
    runs, times = made[0] / "runs", timings(plain=[1.0], self_curve3=[1.1])
    with pytest.raises(CurvekitError, match="no run of 'plain:steps=9'"):
        rows_of(runs, times, longer="plain:steps=9")
    results = load_results(runs, "medium")
    with pytest.raises(CurvekitError, match="no seed at both"):
        gained(results["plain"][:1], results["plain:steps=8"][1:], "test")
    with pytest.raises(CurvekitError, match="steps"):
        ladder.comparable(results["plain"], results["plain:steps=8"])
    with pytest.raises(CurvekitError, match="corpus"):
        gained(results["plain"], [run | {"corpus": "other"} for run in results["plain:steps=8"]], "test")
    write_json(tmp_path / "times.json", timings(self_curve3=[1.0]))
    with pytest.raises(CurvekitError, match="no steps of 'plain'"):
        load(tmp_path / "times.json")


def test_who_trained_longer_is_in_no_table_of_equal_steps(made):
    rows = ladder.table(made[0] / "runs", "medium", "test", samples=50)
    assert {row["candidate"] for row in rows} == {"plain", "self-curve3"}


def test_steps_are_timed_in_turns(made, tmp_path, monkeypatch, capsys):
    small = lambda **settings: ladder.LeanConfig(**settings, **{k: TERMS[k] for k in ("block_size", "batch_size")})  # noqa: E731
    monkeypatch.setattr(equal_time, "LeanConfig", small)
    path = tmp_path / "times.json"
    names = [f"plain:{SHAPE}", f"sites:{SHAPE}"]
    times = equal_time.timed(names, made[1], rounds=3)
    assert [len(each) for each in times["seconds"].values()] == [3, 3] and times["tokens"] == 64
    assert min(map(min, times["seconds"].values())) > 0
    monkeypatch.setattr(equal_time, "timed", lambda names, *_: timings(plain=[0.5, 0.5], sites=[1.0, 2.0]))
    equal_time.main([str(made[0] / "tokens.safetensors"), str(path), "plain", "sites"])
    assert "sites: 1500.0 ms a step, 3.000 of plain's" in capsys.readouterr().out
    assert load(path)["seconds"]["sites"] == [1.0, 2.0]
    with pytest.raises(SystemExit):
        equal_time.main([str(made[0] / "tokens.safetensors"), str(path), "sites"])
    assert "the first candidate is plain" in capsys.readouterr().err
