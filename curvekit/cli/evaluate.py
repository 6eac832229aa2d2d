"""``curvekit evaluate``: the perplexity of a run or a base on a corpus, with its signature.

A T5 is scored on targets given their sources; so is any model where the keys of a source and a target are named.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.bases.opening import open_model
from curvekit.cli.flags import Commands, add_plugin, command, path, positive
from curvekit.cli.printing import print_metrics, say
from curvekit.cli.tasks import add_task, evaluate_on_task, evaluate_with_harness, task_of
from curvekit.errors import CurvekitError, pick
from curvekit.training.runs import load_run

if TYPE_CHECKING:
    from datasets import DatasetDict

    from curvekit.training.settings import RunConfig


def add(commands: Commands) -> None:
    each = command(
        commands,
        "evaluate",
        run,
        "measure the perplexity of a run or a base on a corpus, or how right its answers to a task are",
        "  curvekit evaluate runs/curve --corpus pydocs\n"
        "  curvekit evaluate gpt2 --corpus wikitext-2 --data-dir path/to/wikitext-2 --context 1024 --stride 512\n"
        "  curvekit evaluate runs/curve --corpus story.txt --json > score.json\n"
        "  curvekit evaluate runs/t5 --corpus path/to/scitldr --source-key document --target-key summary\n"
        "  curvekit evaluate smollm2 runs/qa runs/qa-softemax --task squad_qa --data-dir path/to/squad_qa --out qa\n"
        "  curvekit evaluate runs/mine --task rows.jsonl --template 'Q: {question} A: {answer}'",
    )
    each.add_argument(
        "model",
        nargs="+",
        metavar="RUN_OR_BASE",
        help="a run's folder, a saved model's folder, or a base; several for a task, compared with the first",
    )
    each.add_argument("--corpus", help="a corpus's name, a file or a folder (default: pydocs; a run's own task)")
    each.add_argument(
        "--data-dir", type=path, metavar="FOLDER", help="folder with the corpus's files, instead of the hub"
    )
    each.add_argument("--codes", metavar="SOURCE", help="the control code before each document, as a run was trained")
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
        "--source-key", metavar="KEY", help="of rows: what is given; with --target-key (default: the run's)"
    )
    each.add_argument("--target-key", metavar="KEY", help="of rows: what is scored, given that (default: the run's)")
    each.add_argument(
        "--languages",
        type=path,
        metavar="FOLDER",
        help="instead of a corpus: bits a byte on the test texts of the languages that FOLDER has folders of (fr, de)",
    )
    each.add_argument("--json", action="store_true", help="print the score of every document as JSON")
    add_task(each)
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    if arguments.lm_eval and (arguments.task is not None or len(arguments.model) > 1):
        raise CurvekitError("--lm-eval takes one model and tasks of its own; leave --task and other models out")
    if arguments.lm_eval:
        return evaluate_with_harness(arguments)
    if arguments.task is None and arguments.corpus is None:
        for name, value in task_of(arguments.model[-1]).items():
            setattr(arguments, name, getattr(arguments, name) or value)
    if arguments.task is not None:
        if arguments.corpus is not None:
            raise CurvekitError(f"give --task {arguments.task} or --corpus {arguments.corpus}, not both")
        return evaluate_on_task(arguments)
    if len(arguments.model) > 1:
        raise CurvekitError(f"{len(arguments.model)} models are compared on a task; give --task, or one model")
    (arguments.model,), arguments.corpus = arguments.model, arguments.corpus or "pydocs"
    return _by_language(arguments) if arguments.languages else _on_corpus(arguments)


def _on_corpus(arguments: argparse.Namespace) -> None:
    """Score the documents of a split, or its targets given their sources."""
    from curvekit.evaluation.metrics import score_documents
    from curvekit.evaluation.targets import COMPARES, score_targets
    from curvekit.text.pairs import pairs_of
    from curvekit.text.shards import revisions

    trained = load_run(arguments.model).config if (Path(arguments.model) / "history.jsonl").exists() else None
    keys = _keys(arguments, trained)
    corpus = _corpus(arguments, keys)
    model, tokenizer = open_model(arguments.model, seq2seq=True)
    of_targets = keys is not None or model.config.is_encoder_decoder
    context, stride = arguments.context, arguments.stride
    if context is None and trained is not None:  # as the run was scored
        context, stride = trained.window, stride or trained.stride
    common: dict[str, Any] = {
        "context": context,
        "batch_size": arguments.batch_size,
        "signature": {
            "model": Path(arguments.model).resolve().name,
            "corpus": Path(arguments.corpus).resolve().name,
            "revision": revisions(corpus)[arguments.split],
            "split": arguments.split,
        },
        "progress": sys.stderr.isatty(),
    }
    code: dict[str, Any] = {}
    if of_targets:
        for flag in ("code", "stride"):
            if getattr(arguments, flag):
                raise CurvekitError(f"a T5 writes targets, each scored whole given its source; leave --{flag} out")
        room = context or model.config.max_context
        pairs = pairs_of(corpus[arguments.split], tokenizer, room, arguments.documents)
        score = score_targets(model, tokenizer, *pairs, separator="\n" if keys else "", **common)
    else:
        texts = corpus[arguments.split]["text"][: arguments.documents]
        score = score_documents(model, tokenizer, texts, stride=stride, **common)
        if arguments.code:
            from curvekit.evaluation.code import code_metrics

            code = code_metrics(model, tokenizer, texts, context=context, count=arguments.code)
    if arguments.json:
        print(json.dumps(score.to_dict() | ({"code": code} if code else {}), ensure_ascii=False))
        return
    print_metrics(score.to_dict())
    what = "targets given their sources" if of_targets else "documents"
    print(f"{'tokens':<18}{int(score.tokens.sum()):,} in {len(score.tokens):,} {what}")
    for name, value in code.items():
        shown = "n/a" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        print(f"{'code: ' + name.replace('_', ' '):<27}{shown}")
    print(f"{'signature':<18}{score.signature_string()}")
    if of_targets:
        print(f"{'compares':<18}{COMPARES}")


def _keys(arguments: argparse.Namespace, trained: RunConfig | None) -> tuple[str, str] | None:
    """The keys of source and target: those that are given, or those of the run on the same corpus."""
    source, target = arguments.source_key, arguments.target_key
    if source is None and target is None and trained is not None and trained.corpus == arguments.corpus:
        source, target = trained.source_key, trained.target_key
    if (source is None) != (target is None):
        raise CurvekitError(f"the keys of source and target are {source} and {target}; give both, or none")
    return (source, target) if source and target else None


def _corpus(arguments: argparse.Namespace, keys: tuple[str, str] | None) -> DatasetDict:
    """What is scored: rows by their keys, a corpus, or further test files beside it."""
    from datasets import DatasetDict as Splits

    from curvekit.text.corpora import further_splits
    from curvekit.text.documents import read_files
    from curvekit.text.pairs import load_pairs
    from curvekit.text.shards import open_corpus

    if keys:
        return load_pairs(arguments.corpus, arguments.data_dir, source=keys[0], target=keys[1], announce=say)
    corpus = open_corpus(arguments.corpus, arguments.data_dir, codes=arguments.codes, announce=say)
    if arguments.split in corpus:
        return corpus
    further = further_splits(arguments.corpus, arguments.data_dir)
    split = pick(arguments.split, (*corpus, *further), "split")
    return Splits({split: read_files([further[split]], announce=say)})


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
