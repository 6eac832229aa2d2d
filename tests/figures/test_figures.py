"""Every figure: pure, whole, the same every time, and one that says what it measures."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import matplotlib
import pytest
import torch
from pictures import GALLERY, leak_perplexity, row_sums, texts_of

from curvekit import figures
from curvekit.figures.drawing import render


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


def test_tensors_with_gradients_on_half_precision_and_lists_draw_alike():
    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert render(figures.row_sums([1, 2], {"stable": values}), dpi=40) == render(
        figures.row_sums([1, 2], {"stable": [1.0, 2.0]}), dpi=40
    )
