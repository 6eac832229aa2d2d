"""Pictures of text in any script: a font of the machine that has it, else boxes, and a note under the picture."""

from __future__ import annotations

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from curvekit.figures import drawing
from curvekit.figures.drawing import legible, render, shown
from curvekit.figures.shading import token_cuts


@pytest.fixture
def bare_machine(monkeypatch):
    """Only the fonts that come with matplotlib."""
    own = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(drawing, "_families", [])
    drawing._family.cache_clear()
    yield
    drawing._family.cache_clear()


@pytest.fixture
def chinese_font(bare_machine, tmp_path):
    """A font that draws 船 as a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "boat"])
    builder.setupCharacterMap({ord("船"): "boat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "boat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "boat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boat Sans", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "boat.ttf")
    font_manager.fontManager.addfont(tmp_path / "boat.ttf")


def height(png: bytes) -> int:
    return int.from_bytes(png[20:24], "big")


def test_what_no_font_has_is_a_box_and_said_under_the_figure(bare_machine):
    figure = token_cuts({"characters": ["船", "走", "a", "\N{GRINNING FACE}"]})
    note = figure.texts[-1].get_text().replace("\n", " ")
    assert "no font of this machine has these characters (U+8239, U+8D70" in note
    figure.canvas.draw()
    others = [text for axes in figure.axes for text in axes.texts] + list(figure.texts[:-1])
    low = figure.texts[-1].get_window_extent()
    assert low.y0 >= 0 and all(text.get_window_extent().y0 >= low.y1 for text in others), "below all that is drawn"
    assert note in str(figure.get_label()).replace("\n", " "), "who listens to the figure is told as well"
    plain = token_cuts({"characters": ["b", "c", "a", "d"]})
    assert height(render(figure)) > height(render(plain)), "and inside the file"
    assert b"<svg" in render(figure, "svg")


def test_a_font_of_the_machine_is_used_where_there_is_one(chinese_font):
    figure = token_cuts({"characters": ["船", " boat"]})
    assert "no font" not in str(figure.get_label())
    drawn = next(text for text in figure.axes[0].texts if text.get_text() == "船")
    assert "Boat Sans" in drawn.get_fontfamily()
    with_it = np.frombuffer(render(figure, "svg"), np.uint8)
    assert with_it.size and shown("船") == "船"


def test_latin_text_keeps_its_font_and_joiners_are_not_boxes(bare_machine):
    assert legible("straße, Ω → naïve") == "straße, Ω → naïve"
    assert legible("a\u200db\ufe0f") == "ab"
    figure = token_cuts({"words": ["straße", " Ω"]})
    assert all(list(text.get_fontfamily()) == [drawing.FONT] for text in figure.axes[0].texts)
    assert "no font" not in str(figure.get_label())
