"""``curvekit chat``: a conversation with a run or a base in the terminal."""

from __future__ import annotations

import argparse
from dataclasses import fields

from curvekit.bases.opening import open_model
from curvekit.cli.flags import Commands, command
from curvekit.cli.generate import add_sampling
from curvekit.generation.sampling import Sampling


def add(commands: Commands) -> None:
    each = command(
        commands,
        "chat",
        run,
        "talk with a run or a base in the terminal; it explains itself",
        "  curvekit chat smollm2\n"
        "  curvekit chat runs/chat --temperature 0.7 --system 'You are a librarian.'\n"
        "  curvekit chat mini --form plain --tokens 40",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    each.add_argument("--recipe", metavar="NAME", help="build this recipe on the base (default: the base itself)")
    each.add_argument(
        "--form",
        default="auto",
        choices=("auto", "plain", "chat"),
        help="chat: turns by the model's chat template; plain: without; auto: by the template if there is one",
    )
    each.add_argument("--system", metavar="TEXT", help="what the model is told first")
    add_sampling(each, tokens=128)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.generation.chat import Chat

    settings = {each.name: getattr(arguments, each.name) for each in fields(Sampling)}
    if arguments.do_sample is False:
        settings["temperature"] = 0.0
    sampling = Sampling(**settings)
    model, tokenizer = open_model(arguments.model, arguments.recipe)
    Chat(model, tokenizer, sampling, arguments.form, arguments.system).converse()
