"""Several models on one task, compared item by item: a folder of figures, answers and intervals, and its table.

``metrics.json`` holds the figures of each model with their signatures, and the intervals against the first;
``answers-NAME.jsonl`` every answer beside the right ones; ``results.md`` the table. A folder that was begun goes on
with the models that it does not hold yet under the same signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curvekit.bases.opening import open_model
from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.results import markdown_table
from curvekit.evaluation.tasks import MEASURED, Asked, TaskResult, ask, contrasts, evaluate_task, summary_rows
from curvekit.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from curvekit.ownership import Kind, json_with, mark, marker, require, rows_with
from curvekit.text.documents import Announce
from curvekit.training.settings import RunConfig
from curvekit.training.tasks import Answers
from curvekit.training.trainer import train

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
    measured: dict[str, Any] = {each: np.array([row[each] for row in rows]) for each in MEASURED}
    score = LanguageModelScore(**measured, leaks=asked.signature["leaks"], signature=asked.scored_signature)
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
                "n/a" if row["low"] is None else f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
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


def picture(results: Mapping[str, TaskResult]) -> dict[str, Any]:
    """What :func:`curvekit.figures.task_figures` draws of the results: the figure that the task's tables lead with.

    Of dialogues it is the nats of the right answers, an item's by its tokens.
    """
    (first, *_) = results.values()
    name = first.task.figure
    if first.task.kind == "dialogue":
        items = {model: (each.score.nll / np.maximum(each.score.tokens, 1)).tolist() for model, each in results.items()}
        values: dict[str, float] = {}
        name, unit = "loss", "nats a token of the right answers; lower is better"
    else:
        items = {model: [100 * item[name] for item in each.items] for model, each in results.items()}
        values = {label: figures[name] for label, figures in first.baselines.items() if figures.get(name) is not None}
        unit = "0 to 100"
    recipes = {model: str(each.signature["recipe"]) for model, each in results.items()}
    return {
        "items": items,
        "name": first.task.name,
        "figure_name": name,
        "baselines": values,
        "recipes": recipes,
        "unit": unit,
    }


def answer_rows(results: Mapping[str, TaskResult], items: int = 5) -> list[dict[str, str]]:
    """Some items, evenly taken: the end of what was asked, the right answers, and each model's beside them."""
    (first, *_) = results.values()
    rows = []
    for number in range(0, len(first.answers), max(1, len(first.answers) // items)):
        asked = first.answers[number]
        source = asked["source"]
        row = {
            "asked": source if len(source) <= 300 else f"... {source[-300:]}",
            "right": " / ".join(asked["references"]),
        }
        rows.append(row | {name: each.answers[number]["answer"] or "(empty)" for name, each in results.items()})
    return rows[:items]


def compare_on_task(
    config: RunConfig,
    recipes: Sequence[str],
    folder: str | Path,
    items: int | None = None,
    announce: Announce = lambda text: None,
) -> TaskComparison:
    """The base as it comes, and a run of each recipe on its task, all asked the same items.

    What is in ``folder`` already is neither trained nor measured again.

    Args:
        config: of every run, but for its recipe.
        items: of the test, spread over it; default: all.
        announce: is told what is done.
    """
    folder, rows = Path(folder), Answers(config, announce).rows
    models: dict[str, str | Path] = {Path(config.base).name: config.base}
    for recipe in recipes:
        announce(f"{rows.task.name}: {recipe}")
        run = train(replace(config, recipe=recipe), folder / f"{recipe}-seed{config.seed}", progress="none")
        models[recipe] = run.folder
    done = TaskComparison()
    for name, place in models.items():
        model, tokenizer = open_model(place)
        asked = ask(model, tokenizer, rows, "test", items, config.context_eval, config.form, {"model": name})
        found = saved_result(folder / "answers", name, asked)
        done.results[name] = found if found is not None else evaluate_task(model, asked)
        done.save(folder / "answers")
    return done
