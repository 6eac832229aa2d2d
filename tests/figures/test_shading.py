"""Shaded text: every token in its order and place, escaped, and the darker the less likely."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from pictures import texts_of

from curvekit import figures
from curvekit.figures import shading


def test_coloured_probabilities_are_escaped_and_name_what_else_was_likely():
    others = [[("<b>", 0.5), (" &\n", 0.25)], []]
    text = shading.token_probabilities_html(["<b>", '" onclick='], [0.5, 1e-9], others, "<i>")
    assert not re.search(r"<(?!/?(span|div)\b)", text)
    assert "&lt;i&gt;" in text and "“&lt;b&gt;” 50.0 %\nor\n“ &amp;↵” 25.0 %" in text
    assert "onclick=" in text and '"" onclick' not in text
    assert text.count(" %") == 3


def test_the_less_likely_a_token_the_darker_it_is():
    lightness = shading._surprise_colours(np.array([1.0, 0.5, 0.1, 1e-2, 1e-4]))[:, :3].sum(1)
    assert lightness[0] == pytest.approx(3)
    assert (np.diff(lightness) < 0).all()


def test_blue_is_better_and_orange_is_worse():
    better, worse = shading._difference_colours(np.array([-1.0, 1.0]))[1]
    assert better[2] > better[0]
    assert worse[0] > worse[2]


def test_coloured_text_fits_its_lines_and_keeps_its_order():
    tokens = [f" word{i}" for i in range(200)]
    texts = [t for t in texts_of(figures.token_differences(tokens, np.zeros(200), "curve")) if "word" in t.get_text()]
    assert [t.get_text() for t in texts] == [token.strip() for token in tokens]
    assert max(t.get_window_extent().x1 for t in texts) <= 740


def test_every_token_of_a_cut_has_its_box_and_neighbours_differ():
    tokens = [" un", "believ", "able", " bo", "at"]
    figure = figures.token_cuts({"bpe": tokens, "characters": list("boat")})
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert drawn[:9] == [*(token.strip() for token in tokens), *"boat"]
    assert drawn[9:] == ["bpe: 5 tokens", "characters: 4 tokens"]
    tints = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert len(tints) == 9
    assert all(a != b for a, b in itertools.pairwise(tints[:5]))
