"""``curvekit evaluate``: the perplexity of a run or a base on a corpus, with its signature."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from curvekit.bases.opening import open_model
from curvekit.cli.flags import Commands, command, path, positive
from curvekit.cli.printing import print_metrics, say
from curvekit.errors import pick
from curvekit.training.runs import load_run


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
        "--split",
        default="test",
        help="train, validation or test, or a further test of the folder, such as test_modern (default: %(default)s)",
    )
    each.add_argument(
        "--code",
        type=positive,
        metavar="N",
        help="the texts are Python: also complete N beginnings, parse what was written, and score the identifiers",
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
    each.add_argument(
        "--languages",
        type=path,
        metavar="FOLDER",
        help="instead of a corpus: bits a byte on the test texts of the languages that FOLDER has folders of (fr, de)",
    )
    each.add_argument("--json", action="store_true", help="print the score of every document as JSON")


def run(arguments: argparse.Namespace) -> None:
    from datasets import DatasetDict

    from curvekit.evaluation.metrics import score_documents
    from curvekit.text.corpora import corpus_revision, further_splits, load_corpus
    from curvekit.text.documents import read_files

    if arguments.languages:
        _by_language(arguments)
        return
    corpus = load_corpus(arguments.corpus, arguments.data_dir, announce=say)
    if arguments.split not in corpus:
        further = further_splits(arguments.corpus, arguments.data_dir)
        split = pick(arguments.split, (*corpus, *further), "split")
        corpus = DatasetDict({split: read_files([further[split]], announce=say)})
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
            "revision": corpus_revision(corpus)[arguments.split],
            "split": arguments.split,
        },
        progress=sys.stderr.isatty(),
    )
    code = {}
    if arguments.code:
        from curvekit.evaluation.code import code_metrics

        code = code_metrics(model, tokenizer, texts, context=context, count=arguments.code)
    if arguments.json:
        print(json.dumps(score.to_dict() | ({"code": code} if code else {}), ensure_ascii=False))
        return
    print_metrics(score.to_dict())
    print(f"{'tokens':<18}{int(score.tokens.sum()):,} in {len(texts):,} documents")
    for name, value in code.items():
        shown = "n/a" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        print(f"{'code: ' + name.replace('_', ' '):<27}{shown}")
    print(f"{'signature':<18}{score.signature_string()}")


def _by_language(arguments: argparse.Namespace) -> None:
    from curvekit.evaluation.languages import score_languages

    model, tokenizer = open_model(arguments.model)
    sizes = {"documents": arguments.documents, "context": arguments.context, "stride": arguments.stride}
    found = score_languages(model, tokenizer, arguments.languages, announce=say, **sizes)
    if arguments.json:
        print(json.dumps({language: score.to_dict() for language, score in found.items()}, ensure_ascii=False))
        return
    for language, score in found.items():
        a_word = score.tokens.sum() / max(1, score.words.sum())
        print(f"{language:<18}{score.bits_per_byte:.4f} bits a byte, {a_word:.2f} tokens a word")
