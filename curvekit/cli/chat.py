"""``curvekit chat``: a conversation with a run or a base in the terminal."""

from __future__ import annotations

import argparse

from curvekit.bases.opening import open_model
from curvekit.cli.flags import Commands, command
from curvekit.cli.generate import add_sampling, sampling_of


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

    model, tokenizer = open_model(arguments.model, arguments.recipe)
    Chat(model, tokenizer, sampling_of(arguments), arguments.form, arguments.system).converse()
