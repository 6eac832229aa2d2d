"""The curve explorer: a click says what a point blends, every control changes the curve, odd sentences are said."""

from __future__ import annotations

import html
import re

import pytest
from screen import plain

from curvekit.widgets import CurveExplorer


@pytest.fixture(scope="module")
def explorer(tiny_encoder):
    return CurveExplorer("the river was low in summer", str(tiny_encoder))


def described(panel):
    return html.unescape(re.search(r'alt="([^"]*)"', panel.picture.value)[1])


def test_a_click_on_a_word_says_what_its_curve_blends(explorer):
    explorer.degree.value, explorer.place.value = 2, 0.5
    words = [button.description for button in explorer.words.row.children]
    explorer.words.row.children[3].click()
    assert f"“{words[3]}” receives 25 % {words[1]}, 50 % {words[2]}, 25 % {words[3]}." in described(explorer)
    explorer.words.row.children[0].click()
    assert f"“{words[0]}” receives 100 % {words[0]}." in described(explorer)
    assert [b.button_style for b in explorer.words.row.children][:2] == ["primary", ""]


def test_degree_place_family_and_context_change_the_curve(explorer):
    explorer.words.row.children[3].click()
    pictures = [explorer.picture.value]
    for control, value in (("degree", 3), ("place", 0.8), ("family", "B-spline"), ("context", "causal")):
        getattr(explorer, control).value = value
        pictures.append(explorer.picture.value)
    assert len(set(pictures)) == 5
    explorer.context.value = "bidirectional"
    assert "it leaks" in plain(explorer.message)


def test_a_sentence_without_words_is_a_message_and_the_next_one_draws(explorer):
    before = explorer.picture.value
    explorer.sentence.value = " "
    assert "a curve needs two" in plain(explorer.message)
    assert explorer.picture.value == before
    explorer.sentence.value = "a bank is a place for money " * 20
    assert "Drawn are the first 24 words" in plain(explorer.message)
    assert len(explorer.words.row.children) == 24
