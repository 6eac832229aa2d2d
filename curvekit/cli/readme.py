"""Blocks of the README that commands write: what stands between two marks, and what a comparison says there."""

from __future__ import annotations

from pathlib import Path

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError
from curvekit.evaluation.results import INTERVAL, ROW, cells, markdown_table
from curvekit.files import read_json, write_text

RESULTS_BEGIN, RESULTS_END = "<!-- results:begin -->", "<!-- results:end -->"
BENCHMARKS_BEGIN, BENCHMARKS_END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def results_block(folder: Path) -> str:
    """What the README says of a comparison, from the ``results.json`` in its folder."""
    found = read_json(folder / "results.json", shape={"rows": [ROW], "summary": str, "command": str})
    shown = ("recipe", "perplexity", "bits/byte", INTERVAL, "verdict", "trainable parameters")
    table = markdown_table([{column: cells(row)[column] for column in shown} for row in found["rows"]])
    return "\n".join([found["summary"], "", table, "", "```", found["command"], "```"])


def fill(page: Path, block: str, first: str, last: str) -> None:
    """Put ``block`` between two marks of a page, which is otherwise left as it is.

    Raises:
        CurvekitError: a page that cannot be read or written, or that has not both marks in their order.
    """
    text = read_whole(page)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise CurvekitError(f"{page} has no lines {first} and {last} to write between")
    write_text(page, f"{before}{begin}\n{block}\n{end}{after}")
