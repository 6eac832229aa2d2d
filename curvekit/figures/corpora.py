"""What a corpus is made of: lengths of its documents, Zipf's curve of its words, its scripts, what a tokeniser asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from curvekit.figures.drawing import (
    FAINT,
    HELPS,
    HURTS,
    INK,
    MUTED,
    SEQUENTIAL,
    SMALL,
    array,
    canvas,
    legible,
    luminance,
    number,
    spoken_ticks,
    styled,
)

OF_SPLIT = {"train": INK, "validation": HELPS, "test": HURTS}


@styled
def document_lengths(lengths: Mapping[str, Any], name: str = "") -> Figure:
    """How long documents are, a curve for each split, its median marked.

    Args:
        lengths: split -> (documents,) words.
        name: of the corpus.
    """
    shades = {split: OF_SPLIT.get(split, MUTED) for split in lengths}
    figure = canvas(
        "How long are the documents?" + (f" {name}" if name else ""),
        "Share of each split's documents that have so many words or fewer; the dot is the median.",
        3.3,
        key=[(f"{split}: {len(array(each)):,}", shades[split], "-") for split, each in lengths.items()],
    )
    ax = figure.add_subplot()
    sizes = {split: np.maximum(array(each).astype(float), 1) for split, each in lengths.items()}
    low, high = min(each.min() for each in sizes.values()), max(each.max() for each in sizes.values())
    for split, each in sizes.items():
        share = np.arange(1, len(each) + 1) / len(each)
        ax.step(np.sort(each), share, color=shades[split], lw=1.7, where="post")
        ax.plot(np.median(each), 0.5, "o", ms=7, color=shades[split], zorder=5)
    ax.set_xscale("log")
    spoken_ticks(ax.xaxis, low, max(high, low * 1.5))
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    ax.set_xlabel("words in a document")
    ax.set_ylabel("share of documents")
    return figure


@styled
def zipf(counts: Any, exponent: float, once: float, common: Sequence[str] = (), name: str = "") -> Figure:
    """Zipf's curve: how often a word occurs by its rank, both on logarithmic axes.

    Args:
        counts: (words,) occurrences from the commonest down.
        exponent: of the fitted line; ``once``: share of words that occur once.
        common: the commonest words, written at their places.
        name: of the corpus.
    """
    counts = array(counts).astype(float)
    figure = canvas(
        "Zipf's curve" + (f" of {name}" if name else ""),
        f"{len(counts):,} different words; {once:.0%} of them occur once. The line has the fitted exponent, "
        f"{exponent:.2f}; Zipf's is 1.",
        3.5,
    )
    ax = figure.add_subplot()
    ranks = np.arange(1, len(counts) + 1)
    kept = np.unique(np.geomspace(1, len(counts), 400).astype(int)) - 1
    ax.plot(ranks[kept], counts[kept], "o", ms=3.2, color=HELPS, mec="none")
    if np.isfinite(exponent) and len(counts) > 10:
        span = np.array([10.0, min(10_000.0, len(counts))])
        middle = int(np.sqrt(span.prod()))
        ax.plot(span, counts[middle - 1] * (span / middle) ** -exponent, color=HURTS, lw=1.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    spoken_ticks(ax.xaxis, 1, max(2, len(counts)))
    spoken_ticks(ax.yaxis, 1, max(2, counts[0]) if len(counts) else 2)
    for rank, word in enumerate(common, 1):
        if rank in (1, 3, 10, 30, 100):
            ax.annotate(
                legible(word).replace("$", r"\$"), (rank, counts[rank - 1]), xytext=(3, 4), textcoords="offset points",
                size=SMALL, color=MUTED,
            )  # fmt: skip
    ax.set_xlabel("rank of the word")
    ax.set_ylabel("occurrences")
    return figure


@styled
def shares_of_scripts(scripts: Mapping[str, int], name: str = "", most: int = 8) -> Figure:
    """In which scripts the letters are, the commonest first."""
    total = sum(scripts.values()) or 1
    ordered = sorted(scripts.items(), key=lambda each: -each[1])
    rows = ordered[:most] + ([("others", sum(n for _, n in ordered[most:]))] if len(ordered) > most else [])
    rows = rows or [("none", 0)]
    figure = canvas(
        "Which scripts?" + (f" {name}" if name else ""),
        "Share of all letters, on an axis that shows a few among many.",
        1.2 + 0.27 * len(rows),
    )
    ax = figure.add_subplot()
    least = 10.0 ** np.floor(np.log10(max(min(n for _, n in rows), 0.5) / total))
    for y, (_, n) in enumerate(rows):
        ax.barh(y, max(n / total, least) - least / 2, left=least / 2, height=0.62, color=HELPS if y else INK)
        ax.text(1.02, y, f"{n / total:.2%}" if n / total > 5e-5 else f"{n:,}", va="center", size=SMALL,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(rows)), [script for script, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.set_xlim(least / 2, 1)
    ax.set_xlabel("share of all letters")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    return figure


@styled
def price_of_a_vocabulary(
    tokens: Mapping[str, Mapping[str, float]],
    title: str,
    note: str,
    unit: str = "",
    reference: str | None = None,
    by_column: bool = False,
) -> Figure:
    """What each tokeniser asks for each text, as a table of shaded cells.

    Args:
        tokens: tokeniser -> text or language -> the figure; all have the same texts.
        title, note: the heading.
        unit: of the figure, for the scale.
        reference: a text whose column is drawn apart, such as English.
        by_column: the columns have units of their own, and shades too.
    """
    names = list(next(iter(tokens.values())))
    values = np.array([[row[name] for name in names] for row in tokens.values()], float)
    figure = canvas(title, note, 1.5 + 0.36 * len(tokens))
    ax = figure.add_subplot()
    logs = np.log(np.maximum(values, 1e-9))
    if by_column:
        logs = (logs - logs.min(0)) / np.maximum(np.ptp(logs, axis=0), 1e-9)
    norm = Normalize(logs.min(), max(logs.max(), logs.min() + 1e-6))
    ax.imshow(logs, cmap=SEQUENTIAL, norm=norm, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            dark = luminance(SEQUENTIAL(norm(logs[y, x]))) < 0.4
            ax.text(x, y, number(value), ha="center", va="center", size=SMALL, color="white" if dark else INK)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(tokens)), list(tokens))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if reference in names:
        ax.axvline(names.index(reference) + 0.5, color=FAINT, lw=3)
    ax.set_xlabel(unit, color=MUTED)
    return figure


def price_of_languages(prices: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """What :func:`curvekit.evaluation.languages.prices` found, the cheapest language first."""
    first = next(iter(prices.values()))
    order = sorted(first, key=lambda language: sum(each[language]["premium"] for each in prices.values()))
    return price_of_a_vocabulary(
        {name: {language: each[language]["premium"] for language in order} for name, each in prices.items()},
        "What a vocabulary asks of a language",
        "Tokens for the same text, as a multiple of what the same tokeniser needs for English.",
    )


def pictures(found: Any) -> dict[str, Figure]:
    """The figures of an :class:`curvekit.text.exploration.Exploration`, by their files' names."""
    counts, exponent, once = found.zipf()
    common = [word for word, _ in found.words.most_common(100)]
    figures = {
        "document-lengths": document_lengths({name: each.lengths for name, each in found.splits.items()}, found.name),
        "zipf": zipf(counts, exponent, once, common, found.name),
        "scripts": shares_of_scripts(found.scripts, found.name),
    }
    if found.tokens:
        units = {"per_word": "tokens a word", "bytes_per_token": "bytes a token", "cut": "share of words cut"}
        figures["tokens"] = price_of_a_vocabulary(
            {name: {unit: each[key] for key, unit in units.items()} for name, each in found.tokens.items()},
            f"What tokenisers make of {found.name}",
            "Fewer tokens a word are cheaper; a word that is cut is learned from its pieces. Shades by column.",
            by_column=True,
        )
    return figures
