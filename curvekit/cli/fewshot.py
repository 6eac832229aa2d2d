"""``curvekit fewshot``: accuracy of a model by the number of solved examples in its prompt."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from curvekit.cli.flags import Commands, command, path, positive
from curvekit.cli.printing import typed
from curvekit.cli.rows import add_rows
from curvekit.errors import CurvekitError, pick
from curvekit.files import by_name


def add(commands: Commands) -> None:
    each = command(
        commands,
        "fewshot",
        run,
        "classify by prompts with solved examples: accuracy by their number, with intervals and spreads",
        "  curvekit fewshot smollm2 train.jsonl --test test.jsonl --task movie_polarity --items 200\n"
        "  curvekit fewshot smollm2 train.csv --test test.csv --question 'Tweet: {text}\\nMood:' --calibrate",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    add_rows(each)
    each.add_argument("--task", default="rows", metavar="NAME", help="movie_polarity, clinc_topics, strategyqa, or "
                      "rows, any table (default: %(default)s)")  # fmt: skip
    each.add_argument("--question", metavar="TEXT", help=r"how an item is asked, with {text} and \n")
    each.add_argument("--answer", metavar="TEXT", help="how it is answered, with {label} (default: ' {label}')")
    each.add_argument("--instruction", metavar="TEXT", help="what stands first")
    each.add_argument("--shots", nargs="+", type=int, default=[0, 1, 4, 8], metavar="N",
                      help="examples in a prompt (default: 0 1 4 8)")  # fmt: skip
    each.add_argument("--sets", type=positive, default=3, metavar="N", help="sets of examples (default: %(default)s)")
    each.add_argument("--orders", type=positive, default=2, metavar="N", help="orders of each (default: %(default)s)")
    each.add_argument("--items", type=positive, metavar="N", help="only the first N held-out rows of each label")
    each.add_argument("--calibrate", action="store_true", help="divide by what the model says without content")
    each.add_argument("--seed", type=int, default=0, metavar="N", help="of the first set (default: %(default)s)")
    form = each.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print all figures as one JSON object")
    form.add_argument("--out", type=path, metavar="FOLDER", help="write a page with all figures and a picture")


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from curvekit.bases.opening import open_model
    from curvekit.evaluation.fewshot import TASKS, fewshot
    from curvekit.generation.console import unescaped
    from curvekit.reports.fewshot import table, write
    from curvekit.text.labelled import first_of_each, read_labelled

    task = TASKS[pick(arguments.task, TASKS, "task")]
    given: dict[str, Any] = {name: unescaped(value) for name in ("question", "answer", "instruction")
             if (value := getattr(arguments, name)) is not None}  # fmt: skip
    task = replace(task, **given)
    if arguments.test is None:
        raise CurvekitError("items are scored on held-out rows; give --test")
    text, label = task.columns if arguments.task != "rows" else (arguments.text_column, arguments.label_column)
    train, items = (read_labelled(path, label, text) for path in (arguments.rows, arguments.test))
    train = first_of_each(train, arguments.most) if arguments.most else train
    items = first_of_each(items, arguments.items) if arguments.items else items
    model, tokenizer = open_model(arguments.model)
    found = fewshot(
        model,
        tokenizer,
        task,
        train,
        items,
        shots=arguments.shots,
        sets=arguments.sets,
        orders=arguments.orders,
        calibrate=arguments.calibrate,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    if arguments.out is not None:
        told = {"model": by_name(arguments.model), "task": arguments.task, "command": typed(arguments)}
        print(write(found | told, arguments.out))
    elif arguments.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(table(found))
