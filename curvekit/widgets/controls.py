"""The controls that widgets share: rows that wrap, words as buttons, one choice of a few, a figure as an image."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

from ipywidgets import Box, Button, Layout, ToggleButtons
from matplotlib.figure import Figure

from curvekit.figures.drawing import render

ROW = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "width": "100%"}
WRAP = Layout(**ROW)
BESIDE = Layout(**ROW | {"align_items": "flex-start"})  # texts of unequal length
GRID = Layout(display="grid", grid_template_columns="repeat(auto-fill, minmax(290px, 1fr))", width="100%")
WIDE = {"width": "calc(100% - 4px)"}  # a control's margins are not part of its width


class Words:
    """A row of buttons, a word each, of which one is chosen."""

    def __init__(self, choose: Callable[[int], None]) -> None:
        self.choose, self.row = choose, Box(layout=WRAP)

    def fill(self, words: Sequence[str]) -> None:
        buttons = []
        for place, word in enumerate(words):
            spelt = word.replace("\n", "↵").replace("\t", "→").strip(" ") or "·"
            button = Button(description=spelt, layout=Layout(width="auto", margin="1px"))
            button.on_click(lambda _, place=place: self.choose(place))
            buttons.append(button)
        self.row.children = buttons

    def mark(self, chosen: int) -> None:
        for place, button in enumerate(self.row.children):
            button.button_style = "primary" if place == chosen else ""


def choice(name: str, options: Any, value: str) -> ToggleButtons:
    """A named row of buttons, one for each of a few options, of which one is chosen."""
    row = ToggleButtons(options=list(options), value=value, description=name)
    row.style.button_width, row.style.description_width = "auto", "60px"
    return row


def image(figure: Figure) -> str:
    """A figure as an image that fits its column, with its description."""
    data = base64.b64encode(render(figure, dpi=150)).decode()
    alt = html.escape(str(figure.get_label()))
    width = round(100 * figure.get_figwidth())
    return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="width:{width}px;max-width:100%;height:auto">'
