"""Figures: pure, whole, the same every time, readable by everyone, and honest about what leaks."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from curvekit import figures
from curvekit.curves import bernstein_weights
from curvekit.errors import CurvekitError
from curvekit.figures import shading
from curvekit.figures.drawing import COLOURS, place_labels, render, text_width, wrap
from curvekit.normalisers import VARIANTS, softemax

RECIPES = ["gpt2", "curve", "softemax", "curve+softemax", "published", "encoder", "self-curve", "random-encoder"]
SCORES = np.linspace(-6, 8, 57)
TOKENS = [" The", " bank", " of", " the", " r", "iver", " was", " €", " 東京", " $5", ".", "\n"]
RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(len(TOKENS), 2)).cumsum(0)


def rows_of(scores, keys=8):
    rows = torch.zeros(len(scores), keys, dtype=torch.float64)
    rows[:, 0] = torch.from_numpy(scores)
    return rows


def difference(recipe, middle, reach, **more):
    return {
        "recipe": recipe,
        "difference": middle,
        "low": middle - reach,
        "high": middle + reach,
        "verdict": "x",
    } | more


def family():
    return figures.family(SCORES, {v: softemax(rows_of(SCORES), variant=v)[:, 0] for v in VARIANTS}, 8)


def limits():
    rows = torch.from_numpy(SCORES)[:, None].expand(-1, 16)
    return figures.limits(SCORES, {v: softemax(rows, variant=v)[:, 0] for v in ("softmax", "stable", "published")}, 16)


def overflow():
    scores = np.linspace(0, 100, 101)
    with np.errstate(over="ignore"):
        sums = {d: {"stable": np.ones(101), "published": np.exp(scores.astype(d))} for d in ("float16", "float32")}
    return figures.overflow(scores, sums)


def gradients():
    values = {v: softemax(rows_of(SCORES), variant=v) for v in ("softmax", "stable", "published")}
    return figures.gradients(SCORES, {v: w[:, 0] for v, w in values.items()}, {v: -w[:, 1] for v, w in values.items()})


def row_sums():
    keys = 2 ** np.arange(10)
    return figures.row_sums(keys, {"softmax": np.ones(10), "stable": keys / (keys + 16), "published": keys / 16})


def attention_maps():
    seen = torch.ones(len(TOKENS), len(TOKENS)).tril().bool()
    return figures.attention_maps(
        {v: softemax(torch.randn(seen.shape), variant=v, mask=seen) for v in VARIANTS[:3]}, TOKENS
    )


def sentence_curve():
    arcs = POINTS[:, None] + np.linspace(0, 1, 9)[:, None]
    return figures.sentence_curve(POINTS, TOKENS, arcs, POINTS + 0.3, (0.3, 0.2))


def word_in_contexts():
    panels = {"static": ((0, 0), POINTS[:6]), "both sides": ((1, 1), POINTS[6:])}
    sentences = ["short", "a long sentence that goes on and on " * 5, "$100 in the bank", "東京 bank", "e", "f"]
    return figures.word_in_contexts(panels, sentences, [0, 1, 0, 1, 2, 3], "bank")


def curve_family():
    places = np.array([0, 0.5, 1])
    curves = {n: bernstein_weights(n, torch.from_numpy(places)).numpy() @ POINTS[-n - 1 :] for n in range(4)}
    return figures.curve_family(POINTS[-4:], curves, curves, places)


def curve_weights():
    places = torch.linspace(0, 1, 21, dtype=torch.float64)
    return figures.curve_weights(places, {"Bernstein": {n: bernstein_weights(n, places) for n in range(4)}})


def leak_map():
    causal = np.triu(RANDOM.random((len(TOKENS) - 1, len(TOKENS))), 1)
    return figures.leak_map({"gpt2": causal, "curve": causal, "published": causal + 0.1}, TOKENS)


def leak_perplexity():
    rows = [("gpt2", 812.0, 812.0), ("curve", 645.0, 645.0), ("published", 14.2, 9321.0)]
    return figures.leak_perplexity(
        [dict(zip(("recipe", "teacher_forced", "prefix_only"), r, strict=True)) for r in rows]
    )


def training_curves():
    history = [
        {"step": s, "loss": 9 / s, "learning_rate": 1e-3, "grad_norm": None if s == 4 else 1.0} for s in range(1, 30)
    ]
    return figures.training_curves([*history, *({"step": s, "validation_loss": 9 / s} for s in (10, 20))], "curve")


def learning_curves():
    steps = np.arange(10, 60, 10)
    runs = {r: [(steps, 6 - k / 100 + RANDOM.normal(size=5) / 100) for _ in range(3)] for k, r in enumerate(RECIPES)}
    runs["published"] = [(steps, np.full(5, 2.0))] * 3
    return figures.learning_curves(runs, leaks=["published"])


def difference_intervals():
    untested = {"low": None, "high": None, "difference": None}
    rows = [difference("curve", -0.04, 0.01), difference("softemax", 0.002, 0.01), difference("sink", 0, 0) | untested]
    return figures.difference_intervals([*rows, difference("published", -2, 0.1, leaks=True)], corpus="wikitext-2")


def ablations():
    return figures.ablations({r: 200 + RANDOM.normal(size=3) for r in RECIPES}, leaks=["published"])


def difference_by_group():
    rows = [difference("", 0.1, 0.05, label=label, tokens=1000) for label in ("0–9", "10–99", "100 and more")]
    return figures.difference_by_group({r: rows for r in RECIPES[1:4]}, "frequency in training")


def token_cuts():
    letters = list("The river was low in summer, and $5 lay on the sand. " * 3)
    return figures.token_cuts({"characters": letters, "bpe": TOKENS, "bpe-dropout, draw 1": [*" r", "iv", "er"]})


def benchmark_ratios():
    goal = {"kind": "ratio", "value": 0.95}
    row = {"group": "attention", "name": "forward and backward, T = 2048", "ratio": 1.02, "low": 0.9, "high": 1.3}
    slow = {"group": "curve", "name": "$5 " * 12, "ratio": 0.1, "low": 0.01, "high": 0.2, "goal": None}
    return figures.benchmark_ratios([row | {"goal": goal}, slow, row | {"ratio": 80.0, "high": 90.0, "goal": goal}])


def token_probabilities():
    odds = np.linspace(0, 1, len(TOKENS) * 8)
    blocks = {"gpt2": (TOKENS * 8, odds), "mini, $eed 東京": (TOKENS, odds[: len(TOKENS)]), "curve": ([], [])}
    return figures.token_probabilities(blocks, "Once upon a $5 " * 20)


def attention_rows():
    scores = torch.from_numpy(RANDOM.normal(size=len(TOKENS)))
    rows = {v: softemax(scores, variant=v) for v in ("softmax", "stable", "published")}
    return figures.attention_rows(rows, TOKENS, {"softmax": 0.0, "stable": 0.4, "published": None})


def win_rates():
    rows = [
        {"model": m, "rate": 0.5 + k / 4, "low": 0.4 + k / 4, "high": 0.6 + k / 4, "wins": 6, "ties": 2, "losses": 4}
        for k, m in enumerate(("gpt2", "a model $of one's own"))
    ]
    return figures.win_rates({"Which is better?": rows, "Which is more fluent?": rows[::-1]})


def token_differences():
    return figures.token_differences(TOKENS * 8, RANDOM.normal(size=len(TOKENS) * 8), "curve+softemax")


GALLERY = [
    family, limits, overflow, gradients, row_sums, attention_maps, sentence_curve, word_in_contexts, curve_family,
    curve_weights, leak_map, leak_perplexity, training_curves, learning_curves, difference_intervals, ablations,
    difference_by_group, token_differences, token_probabilities, attention_rows, win_rates, token_cuts,
    benchmark_ratios,
]  # fmt: skip


def texts_of(figure):
    figure.canvas.draw()
    return [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]


def said(figure):
    return " ".join(text.get_text() for text in texts_of(figure))


def test_every_figure_of_the_module_is_in_the_gallery():
    functions = {name for name in figures.__all__ if not name[0].isupper()}
    assert functions - {"colour", "project", "save"} == {draw.__name__ for draw in GALLERY}


@pytest.mark.parametrize("draw", GALLERY, ids=lambda draw: draw.__name__)
def test_a_figure_is_drawn_without_a_warning_and_no_text_is_cut_off(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that did not fit
        figure = draw()
        texts = texts_of(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside or not _on_axes(text), f"{text.get_text()!r} is cut off at {box}"
    assert figure.get_label().count(" ") >= 3  # a description for readers who do not see it


def _on_axes(text):
    """Ticks that lie outside the limits have texts too, which are never drawn."""
    owners = [axis for ax in text.figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = {label for axis in owners for label in axis.get_ticklabels(which="both")}
    shown = {tick.label1 for axis in owners for tick in axis._update_ticks()}
    return text not in ticks or text in shown


@pytest.mark.parametrize("draw", GALLERY, ids=lambda draw: draw.__name__)
def test_every_axis_with_numbers_says_what_they_measure(draw):
    figure = draw()
    figure.canvas.draw()
    panels = [(ax, ax.get_subplotspec()) for ax in figure.axes if ax.get_subplotspec() is not None and ax.axison]
    for ax, spec in panels:
        below = [other.get_xlabel() for other, place in panels if place.colspan.start == spec.colspan.start]
        beside = [other.get_ylabel() for other, place in panels if place.rowspan.start == spec.rowspan.start]
        for axis, labels in ((ax.xaxis, below), (ax.yaxis, [*beside, ax.get_title(loc="left")])):
            numbers = [t.get_text() for t in axis.get_ticklabels() if re.match(r"[-+−]?\d", t.get_text())]
            assert not numbers or any(labels), f"nothing says what {numbers} are"


def test_figures_leave_pyplot_unloaded_and_settings_as_they_were():
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams); from curvekit import figures\n"
        "figures.row_sums([1, 2], {'softmax': [1, 1]})\n"
        "assert dict(matplotlib.rcParams) == before, 'settings changed'\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_figure_ignores_the_users_own_style():
    plain = render(row_sums(), dpi=40)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20, "lines.linewidth": 9}):
        assert render(row_sums(), dpi=40) == plain


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_figure_is_the_same_bytes(kind):
    assert render(leak_perplexity(), kind, dpi=50) == render(leak_perplexity(), kind, dpi=50)


# Machado, Oliveira and Fernandes (2009), severity 1: what linear RGB becomes.
DEFICIENCIES = {
    "none": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}


def lightness_and_hue(name, deficiency):
    """CIE L*a*b* of a colour as seen with a deficiency."""
    srgb = np.array(to_rgb(COLOURS[name]))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colour_blind_readers_tell_the_five_named_recipes_apart(deficiency):
    for a, b in itertools.combinations(RECIPES[:5], 2):
        distance = np.linalg.norm(lightness_and_hue(a, deficiency) - lightness_and_hue(b, deficiency))
        assert distance > 20, f"{a} and {b} look alike: {distance:.1f}"


def test_tensors_with_gradients_on_half_precision_and_lists_draw_alike():
    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert render(figures.row_sums([1, 2], {"stable": values}), dpi=40) == render(
        figures.row_sums([1, 2], {"stable": [1.0, 2.0]}), dpi=40
    )


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


def test_a_recipe_that_leaks_does_not_set_the_scale_of_the_difference_curves():
    low, high = learning_curves().axes[1].get_ylim()
    assert low > -0.5 and high < 0.5


def test_an_interval_that_excludes_zero_is_filled_and_the_other_is_not():
    figure = figures.difference_intervals([difference("curve", -0.04, 0.01), difference("softemax", 0.0, 0.01)])
    discs = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [disc.get_markerfacecolor() for disc in discs] == [COLOURS["curve"], "#ffffff"]


def test_learning_curves_subtract_the_same_seed():
    steps = [1, 2]
    runs = {"gpt2": [(steps, [5, 4]), (steps, [9, 8])], "curve": [(steps, [4, 3]), (steps, [8, 7])]}
    band = figures.learning_curves(runs).axes[1].lines[0]
    np.testing.assert_allclose(band.get_ydata(), [-1, -1])


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


def test_projection_keeps_distances_within_a_plane():
    plane = RANDOM.normal(size=(30, 2)) @ RANDOM.normal(size=(2, 50))
    flat, again, share = figures.project(plane, plane[:3])
    apart = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(flat), apart(plane), atol=1e-9)
    np.testing.assert_allclose(again, flat[:3], atol=1e-9)
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(figures.project(plane[::-1])[0][::-1], flat, atol=1e-9)  # signs do not flip


def test_labels_beside_points_do_not_cover_each_other():
    figure = sentence_curve()
    ax = figure.axes[0]
    for label in list(ax.texts):
        label.remove()
    labels = place_labels(ax, np.array([[0, 0], [0.01, 0], [0, 0.01]]), ["first", "second", "third"], POINTS)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_text_is_measured_as_it_is_drawn_and_wrapped_to_fit():
    text = "Weight of one key as its score grows, in a row of eight keys"
    assert all(text_width(line) <= 2 for line in wrap(text, 2))
    assert " ".join(wrap(text, 2)) == text
    drawn = next(t for t in texts_of(family()) if t.get_text().startswith("One formula"))
    assert drawn.get_window_extent().width / 100 == pytest.approx(text_width(drawn.get_text(), 11, "bold"), rel=0.06)


def test_saving_writes_svg_and_png_and_shows_a_png_with_its_description(tmp_path):
    picture = figures.save(row_sums(), "row-sums", tmp_path)
    assert (tmp_path / "figures" / "row-sums.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "figures" / "row-sums.png").read_bytes().startswith(b"\x89PNG")
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"] == {"width": 740, "alt": picture.figure.get_label()}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures.save(row_sums(), "row-sums", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", ".hidden"])
def test_a_figure_name_that_is_a_path_is_refused(name, tmp_path):
    with pytest.raises(CurvekitError, match="rename it"):
        figures.save(row_sums(), name, tmp_path)
    assert not list(tmp_path.iterdir())
