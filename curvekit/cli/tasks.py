"""What ``curvekit evaluate`` does with a task: models answer the same items, and are compared one by one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from curvekit.cli.flags import path, positive
from curvekit.cli.printing import say, typed
from curvekit.errors import CurvekitError
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig

OWN = ("task", "template", "judged", "form")  # what a run on a task brings along


def add_task(each: argparse.ArgumentParser) -> None:
    """The flags of a task."""
    group = each.add_argument_group("a task instead of a corpus")
    group.add_argument("--task", metavar="NAME", help="squad_qa, scitldr, ..., or JSONL rows of your own")
    group.add_argument("--template", metavar="TEXT", help=r"'Question: {question}\nAnswer: {answer}', the answer last")
    group.add_argument(
        "--judged",
        metavar="KIND",
        help="how rows of your own are judged: answer, choice, summary (default: answer; without a template: dialogue)",
    )
    group.add_argument(
        "--form", help="chat: by the model's chat template; plain; auto", choices=("auto", "plain", "chat")
    )
    group.add_argument("--items", type=positive, metavar="N", help="only N items, spread over the split")
    group.add_argument(
        "--lm-eval",
        nargs="+",
        metavar="TASK",
        help="of lm-evaluation-harness: a task, a .yaml, a task of ours, or corpus: rolling perplexity of --corpus",
    )
    group.add_argument(
        "--out", type=path, metavar="FOLDER", help="keep figures, answers and intervals there; begun, it goes on"
    )


def evaluate_on_task(arguments: argparse.Namespace) -> None:
    """Every model on the same items, the table, and the intervals against the first."""
    from curvekit.bases.opening import open_model
    from curvekit.evaluation.tasks import ask, evaluate_task
    from curvekit.experiments.tasks import TaskComparison, picture, saved_result
    from curvekit.figures import save, task_figures
    from curvekit.text.rows import load_rows
    from curvekit.text.tasks import TASKS, find_task

    told = {name: getattr(arguments, name) for name in OWN}
    names = [name.rstrip("/") for name in arguments.model]
    if len(set(map(shown, names))) < len(names):
        raise CurvekitError(f"two models are called {shown(names[0])!r}; give each once, in folders of other names")
    task = find_task(told["task"], told["template"], told["judged"])
    own = None if told["task"] in TASKS else told["task"]
    rows = load_rows(task, own, arguments.data_dir, say)
    done = TaskComparison()
    for name in names:
        model, tokenizer = open_model(name)
        asked = ask(
            model,
            tokenizer,
            rows,
            arguments.split,
            arguments.items,
            arguments.context,
            told["form"] or "auto",
            {"model": shown(name)} | _of_run(name),
        )
        found = saved_result(arguments.out, shown(name), asked) if arguments.out else None
        if found is None:
            found = evaluate_task(model, asked, batch_size=arguments.batch_size or 16, progress=sys.stderr.isatty())
        done.results[shown(name)] = found
        if arguments.out:
            done.save(arguments.out, typed(arguments))
            save(task_figures(**picture(done.results)), rows.task.name, arguments.out)
        del model
    print(done.to_markdown())


def evaluate_with_harness(arguments: argparse.Namespace) -> None:
    """One model on tasks of lm-evaluation-harness."""
    from curvekit.bases.opening import open_model
    from curvekit.evaluation.harness import ROLLING, as_json, as_lines, harness, require_harness
    from curvekit.text.corpora import load_corpus

    require_harness()
    texts: list[str] = []
    if ROLLING in arguments.lm_eval:
        corpus = load_corpus(arguments.corpus or "pydocs", arguments.data_dir, announce=say)
        texts = list(corpus[arguments.split]["text"][: arguments.documents])
    model, tokenizer = open_model(arguments.model[0])
    found = harness(
        model,
        tokenizer,
        arguments.lm_eval,
        data_dir=arguments.data_dir,
        texts=texts,
        context=arguments.context,
        items=arguments.items,
        batch_size=arguments.batch_size or 8,
    )
    print(as_json(found) if arguments.json else as_lines(found))


def shown(name: str) -> str:
    """A model's name without its folder."""
    return Path(name).resolve().name if Path(name).exists() else name


def _of_run(name: str) -> dict[str, Any]:
    if not (Path(name) / "history.jsonl").exists():
        return {}
    config = load_run(name).config
    return {"seed": config.seed, "steps": config.steps, "base": Path(config.base).name}


def task_of(name: str) -> dict[str, Any]:
    """The task, template, judge and form of a run's own task; empty of anything else."""
    if not (Path(name) / "history.jsonl").exists():
        return {}
    config: RunConfig = load_run(name).config
    return {each: getattr(config, each) for each in OWN} if config.task else {}
