"""Several models on one task, compared item by item: a folder of figures, answers and intervals, and its table.

``metrics.json`` holds the figures of each model with their signatures, and the intervals against the first;
``answers-NAME.jsonl`` every answer beside the right ones; ``results.md`` the table. A folder that was begun goes on
with the models that it does not hold yet under the same signature.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curvekit.evaluation.metrics import DENOMINATORS, LanguageModelScore
from curvekit.evaluation.results import markdown_table
from curvekit.evaluation.tasks import MEASURED, Asked, TaskResult, contrasts, summary_rows
from curvekit.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from curvekit.ownership import Kind, json_with, mark, marker, require, rows_with

METRICS = {
    "task": str,
    "models": {str: {"task": str, "figure": str, "counts": {str: int}, "signature": dict}},
    "contrasts": [{"a": str, "b": str, "figure": str}],
}
_ROW = {"source": str, "answer": str, "references": [str], "reason": str, "figures": {str: float}, "nll": (float, None)}
FOLDER = Kind(
    "task",
    "a folder of a task's results",
    {
        "metrics.json": json_with("task", "models"),
        "answers-*.jsonl": rows_with("source", "answer"),
        "results.md": lambda path: path.read_text(encoding="utf-8").startswith("# "),
    },
    proofs=("metrics.json",),
)


@dataclass
class TaskComparison:
    """Results on one task by model, in order; the first is what the others are compared with."""

    results: dict[str, TaskResult] = field(default_factory=dict)

    @property
    def contrasts(self) -> list[dict[str, Any]]:
        return contrasts(self.results) if len(self.results) > 1 else []

    def to_markdown(self) -> str:
        """The table of figures, the intervals against the first model, and what was counted."""
        task = next(iter(self.results.values())).task
        parts = [markdown_table(summary_rows(self.results))]
        if rows := interval_rows(self.contrasts):
            parts.append(markdown_table(rows))
        parts.append(markdown_table([counted(name, each) for name, each in self.results.items()]))
        first = next(iter(self.results.values()))
        signature = "|".join(f"{key}:{value}" for key, value in first.signature.items() if key not in ("model", "seed"))
        return "\n\n".join([*parts, f"{task.about[0].upper()}{task.about[1:]}. Signature: `{signature}`"])

    def save(self, folder: str | Path, command: str = "") -> None:
        """Write the folder, each file whole or not at all.

        Raises:
            CurvekitError: the folder holds something else.
        """
        folder = Path(folder)
        require(folder, FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        if not marker(folder):
            mark(folder, FOLDER.name)
        for name, result in self.results.items():
            write_jsonl(folder / f"answers-{file_name(name)}.jsonl", result.rows())
        task = next(iter(self.results.values())).task
        write_json(
            folder / "metrics.json",
            {
                "task": task.name,
                "command": command,
                "models": {name: result.to_dict() for name, result in self.results.items()},
                "contrasts": self.contrasts,
            },
        )
        told = f"\n\n```\n{command}\n```\n" if command else "\n"
        write_text(folder / "results.md", f"# {task.name}\n\n{self.to_markdown()}{told}")


def file_name(name: str) -> str:
    """A model's name as a part of a file's."""
    return re.sub(r"[^\w.+-]+", "-", name)


def saved_result(folder: Path, name: str, asked: Asked) -> TaskResult | None:
    """What the folder holds of a model that was asked the same, else None."""
    if not (folder / "metrics.json").exists():
        return None
    found = read_json(folder / "metrics.json", shape=METRICS)["models"].get(name)
    rows = read_jsonl(folder / f"answers-{file_name(name)}.jsonl", _ROW, whole=False)
    if found is None or found["signature"] != asked.signature or len(rows) != len(asked.examples):
        return None
    score = LanguageModelScore(*(np.array([row[each] for row in rows]) for each in MEASURED))
    score.leaks = asked.signature["leaks"]
    score.signature = {**asked.signature, "denominators": DENOMINATORS, "scored": "answers only"}
    kept = ("task", "kind", "figure", "counts", "baselines", "signature", "seconds")
    figures = {key: value for key, value in found.items() if key not in kept}
    answers = [{key: value for key, value in row.items() if key not in ("figures", *MEASURED)} for row in rows]
    return TaskResult(
        asked.rows.task,
        figures,
        [row["figures"] for row in rows],
        answers,
        score,
        found["counts"],
        found["baselines"],
        found["signature"],
        found["seconds"],
    )


def interval_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The intervals as cells of a table."""
    return [
        {
            "against": f"{row['a']} - {row['b']}",
            "figure": row["figure"],
            "difference [95% interval]": (
                "n/a"
                if row["low"] is None
                else f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            ),
            "excludes 0": "yes" if row["significant"] else "no",
        }
        for row in found
    ]


def counted(name: str, result: TaskResult) -> dict[str, str]:
    """What was counted of one model's answers, as cells of a table."""
    told = {"items": "items", "empty": "empty", "truncated": "cut off by the limit", "stopped": "ended at a stop"}
    told |= {"cut": "prompts cut", "windowed": "read by windows", "left_out": "left out: in training"}
    return {"model": name} | {words: f"{result.counts[key]:,}" for key, words in told.items()}


def answers_table(results: Mapping[str, TaskResult], items: int = 5) -> str:
    """HTML of some items: what was asked, the right answers, and each model's beside them; all text is escaped."""
    (first, *_) = results.values()
    rows = []
    for number in range(0, len(first.answers), max(1, len(first.answers) // items)):
        asked = first.answers[number]
        cells = [_short(asked["source"], 300, tail=True), " / ".join(asked["references"])]
        cells += [each.answers[number]["answer"] or "(empty)" for each in results.values()]
        rows.append("<tr>" + "".join(f"<td dir='auto'>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        if len(rows) == items:
            break
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("asked", "right", *results))
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _short(text: str, most: int, tail: bool = False) -> str:
    if len(text) <= most:
        return text
    return f"... {text[-most:]}" if tail else f"{text[:most]} ..."
