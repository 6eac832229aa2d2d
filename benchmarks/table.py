"""Rows on paper: the Markdown table, what the README shows of it, and the figure of ratios against goals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvekit.evaluation.results import markdown_table
from curvekit.files import read_json, write_text


def line(row: dict[str, Any]) -> str:
    """A row in one line, as the command says it when it is measured."""
    found = f"{row['group']}, {row['name']}: {_ratio(row)}"
    if row["goal"]:
        found += f", goal {goal(row)}: {'met' if row['met'] else 'not met'}"
    return found + ("" if row["agrees"] else f" -- NOT THE SAME: {row['check']}")


def goal(row: dict[str, Any]) -> str:
    """``≥ 0.95``, ``≤ 0.3 s more``, ``≤ 1 s``"""
    if not row["goal"]:
        return ""
    value = row["goal"]["value"]
    return {"ratio": f"≥ {value:g}", "extra": f"≤ {value:g} s more", "seconds": f"≤ {value:g} s"}[row["goal"]["kind"]]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a GitHub table."""
    return markdown_table(
        [
            {
                "row": f"{row['group']}: {row['name']}",
                "ours": row["ours"],
                "peer": row["peer"],
                "ratio [95% interval]": _ratio(row),
                "goal": goal(row),
                "met": _met(row),
                "ours, a second": f"{_amount(row['ours_rate'])} {row['unit']}",
                "peer, a second": f"{_amount(row['peer_rate'])} {row['unit']}",
                "peak memory, ours / peer": f"{_megabytes(row['ours_memory'])} / {_megabytes(row['peer_memory'])}",
                "pairs": str(row["pairs"]),
            }
            for row in rows
        ]
    )


def page(rows: Sequence[dict[str, Any]], name: str) -> str:
    """The whole Markdown page of a device's file."""
    devices = sorted({row["device"] for row in rows})
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
    parts = [
        f"# Benchmarks: {name}",
        "Ratios of throughputs, ours over the peer's: medians of interleaved pairs, with a bootstrap interval over "
        "pairs. Above 1 ours is faster. Peak memory is what a call needs beyond what is held before it.",
        f"Device: {'; '.join(devices)}. Versions: {'; '.join(versions)}.",
        *(["These rows are quick ones, of small sizes: they show that the suite runs."] if rows[0]["quick"] else []),
        table(rows),
        *([f"![Ratios against their goals](figures/{name}.png)"]),
        *(f"- {each}" for each in summary(rows)),
        "## What was compared",
        "\n".join(f"- {row['group']}, {row['name']}: {row['check']}." for row in rows),
    ]
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What follows from several rows together."""
    lengths = {
        int(row["name"].rpartition(" ")[2]): row
        for row in rows
        if row["group"] == "attention" and row["name"].startswith("forward and backward")
    }
    said = []
    if lengths:
        mean = math.exp(sum(math.log(row["ratio"]) for row in lengths.values()) / len(lengths))
        said.append(
            f"Attention at T = {', '.join(map(str, sorted(lengths)))}: {mean:.2f} times softmax SDPA's throughput in "
            "geometric mean (goal ≥ 1)."
        )
    if len(lengths) > 1 and all(row["ours_memory"] for row in lengths.values()):
        short, long = min(lengths), max(lengths)
        growth = lengths[long]["ours_memory"] / lengths[short]["ours_memory"]
        said.append(f"Its peak memory grows {growth:.1f} times while T grows {long / short:g} times.")
    for row in rows:
        said += [f"{row['group']}, {row['name']}: {note}" for note in row.get("notes", [])]
    return said


def benchmarks_block(folder: Path) -> str:
    """What the README says of the committed files of a folder."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        rows = read_json(path)["rows"]
        if not rows[0]["quick"]:
            shown = [
                {
                    "row": f"{row['group']}: {row['name']}",
                    "against": row["peer"],
                    "ratio [95% interval]": _ratio(row),
                    "goal": goal(row),
                    "met": _met(row),
                }
                for row in rows
            ]
            device = "; ".join(sorted({row["device"] for row in rows}))
            parts += [f"On {device} ([all figures](reports/benchmarks/{path.stem}.md)):", "", markdown_table(shown), ""]
            parts += [*summary(rows), ""]
    return "\n".join([*parts, "```", "make bench", "```"])


def write(path: Path) -> None:
    """Write the page beside a device's file, and its figure."""
    from curvekit.figures import benchmark_ratios, save

    rows = read_json(path)["rows"]
    save(benchmark_ratios(rows), path.stem, path.parent)
    write_text(path.with_suffix(".md"), page(rows, path.stem))


def _met(row: dict[str, Any]) -> str:
    return {None: "", True: "yes", False: "**no**"}[row["met"]]


def _ratio(row: dict[str, Any]) -> str:
    digits = 2 if row["ratio"] < 10 else 1 if row["ratio"] < 100 else 0
    return f"{row['ratio']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _megabytes(value: int | None) -> str:
    return "n/a" if value is None else f"{value / 2**20:,.0f} MiB"
