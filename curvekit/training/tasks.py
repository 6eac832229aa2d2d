"""A run on a task: its rows as a run's texts, its answers as training examples, and what the run is measured by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.tasks import TaskResult, ask, evaluate_task, score_task, spread
from curvekit.files import write_jsonl
from curvekit.text.documents import as_dataset
from curvekit.text.examples import PackedExamples, pack_examples
from curvekit.text.prompts import Prompter
from curvekit.text.rows import TaskRows, as_texts, load_rows
from curvekit.text.tasks import TASKS, find_task
from curvekit.text.tokenization import start_token
from curvekit.training.settings import RunConfig

ANSWERS = "answers.jsonl"


def task_rows(config: RunConfig, announce: Callable[[str], object]) -> TaskRows:
    """The rows that a run's task names."""
    task = find_task(str(config.task), config.template, config.judged)
    return load_rows(task, None if config.task in TASKS else config.task, config.data_dir, announce)


def as_corpus(rows: TaskRows) -> DatasetDict:
    """The rows as documents: what a run's revision is taken of."""
    return DatasetDict({split: as_dataset(as_texts(rows.split(split))) for split in ("train", "validation", "test")})


def task_blocks(config: RunConfig, rows: TaskRows, tokenizer: Any) -> tuple[PackedExamples, PackedExamples]:
    """The answers that are trained on and those that validate, packed into rows of ``block_size``."""
    prompter = Prompter(rows.task, tokenizer, config.block_size, config.form)
    held_out = spread(rows.validation, config.validation_documents)
    end = start_token(tokenizer)
    train, validation = (
        pack_examples(examples, prompter, config.block_size, end) for examples in (rows.train, held_out)
    )
    return train, validation


def score(config: RunConfig, rows: TaskRows, model: Any, tokenizer: Any, progress: bool) -> LanguageModelScore:
    """How likely the right answers of the validation items are to the trained model."""
    asked = ask(
        model,
        tokenizer,
        rows,
        "validation",
        config.validation_documents,
        config.context_eval,
        config.form,
        _told(config),
    )
    return score_task(model, asked, progress)[0]


def measure(config: RunConfig, rows: TaskRows, model: Any, tokenizer: Any, folder: Path, progress: bool) -> TaskResult:
    """The trained model on the test items; its answers are kept in ``answers.jsonl``."""
    asked = ask(model, tokenizer, rows, "test", config.eval_documents, config.context_eval, config.form, _told(config))
    result = evaluate_task(model, asked, progress=progress)
    write_jsonl(folder / ANSWERS, result.rows())
    return result


def _told(config: RunConfig) -> dict[str, Any]:
    return {"model": Path(config.base).name, "recipe": config.recipe, "seed": config.seed}
