"""``curvekit report``: recipes by seeds, compared, in a report of executed notebooks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from curvekit.cli.flags import Commands, Pairs, add_plugin, command, listed, path
from curvekit.cli.printing import say
from curvekit.cli.settings import add_settings, config
from curvekit.errors import CurvekitError
from curvekit.training.settings import RunConfig, main_recipes


def add(commands: Commands) -> None:
    each = command(
        commands,
        "report",
        run,
        "train recipes by seeds, compare them, and write a report of executed notebooks",
        "  curvekit report\n"
        "  curvekit report --corpus wikitext-2 --data-dir path/to/wikitext-2 --seeds 0 1 2 --steps 1000\n"
        "  curvekit report --corpus wikitext-103 --base gpt2",
        "curvekit report [--out FOLDER] [--recipes NAME ...] [--seeds N ...] [SETTING ...]",
    )
    each.add_argument("--out", type=path, metavar="FOLDER", help="where it is written (default: reports/CORPUS-BASE)")
    each.add_argument(
        "--recipes",
        nargs="+",
        metavar="NAME",
        help="what is compared; the first is the baseline (default: the base itself, a curve, SoftEMax, and both; "
        f"on mini: {' '.join(main_recipes('mini'))}; with --scratch: {' '.join(main_recipes('mini', True))})",
    )
    each.add_argument("--seeds", nargs="+", default=["0"], metavar="N", help="seeds of every recipe (default: 0)")
    each.add_argument(
        "--notebooks", nargs="+", type=path, metavar="FILE", help="what is executed (default: curvekit's 01 to 04)"
    )
    each.add_argument(
        "--parameter",
        nargs="+",
        action=Pairs,
        default={},
        metavar="NAME=VALUE",
        help="further parameters of the notebooks",
    )
    each.add_argument(
        "--ray", metavar="HOST:PORT", help="train the runs on this Ray cluster, in a folder that its machines share"
    )
    add_settings(each, without=("recipe", "seed"))
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.recipes import pick_recipe
    from curvekit.reports.execution import report

    settings = config(arguments)
    recipes = [pick_recipe(name) for name in listed(arguments.recipes or main_recipes(settings.base, settings.scratch))]
    seeds = [_seed(text) for text in listed(arguments.seeds)]
    out = arguments.out or Path("reports") / f"{Path(settings.corpus).name}-{Path(settings.base).name}"
    print(
        report(
            settings,
            out,
            recipes=recipes,
            seeds=seeds,
            notebooks=arguments.notebooks,
            parameters=arguments.parameter,
            plugins=arguments.plugin,
            send=_to_cluster(arguments.ray, arguments.plugin) if arguments.ray else None,
        )
    )


def _to_cluster(address: str, plugins: Sequence[str | Path]) -> Callable[[dict[Path, RunConfig]], None]:
    from curvekit.serving.jobs import train_on

    return lambda runs: train_on(address, runs, say, plugins)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) >= 2**32:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise CurvekitError(f"seed is {shown!r}; give whole numbers from 0 on, below 2^32, such as --seeds 0 1 2")
    return int(text)
