"""Running text whose tokens are shaded: how it is cut, how likely each token was, where one model reads better.

Pictures for reports, and the same shades as escaped HTML for widgets.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from curvekit.figures.drawing import (
    DIVERGING,
    FAINT,
    INK,
    MUTED,
    PAPER,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    array,
    canvas,
    colour,
    luminance,
    shown,
    signed,
    styled,
    text_width,
    wrap,
)
from curvekit.text.scripts import writes_from_right

__all__ = ["token_cuts", "token_differences", "token_probabilities", "token_probabilities_html"]


def _difference_colours(differences: np.ndarray, full: float | None = None) -> tuple[TwoSlopeNorm, np.ndarray]:
    """Colours (T, 4) of differences, full at their 95th percentile, or at 0.1 nats if that is less."""
    if full is None:
        full = float(np.percentile(np.abs(differences), 95)) if differences.size else 0.0
    full = max(full, 0.1)
    norm = TwoSlopeNorm(0, -full, full)
    return norm, np.asarray(DIVERGING(norm(differences.clip(-full, full)))).reshape(-1, 4)


LINE = 0.25  # inches from one line of coloured text to the next


def _lines_of(tokens: Sequence[str]) -> tuple[list[tuple[float, int, float, str]], int]:
    """Where each token stands in a running text, as (x, line, width, text), and how many lines there are.

    A text that begins from the right is laid out from there; words of the other direction within it are by themselves.
    """
    size, margin = 9.5, 0.1
    space = text_width("n n", size) - text_width("nn", size)
    boxes: list[tuple[float, int, float, str]] = []
    x, line = margin, 0
    for token in tokens:
        text = shown(token.strip())
        if "\n" in token and not text and x > margin:
            line, x = line + 1, margin
        x += space if token.startswith(" ") else 0
        width = text_width(text, size)
        if x + width > WIDTH - margin and x > margin:
            line, x = line + 1, margin
        boxes.append((x, line, width, text))
        x += width + 0.01 if text else 0
    if writes_from_right("".join(tokens)):
        boxes = [(WIDTH - x - width, row, width, text) for x, row, width, text in boxes]
    return boxes, line + 1


def _coloured_text(
    figure: Figure, boxes: Sequence[tuple[float, int, float, str]], shades: Any, rows: int, foot: float
) -> None:
    """Draw what :func:`_lines_of` placed, ``foot`` inches above the lower edge of the figure."""
    height = figure.get_figheight()
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, foot / height, 1, LINE * rows / height))
    ax.set_axis_off()
    ax.set_xlim(0, WIDTH)
    ax.set_ylim(rows, 0)
    for (x, row, width, text), shade in zip(boxes, shades, strict=True):
        if text:
            shape: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.03", "mutation_aspect": 1 / LINE}
            ax.add_patch(FancyBboxPatch((x - 0.012, row + 0.1), width + 0.024, 0.8, fc=shade, ec="none", **shape))
            ax.text(x, row + 0.72, text, size=9.5, color=PAPER if luminance(shade) < 0.4 else INK)


@styled
def token_cuts(cuts: Mapping[str, Sequence[str]]) -> Figure:
    """How a text is cut: for each tokeniser its lines, in which neighbouring tokens differ in their tint.

    Args:
        cuts: name -> (T,) token strings, spaces included.
    """
    boxes: list[tuple[float, int, float, str]] = []
    names: list[tuple[int, str]] = []
    for name, tokens in cuts.items():
        top = boxes[-1][1] + 1 if boxes else 0
        names.append((top, f"{name}: {len(tokens)} tokens"))
        boxes += [(x, line + top + 1, width, text) for x, line, width, text in _lines_of(tokens)[0]]
    rows = boxes[-1][1] + 1 if boxes else 1
    tints = [to_rgb(tint) for tint in ("#cfe3f1", "#fbd3bd")]
    shades = [tints[number % 2] for tokens in cuts.values() for number in range(len(tokens))]
    figure = canvas(
        "How a sentence is cut",
        "Each box is a token; the space before a word belongs to it, but for characters, where it is one.",
        0.7 + LINE * rows,
    )
    _coloured_text(figure, boxes, shades, rows, 0.1)
    for top, said in names:
        figure.axes[0].text(0.1, top + 0.78, said, size=SMALL, color=MUTED, weight="bold")
    return figure


@styled
def token_differences(
    tokens: Sequence[str], differences: Any, recipe: str, baseline: str = "gpt2", full: float | None = None
) -> Figure:
    """A text whose tokens are coloured by how much better (blue) or worse (orange) a recipe predicts them.

    Args:
        tokens: (T,) token strings, spaces included.
        differences: (T,) loss of the recipe less that of the baseline, in nats.
        recipe, baseline: which they are.
        full: the difference at which colours are full, to share among pictures; default: the 95th percentile.
    """
    values = array(differences).astype(float)
    norm, shades = _difference_colours(values, full)
    boxes, rows = _lines_of(tokens)
    height = 1.3 + LINE * rows
    figure = canvas(
        f"Where {recipe} reads better, and where worse, than {baseline}",
        f"Each token's loss less {baseline}'s; over this text {signed(float(values.mean()))} nats a token.",
        height,
    )
    _coloured_text(figure, boxes, shades, rows, 0.5)
    scale = figure.add_axes((0.4 / WIDTH, 0.27 / height, 2.2 / WIDTH, 0.09 / height))
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING), cax=scale, orientation="horizontal")
    bar.outline.set_edgecolor(FAINT)
    edge = norm.vmax or 0.0
    bar.set_ticks([-edge, 0, edge], labels=[f"≤ {signed(-edge, 1)}", "0", f"≥ {signed(edge, 1)}"])
    scale.tick_params(length=0, labelsize=8)
    says = f"nats; blue: {recipe} is better, orange: worse"
    figure.text(2.95 / WIDTH, 0.315 / height, says, size=8, color=MUTED, va="center")
    return figure


def _coloured_html(tokens: Sequence[str], titles: Sequence[str], shades: Any, prompt: str = "") -> str:
    spans = [f'<span style="opacity:0.6">{html.escape(prompt)}</span>'] if prompt else []
    for token, title, shade in zip(tokens, titles, shades, strict=True):
        ink = PAPER if luminance(shade) < 0.4 else INK
        style = f"background:{to_hex(shade)};color:{ink};border-radius:3px"
        spans.append(f'<span title="{html.escape(title)}" style="{style}">{html.escape(token)}</span>')
    style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7"
    return f'<div dir="auto" style="{style}">{"".join(spans)}</div>'


SURPRISE = 9.0  # nats at which a token's colour is full: one chance in 8,000


def _surprise_colours(probabilities: np.ndarray) -> np.ndarray:
    """Colours (T, 4): white for a token that was certain, the darker the less likely it was."""
    surprise = -np.log(np.clip(probabilities, 1e-12, 1.0))
    return np.asarray(SEQUENTIAL(np.clip(surprise / SURPRISE, 0, 1) * 0.62)).reshape(-1, 4)


@styled
def token_probabilities(blocks: Mapping[str, tuple[Sequence[str], Any]], prompt: str = "") -> Figure:
    """Texts whose tokens are the darker, the less likely their model held them.

    Args:
        blocks: heading, such as a recipe -> (token strings (T,), spaces included; their probabilities (T,)).
        prompt: what they continue.
    """
    placed = [(name, _lines_of(tokens), array(odds).astype(float)) for name, (tokens, odds) in blocks.items()]
    note = "Each token's shade: the probability its model gave it. White was certain."
    if prompt:
        note += f" The prompt: {shown(prompt[-300:])}"
    head = 0.36 + 0.165 * len(wrap(note, WIDTH - 0.25))
    heading, gap, foot = 0.2, 0.16, 0.42
    height = head + foot + sum(heading + gap + LINE * rows for _, (_, rows), _ in placed)
    figure = canvas("What was written, and how likely each token was", note, height)
    y = height - head
    for name, (boxes, rows), odds in placed:
        surprise = -float(np.log(np.clip(odds, 1e-12, 1)).mean()) if odds.size else 0.0
        y -= gap
        ink = colour(name.rpartition(":")[2])
        figure.text(0.1 / WIDTH, y / height, shown(name), size=9, weight="bold", color=ink, va="top")
        says = f"{len(odds)} tokens, {surprise:.2f} nats each"
        figure.text(1 - 0.1 / WIDTH, y / height, says, size=8, color=MUTED, va="top", ha="right")
        y -= heading + LINE * rows
        _coloured_text(figure, boxes, _surprise_colours(odds), rows, y)
    marks = np.array([1.0, 0.1, 0.01, 0.001])
    for place, (mark, shade) in enumerate(zip(marks, _surprise_colours(marks), strict=True)):
        box = figure.add_axes(((0.1 + 0.75 * place) / WIDTH, 0.12 / height, 0.2 / WIDTH, 0.16 / height))
        box.set_facecolor(shade)
        box.set_xticks([])
        box.set_yticks([])
        box.spines[:].set_visible(True)
        box.spines[:].set_color(FAINT)
        figure.text((0.36 + 0.75 * place) / WIDTH, 0.2 / height, f"{100 * mark:g} %", size=8, color=MUTED, va="center")
    return figure


def token_probabilities_html(
    tokens: Sequence[str],
    probabilities: Any,
    alternatives: Sequence[Sequence[tuple[str, float]]] = (),
    prompt: str = "",
) -> str:
    """The same coloured text as HTML, escaped; the pointer on a token shows its probability and what else was likely.

    Args:
        tokens, probabilities: (T,) of one text, as for :func:`token_probabilities`.
        alternatives: (T,) of (token, probability), the likeliest first; may be left out.
        prompt: stands before them, paler.
    """
    values = array(probabilities).astype(float)
    titles = []
    for place, (token, value) in enumerate(zip(tokens, values, strict=True)):
        others = alternatives[place] if place < len(alternatives) else ()
        lines = [f"{_quoted(token)} {_percent(value)}"]
        lines += [f"{_quoted(text)} {_percent(p)}" for text, p in others if text != token]
        titles.append("\n".join([lines[0], "or", *lines[1:]] if len(lines) > 1 else lines))
    return _coloured_html(tokens, titles, _surprise_colours(values), prompt)


def _quoted(token: str) -> str:
    return "“" + token.replace("\n", "↵").replace("\t", "→") + "”"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.001 else f"{100 * value:.1g} %"
