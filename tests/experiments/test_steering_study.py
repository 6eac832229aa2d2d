"""The study of steering: measured under others, resumed where it stopped, refused where it would judge itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.experiments.steering import Study, bag_of, require_another, run_study
from curvekit.figures.drawing import is_figure
from curvekit.figures.steering import success_against_perplexity
from curvekit.reports.steering import main as join
from curvekit.reports.steering import page, recognised, verdict
from curvekit.steering.judge import Judge, ngrams
from curvekit.text.labelled import Labelled

WAYS = ("preface", "bag", "attribute", "vector")
STRENGTHS = {"preface": [2.0], "bag": [0.5], "attribute": [0.5], "vector": [1.0]}
KINDS = {"river": "The river was low, and the boats lay on sand", "bank": "A bank is a place for money and a letter"}
ROWS = [Labelled(f"{KINDS[kind]}, number {i}.", kind) for i in range(30) for kind in KINDS]
TEST = [Labelled(f"{KINDS[kind]}, said {i}.", kind) for i in range(5) for kind in KINDS]


@pytest.fixture(scope="module")
def voice(tiny_base):
    return open_model(tiny_base)


@pytest.fixture(scope="module")
def scorer(tiny_base, tiny_tokenizer):
    return build_model("gpt2", str(tiny_base), tiny_tokenizer, scratch=True, seed=5), tiny_tokenizer


@pytest.fixture(scope="module")
def study():
    return Study("river", WAYS, STRENGTHS, ("The", "A"), 2, 4, rows_used=10, iterations=1)


def test_a_study_measures_every_way_and_goes_on_where_it_was_killed(voice, scorer, study, tmp_path):
    class Killed(Exception):
        pass

    def stop(text: str) -> None:
        if text.startswith("preface"):
            raise Killed

    with pytest.raises(Killed):
        run_study(study, voice, scorer, ROWS, TEST, tmp_path / "a", stop)
    said: list[str] = []
    found = run_study(study, voice, scorer, ROWS, TEST, tmp_path / "a", said.append)
    assert [row["way"] for row in found["rows"]] == ["none", *WAYS] and found["judge_accuracy"] == 1
    assert not any(line.startswith(("none", "preface")) for line in said), "done before"
    for row in found["rows"]:
        assert row["success_low"] <= row["success"] <= row["success_high"] and row["texts"] == 4
        assert row["perplexity_low"] <= row["perplexity"] <= row["perplexity_high"] and row["ms_per_token"] > 0
    assert run_study(study, voice, scorer, ROWS, TEST, tmp_path / "a", said.append) == found, "it is finished"
    again = run_study(study, voice, scorer, ROWS, TEST, tmp_path / "b", said.append)
    for one, two in zip(found["rows"], again["rows"], strict=True):
        assert {**one, "ms_per_token": 0} == {**two, "ms_per_token": 0}
    with pytest.raises(CurvekitError, match="holds another study: its count is 2, not 3"):
        run_study(Study(**{**study.__dict__, "count": 3}), voice, scorer, ROWS, TEST, tmp_path / "a", said.append)
    figure = success_against_perplexity(found["rows"], "river")
    assert figure.axes[0].get_xlabel() == "perplexity under another model"


def test_who_is_steered_does_not_judge(voice, scorer, study, tmp_path):
    with pytest.raises(CurvekitError, match="would praise itself"):
        require_another(voice[0], voice[0])
    with pytest.raises(CurvekitError, match="would praise itself"):
        run_study(study, voice, voice, ROWS, TEST, tmp_path / "a")
    with pytest.raises(CurvekitError, match="every test row is a training row"):
        run_study(study, voice, scorer, ROWS, ROWS, tmp_path / "a")
    with pytest.raises(CurvekitError, match="unknown label 'rivr'; did you mean 'river'"):
        run_study(Study("rivr"), voice, scorer, ROWS, TEST, tmp_path / "a")
    with pytest.raises(CurvekitError, match="unknown way 'bog'"):
        run_study(Study("river", ("bog",)), voice, scorer, ROWS, TEST, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_folder_of_others_is_left_alone(voice, scorer, study, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(CurvekitError, match=r"rows\.jsonl"):
        run_study(study, voice, scorer, ROWS, TEST, tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == '{"mine": 1}\n'


def test_the_bag_of_a_label_holds_its_words(tiny_tokenizer):
    words = bag_of(ROWS, "river", tiny_tokenizer, 8)
    assert "river" in words and not {"bank", "money"} & set(words)


def test_the_judge_is_the_optimum_of_its_formula_and_sees_words_alone():
    judge = Judge.fit([row.text for row in ROWS], [row.label for row in ROWS], decay=1e-2)
    assert judge.accuracy([row.text for row in TEST], [row.label for row in TEST]) == 1
    assert ngrams("A bank, a bank") == {"a", "bank", ",", "a bank", "bank ,", ", a"}
    features = torch.tensor(judge.features([row.text for row in ROWS]).toarray())
    weight, bias = (torch.tensor(each, requires_grad=True) for each in (judge.weight, judge.bias))
    targets = torch.tensor([judge.labels.index(row.label) for row in ROWS])
    logits = torch.stack([torch.stack([row @ w + b for w, b in zip(weight, bias, strict=True)]) for row in features])
    loss = -sum(logits[i].softmax(-1)[t].log() for i, t in enumerate(targets)) / len(ROWS)
    (loss + 1e-2 / 2 * weight.square().sum()).backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-3
    np.testing.assert_allclose(judge.probabilities(["no such thing"])[0].sum(), 1)
    with pytest.raises(CurvekitError, match="4 rows each"):
        Judge.fit(["a", "b"], ["x", "y"])


def test_the_command_prints_its_table(tiny_base, tmp_path, capsys):
    for name, rows in (("train", ROWS), ("test", TEST)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows))
    train, test = str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")
    argv = ["steering", str(tiny_base), train, "--label", "river", "--ways", "vector", "--strengths", "vector=1,2"]
    argv += ["--count", "1", "--tokens", "3", "--rows-used", "6", "--out", str(tmp_path / "study")]
    assert main(argv) == 2
    assert "give --test" in capsys.readouterr().err
    assert main([*argv, "--test", test, "--scorer", str(tiny_base)]) == 2
    assert "would praise itself" in capsys.readouterr().err
    assert main([*argv, "--test", test]) == 0
    assert "| vector | 2 |" in capsys.readouterr().out
    page = (tmp_path / "study" / "README.md").read_text(encoding="utf-8")
    assert "| vector | 2 |" in page and "curvekit steering path/to/" in page and str(tmp_path) not in page
    assert is_figure(tmp_path / "study" / "figures" / "success-against-perplexity.svg")
    assert main([*argv[:-4], "--strengths", "vector", "--out", str(tmp_path / "b"), "--test", test]) == 2
    assert "give WAY=X,X" in capsys.readouterr().err


def told(label, steered, **changes):
    none = {"way": "none", "strength": 0.0, "success": 0.25, "success_low": 0.2, "success_high": 0.3}
    none |= {"perplexity": 100.0, "perplexity_low": 90.0, "perplexity_high": 110.0}
    none |= {"distinct_2": 0.9, "ms_per_token": 1.0}
    rows = [none]
    for way, success, perplexity in steered:
        figures = {"success": success, "success_low": success - 0.1, "success_high": 1.0, "perplexity": perplexity}
        rows.append(none | {"way": way, "strength": 2.0} | figures)
    study = {"label": label, "rows": rows, "labels": 4, "prompts": ["The", "A"], "count": 2, "tokens": 4, "seed": 0}
    study |= {"model": "m", "rows_digest": "d", "judge_rows": 8, "test_rows": 9, "judge_accuracy": 0.9}
    return study | changes


def texts(way, strength, right):
    return [{"way": way, "strength": strength, "prompt": "The", "text": f" <b>{i}", "success": s}
            for i, s in enumerate(right)]  # fmt: skip


def test_the_best_way_is_one_that_costs_little_and_its_texts_are_no_markup():
    study = told("a*b", [("vector", 0.9, 129.0), ("bag", 0.95, 131.0)])
    assert "25% of the texts" in verdict(study) and "90% with vector 2, at 1.29 times" in verdict(study)
    assert "overlap" not in verdict(study) and "overlap" in verdict(told("x", [("vector", 0.35, 100.0)]))
    assert "no way that was tried costs at most 1.3 times" in verdict(told("x", [("bag", 0.95, 131.0)]))
    shown = page(study, texts("none", 0.0, [1, 1]) + texts("vector", 2.0, [1] * 5), "curvekit steering m")
    assert shown.count("**⟶**") == 2 + 3 and "<b>" not in shown and "### bag 2" in shown


def test_styles_are_counted_over_all_labels_against_chance(tmp_path):
    studies = [told("x", [("codes", 0.75, 100.0)]), told("y", [("codes", 1.0, 100.0)])]
    samples = [texts("none", 0.0, [1, 0, 0, 0]) + texts("codes", 2.0, hits) for hits in ([1, 1, 1, 0], [1, 1, 1, 1])]
    found = recognised(studies, samples)
    assert found["chance"] == 0.25 and found["steered"]["share"] == 0.875 and found["plain"]["share"] == 0.25
    assert found["plain"]["low"] <= 0.25 <= found["plain"]["high"] and found["steered"]["low"] < 0.875
    for name, (study, own) in zip("xy", zip(studies, samples, strict=True), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps(study))
        (tmp_path / name / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in own))
    join([str(tmp_path / "page"), str(tmp_path / "x"), str(tmp_path / "y"), "--note", "How."])
    shown = (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    assert "88%" in shown and "3.5 times as many as by chance (25 %)" in shown and "\n\nHow.\n\n" in shown
    assert shown.count("**⟶**") == 2 and "<b>" not in shown
    assert is_figure(tmp_path / "page" / "figures" / "recognised.svg")
    with pytest.raises(CurvekitError, match="differ in rows_digest"):
        recognised([studies[0], told("y", [], rows_digest="other")], samples)
    with pytest.raises(CurvekitError, match="'x' steers nothing"):
        recognised([told("x", [])], samples[:1])


def test_the_committed_page_is_what_its_committed_study_says():
    folder = Path(__file__).parents[2] / "reports" / "steering"
    study, shown = json.loads((folder / "study.json").read_text()), (folder / "README.md").read_text(encoding="utf-8")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    command = shown.partition("```\n")[2].partition("\n```")[0]
    assert command.startswith("curvekit steering smollm2") and shown == page(study, samples, command)
