"""``curvekit merge``: an adapter and its base as one model, with what that changes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from curvekit.cli.flags import Commands, add_plugin, command, path
from curvekit.errors import CurvekitError

HALVES = ("bfloat16", "float16")


def add(commands: Commands) -> None:
    each = command(
        commands,
        "merge",
        run,
        "merge a run's adapter into its base, in float32, and write the whole model",
        "  curvekit merge runs/curve-smollm2 models/curve-smollm2\n"
        "  curvekit merge runs/curve-smollm2 models/curve-smollm2 --cast bfloat16",
    )
    each.add_argument("run_folder", metavar="RUN", type=path, help="a run's folder, or the folder of its model")
    each.add_argument("out", metavar="OUT", type=path, help="a new folder; one that holds a merged model is replaced")
    each.add_argument("--text", type=path, metavar="FILE", help="what the change is measured on (default: held-out "
                      "text of the run, else a few sentences)")  # fmt: skip
    each.add_argument(
        "--cast", choices=HALVES, metavar="|".join(HALVES), help="measure also what a cast to half precision changes"
    )
    each.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", *HALVES),
        metavar="float32",
        help="what is merged in; half precision is refused (default: %(default)s)",
    )
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    if arguments.dtype != "float32":
        raise CurvekitError(
            f"dtype is {arguments.dtype!r}, which would round an adapter away: it moves a weight by less than the next "
            "number in half precision (of a small adapter 91 % of the weights stayed unmoved); merge in float32, and "
            f"see with --cast {arguments.dtype} what a cast of the whole changes"
        )
    from curvekit.evaluation.merging import merge_run

    print("merging in float32", file=sys.stderr)
    report = merge_run(arguments.run_folder, arguments.out, text=_text(arguments.text), cast=arguments.cast)
    for what in ("merged", "cast"):
        if found := report.get(what):
            print(f"{what} ({found['dtype']}): largest change in a logit {found['logits']:.2e}, KL {found['kl']:.2e} "
                  f"nats a token, over {report['tokens']} tokens")  # fmt: skip
    if cast := report.get("cast"):
        print(f"the cast leaves {cast['unmoved']:.1%} of the weights beside the adapter where the base's cast has them")
    print(f"model             {arguments.out}")


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CurvekitError(f"cannot read {file} as text ({error}); name a text file in UTF-8") from error
