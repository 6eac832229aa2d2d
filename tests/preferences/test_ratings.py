"""Blind ratings: fair pairs, a file that loses nothing and mixes nothing, and win rates with an honest interval."""

from __future__ import annotations

import collections
import itertools
import json
import subprocess
import sys

import pytest
from scipy.stats import binomtest

from curvekit.errors import CurvekitError
from curvekit.preferences.ratings import QUESTIONS, append_rating, pairs, read_ratings, wilson, win_rates


def rating(first="gpt2", second="curve", answer="first", **more):
    return {"prompt": "x", "first": first, "second": second, **dict.fromkeys(QUESTIONS, answer), **more}


def test_every_two_models_meet_on_every_prompt_before_any_meet_again():
    seen = itertools.islice(pairs(["a", "b", "c"], ["x", "y"], seed=0), 6)
    assert len({(pair.prompt, frozenset(pair[1:3])) for pair in seen}) == 6


def test_neither_model_has_a_side_of_its_own():
    left = collections.Counter(pair.first for pair in itertools.islice(pairs(["a", "b"], ["x"], seed=0), 400))
    assert 160 < left["a"] < 240


def test_without_a_seed_two_raters_see_other_samples():
    seeds = [{pair.seed for pair in itertools.islice(pairs(["a", "b"], ["x"]), 5)} for _ in range(2)]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize(("models", "prompts"), [(["a"], ["x"]), (["a", "a"], ["x"]), (["a", "b"], [])])
def test_too_few_models_or_prompts_are_refused_at_once(models, prompts):
    with pytest.raises(CurvekitError, match="needs two models and a prompt"):
        pairs(models, prompts)


def test_a_rating_is_a_line_and_any_text_survives_it(tmp_path):
    texts = ["line\nend", "\u2028 \x85 \x0b", "<script>", "東京 🙂", '"quoted"']
    for text in texts:
        append_rating(tmp_path / "new" / "ratings.jsonl", rating(first_text=text))
    path = tmp_path / "new" / "ratings.jsonl"
    assert [row["first_text"] for row in read_ratings(path)] == texts
    assert path.read_bytes().count(b"\n") == len(texts)


def test_an_answer_that_is_none_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(CurvekitError, match="unknown answer to 'fluent' 'left'"):
        append_rating(tmp_path / "r.jsonl", rating(fluent="left"))
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("cut", ['{"prompt": "x", "fir', "x" * 10_000])
def test_a_line_that_a_crash_cut_off_takes_no_other_with_it(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    append_rating(path, rating(rater="one"))
    with path.open("a") as file:
        file.write(cut)
    append_rating(path, rating(rater="two"))
    assert [row["rater"] for row in read_ratings(path)] == ["one", "two"]


def test_two_processes_that_write_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    code = (
        "import sys\nfrom curvekit.preferences.ratings import append_rating\n"
        f"row = {rating()!r}\n"
        "for i in range(60): append_rating(sys.argv[1], row | {'rater': sys.argv[2], 'i': i, 'text': 'x' * 5000})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((row["rater"], row["i"]) for row in rows) == [(name, i) for name in "ab" for i in range(60)]


def test_a_file_of_something_else_is_refused_with_its_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(CurvekitError, match=r"line 1, is no rating: it has no 'first'"):
        read_ratings(tmp_path / "r.jsonl")
    assert read_ratings(tmp_path / "absent.jsonl") == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CurvekitError, match="choose another file"):
        append_rating(tmp_path / "file" / "r.jsonl", rating())


@pytest.mark.parametrize(("wins", "total"), [(0, 1), (1, 1), (7, 10), (0, 40), (213, 400)])
def test_the_interval_is_wilsons(wins, total):
    expected = binomtest(wins, total).proportion_ci(method="wilson")
    assert wilson(wins, total) == pytest.approx((expected.low, expected.high))
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_win_is_a_win_on_either_side_and_a_tie_is_half_of_one():
    rows = [rating(), rating("curve", "gpt2", "second"), rating(answer="tie"), rating("curve", "sink", "first")]
    table = {row["model"]: row for row in win_rates(rows)}
    assert table["gpt2"] | {"low": 0, "high": 0} == {
        "model": "gpt2", "rate": 2.5 / 3, "low": 0, "high": 0, "wins": 2, "ties": 1, "losses": 0
    }  # fmt: skip
    assert table["curve"]["rate"] == 1.5 / 4
    assert table["sink"]["losses"] == 1
    assert [row["model"] for row in win_rates(rows)] == ["gpt2", "curve", "sink"]
    assert win_rates([]) == []


def test_the_questions_are_counted_apart():
    rows = [rating(fluent="second")]
    assert win_rates(rows)[0]["model"] == "gpt2"
    assert win_rates(rows, "fluent")[0]["model"] == "curve"
    with pytest.raises(CurvekitError, match="did you mean 'fluent'"):
        win_rates(rows, "fluency")
