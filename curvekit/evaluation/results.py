"""Results on paper: rows as a GitHub table, as a LaTeX table, in words, and between the marks of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError
from curvekit.files import write_text

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
INTERVAL = "Δ nats/token [95% interval]"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


_FIGURES = (
    *("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy", "bleu"),
    *("tokens_per_second", "parameters", "trainable_parameters"),
)
_TESTED = dict.fromkeys(("difference", "low", "high", "p", "p_holm", "relative_perplexity"), (float, None))
ROW = {  # of a recipe in a saved comparison
    "recipe": str,
    "leaks": bool,
    "verdict": str,
    "seeds": int,
    "perplexities": [(float, None)],
    "per_seed": (None, [(float, None)]),
    **_TESTED,
    **dict.fromkeys((each for name in _FIGURES for each in (name, f"{name}_sd")), (float, None)),
}
CONTRAST = {"recipe": str, "a": str, "b": str, "verdict": str, **_TESTED}  # of two recipes


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """One recipe's figures as text, by column."""
    return {
        "recipe": row["recipe"],
        "leaks": "yes" if row["leaks"] else "no",
        "perplexity": spread(row, "perplexity", 2),
        "word perplexity": spread(row, "word_perplexity", 2),
        "bits/byte": spread(row, "bits_per_byte", 4),
        "token accuracy": spread(row, "token_accuracy", 4),
        "BLEU": spread(row, "bleu", 2),
        INTERVAL: interval(row),
        "p (Holm)": number(row["p_holm"], 4),
        "verdict": row["verdict"],
        "trainable parameters": number(row["trainable_parameters"], 0),
        "tokens/s": number(row["tokens_per_second"], 0),
        "seeds": str(row["seeds"]),
    }


def contrast_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The same for two recipes against each other."""
    return {
        "contrast": row["recipe"],
        INTERVAL: interval(row),
        "p (Holm)": number(row["p_holm"], 4),
        "verdict": row["verdict"],
    }


def number(x: float | None, digits: int) -> str:
    return "n/a" if x is None else f"{x:,.{digits}f}"


def spread(row: Mapping[str, Any], name: str, digits: int) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one seed."""
    deviation = row[f"{name}_sd"]
    return number(row[name], digits) + ("" if deviation is None else f" ± {deviation:,.{digits}f}")


def interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "n/a"
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def finding(row: Mapping[str, Any], other: str) -> str:
    """``is better than gpt2: -0.0270 [-0.0350, -0.0190] nats a token, perplexity -2.7%``"""
    figures = f"{interval(row)} nats a token"
    if row["verdict"] == "no significant difference":
        return f"does not differ significantly from {other}: {figures}"
    return f"is {row['verdict']} than {other}: {figures}, perplexity {100 * row['relative_perplexity']:+.1f}%"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal columns as a GitHub table; words to the left, figures to the right."""
    rule = ["---" if _words(rows, column) else "---:" for column in rows[0]]
    return "\n".join(_pipes(line) for line in (rows[0], rule, *(row.values() for row in rows)))


def _words(rows: Sequence[Mapping[str, str]], column: str) -> bool:
    """Whether a column holds words: something in it is no figure."""
    return any(not re.match(r"[-+]?[\d.]|n/a|$", row[column]) for row in rows)


def _pipes(line: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"


def latex_table(rows: Sequence[Mapping[str, str]], caption: str) -> str:
    """Rows of equal columns as a table for booktabs."""
    columns = "".join("l" if _words(rows, column) else "r" for column in rows[0])
    lines = [" & ".join(map(latex, line)) + r" \\" for line in (rows[0], *(row.values() for row in rows))]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(caption)}}}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """Escape what LaTeX would read as a command, and set signed numbers as mathematics."""
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w$])[+-]\d[\d.]*\d", r"$\g<0>$", escaped)


def fill(page: Path, block: str, first: str = BEGIN, last: str = END, title: str | None = None) -> None:
    """Put ``block`` between two marks of a page, which is otherwise left as it is.

    Args:
        title: of a page that is begun where there is none.

    Raises:
        CurvekitError: a page that cannot be read or written, or that has not both marks in their order.
    """
    text = f"# {title}\n\n{first}\n{last}\n" if title and not page.exists() else read_whole(page)
    write_text(page, filled(text, block, first, last, page))


def filled(text: str, block: str, first: str, last: str, page: object = "the page") -> str:
    """The text of a page with ``block`` between two marks; see :func:`fill`."""
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise CurvekitError(f"{page} has no lines {first} and {last} to write between")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"
