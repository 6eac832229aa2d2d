"""``curvekit rank``: blind ratings of several models as a ranking with intervals, beside their losses."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path
from curvekit.errors import CurvekitError


def add(commands: Commands) -> None:
    each = command(
        commands,
        "rank",
        run,
        "rank models by blind ratings: strengths with intervals, position bias, and how far raters agree",
        "  curvekit rank ratings.jsonl\n"
        "  curvekit rank anna.jsonl ben.jsonl --question fluent --runs runs/gpt2 runs/curve",
    )
    each.add_argument("ratings", nargs="+", type=path, metavar="FILE", help="what the blind rating has written")
    each.add_argument("--question", default="better", metavar="better|fluent|on_topic", help="(default: better)")
    each.add_argument(
        "--runs", nargs="+", type=path, default=[], metavar="FOLDER", help="runs of these models, for their losses"
    )


def run(arguments: argparse.Namespace) -> None:
    from curvekit.preferences.ranking import rank, to_markdown
    from curvekit.preferences.ratings import read_ratings
    from curvekit.training.runs import load_run

    if missing := next((each for each in arguments.ratings if not each.is_file()), None):
        raise CurvekitError(f"there is no file {missing}; name files of ratings")
    losses: dict[str, float] = {}
    for folder in arguments.runs:
        done = load_run(folder)
        for name in (str(folder), folder.name, done.config.recipe):  # a model's name in the ratings may be any of these
            losses.setdefault(name, done.metrics["bits_per_byte"])
    ratings = [row for each in arguments.ratings for row in read_ratings(each)]
    print(to_markdown(rank(ratings, arguments.question), losses or None), end="")
