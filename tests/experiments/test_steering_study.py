"""The study of steering: measured under others, resumed where it stopped, refused where it would judge itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.experiments.steering import Study, bag_of, require_another, run_study
from curvekit.figures.steering import success_against_perplexity
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
    assert main([*argv[:-4], "--strengths", "vector", "--out", str(tmp_path / "b"), "--test", test]) == 2
    assert "give WAY=X,X" in capsys.readouterr().err
