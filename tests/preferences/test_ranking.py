"""A ranking of models from blind pairs: right strengths, honest about position, agreement and what does not compare."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.preferences.ranking import agreement, rank, strengths


def rating(first, second, answer, prompt="p", seed=0):
    return {"prompt": prompt, "first": first, "second": second, "seed": seed, "better": answer, "fluent": answer,
            "on_topic": answer}  # fmt: skip


def drawn(true, position=0.0, count=1500, seed=0):
    """Ratings drawn from the model itself."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        a, b = draw.sample(sorted(true), 2)
        won = draw.random() < 1 / (1 + np.exp(-(true[a] - true[b] + position)))
        rows.append(rating(a, b, "first" if won else "second", f"prompt {number % 60}", number))
    return rows


def test_strengths_and_position_are_found_again():
    true = {"a": 1.0, "b": 0.2, "c": -1.2}
    ranking = rank(drawn(true, position=0.5), samples=200)
    assert [row["model"] for row in ranking.rows] == ["a", "b", "c"]
    for row in ranking.rows:
        assert row["low"] < true[row["model"]] < row["high"]
        assert row["strength"] == pytest.approx(true[row["model"]], abs=0.2)
    assert ranking.position_low < 0.5 < ranking.position_high
    assert any("prefer what is shown first" in note for note in ranking.notes())


def test_newton_finds_where_the_likelihood_is_flat():
    rows = drawn({"a": 0.5, "b": -0.5}, count=40)
    first = np.array([row["first"] == "b" for row in rows], int)
    outcome = np.array([row["better"] == "first" for row in rows], float)
    found = strengths(first, 1 - first, outcome, np.zeros(2, int), penalty=0.3)

    def loss(theta):
        scores = theta[first] - theta[1 - first] + theta[2]
        return -(outcome * scores - np.logaddexp(0, scores)).sum() + 0.15 * (theta**2).sum()

    nearby = [loss(found + shift * np.eye(3)[i]) for i in range(3) for shift in (-0.01, 0.01)]
    assert loss(found) < min(nearby)


def test_who_wins_every_pair_has_a_strength_with_an_end():
    ranking = rank([rating("a", "b", "first"), rating("b", "a", "second")] * 10, samples=50)
    assert ranking.rows[0]["model"] == "a" and 1 < ranking.rows[0]["strength"] < 10


def test_ties_are_half_a_win_of_each():
    ranking = rank([rating("a", "b", "tie")] * 6, samples=50)
    assert all(abs(row["strength"]) < 1e-6 for row in ranking.rows)


def test_models_that_were_never_compared_are_said_to_be():
    ranking = rank([rating("a", "b", "first"), rating("c", "d", "first")] * 5, samples=50)
    assert {row["model"]: row["group"] for row in ranking.rows} == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert "these do not compare: a, b; c, d." in ranking.notes()[0]


def test_agreement_is_krippendorffs():
    same = [rating("a", "b", "first"), rating("b", "a", "second")]  # the same answer, shown the other way round
    other = [rating("a", "b", "second", "q"), rating("a", "b", "second", "q")]
    assert agreement([*same, *other]) == (1.0, 2)
    apart = [
        rating("a", "b", "first"),
        rating("a", "b", "second"),
        rating("a", "b", "first", "q"),
        rating("a", "b", "second", "q"),
    ]
    # observed (1/4) * sum over items of 8 / 1 = 4; expected 16 pairs of which 8 differ by 2: 32 / 12
    assert agreement(apart)[0] == pytest.approx(1 - 4 / (32 / 12))
    assert agreement([rating("a", "b", "first")]) == (None, 0)


def test_nothing_to_rank_is_a_sentence():
    with pytest.raises(CurvekitError, match="no rating of two different models"):
        rank([])
    with pytest.raises(CurvekitError, match="unknown question 'best'"):
        rank([rating("a", "b", "tie")], "best")


def test_the_command_prints_the_ranking(tmp_path, capsys):
    (tmp_path / "one.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in drawn({"a": 1.0, "b": -1.0}, count=60))
    )
    assert main(["rank", str(tmp_path / "one.jsonl")]) == 0
    said = capsys.readouterr().out
    assert said.index("| a |") < said.index("| b |") and "Nothing was rated twice" in said
    assert main(["rank", str(tmp_path / "none.jsonl")]) == 2
    assert "there is no file" in capsys.readouterr().err
