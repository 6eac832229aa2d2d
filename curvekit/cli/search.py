"""``curvekit search``: settings found by cross-validated trials, and how much of the winner's advantage is real."""

from __future__ import annotations

import argparse
from pathlib import Path

from curvekit.cli.flags import Commands, command, listed, path, positive
from curvekit.cli.printing import say
from curvekit.cli.settings import add_settings, config
from curvekit.errors import CurvekitError


def add(commands: Commands) -> None:
    each = command(
        commands,
        "search",
        run,
        "search settings by cross-validated trials, then test the winner once; given again after a stop, it goes on",
        "  curvekit search --space learning_rate=1e-4:1e-2:log dropout=0:0.3 --out searches/mini\n"
        "  curvekit search --recipes gpt2 curve --space learning_rate=1e-4:1e-2:log model.degree=1:4 --trials 30\n"
        "  curvekit search --sampler grid --space batch_size=4,8,16 learning_rate=1e-4,1e-3 --folds 3",
        "curvekit search --space NAME=RANGE ... [--recipes NAME ...] [--trials N] [--folds K] [SETTING ...]",
    )
    each.add_argument(
        "--space",
        nargs="+",
        required=True,
        metavar="NAME=RANGE",
        help="what varies: LOW:HIGH, LOW:HIGH:log, or values separated by commas; model settings as model.NAME",
    )
    each.add_argument(
        "--out", type=path, metavar="FOLDER", help="where trials and runs lie (default: searches/CORPUS-BASE)"
    )
    each.add_argument(
        "--recipes",
        nargs="+",
        metavar="NAME",
        help="each is searched with the same budget (default: the recipe of the settings)",
    )
    each.add_argument("--trials", type=positive, default=20, metavar="N", help="of each recipe (default: 20)")
    each.add_argument("--folds", type=positive, default=4, metavar="K", help="of the documents (default: 4)")
    each.add_argument("--sampler", default="tpe", metavar="tpe|random|grid", help="who proposes (default: tpe)")
    each.add_argument(
        "--seeds", nargs="+", default=["1", "2", "3"], metavar="N", help="of the runs that are tested (default: 1 2 3)"
    )
    each.add_argument(
        "--ray", metavar="HOST:PORT", help="run the trials on this Ray cluster, in a folder that its machines share"
    )
    each.add_argument("--searchers", type=positive, metavar="N", help="on the cluster (default: its GPUs or machines)")
    add_settings(each, without=("recipe",))


def run(arguments: argparse.Namespace) -> None:
    from curvekit.errors import pick
    from curvekit.experiments.search import Plan, search, to_markdown
    from curvekit.experiments.spaces import grid_size, parse_space
    from curvekit.experiments.studies import SAMPLERS, optuna

    settings = config(arguments)
    pick(arguments.sampler, SAMPLERS, "sampler")
    seeds = listed(arguments.seeds)
    if wrong := [text for text in seeds if not text.isdecimal() or len(text) > 9]:
        raise CurvekitError(f"seed is {wrong[0]!r}; give whole numbers from 0 on, such as --seeds 1 2 3")
    space = parse_space(arguments.space, settings)
    if arguments.sampler == "grid":
        grid_size(space)
    optuna()
    plan = Plan(
        recipes=tuple(listed(arguments.recipes or [settings.recipe])),
        space=space,
        folds=arguments.folds,
        trials=arguments.trials,
        sampler=arguments.sampler,
        seeds=tuple(int(text) for text in dict.fromkeys(seeds)),
    )
    out = arguments.out or Path("searches") / f"{Path(settings.corpus).name}-{Path(settings.base).name}"
    if arguments.ray:
        from curvekit.serving.jobs import search_on

        found = search_on(arguments.ray, settings, plan, out, arguments.searchers, say)
    else:
        found = search(settings, plan, out, announce=say)
    print(to_markdown(found), end="")
    print(f"\nsearch: {out}")
