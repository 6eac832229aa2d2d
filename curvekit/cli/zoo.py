"""``curvekit zoo``: any models on the same texts, with what each costs, as a table, a picture and a page."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from curvekit.cli.flags import Commands, add_plugin, command, path
from curvekit.cli.printing import say, typed
from curvekit.cli.readme import ZOO_BEGIN, ZOO_END
from curvekit.errors import CurvekitError
from curvekit.evaluation.results import fill
from curvekit.evaluation.zoo_settings import ZooSettings


def add(commands: Commands) -> None:
    each = command(
        commands,
        "zoo",
        run,
        "measure models on the same texts: perplexities, bits a byte, BLEU, milliseconds, memory",
        "  curvekit zoo mini smollm2 --corpus wikitext-2 --data-dir path/to/wikitext-2\n"
        "  curvekit zoo mini runs/curve mini:softemax smollm2 runs/smollm2-curve --documents 48\n"
        "  curvekit zoo gpt2 EleutherAI/gpt-neo-125m --corpus wikitext-2\n"
        "  curvekit zoo --readme README.md                its table, between the marks of a page",
        "curvekit zoo [MODEL ...] [--out FOLDER] [--corpus NAME] [...]",
    )
    each.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a base, a run's folder, a saved model's folder, or base:recipe; the others are compared with the first",
    )
    each.add_argument(
        "--out", type=path, default=Path("reports/zoo"), metavar="FOLDER", help="of the report (default: %(default)s)"
    )
    for setting in fields(ZooSettings):
        told = setting.metadata["help"]
        told += "" if "default" in told or setting.default is None else f" (default: {setting.default})"
        kind: Any = str if isinstance(setting.default, str | None) and setting.name != "threads" else int
        options = {"type": kind, "default": setting.default, "metavar": "NAME" if kind is str else "N"}
        each.add_argument(f"--{setting.name.replace('_', '-')}", help=told, **options)
    each.add_argument("--readme", type=path, metavar="PAGE", help="write the table of --out between marks of a page")
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.evaluation.results import markdown_table
    from curvekit.evaluation.zoo import zoo
    from curvekit.reports import zoo as pages

    if arguments.readme is not None:
        if arguments.models:
            raise CurvekitError("--readme shows the zoo that is in --out; leave the models out")
        fill(arguments.readme, pages.block(arguments.out), ZOO_BEGIN, ZOO_END)
        return
    if not arguments.models:
        raise CurvekitError("name the models of the zoo, such as mini smollm2; the first is what others compare with")
    settings = ZooSettings(**{each.name: getattr(arguments, each.name) for each in fields(ZooSettings)})
    pages.require_place(arguments.out)
    found = zoo(arguments.models, settings, arguments.out, say, arguments.plugin)
    print(markdown_table(pages.cells(found)))
    found["trainings"] = pages.trainings(arguments.models)
    print(pages.write(found, arguments.out, typed(arguments)))
