"""``curvekit evaluate``: the perplexity of a run or a base on a corpus, with its signature."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from curvekit.bases.opening import open_model
from curvekit.cli.flags import Commands, command, path, positive
from curvekit.cli.printing import print_metrics, say
from curvekit.training.runs import load_run
from curvekit.training.settings import SPLITS


def add(commands: Commands) -> None:
    each = command(
        commands,
        "evaluate",
        run,
        "measure the perplexity of a run or a base on a corpus",
        "  curvekit evaluate runs/curve --corpus pydocs\n"
        "  curvekit evaluate gpt2 --corpus wikitext-2 --data-dir path/to/wikitext-2 --context 1024 --stride 512\n"
        "  curvekit evaluate runs/curve --corpus story.txt --json > score.json",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    each.add_argument("--corpus", default="pydocs", help="a corpus's name, a file or a folder (default: %(default)s)")
    each.add_argument(
        "--data-dir", type=path, metavar="FOLDER", help="folder with the corpus's files, instead of the hub"
    )
    each.add_argument(
        "--split", default="test", help="train, validation or test (default: %(default)s)", choices=("train", *SPLITS)
    )
    each.add_argument("--documents", type=positive, metavar="N", help="only the first N documents")
    each.add_argument(
        "--context",
        type=positive,
        metavar="TOKENS",
        help="tokens in a window (default: the run's, or the model's positions)",
    )
    each.add_argument(
        "--stride", type=positive, metavar="TOKENS", help="tokens that a window adds (default: half the context)"
    )
    each.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="windows scored together; changes no figure (default: what suits the machine)",
    )
    each.add_argument("--json", action="store_true", help="print the score of every document as JSON")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.evaluation.metrics import score_documents
    from curvekit.text.shards import open_corpus, revisions

    corpus = open_corpus(arguments.corpus, arguments.data_dir, announce=say)
    model, tokenizer = open_model(arguments.model)
    texts = corpus[arguments.split]["text"][: arguments.documents]
    context, stride = arguments.context, None
    if context is None and (Path(arguments.model) / "history.jsonl").exists():  # as the run was scored
        config = load_run(arguments.model).config
        context, stride = config.window, config.stride
    score = score_documents(
        model,
        tokenizer,
        texts,
        context=context,
        stride=arguments.stride or stride,
        batch_size=arguments.batch_size,
        signature={
            "model": Path(arguments.model).resolve().name,
            "corpus": Path(arguments.corpus).resolve().name,
            "revision": revisions(corpus)[arguments.split],
            "split": arguments.split,
        },
        progress=sys.stderr.isatty(),
    )
    if arguments.json:
        print(json.dumps(score.to_dict(), ensure_ascii=False))
        return
    print_metrics(score.to_dict())
    print(f"{'tokens':<18}{int(score.tokens.sum()):,} in {len(texts):,} documents")
    print(f"{'signature':<18}{score.signature_string()}")
