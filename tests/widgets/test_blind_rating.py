"""Blind rating: answers are on the disk at once, nothing tells who wrote what, half a pair is not rated."""

from __future__ import annotations

import html
import time

from screen import PROMPT, plain, pressed

from curvekit.generation.streams import generate
from curvekit.preferences.ratings import QUESTIONS, read_ratings
from curvekit.widgets import BlindRating


def rated(panel, answers=("first", "tie", "second")):
    for row, answer in zip(panel.answers.values(), answers, strict=True):
        assert panel.save.disabled
        row.value = answer
    panel.save.click()
    panel.wait()


def test_a_rating_is_on_the_disk_with_who_wrote_what_and_the_next_pair_comes(two, tokenizer, tmp_path):
    path = tmp_path / "ratings.jsonl"
    panel = pressed(BlindRating(two, [PROMPT], path, rater="ann", max_new_tokens=8))
    pair, texts = panel.pair, [sample.text for sample in panel.samples]
    rated(panel)
    (row,) = read_ratings(path)
    assert [row[q] for q in QUESTIONS] == ["first", "tie", "second"]
    assert (row["rater"], row["prompt"], row["first"], row["second"]) == ("ann", PROMPT, pair.first, pair.second)
    for side, text in zip((pair.first, pair.second), texts, strict=True):
        assert generate(two[side][0], tokenizer, [PROMPT], max_new_tokens=8, seed=pair.seed) == [text]
    assert [row["first_text"], row["second_text"]] == texts
    assert panel.pair is not pair and all(answer.value is None for answer in panel.answers.values())
    assert panel.count.value.endswith("ratings.jsonl: 1")


def test_nothing_that_is_shown_tells_who_wrote_it(two, tmp_path):
    panel = pressed(BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=8))
    shown = " ".join(box.value for box in panel.columns.children) + panel.message.value
    assert "gpt2" not in shown and "curve" not in shown.replace("curvekit-sample", "")
    assert "title=" not in shown and "a second" not in shown


def test_a_pair_that_was_stopped_cannot_be_rated(two, tmp_path):
    for model, _ in two.values():
        model.pause = 0.05
    panel = BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=50)
    panel.start.click()
    time.sleep(0.3)
    panel.halt.click()
    panel.wait()
    assert all(row.layout.visibility == "hidden" for row in panel.answers.values()) and panel.save.disabled
    panel.rate()
    assert not (tmp_path / "r.jsonl").exists()


def test_the_summary_gives_win_rates_with_an_interval(two, tmp_path):
    panel = pressed(BlindRating(two, [PROMPT], tmp_path / "r.jsonl", max_new_tokens=4))
    for _ in range(2):
        rated(panel)
    panel.tally.value = True
    assert panel.count.value.endswith(": 2")
    for word in ("low", "high", "wins", "ties", "on_topic"):
        assert word in plain(panel.summary)
    assert "Wilson" in html.unescape(panel.summary.value)


def test_one_model_alone_cannot_be_rated_and_it_is_said(voices, tmp_path):
    panel = BlindRating(voices, [PROMPT], tmp_path / "r.jsonl")
    assert "needs two models" in plain(panel.message)
    panel.start.click()
    assert "name more models" in plain(panel.message)
