"""``curvekit check``: whether a base, a recipe on it or a run computes what it should, in one line."""

from __future__ import annotations

import argparse
import json

from curvekit.cli.flags import Commands, add_plugin, command


def add(commands: Commands) -> None:
    each = command(
        commands,
        "check",
        run,
        "measure whether a model computes what it should; status 1 when it does not",
        "  curvekit check smollm2\n  curvekit check mini --recipe curve+softemax\n  curvekit check runs/curve",
    )
    each.add_argument("model", metavar="BASE_OR_RUN", help="a base, a run's folder, or a saved model's folder")
    each.add_argument("--recipe", metavar="NAME", help="what is built on a base (default: its own, or plain)")
    each.add_argument("--json", action="store_true", help="print the measured differences as JSON")
    add_plugin(each)


def run(arguments: argparse.Namespace) -> int:
    from curvekit.bases.opening import open_model
    from curvekit.evaluation.conformance import conformance

    found = conformance(*open_model(arguments.model, arguments.recipe, seq2seq=True))
    print(json.dumps(found.to_dict()) if arguments.json else found.line())
    return 1 if found.failures else 0
