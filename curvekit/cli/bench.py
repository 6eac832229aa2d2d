"""``curvekit bench``: the benchmarks of a checkout, and their rows in its README."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from curvekit.cli.flags import Commands, command, listed, path
from curvekit.cli.printing import say
from curvekit.cli.readme import BENCHMARKS_BEGIN, BENCHMARKS_END
from curvekit.errors import CurvekitError
from curvekit.evaluation.results import fill


def add(commands: Commands) -> None:
    each = command(
        commands,
        "bench",
        run,
        "measure curvekit beside what others use, in interleaved pairs",
        "  curvekit bench                     every group of rows\n"
        "  curvekit bench attention curve     two of them; other rows stay as they are\n"
        "  curvekit bench --readme README.md  what was measured, between the marks of a page",
    )
    each.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="startup, attention, curve, training, pipeline, generation, steering, perplexity, packing, serving "
        "(default: all)",
    )
    each.add_argument(
        "--out",
        type=path,
        default=Path("reports/benchmarks"),
        metavar="FOLDER",
        help="where rows, tables and figures go (default: %(default)s)",
    )
    each.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    each.add_argument(
        "--data-dir", metavar="FOLDER", help="WikiText-2, instead of the documentation of the Python installation"
    )
    each.add_argument("--readme", type=path, metavar="PAGE", help="write the rows of --out between the marks of a page")


def run(arguments: argparse.Namespace) -> None:
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "harness.py").exists():
        raise CurvekitError(
            "the benchmarks come with the repository and not with the package; run `make bench` in a checkout of it"
        )
    sys.path.insert(0, str(root))
    if arguments.readme is not None:
        block = importlib.import_module("benchmarks.table").benchmarks_block(arguments.out)
        fill(arguments.readme, block, BENCHMARKS_BEGIN, BENCHMARKS_END)
        return
    groups = listed(arguments.names) or importlib.import_module("benchmarks").GROUPS
    harness = importlib.import_module("benchmarks.harness")
    settings = harness.Settings(quick=arguments.quick, data_dir=arguments.data_dir)
    print(harness.run(groups, arguments.out, settings, announce=say))
