"""The style that all pictures share: colours, canvas, labels that keep apart, files that come out the same.

Colours mean the same thing in every picture, one for each recipe and each normaliser, and colour-blind readers
can tell them apart; dashes mark what is unbounded or leaks. Figures belong to no window and to no pyplot state.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D

from curvekit.errors import CurvekitError
from curvekit.files import write_atomically
from curvekit.ownership import require_file
from curvekit.recipes import OWN_PARTS, OWN_RECIPES

INK, MUTED, QUIET, FAINT, PAPER = "#1f2328", "#5b6068", "#8b9097", "#e3e6e9", "#ffffff"
HELPS, HURTS = "#0067a8", "#c2410c"
SEQUENTIAL = LinearSegmentedColormap.from_list("blues", [PAPER, "#cfe3f1", "#6aaed6", HELPS, "#08335c"])
FORBIDDEN = LinearSegmentedColormap.from_list("oranges", [PAPER, "#fbd3bd", "#ef7c43", HURTS, "#6b1d00"])
ALLOWED = LinearSegmentedColormap.from_list("greys", [PAPER, "#e4e6ea", "#a9afb8", "#6c737d"])
DIVERGING = LinearSegmentedColormap.from_list("difference", [HELPS, "#8fc1e0", PAPER, "#f4b48f", HURTS])

COLOURS = {
    # recipes
    "gpt2": "#26292d",
    "plain": "#26292d",
    "curve": "#0072b2",
    "softemax": "#e0701a",
    "curve+softemax": "#8f2a6b",
    "published": "#7a5200",
    "encoder": "#3fb0c2",
    "self-curve": "#4f8a3c",
    "random-encoder": "#8c8478",
    "curve-causal": "#41339f",
    "sink": "#cf6f9c",
    "curve+sink": "#8f5fa8",
    "plain, widened": "#8b9097",
    "curve3": "#0072b2",
    "curve3+softemax": "#8f2a6b",
    "curve3+sink": "#8f5fa8",
    "curve3+sites+softemax": "#c2410c",
    "self-curve3": "#4f8a3c",
    "canon": "#a8842f",
    "trigram": "#41339f",
    "smear": "#cf6f9c",
    # relatives in the shades of theirs: curves blue, own embeddings green, the blocks violet, peers brown to grey
    "curve3-places": "#5fb4ea",
    "bspline": "#2f5f8f",
    "learned": "#6b8fb5",
    "sites": "#6a5acd",
    "sites-attention": "#8d7fe0",
    "sites-mlp": "#a99fe8",
    "sites-zero": "#c3bcf0",
    "curve3+sites": "#4b2fb8",
    "self-curve3+sites": "#3f7f6f",
    "canon-a": "#a9764a",
    "curve3+canon+softemax": "#0f4c5c",
    "encoder+canon+softemax": "#9a031e",
    "token-shift": "#9c8f6a",
    # normalisers, where no recipe has the same name
    "softmax": "#26292d",
    "stable": "#e0701a",
    "softmax1": "#3fb0c2",
    "inverse": "#8f2a6b",
    "plus": "#a8842f",
    "plus-inverse": "#cf6f9c",
    # losses
    "cross_entropy": "#26292d",
    "label_smoothing": "#3fb0c2",
    "focal": "#e0701a",
    "inverse_frequency": "#8f2a6b",
    "unlikelihood": "#4f8a3c",
    "z-loss": "#8c8478",
    # ways to train a base
    "fine-tuned": "#26292d",
    "head only": "#0072b2",
    "from scratch": "#e0701a",
}
SPARE = ("#0072b2", "#e0701a", "#4f8a3c", "#8f2a6b", "#7a5200", "#3fb0c2", "#41339f", "#8c8478")
OWN = ("#d6006c", "#00806a", "#b58900", "#5e2ca5", "#c62828", "#2e7d32", "#795548", "#00838f")  # of what is registered
FONT = "DejaVu Sans"  # comes with matplotlib: a figure has the same widths on every machine
WIDTH = 7.4  # inches: the text width of a report
SMALL = 8.5  # points: labels and notes

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "figure.facecolor": PAPER,
    "font.family": FONT,
    "font.size": 9,
    "grid.color": "#e9ebee",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "curvekit",
    "text.color": INK,
    "xtick.color": QUIET,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.color": QUIET,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": SMALL,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in :data:`STYLE` whatever the user's own settings are, and leave those as they were."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            matplotlib.rcParams["font.family"] = [FONT, *_families]
            if _lacking.get() is not None:  # a picture within a picture
                return draw(*args, **kwargs)
            token = _lacking.set({})
            try:
                figure = draw(*args, **kwargs)
                _say_under(figure, _lacking.get() or {})
                return figure
            finally:
                _lacking.reset(token)

    return wrapper


def array(values: Any) -> np.ndarray:
    """A list, an array or a tensor (of any device and type, with a gradient or without) as a numpy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def colour(name: str) -> str:
    """The colour of a recipe or a normaliser; a name that is neither gets a steady one of its own.

    What a user registers gets one that no other recipe has, and no two of them the same while there are enough.
    """
    return COLOURS.get(name) or _own_colours().get(name) or SPARE[sum(name.encode()) % len(SPARE)]


def distinct(names: Iterable[str]) -> dict[str, str]:
    """The colours of names that stand in one picture: no two the same while there are enough."""
    found = {name: COLOURS.get(name) or _own_colours().get(name) for name in names}
    for name, shade in found.items():
        if shade is None:
            first = SPARE.index(colour(name))
            order = [*SPARE[first:], *SPARE[:first], *OWN]
            found[name] = next((each for each in order if each not in found.values()), order[0])
    return {name: str(shade) for name, shade in found.items()}


def coloured() -> list[str]:
    """The names that have a colour of their own: recipes, normalisers, ways to train."""
    return [*COLOURS, *_own_colours()]


def _own_colours() -> dict[str, str]:
    """Of each registered name the colour that its letters choose, or the next that is free."""
    found: dict[str, str] = {}
    for name in dict.fromkeys([*OWN_RECIPES, *OWN_PARTS]):
        first = sum(name.encode()) % len(OWN)
        order = [*OWN[first:], *OWN[:first]]
        found[name] = next((shade for shade in order if shade not in found.values()), order[0])
    return found


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, and a minus as long as the plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """A perplexity as a reader says it: 9,321 or 245 or 24.6 or 3.15."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def luminance(shade: Sequence[float]) -> float:
    """Relative luminance of an RGB colour, 0 to 1 (WCAG 2): below 0.4, white text is easier to read on it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# What lies beyond FONT: the families of this machine that were needed so far, and what the picture that is being drawn
# asks for and none of them has.
_families: list[str] = []
_lacking: ContextVar[dict[str, None] | None] = ContextVar("lacking", default=None)


def shown(text: str) -> str:
    """A text as figures can show it: line ends as arrows, ``$`` not as mathematics, and as :func:`legible` says."""
    return legible(text.replace("\n", "↵").replace("\t", "→")).replace("$", r"\$")


def legible(text: str) -> str:
    """A text in which what no font of this machine has is a box; a note under the picture says so."""
    if all(c < "\u0300" and ord(c) in _glyphs(_path(FONT)) and c.isprintable() for c in text):
        return text
    return "".join(map(_legible, text))


def _legible(character: str) -> str:
    if unicodedata.category(character) == "Cf" or "VARIATION SELECTOR" in unicodedata.name(character, ""):
        return ""  # what joins and varies, as in emoji, is not seen
    if not character.isprintable():
        return "▯"
    if ord(character) in _glyphs(_path(FONT)):
        return character
    family = _family(character)
    lacking = _lacking.get()
    if family is None:
        if lacking is not None:
            lacking[character] = None
        return "▯"
    if lacking is not None:  # within a picture, of whose style this is a part
        matplotlib.rcParams["font.family"] = [FONT, *_families]
    return character


def _path(family: str) -> str:
    return str(font_manager.findfont(family))


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def _family(character: str) -> str | None:
    """A family of fonts on this machine that has a character and that matplotlib can draw; the first is kept to."""
    known = [font for family in _families for font in font_manager.fontManager.ttflist if font.name == family]
    others = sorted(
        (font for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name),  # it draws boxes itself
        key=lambda font: (not re.search(r"CJK|Sans|Gothic|Emoji", font.name), font.style != "normal", font.name),
    )
    for font in (*known, *others):
        try:
            if ord(character) not in _glyphs(font.fname):
                continue
            loaded = font_manager.get_font(font.fname)
            loaded.set_size(9, 72)
            loaded.load_char(ord(character))  # fonts of coloured bitmaps have it and cannot be drawn
        except (OSError, RuntimeError, ValueError):
            continue
        if font.name not in _families:
            _families.append(font.name)
            logging.getLogger("matplotlib.font_manager").addFilter(_no_weights)
        return str(font.name)
    return None


def _no_weights(record: logging.LogRecord) -> bool:
    """Nobody needs to hear that a font of another script has no bold."""
    return "font weight" not in str(record.msg)


def _say_under(figure: Figure, lacking: Iterable[str]) -> None:
    """Under the figure, say what its boxes stand for."""
    characters = list(lacking)
    if not characters:
        return
    some = ", ".join(f"U+{ord(c):04X}" for c in characters[:4]) + (", ..." if len(characters) > 4 else "")
    note = (
        f"▯: no font of this machine has {'this character' if len(characters) == 1 else 'these characters'} ({some}); "
        "fonts such as Noto Sans CJK and Noto Emoji have them, where they are installed"
    )
    lines = wrap(note, WIDTH - 0.25, 8)
    room = 0.12 + 0.15 * len(lines)
    whole = figure.get_figheight() + room
    _move_up(figure, figure.get_figheight() / whole)
    figure.set_size_inches(figure.get_figwidth(), whole)
    figure.text(0.1 / WIDTH, (room - 0.04) / whole, "\n".join(lines), size=8, color=MUTED, va="top", linespacing=1.3)
    figure.set_label(f"{figure.get_label()} {note}.".strip())


def _move_up(figure: Figure, share: float) -> None:
    """Leave room under what is drawn, which keeps its inches and takes the upper ``share`` of the height."""
    squeeze = Affine2D().scale(1, share).translate(0, 1 - share)
    for artist in (*figure.texts, *figure.artists, *figure.lines, *figure.patches):
        inner = artist.get_transform()
        artist.set_transform(squeeze + inner)
    layout: Any = figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        left, bottom, width, height = layout.get()["rect"]
        layout.set(rect=(left, 1 - share + bottom * share, width, height * share))
    for ax in figure.axes:
        if not isinstance(layout, ConstrainedLayoutEngine) or ax.get_subplotspec() is None:
            left, bottom, width, height = ax.get_position(original=True).bounds
            ax.set_position((left, 1 - share + bottom * share, width, height * share))


@functools.cache
def _measure() -> Any:
    return FigureCanvasAgg(Figure(figsize=(1, 1), dpi=200)).get_renderer()


def text_width(text: str, size: float = SMALL, weight: str = "normal") -> float:
    """Inches that a line of text takes."""
    font = font_manager.FontProperties(family=[FONT, *_families], size=size, weight=weight)
    text = text.replace(r"\$", "$")
    return _measure().get_text_width_height_descent(text, font, False)[0] / 200 if text else 0.0


def wrap(text: str, width: float, size: float = SMALL) -> list[str]:
    """Break a text into lines of at most ``width`` inches."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def canvas(
    title: str,
    note: str = "",
    height: float = 3.4,
    key: Sequence[tuple[str, str, str]] = (),
    foot: float = 0.0,
) -> Figure:
    """An empty figure of a report's width, with its heading.

    Args:
        title: what it shows, in bold.
        note: how to read it, below; broken into lines that fit.
        height: inches, heading included.
        key: (name, colour, line style) of what the lines are, in rows below the note.
        foot: inches kept free at the bottom.
    """
    title, note = legible(title), legible(note)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_label(f"{title}. {note}".strip())
    lines = wrap(note, WIDTH - 0.25)
    left, line_height = 0.1, 0.165
    figure.text(left / WIDTH, 1 - 0.09 / height, title, size=11, weight="bold", va="top")
    figure.text(
        left / WIDTH,
        1 - 0.325 / height,
        "\n".join(lines),
        size=SMALL,
        color=MUTED,
        va="top",
        linespacing=1.35,
    )
    head = 0.36 + line_height * len(lines)
    x, y = left, head + 0.03
    for name, shade, style in key:
        wide = text_width(name, weight="bold")
        if x > left and x + 0.3 + wide > WIDTH - 0.1:
            x, y = left, y + 0.2
        middle = 1 - (y + 0.075) / height
        figure.add_artist(Line2D([x / WIDTH, (x + 0.24) / WIDTH], [middle] * 2, color=shade, ls=style, lw=2.2))
        figure.text((x + 0.3) / WIDTH, 1 - y / height, name, size=SMALL, color=shade, va="top", weight="bold")
        x, head = x + 0.3 + wide + 0.2, y + 0.19
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, foot / height, 1, 1 - (head + foot) / height), w_pad=0.1, h_pad=0.06, wspace=0.05)
    return figure


def scale_bar(figure: Figure, axes: Any, colours: Any, norm: Any, label: str, ticks: Any = None) -> None:
    """What the colours of ``axes`` stand for, in a bar beside them."""
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), shrink=0.75, aspect=26, pad=0.01)
    bar.outline.set_edgecolor(FAINT)
    bar.set_label(label, color=MUTED)
    if ticks is not None:
        bar.set_ticks(list(ticks))


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row for each recipe, top to bottom, its name in its colour."""
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names, weight="bold")
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_color(colour(name))
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")


def upright(ax: Axes, x: float, estimate: tuple[float, float, float], shade: str, size: float = 5) -> None:
    """A dot at ``x`` for an estimate, the first of the three, and a bar from its interval's low end to its high one."""
    middle, low, high = estimate
    ax.plot([x, x], [low, high], color=shade, lw=2.4, solid_capstyle="butt")
    ax.plot(x, middle, "o", ms=size, color=shade, mec="none", zorder=4)


def lying(
    ax: Axes, y: float, estimate: tuple[float, float | None, float | None], shade: str, filled: bool, size: float = 6.5
) -> None:
    """The same in the row at ``y``; the dot is hollow if not ``filled``, and without an interval there is no bar."""
    middle, low, high = estimate
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=shade, lw=2.4, solid_capstyle="butt")
    ax.plot(middle, y, "o", ms=size, color=shade, mfc=shade if filled else PAPER, mew=1.6, zorder=4)


def label_ends(ax: Axes, labels: Iterable[tuple[float, str, str]]) -> None:
    """Name lines at the right edge, (y in data units, text, colour), moved apart where they would touch.

    Call it when the limits of the axes are final.
    """
    to_axes = ax.transScale + ax.transLimits
    low, high = sorted(ax.get_ylim())
    right = ax.get_xlim()[1]
    places = sorted(
        (float(to_axes.transform((right, min(max(y, low), high)))[1]), text, shade) for y, text, shade in labels
    )
    gap = 1.42 * SMALL / 72 / (ax.get_figure(root=True).get_figheight() * 0.66)  # type: ignore[union-attr]
    for (wanted, text, shade), y in zip(places, _apart([place[0] for place in places], gap), strict=True):
        ax.annotate(
            text,
            xy=(1.0, wanted),
            xytext=(1.035, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=shade,
            size=SMALL,
            weight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": shade,
                "lw": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "alpha": 0.7,
            },
        )


def _apart(wanted: list[float], gap: float) -> list[float]:
    """Ascending places as near to the wanted ones as a least distance allows, relaxed pair by pair."""
    places = list(wanted)
    for _ in range(300):
        overlaps = [gap - (b - a) for a, b in itertools.pairwise(places)]
        if not overlaps or max(overlaps) < 1e-4:
            break
        for i, overlap in enumerate(overlaps):
            if overlap > 0:
                places[i] -= overlap / 2
                places[i + 1] += overlap / 2
    return places


_LED = 12  # points between a label and its point from which on a line leads to it


def place_labels(
    ax: Axes, points: np.ndarray, texts: Sequence[str], avoid: np.ndarray, **style: Any
) -> list[Annotation]:
    """Write a label beside each point, on the side and at the distance where it covers least; a line to one far off.

    Args:
        points: (N, 2) in data units.
        texts: (N,)
        avoid: (M, 2) further points that labels should not cover.
        style: of the texts.
    """
    figure: Any = ax.get_figure(root=True)
    figure.canvas.draw()  # the layout must stand before anything is measured
    renderer = figure.canvas.get_renderer()
    pixels = figure.dpi / 72
    dots = ax.transData.transform(points)
    others = np.concatenate([dots, ax.transData.transform(avoid)])
    frame = ax.get_window_extent(renderer)
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    taken: list[np.ndarray] = []
    labels: list[Annotation] = []
    for point, dot, text in zip(points, dots, texts, strict=True):
        label = ax.annotate(text, point, xytext=(0, 0), textcoords="offset points", va="bottom", zorder=6, **style)
        label.set_path_effects([withStroke(linewidth=2.2, foreground=PAPER)])
        labels.append(label)
        size = np.array(label.get_window_extent(renderer).size)
        best: tuple[float, np.ndarray] | None = None
        for distance in (5, 9, 15, 23):
            for rank, side in enumerate(sides):
                corner = dot + np.array(side) * distance * pixels + size * (np.array(side) - 1) / 2
                box = np.concatenate([corner, corner + size])
                cost = 0.6 * distance + 0.15 * rank
                cost += 200 * sum(_overlap(box, other) for other in taken) / size.prod()
                cost += 6 * ((others > box[:2] - 2) & (others < box[2:] + 2)).all(1).sum()
                cost += 2 * np.maximum([frame.x0 - box[0], frame.y0 - box[1]], 0).sum()
                cost += 2 * np.maximum([box[2] - frame.x1, box[3] - frame.y1], 0).sum()
                if best is None or cost < best[0]:
                    best = (cost, box)
        assert best is not None
        taken.append(best[1])
        label.set_position(tuple((best[1][:2] - dot) / pixels))
        near = np.clip(dot, best[1][:2], best[1][2:]) - dot
        if np.hypot(*near) > _LED * pixels:
            ax.annotate(
                "", point, tuple(near / pixels), textcoords="offset points", zorder=4,
                arrowprops={"arrowstyle": "-", "lw": 0.8, "color": MUTED, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    return labels


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))


def spoken_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks that a reader says aloud (20, 50, 2,000) on a logarithmic axis from ``low`` to ``high``."""
    decades = np.log10(high / low)
    if decades < 0.3:
        axis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
        axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:g}"))


def render(figure: Figure, kind: str = "png", dpi: int = 200) -> bytes:
    """The figure as ``png`` or ``svg``; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": "curvekit"} if kind == "svg" else {"Software": "curvekit"}
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


class Picture:
    """A figure that a notebook shows as a sharp PNG of its true size, its description as the ``alt`` text."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        label = str(self.figure.get_label())
        width = round(self.figure.get_figwidth() * 100)
        return {"image/png": render(self.figure), "text/plain": label}, {"image/png": {"width": width, "alt": label}}


def save(figure: Figure, name: str, report_dir: str | Path | None = None) -> Picture:
    """Write ``<report_dir>/figures/<name>.svg`` and ``.png``, and return the picture for a notebook to show.

    Without a folder nothing is written, so that the same cell serves exploring and reports.

    Raises:
        CurvekitError: the name holds something else than letters, digits, ``.``, ``-``, ``_`` and ``+``; a picture
            of another's has that name; or the folder cannot be written.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise CurvekitError(f"the figure name {name!r} must be letters, digits, '.', '-', '_' and '+'; rename it")
    if report_dir:
        for kind in ("svg", "png"):
            data = render(figure, kind)
            path = Path(report_dir) / "figures" / f"{name}.{kind}"
            require_file(path, is_figure)
            write_atomically(path, functools.partial(_write, data))
    return Picture(figure)


def is_figure(path: Path) -> bool:
    """Whether a picture is one that :func:`render` made: its metadata say so."""
    with path.open("rb") as file:
        head = file.read(8192)
    if path.suffix == ".svg":
        return b"<dc:title>curvekit</dc:title>" in head
    return head.startswith(b"\x89PNG") and b"Software\0curvekit" in head


def _write(data: bytes, file: IO[bytes]) -> None:
    file.write(data)
