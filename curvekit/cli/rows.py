"""Labelled rows as arguments: a table, its columns, how many of its rows, and rows that are held out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from curvekit.cli.flags import path, positive

if TYPE_CHECKING:
    from curvekit.text.labelled import Labelled


def add_rows(each: argparse.ArgumentParser, test: bool = True) -> None:
    """The argument ROWS, and flags for its columns and how many."""
    each.add_argument("rows", type=path, metavar="ROWS", help="a .jsonl, .csv or .parquet file with texts and labels")
    if test:
        each.add_argument("--test", type=path, metavar="ROWS", help="held-out rows on which it is measured")
    each.add_argument("--text-column", default="text", metavar="NAME", help="of the texts (default: %(default)s)")
    each.add_argument("--label-column", default="label", metavar="NAME", help="of the labels (default: %(default)s)")
    each.add_argument("--most", type=positive, metavar="N", help="only the first N rows of each label")


def rows(arguments: argparse.Namespace) -> list[Labelled]:
    return _read(arguments, arguments.rows)


def held_out_rows(arguments: argparse.Namespace) -> list[Labelled]:
    return _read(arguments, arguments.test) if arguments.test else []


def _read(arguments: argparse.Namespace, path: str) -> list[Labelled]:
    from curvekit.text.labelled import first_of_each, read_labelled

    found = read_labelled(path, arguments.label_column, arguments.text_column)
    return first_of_each(found, arguments.most) if arguments.most else found
