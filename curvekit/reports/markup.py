"""Tables, texts and findings as HTML, the same in a notebook and on a report's page; every text in it is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.evaluation.results import cells, contrast_cells
from curvekit.figures.drawing import colour, coloured

if TYPE_CHECKING:
    from curvekit.experiments.comparison import Comparison

FURTHER = ("leaks", "word perplexity", "bits/byte", "token accuracy", "BLEU", "seeds")
_NUMBER = re.compile(r"[-+−±]?[\d.,]+(e[-+]\d+)?( ?%)?( ± [\d.,]+)?( \[.*\])?|n/a|–|")
_TOP = "text-align:left;vertical-align:top"


class Html:
    """Finished HTML that a notebook displays."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Html) -> Html:
        return Html(self.text + other.text)


def table(rows: Iterable[Mapping[str, Any]], caption: str = "") -> Html:
    """Rows of equal keys as a table.

    Columns of numbers stand on the right, None is a dash, and everything else is text. Recipes and normalisers in
    the first column have their colours.
    """
    rows = list(rows)
    names = list(rows[0] if rows else ())
    written = [[_written(row[name]) for name in names] for row in rows]
    right = [all(_NUMBER.fullmatch(text) for text in column) for column in zip(*written, strict=True)]
    styles = [f"text-align:{'right' if side else 'left'};vertical-align:bottom" for side in right]
    lines = [
        _first(line[0])
        + "".join(_cell("td", text, _side(text, side)) for text, side in list(zip(line, right, strict=True))[1:])
        for line in written
    ]
    return _table([_cell("th", name, style) for name, style in zip(names, styles, strict=True)], lines, caption)


def texts(rows: Iterable[Mapping[str, str]], caption: str = "") -> Html:
    """Rows of equal keys with longer texts, whose line breaks are kept."""
    rows = list(rows)
    known, prose = coloured(), f"{_TOP};white-space:pre-wrap;overflow-wrap:anywhere"
    lines = ["".join(_first(t) if t in known else _cell("td", t, prose) for t in row.values()) for row in rows]
    return _table([_cell("th", name, _TOP) for name in (rows[0] if rows else ())], lines, caption, "texts")


def _table(head: Sequence[str], lines: Sequence[str], caption: str, kind: str = "figures") -> Html:
    above = f'<p class="caption">{html.escape(caption)}</p>' if caption else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    whole = f'<table class="{kind}"><thead><tr>{"".join(head)}</tr></thead><tbody>{body}</tbody></table>'
    return Html(f'{above}<div class="scroll">{whole}</div>')


def _side(text: str, right: bool) -> str:
    return f"text-align:{'right' if right else 'left'}" + (";white-space:nowrap" if len(text) < 30 or right else "")


def _cell(tag: str, text: str, style: str) -> str:
    direction = ' dir="auto"' if "pre-wrap" in style else ""  # running text, of any script
    return f'<{tag}{direction} style="{style}">{html.escape(text)}</{tag}>'


def _first(text: str) -> str:
    ink = f";color:{colour(text)}" if text in coloured() else ""
    return f'<th scope="row" style="{_TOP}{ink}">{html.escape(text)}</th>'


def _written(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if size == 0 or not size < float("inf"):
        return f"{value:g}"
    if size < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if size >= 10_000 else f"{value:,.1f}" if size >= 1000 else f"{value:#.4g}"


def results(comparison: Comparison) -> Html:
    """The recipes of a comparison: what was tested and what it costs, then the other scores."""
    rows = [cells(row) for row in comparison.rows]
    main = [{name: text for name, text in row.items() if name not in FURTHER} for row in rows]
    more = [{name: row[name] for name in ("recipe", *FURTHER)} for row in rows]
    return table(main, comparison.caption()) + table(more, "Further scores of the same runs, on the same documents.")


def contrasts(comparison: Comparison) -> Html:
    """Pairs of recipes that differ in one thing; a sentence where none is among the recipes."""
    if not comparison.contrasts:
        return Html("<p>None of the ablations is among these recipes, so this comparison cannot say.</p>")
    return table(contrast_cells(row) for row in comparison.contrasts)


def headline(comparison: Comparison) -> str:
    """The result in one sentence, which a null or a negative result is too."""
    corpus = Path(comparison.settings.get("corpus", "the corpus")).name
    found: dict[str, list[Mapping[str, Any]]] = {"better": [], "worse": [], "no significant difference": []}
    for row in comparison.rows:
        if row["p"] is not None and row["verdict"] in found:
            found[row["verdict"]].append(row)
    better, worse, same = found.values()
    if not better + worse + same:
        return f"On {corpus} nothing could be compared with {comparison.baseline}."
    if better:
        verb = "lowers" if len(better) == 1 else "lower"
        clauses = [f"{_named(better)} {verb} the perplexity of {comparison.baseline} by {_percentages(better)}"]
    else:
        clauses = [f"no recipe is better than {comparison.baseline}"]
    if worse:
        what = "it" if better else "its perplexity"
        clauses.append(f"{_named(worse)} {'raises' if len(worse) == 1 else 'raise'} {what} by {_percentages(worse)}")
    if same:
        clauses.append(f"{_named(same)} {'makes' if len(same) == 1 else 'make'} no significant difference")
    if lost := [row for row in better + worse if row["p_holm"] >= 0.05]:
        clauses.append(f"corrected for the number of comparisons, that of {_named(lost)} is not significant")
    seeds = ", under a single seed" if len(comparison.seeds) == 1 else ""
    return f"On {corpus}{seeds}, {'; '.join(clauses)}."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    return _listed([row["recipe"] for row in rows])


def _percentages(rows: Sequence[Mapping[str, Any]]) -> str:
    shares = (abs(100 * row["relative_perplexity"]) for row in rows)
    return _listed([f"{share:.0f} %" if share >= 9.95 else f"{share:.2g} %" for share in shares])


def conclusion(comparison: Comparison) -> Html:
    """The headline, and what was found in full."""
    return Html(f"<p><b>{marked(headline(comparison))}</b></p><p>{marked(comparison.summary())}</p>")


def marked(text: str) -> str:
    """Escaped text in which the names of recipes have their colours and do not break."""
    names = "|".join(re.escape(name) for name in sorted(coloured(), key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w+-])({names})(?![\w+-])")
    style = "font-weight:600;white-space:nowrap;color:"
    return pattern.sub(lambda m: f'<span style="{style}{colour(m[1])}">{m[1]}</span>', html.escape(text))
