"""``curvekit card``: a shipped base measured anew, beside what its card says."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path
from curvekit.cli.printing import say
from curvekit.errors import CurvekitError
from curvekit.files import read_json


def add(commands: Commands) -> None:
    each = command(
        commands,
        "card",
        run,
        "measure a shipped base anew and compare it with its card",
        "  curvekit card curvekit/assets/mini --data-dir data",
    )
    each.add_argument("folder", type=path, metavar="FOLDER", help="of the base, with its card.json")
    each.add_argument("--data-dir", type=path, required=True, metavar="FOLDER", help="as `curvekit pretrain` was given")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.training.cards import SHOWN, measure

    told = read_json(arguments.folder / "card.json", shape={"figures": {str: dict.fromkeys(SHOWN, float)}})["figures"]
    apart = []
    for name, figure in measure(arguments.folder, arguments.data_dir, announce=say).items():
        print(name)
        if name not in told:
            raise CurvekitError(f"{arguments.folder / 'card.json'}: it has no figures of {name}; make the card anew")
        for metric in SHOWN:
            print(f"  {metric.replace('_', ' '):<18}{figure[metric]:<12.4f} card {told[name][metric]:.4f}")
            if abs(figure[metric] - told[name][metric]) > 1e-3 * abs(told[name][metric]):
                apart.append(f"{metric} of {name}")
    if apart:
        raise CurvekitError(f"the card tells otherwise: {', '.join(apart)}; were the files or the data changed?")
