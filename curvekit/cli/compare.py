"""``curvekit compare``: the table of a report, or of finished runs, with paired intervals."""

from __future__ import annotations

import argparse
import json
import shlex

from curvekit.cli.flags import Commands, add_plugin, command, path
from curvekit.cli.readme import (
    LADDER_BEGIN,
    LADDER_END,
    LEAK_BEGIN,
    LEAK_END,
    is_ladder,
    is_leak_tax,
    ladder_block,
    leak_block,
    results_block,
)
from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError
from curvekit.evaluation.results import fill
from curvekit.training.runs import load_run


def add(commands: Commands) -> None:
    each = command(
        commands,
        "compare",
        run,
        "print the table of a report, or compare finished runs, with paired intervals",
        "  curvekit compare reports/pydocs-mini\n"
        "  curvekit compare runs/gpt2 runs/curve\n"
        "  curvekit compare runs/gpt2 runs/curve --out reports/curve\n"
        "  curvekit compare reports/pydocs --readme README.md\n"
        "  curvekit compare reports/which-curve",
    )
    each.add_argument(
        "folders", nargs="+", type=path, metavar="FOLDER", help="the folder of a report, or those of runs"
    )
    each.add_argument(
        "--baseline",
        metavar="RECIPE",
        help="what is compared with (default: the first run's recipe, or the report's own; another needs its runs)",
    )
    form = each.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="a LaTeX table instead of Markdown")
    form.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    form.add_argument("--readme", type=path, metavar="PAGE", help="write the results between the marks of a page")
    form.add_argument("--out", type=path, metavar="FOLDER", help="write a page of the runs, with figures and samples")
    each.add_argument(
        "--samples",
        type=int,
        default=4,
        metavar="N",
        help="prompts that a page shows (default: %(default)s)",
    )
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.experiments.comparison import compare, load_comparison

    first = arguments.folders[0]
    if arguments.out is not None:
        _page(arguments)
        return
    if arguments.readme is not None:
        if len(arguments.folders) > 1 or arguments.baseline:
            raise CurvekitError("--readme takes the folder of one comparison, as it was saved; leave the rest out")
        if is_ladder(first):
            fill(arguments.readme, ladder_block(first), LADDER_BEGIN, LADDER_END)
        elif is_leak_tax(first):
            fill(arguments.readme, leak_block(first), LEAK_BEGIN, LEAK_END)
        else:
            fill(arguments.readme, results_block(first))
        return
    if len(arguments.folders) == 1 and is_ladder(first):
        if arguments.baseline:
            raise CurvekitError("a ladder's tables are as they were saved; leave --baseline out")
        kind = "tex" if arguments.latex else "json" if arguments.json else "md"
        print(read_whole(first / f"medium.{kind}").rstrip("\n"))
        return
    if len(arguments.folders) == 1 and is_leak_tax(first):
        print(leak_block(first))
        return
    if len(arguments.folders) == 1 and (first / "comparison.json").exists():
        comparison = load_comparison(first)
        if arguments.baseline not in (None, comparison.baseline):
            folders = [first / each["folder"] for each in comparison.runs]
            comparison = compare(folders, arguments.baseline, samples=comparison.samples)
    elif len(arguments.folders) == 1:
        raise CurvekitError(f"{first} holds no comparison; give a report's folder, or two runs or more")
    else:
        comparison = compare(arguments.folders, arguments.baseline or load_run(first).config.recipe)
    if arguments.latex:
        print(comparison.to_latex())
    elif arguments.json:
        print(json.dumps({"rows": comparison.rows, "contrasts": comparison.contrasts}, ensure_ascii=False))
    else:
        print(comparison.to_markdown())


def _page(arguments: argparse.Namespace) -> None:
    from curvekit.reports.runs import write

    folders, out, samples = arguments.folders, arguments.out, arguments.samples
    if len(folders) == 1:
        raise CurvekitError("--out makes a page of runs; name the folders of two or more")
    words = ["curvekit", "compare", *(f"runs/{folder.resolve().name}" for folder in folders), "--out", out.as_posix()]
    words += ["--samples", str(samples)] if samples != 4 else []
    print(write(folders, arguments.baseline or load_run(folders[0]).config.recipe, out, shlex.join(words), samples))
