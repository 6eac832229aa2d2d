"""``curvekit train``: one recipe, trained and evaluated."""

from __future__ import annotations

import argparse
from pathlib import Path

from curvekit.cli.flags import Commands, add_plugin, command, path
from curvekit.cli.printing import print_metrics
from curvekit.cli.settings import add_settings, config


def add(commands: Commands) -> None:
    each = command(
        commands,
        "train",
        run,
        "train and evaluate one recipe; given again after a stop, it goes on",
        "  curvekit train --recipe curve --corpus pydocs --out runs/curve\n"
        "  curvekit train --config runs/curve/config.json --seed 1 --out runs/curve-seed1\n"
        "  curvekit train --recipe curve --model degree=3 place=0.25\n"
        "  torchrun --nproc-per-node 4 -m curvekit train --recipe curve --corpus wikitext-103 --out runs/curve",
        "curvekit train [--out FOLDER] [SETTING ...]",
    )
    each.add_argument(
        "--out", type=path, metavar="FOLDER", help="the run's folder (default: runs/ and a name made of the settings)"
    )
    add_settings(each)
    add_plugin(each)
    each.set_defaults(many=True)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.training.processes import leave, place
    from curvekit.training.trainer import train

    settings = config(arguments)
    done = train(settings, arguments.out or Path("runs") / settings.slug())
    if place().first:
        print_metrics(done.metrics)
        print(f"{'run':<18}{done.folder}")
    leave()
