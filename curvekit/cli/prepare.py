"""``curvekit prepare``: a corpus cut into shards of tokens, once, by several processes."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path, positive
from curvekit.cli.printing import say


def add(commands: Commands) -> None:
    each = command(
        commands,
        "prepare",
        run,
        "cut a corpus into shards of tokens, which runs read from the disk; given again after a stop, it goes on",
        "  curvekit prepare wikitext-103 prepared/wikitext-103 --base gpt2 --workers 8\n"
        "  curvekit train --base gpt2 --corpus prepared/wikitext-103 --out runs/curve",
    )
    each.add_argument("corpus", metavar="CORPUS", help="a name, a file or a folder, as train takes it")
    each.add_argument("out", type=path, metavar="OUT", help="the folder of the shards")
    each.add_argument("--base", default="mini", metavar="NAME", help="whose tokeniser cuts (default: mini)")
    each.add_argument("--data-dir", type=path, metavar="FOLDER", help="with the corpus's files, instead of the hub")
    each.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that cut (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.bases.tokenizer import base_tokenizer
    from curvekit.ownership import require
    from curvekit.text.corpora import load_corpus
    from curvekit.text.shards import PREPARED, prepare

    require(arguments.out, PREPARED)
    tokenizer = base_tokenizer(arguments.base)
    corpus = load_corpus(arguments.corpus, arguments.data_dir, announce=say)
    prepare(corpus, arguments.corpus, tokenizer, arguments.out, arguments.workers, announce=print)
