"""What single pictures promise: leaks are named, intervals and curves are honest, a plane keeps its distances."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from pictures import (
    POINTS,
    RANDOM,
    TOKENS,
    attention_rows,
    difference,
    difference_intervals,
    leak_map,
    learning_curves,
    said,
)

from curvekit import figures
from curvekit.figures.drawing import COLOURS


def test_a_leak_is_named_and_a_causal_model_is_said_to_have_none():
    text = said(leak_map())
    assert text.count("no leak: exactly 0") == 2
    assert text.count("leaks: up to") == 1


def test_the_smallest_leak_is_still_a_leak():
    changes = np.zeros((3, 4))
    changes[2, 2] = 1e-7  # position 2 answers to what follows it
    assert "leaks: up to 1e-07" in said(figures.leak_map({"curve": changes}, list("abcd")))


@pytest.mark.parametrize("middle", [-0.9, -0.04, 0.0, 0.02, 0.8, 1.6, 3.0])
def test_percentages_over_the_intervals_stand_apart_however_far_they_reach(middle):
    figure = figures.difference_intervals([difference("curve", middle, 0.05), difference("softemax", middle / 2, 0.01)])
    figure.canvas.draw()
    (above,) = figure.axes[0].child_axes
    boxes = sorted(text.get_window_extent().extents[[0, 2]].tolist() for text in above.get_xticklabels())
    assert len(boxes) >= 2
    assert all(left[1] < right[0] for left, right in itertools.pairwise(boxes))


def test_a_recipe_that_leaks_neither_sets_the_scale_nor_gets_a_figure_in_the_intervals():
    figure = difference_intervals()
    low, high = figure.axes[0].get_xlim()
    assert low > -0.1 and high < 0.1
    assert "sees the answer" in said(figure)
    assert "2.000" not in said(figure)


def test_an_interval_that_excludes_zero_is_filled_and_the_other_is_not():
    figure = figures.difference_intervals([difference("curve", -0.04, 0.01), difference("softemax", 0.0, 0.01)])
    discs = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [disc.get_markerfacecolor() for disc in discs] == [COLOURS["curve"], "#ffffff"]


def test_a_recipe_that_leaks_does_not_set_the_scale_of_the_difference_curves():
    low, high = learning_curves().axes[1].get_ylim()
    assert low > -0.5 and high < 0.5


def test_learning_curves_subtract_the_same_seed():
    steps = [1, 2]
    runs = {"gpt2": [(steps, [5, 4]), (steps, [9, 8])], "curve": [(steps, [4, 3]), (steps, [8, 7])]}
    band = figures.learning_curves(runs).axes[1].lines[0]
    np.testing.assert_allclose(band.get_ydata(), [-1, -1])


def test_projection_keeps_distances_within_a_plane():
    plane = RANDOM.normal(size=(30, 2)) @ RANDOM.normal(size=(2, 50))
    flat, again, share = figures.project(plane, plane[:3])
    apart = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(flat), apart(plane), atol=1e-9)
    np.testing.assert_allclose(again, flat[:3], atol=1e-9)
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(figures.project(plane[::-1])[0][::-1], flat, atol=1e-9)  # signs do not flip


def test_the_word_in_focus_says_what_it_blends():
    arcs = POINTS[:, None] + np.linspace(0, 1, 9)[:, None]
    figure = figures.sentence_curve(POINTS, TOKENS, arcs, POINTS + 0.3, (0.3, 0.2), (2, {0: 0.25, 1: 0.5, 2: 0.25}))
    assert "receives 25 %  The, 50 %  bank, 25 %  of" in said(figure).replace("\n", " ")


def test_a_row_says_its_sum_and_its_sinks_share_where_there_are_shares():
    text = said(attention_rows())
    assert text.count("row sum") == 3
    assert "sink 0.40" in text and "no sink, no shares" in text


def test_no_rating_is_said_and_drawn_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "No pair has been rated yet" in said(figures.win_rates({"Which is better?": [], "And this?": []}))
