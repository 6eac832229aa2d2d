"""A run on a task: its rows as a run's texts, its answers as training examples, and what the run is measured by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import DatasetDict

from curvekit.evaluation.tasks import ask, evaluate_task, score_task, spread
from curvekit.files import write_jsonl
from curvekit.text.documents import as_dataset
from curvekit.text.examples import PackedExamples, pack_examples
from curvekit.text.prompts import Prompter
from curvekit.text.rows import as_texts, load_rows
from curvekit.text.tasks import TASKS, find_task
from curvekit.text.tokenization import start_token
from curvekit.training.materials import Material, Measured, Tell, kept
from curvekit.training.runs import Run
from curvekit.training.settings import RunConfig
from curvekit.training.texts import sample_metrics

ANSWERS = "answers.jsonl"


class Answers(Material):
    """The rows of a task: its right answers are trained, and what the model answers is judged."""

    def __init__(self, config: RunConfig, announce: Tell) -> None:
        task = find_task(str(config.task), config.template, config.judged)
        self.rows = load_rows(task, None if config.task in TASKS else config.task, config.data_dir, announce)
        splits = ("train", "validation", "test")
        super().__init__(config, DatasetDict({each: as_dataset(as_texts(self.rows.split(each))) for each in splits}))

    def examples(self, tokenizer: Any, tokens: Path, progress: bool) -> tuple[PackedExamples, PackedExamples]:
        config = self.config
        prompter = Prompter(self.rows.task, tokenizer, config.block_size, config.form)
        held_out = spread(self.rows.validation, config.validation_documents)
        train, validation = (
            pack_examples(examples, prompter, config.block_size, start_token(tokenizer))
            for examples in (self.rows.train, held_out)
        )
        return train, validation

    def measure(
        self, run: Run, model: Any, tokenizer: Any, revision: dict[str, str], tell: Tell, progress: bool
    ) -> Measured:
        config = self.config
        told = {"model": Path(config.base).name, "recipe": config.recipe, "seed": config.seed}

        def asked(split: str, most: int | None) -> Any:
            return ask(model, tokenizer, self.rows, split, most, config.context_eval, config.form, told)

        tell("scoring the validation items")
        score, *_ = score_task(model, asked("validation", config.validation_documents), progress)
        tell("answering the test items")
        result = evaluate_task(model, asked("test", config.eval_documents), progress=progress)
        splits = {"validation": kept(run, "validation", score), "test": kept(run, "test", result.score)}
        write_jsonl(run.folder / ANSWERS, result.rows())
        samples = [
            {"prompt": row["source"], "continuation": row["answer"], "reference": row["references"][0]}
            for row in result.answers[: config.sample_prompts]
        ]
        return Measured(splits, samples, sample_metrics([], 0) | {"task": result.to_dict()})
