"""``curvekit steering``: what each way of steering brings under a judge, and costs, at several strengths."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, listed, path, positive
from curvekit.cli.printing import say, typed
from curvekit.cli.rows import add_rows, held_out_rows, rows
from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError


def add(commands: Commands) -> None:
    each = command(
        commands,
        "steering",
        run,
        "measure ways of steering: success under a judge, perplexity under another model, cost",
        "  curvekit steering smollm2 train.jsonl --test test.jsonl --label positive --out studies/positive\n"
        "  curvekit steering runs/coded train.jsonl --test test.jsonl --label positive --ways codes --out studies/c",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="the model that is steered")
    add_rows(each)
    each.add_argument("--label", required=True, metavar="TEXT", help="what is sought")
    each.add_argument("--out", type=path, required=True, metavar="FOLDER", help="the study; given again, it goes on")
    each.add_argument("--scorer", default="mini", metavar="RUN_OR_BASE", help="another model, for perplexity "
                      "(default: %(default)s)")  # fmt: skip
    each.add_argument("--ways", nargs="+", default=["preface", "bag", "attribute", "vector"], metavar="WAY",
                      help="of preface, bag, attribute, vector, experts, codes (default: the first four)")  # fmt: skip
    each.add_argument("--strengths", action="append", default=[], metavar="WAY=X,X", help="of a way, over its own")
    each.add_argument("--prompts", type=path, metavar="FILE", help="a text file with a prompt a line")
    each.add_argument("--count", type=positive, default=4, metavar="N", help="texts a prompt (default: %(default)s)")
    each.add_argument("--tokens", type=positive, default=24, metavar="N", help="a text (default: %(default)s)")
    each.add_argument("--rows-used", type=positive, default=300, metavar="N", help="rows of each label that steer "
                      "(default: %(default)s)")  # fmt: skip
    each.add_argument("--preface", default="", metavar="TEXT", help="of the way preface (default: made of the label)")
    each.add_argument("--layer", type=int, metavar="N", help="of the vector (default: the one in the middle)")
    each.add_argument("--iterations", type=positive, default=3, metavar="N", help="of PPLM (default: %(default)s)")
    each.add_argument("--expert", metavar="RUN", help="of the way experts")
    each.add_argument("--antiexpert", metavar="RUN", help="of the way experts")
    each.add_argument("--seed", type=int, default=0, metavar="N", help="of the texts (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.bases.opening import open_model
    from curvekit.experiments.steering import PROMPTS, Study, run_study
    from curvekit.reports.steering import table, write

    train, test = rows(arguments), held_out_rows(arguments)
    if not test:
        raise CurvekitError("the judge's accuracy is measured on held-out rows; give --test")
    prompts: tuple[str, ...] = PROMPTS
    if arguments.prompts:
        prompts = tuple(line for line in read_whole(arguments.prompts).split("\n") if line.strip())
    study = Study(
        arguments.label,
        tuple(listed(arguments.ways)),
        dict(map(_strengths, arguments.strengths)),
        prompts,
        arguments.count,
        arguments.tokens,
        arguments.rows_used,
        arguments.preface,
        arguments.layer,
        arguments.iterations,
        seed=arguments.seed,
        expert=arguments.expert,
        antiexpert=arguments.antiexpert,
    )
    voice, scorer = open_model(arguments.model), open_model(arguments.scorer)
    result = run_study(study, voice, scorer, train, test, arguments.out, say)
    print(table(result["rows"]))
    print(write(arguments.out, typed(arguments)))


def _strengths(text: str) -> tuple[str, list[float]]:
    way, equals, values = text.partition("=")
    try:
        found = [float(each) for each in values.split(",")]
    except ValueError:
        found = []
    if not equals or not found:
        raise CurvekitError(f"--strengths is {text!r}; give WAY=X,X, such as bag=0.1,0.5")
    return way, found
