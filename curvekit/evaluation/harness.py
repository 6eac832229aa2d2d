"""lm-evaluation-harness over any model here: a class that it knows as ``curvekit``, and its tasks or ours by name.

The harness has no way to learn of a model from outside, so its own command line is started with the class known::

    python -m curvekit.evaluation.harness --model curvekit --model_args pretrained=runs/curve --tasks hellaswag

A document is scored after one end-of-text token, as everywhere here, and its rolling windows are those of
``curvekit.evaluation.metrics.windows`` at a stride of the whole context. Needs the extra ``tasks``. Nothing that a
model generates is executed: tasks that would are refused by the harness itself.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError, as_command, first_line
from curvekit.files import write_jsonl
from curvekit.generation.streams import positions_of
from curvekit.text.prompts import Prompter
from curvekit.text.rows import TaskRows, load_rows
from curvekit.text.tasks import TASKS, find_task
from curvekit.text.tokenization import start_token

NAME = "curvekit"
ROLLING = "corpus"  # our name of a task of its own: the rolling perplexity of a corpus


def require_harness() -> None:
    """Return where lm-evaluation-harness is installed.

    Raises:
        CurvekitError: it is not.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise CurvekitError("lm-eval is not installed; pip install 'curvekit[tasks]'") from error


def model_class() -> type:
    """The class that the harness knows as ``curvekit``, registered with it."""
    require_harness()
    from lm_eval.api.registry import model_registry, register_model
    from lm_eval.models.huggingface import HFLM

    if NAME in model_registry:
        return model_registry.get(NAME)

    @register_model(NAME)
    class CurvekitLM(HFLM):
        """A run, a saved model or a base, with any recipe, for the harness.

        Args:
            pretrained: what ``curvekit.bases.opening.open_model`` opens, or a model.
            recipe: built on a base.
            tokenizer: the model's own, where ``pretrained`` is a model.
            max_length: tokens of a window (default: the positions of the model, and of its encoder).
        """

        def __init__(
            self,
            pretrained: Any,
            recipe: str | None = None,
            tokenizer: Any = None,
            max_length: int | None = None,
            batch_size: int | str | None = 1,
            device: str | None = None,
            **settings: Any,
        ) -> None:
            if isinstance(pretrained, str | Path):
                pretrained, tokenizer = open_model(pretrained, recipe)
            if device is not None:
                pretrained.to(device)
            logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)  # it warns of what we mean
            super().__init__(
                pretrained=pretrained,
                tokenizer=tokenizer,
                backend="causal",
                max_length=int(max_length or positions_of(pretrained)),
                batch_size=batch_size,
                add_bos_token=False,
                prefix_token_id=start_token(tokenizer),
                **settings,
            )

    return CurvekitLM


def harness(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    texts: Sequence[str] = (),
    context: int | None = None,
    items: int | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Run tasks of the harness on a model; return its ``results`` and ``versions``.

    Args:
        tasks: names of the harness's own; a ``.yaml`` of a task; a name of our :data:`TASKS`, which is then judged by
            the harness on the same prompts; or ``corpus``, the rolling perplexity of ``texts``.
        data_dir: where the rows of our tasks are.
        context: tokens of a window.
        items: only the first so many of each task.

    Raises:
        CurvekitError: lm-eval is not installed; there is no such task, or its data cannot be had.
    """
    made = model_class()(model, tokenizer=tokenizer, max_length=context, batch_size=batch_size)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory(prefix="curvekit-tasks-") as folder:
        wanted: list[Any] = []
        for name in tasks:
            if name in TASKS:
                wanted.append(
                    _ours(load_rows(find_task(name), None, data_dir), tokenizer, made.max_length, Path(folder))
                )
            elif name == ROLLING:
                wanted.append(_rolling(texts, Path(folder)))
            elif name.endswith((".yaml", ".yml")) and not Path(name).is_file():
                raise CurvekitError(f"there is no file {name}; name the .yaml of a task, or a task")
            else:
                wanted.append(name)
        theirs = [name for name in wanted if isinstance(name, str) and not name.endswith((".yaml", ".yml"))]
        manager = TaskManager(include_defaults=bool(theirs))
        if unknown := [name for name in theirs if not manager.match_tasks([name])]:
            raise CurvekitError(
                f"the harness knows no task {unknown[0]!r}; name one of its own, a .yaml, "
                f"or {', '.join((*TASKS, ROLLING))}"
            )
        try:
            found: Any = simple_evaluate(
                made, tasks=wanted, limit=items, task_manager=manager, bootstrap_iters=0, log_samples=False
            )
        except Exception as error:  # of its data: datasets, the hub, a YAML of the user's
            raise CurvekitError(f"the harness cannot run {', '.join(tasks)} ({first_line(error)})") from error
    return {name: found[name] for name in ("results", "versions", "n-samples") if name in found}


def _config(name: str, path: Path, **settings: Any) -> dict[str, Any]:
    files = {"data_files": {"test": str(path)}}
    common = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    return common | {"target_delimiter": ""} | settings


def _rolling(texts: Sequence[str], folder: Path) -> dict[str, Any]:
    if not texts:
        raise CurvekitError(f"the task {ROLLING!r} needs texts; give a corpus")
    write_jsonl(path := folder / "corpus.jsonl", ({"text": text} for text in texts))
    metrics = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    return _config(
        ROLLING,
        path,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=metrics,
    )


def _ours(rows: TaskRows, tokenizer: Any, room: int, folder: Path) -> dict[str, Any]:
    """One of our tasks as the harness takes it, asked in the same words, plain."""
    task, prompter = rows.task, Prompter(rows.task, tokenizer, room, "plain")
    if task.kind == "dialogue":
        raise CurvekitError(f"{task.name} is measured by its answers' perplexity; give it to --task")
    table = [
        {
            "prompt": tokenizer.decode(prompter.ask(each)[0][1:]),
            "choices": [f" {label}" for label in task.labels],
            "answer": each.target,
            "gold": task.labels.index(each.target) if task.labels else 0,
        }
        for each in rows.test
    ]
    write_jsonl(path := folder / f"{task.name}.jsonl", table)
    if task.kind == "choice":
        return _config(
            task.name,
            path,
            output_type="multiple_choice",
            doc_to_text="{{prompt}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{gold}}",
            metric_list=[{"metric": "acc"}],
        )
    written = {"max_gen_toks": task.new_tokens, "do_sample": False, "until": list(task.stop)}
    exact = {"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}
    return _config(
        task.name,
        path,
        output_type="generate_until",
        doc_to_text="{{prompt}}",
        doc_to_target="{{answer}}",
        generation_kwargs=written,
        filter_list=[{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
        metric_list=[exact],
    )


def as_lines(found: dict[str, Any]) -> str:
    """The results, a line a figure."""
    lines = [
        f"{task:<18}{name.partition(',')[0]:<18}{value:.4f}"
        for task, figures in found["results"].items()
        for name, value in figures.items()
        if isinstance(value, float)
    ]
    return "\n".join(lines)


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, default=str)


def main() -> None:
    """The harness's own command line, which knows ``--model curvekit``."""
    model_class()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    as_command(main)
