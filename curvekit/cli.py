"""The command ``curvekit``: report, train, evaluate, generate and compare, each a thin layer over the library.

Flags of a run's settings are made from :class:`curvekit.runs.RunConfig`, so none is written twice. Heavy modules
load inside the commands, and help costs nothing. What ``evaluate``, ``generate`` and ``compare`` print on standard
output can go into a file; what else there is to say goes to standard error. Exit status: 0; 2 for an input that
cannot work, in one sentence; 130 when stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from curvekit import __version__
from curvekit.errors import CurvekitError, pick
from curvekit.files import read_json, write_text
from curvekit.results import INTERVAL, cells, markdown_table
from curvekit.runs import MAIN_RECIPES, SPLITS, RunConfig, load_model, load_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESULTS_BEGIN = "<!-- results:begin -->"
RESULTS_END = "<!-- results:end -->"
# What lies outside a program: its message says more than a traceback.
_SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        with _plain_warnings():
            arguments.command(arguments)
            sys.stdout.flush()
    except CurvekitError as error:
        return _failed(error)
    except BrokenPipeError:
        # The reader has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("curvekit: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        where = error.filename or "standard output"
        return _failed(f"{where}: {error.strerror}; check its permissions and the free space")
    return 0


def _failed(error: object) -> int:
    print(f"curvekit: error: {error}", file=sys.stderr)
    return 2


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line of its words, without the line of source that raised it."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        print(f"curvekit: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.showwarning = show
        yield


# The commands


def report(arguments: argparse.Namespace) -> None:
    from curvekit.modeling import RECIPES
    from curvekit.reports import report

    config = _config(arguments)
    recipes = [pick(name, RECIPES, "recipe") for name in _listed(arguments.recipes)]
    seeds = [_seed(text) for text in _listed(arguments.seeds)]
    out = arguments.out or Path("reports") / f"{Path(config.corpus).name}-{Path(config.base).name}"
    print(
        report(
            config,
            out,
            recipes=recipes,
            seeds=seeds,
            notebooks=arguments.notebooks,
            parameters=arguments.parameter,
        )
    )


def train(arguments: argparse.Namespace) -> None:
    from curvekit.training import train

    config = _config(arguments)
    run = train(config, arguments.out or Path("runs") / config.slug())
    _print_metrics(run.metrics)
    print(f"{'run':<18}{run.folder}")


def evaluate(arguments: argparse.Namespace) -> None:
    from curvekit.corpora import corpus_revision, load_corpus
    from curvekit.metrics import score_documents

    corpus = load_corpus(arguments.corpus, arguments.data_dir, announce=_say)
    model, tokenizer = _open(arguments.model, corpus["train"]["text"])
    texts = corpus[arguments.split]["text"][: arguments.documents]
    score = score_documents(
        model,
        tokenizer,
        texts,
        context=arguments.context,
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        signature={
            "model": Path(arguments.model).resolve().name,
            "corpus": Path(arguments.corpus).resolve().name,
            "revision": corpus_revision(corpus)[arguments.split],
            "split": arguments.split,
        },
        progress=sys.stderr.isatty(),
    )
    if arguments.json:
        print(json.dumps(score.to_dict(), ensure_ascii=False))
        return
    _print_metrics(score.to_dict())
    print(f"{'tokens':<18}{int(score.tokens.sum()):,} in {len(texts):,} documents")
    print(f"{'signature':<18}{score.signature_string()}")


def generate(arguments: argparse.Namespace) -> None:
    from curvekit.generation import generate

    prompts = _prompts(arguments)
    model, tokenizer = _open(arguments.model)
    texts = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        num_return_sequences=arguments.count,
        seed=arguments.seed,
    )
    pairs = zip([prompt for prompt in prompts for _ in range(arguments.count)], texts, strict=True)
    for number, (prompt, continuation) in enumerate(pairs):
        if arguments.json:
            print(json.dumps({"prompt": prompt, "continuation": continuation}, ensure_ascii=False))
        else:
            print("\n" * (number > 0) + prompt + continuation)


def compare(arguments: argparse.Namespace) -> None:
    from curvekit.experiments import compare, load_comparison

    first = arguments.folders[0]
    if arguments.readme is not None:
        if len(arguments.folders) > 1:
            raise CurvekitError(f"--readme takes the folder of one comparison, not {len(arguments.folders)}")
        _fill(arguments.readme, results_block(first))
        return
    if len(arguments.folders) == 1 and (first / "comparison.json").exists():
        comparison = load_comparison(first)
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


# What they share


def _config(arguments: argparse.Namespace) -> RunConfig:
    """The defaults, over them the file of ``--config``, over it the flags."""
    given = vars(arguments)
    values = read_json(arguments.config) if arguments.config else {}
    if not isinstance(values, dict):
        raise CurvekitError(f"{arguments.config} holds no settings; expected a JSON object of names and values")
    values |= {each.name: given[each.name] for each in fields(RunConfig) if each.name in given}
    return RunConfig.from_dict(values).validate()


def _open(name: str, texts: Sequence[str] | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokeniser of a run's folder, a saved model's folder or a base; on the GPU if there is one."""
    import torch
    from transformers.utils import logging

    from curvekit.modeling import CurveGPT2Config, build_model
    from curvekit.tokenization import base_tokenizer

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = Path(name)
    saved = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if saved and "model_type" not in saved:
        run = load_run(folder)
        model, tokenizer = run.model(), run.tokenizer()
    else:
        tokenizer = base_tokenizer(name, texts)
        trained = saved.get("model_type") == CurveGPT2Config.model_type
        model = load_model(folder) if trained else build_model("gpt2", name, tokenizer)
    tokenizer.name_or_path = folder.resolve().name  # a signature names no folder of this machine
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), tokenizer  # type: ignore[arg-type]  # transformers wraps Module.to without its self


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """The prompts asked for: one, or one for each line of a file or of standard input."""
    if arguments.file is None and arguments.prompt != "-":
        return [arguments.prompt]
    if arguments.file is not None and arguments.prompt:
        raise CurvekitError(f"give the prompt {arguments.prompt!r} or --file {arguments.file}, not both")
    source = arguments.file or "standard input"
    try:
        data = arguments.file.read_bytes() if arguments.file else sys.stdin.buffer.read()
        prompts = [line for line in data.decode("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CurvekitError(f"cannot read {source}: {error.strerror}; give a text file with a prompt a line") from error
    except UnicodeDecodeError as error:
        raise CurvekitError(f"{source} is not UTF-8 text ({error}); convert it first") from error
    if not prompts:
        raise CurvekitError(f"{source} has no prompt; write one a line")
    return prompts


def _print_metrics(metrics: dict[str, Any]) -> None:
    for name in ("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy", "bleu"):
        if metrics.get(name) is not None:
            print(f"{name.replace('_', ' '):<18}{metrics[name]:.4f}")
    print(f"{'sees the future':<18}{'yes: these figures mean nothing' if metrics['leaks'] else 'no'}")


def results_block(folder: Path) -> str:
    """What the README says of a comparison, from the ``results.json`` in its folder."""
    found = read_json(folder / "results.json")
    shown = ("recipe", "perplexity", "bits/byte", INTERVAL, "verdict", "trainable parameters")
    table = markdown_table([{column: cells(row)[column] for column in shown} for row in found["rows"]])
    return "\n".join([found["summary"], "", table, "", "```", found["command"], "```"])


def _fill(path: Path, block: str) -> None:
    """Put ``block`` between the two marks of a page, which is otherwise left as it is."""
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror}") from error
    before, begin, rest = page.partition(RESULTS_BEGIN)
    _, end, after = rest.partition(RESULTS_END)
    if not begin or not end:
        raise CurvekitError(f"{path} has no lines {RESULTS_BEGIN} and {RESULTS_END} to write between")
    write_text(path, f"{before}{begin}\n{block}\n{end}{after}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# The flags


def parser() -> argparse.ArgumentParser:
    """The command line, with every command and its help."""
    whole = argparse.ArgumentParser(
        prog="curvekit",
        description="Fine-tune GPT-2 with curve embeddings and SoftEMax attention, and compare the recipes honestly.",
        epilog="examples:\n"
        "  curvekit report                                        four recipes on pydocs, as a report\n"
        "  curvekit train --recipe curve --out runs/curve         one run\n"
        "  curvekit evaluate runs/curve --corpus pydocs           its perplexity, with a signature\n"
        "  curvekit generate runs/curve 'The curve runs through'  what it writes\n"
        "  curvekit compare runs/gpt2 runs/curve                  is the difference one?\n\n"
        "`curvekit COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"curvekit {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function: Any, purpose: str, examples: str, usage: str | None = None) -> argparse.ArgumentParser:
        each = commands.add_parser(
            function.__name__,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage=usage,
        )
        each.set_defaults(command=function)
        return each

    each = command(
        report,
        "train recipes by seeds, compare them, and write a report of executed notebooks",
        "  curvekit report\n"
        "  curvekit report --corpus wikitext-2 --data-dir path/to/wikitext-2 --seeds 0 1 2 --steps 1000\n"
        "  curvekit report --corpus wikitext-103 --base gpt2",
        "curvekit report [--out FOLDER] [--recipes NAME ...] [--seeds N ...] [SETTING ...]",
    )
    each.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where it is written (default: reports/CORPUS-BASE)",
    )
    each.add_argument(
        "--recipes",
        nargs="+",
        default=list(MAIN_RECIPES),
        metavar="NAME",
        help=f"what is compared; the first is the baseline (default: {' '.join(MAIN_RECIPES)})",
    )
    each.add_argument("--seeds", nargs="+", default=["0"], metavar="N", help="seeds of every recipe (default: 0)")
    each.add_argument(
        "--notebooks", nargs="+", type=Path, metavar="FILE", help="what is executed (default: curvekit's own)"
    )
    each.add_argument(
        "--parameter",
        nargs="+",
        action=_Settings,
        default={},
        metavar="NAME=VALUE",
        help="further parameters of the notebooks",
    )
    _add_settings(each, without=("recipe", "seed"))

    each = command(
        train,
        "train and evaluate one recipe; given again after a stop, it goes on",
        "  curvekit train --recipe curve --corpus pydocs --out runs/curve\n"
        "  curvekit train --config runs/curve/config.json --seed 1 --out runs/curve-seed1\n"
        "  curvekit train --recipe curve --model degree=3 place=0.25",
        "curvekit train [--out FOLDER] [SETTING ...]",
    )
    each.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the run's folder (default: runs/ and a name made of the settings)"
    )
    _add_settings(each)

    each = command(
        evaluate,
        "measure the perplexity of a run or a base on a corpus",
        "  curvekit evaluate runs/curve --corpus pydocs\n"
        "  curvekit evaluate gpt2 --corpus wikitext-2 --data-dir path/to/wikitext-2 --context 1024 --stride 512\n"
        "  curvekit evaluate runs/curve --corpus story.txt --json > score.json",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    each.add_argument("--corpus", default="pydocs", help="a corpus's name, a file or a folder (default: %(default)s)")
    each.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="folder with the corpus's files, instead of the hub"
    )
    each.add_argument(
        "--split", default="test", help="train, validation or test (default: %(default)s)", choices=("train", *SPLITS)
    )
    each.add_argument("--documents", type=_positive, metavar="N", help="only the first N documents")
    each.add_argument(
        "--context", type=_positive, metavar="TOKENS", help="tokens in a window (default: the model's positions)"
    )
    each.add_argument(
        "--stride", type=_positive, metavar="TOKENS", help="tokens that a window adds (default: half the context)"
    )
    each.add_argument(
        "--batch-size",
        type=_positive,
        default=8,
        metavar="N",
        help="windows scored together; changes no figure (default: %(default)s)",
    )
    each.add_argument("--json", action="store_true", help="print the score of every document as JSON")

    each = command(
        generate,
        "continue prompts with a run or a base",
        "  curvekit generate runs/curve 'The curve runs through'\n"
        "  curvekit generate gpt2 --file prompts.txt --json > texts.jsonl\n"
        "  echo 'Once upon a time' | curvekit generate runs/curve - --count 3 --temperature 0.8",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    each.add_argument(
        "prompt",
        nargs="?",
        default="",
        metavar="PROMPT",
        help="a text; - reads one a line from standard input; none begins a document",
    )
    each.add_argument("--file", type=Path, help="a text file with one prompt a line")
    each.add_argument(
        "--tokens", type=_positive, default=64, metavar="N", help="new tokens at most (default: %(default)s)"
    )
    each.add_argument(
        "--count", type=_positive, default=1, metavar="N", help="continuations a prompt (default: %(default)s)"
    )
    each.add_argument(
        "--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: %(default)s)"
    )
    each.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="draw from the K likeliest tokens; 0: all (default: %(default)s)",
    )
    each.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="draw from the likeliest up to this share (default: %(default)s)",
    )
    each.add_argument("--seed", type=int, default=0, help="the same seed writes the same texts (default: %(default)s)")
    each.add_argument("--json", action="store_true", help="print one JSON object a line: prompt, continuation")

    each = command(
        compare,
        "print the table of a report, or compare finished runs, with paired intervals",
        "  curvekit compare reports/pydocs-mini\n"
        "  curvekit compare runs/gpt2 runs/curve\n"
        "  curvekit compare reports/wikitext-2 --readme README.md",
    )
    each.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="the folder of a report, or those of runs"
    )
    each.add_argument(
        "--baseline", metavar="RECIPE", help="what runs are compared with (default: the first run's recipe)"
    )
    form = each.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="a LaTeX table instead of Markdown")
    form.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    form.add_argument("--readme", type=Path, metavar="PAGE", help="write the results between the marks of a page")
    return whole


def _add_settings(each: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """A flag for every field of RunConfig; one that is not given is not in the namespace."""
    group = each.add_argument_group("settings of a run")
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a JSON file with settings, such as a run's config.json; flags go before it",
    )
    hints = get_type_hints(RunConfig)
    for setting in fields(RunConfig):
        if setting.name in without:
            continue
        options: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS}
        kind = _kind(hints[setting.name])
        if kind is dict:
            options |= {"nargs": "+", "action": _Settings, "metavar": "NAME=VALUE"}
        elif kind is bool:
            options |= {"nargs": "?", "const": True, "type": _boolean, "metavar": "true|false"}
        else:
            options |= {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}
        if choices := setting.metadata.get("choices"):
            options["metavar"] = "|".join(choices)
        text = setting.metadata["help"]
        if "default" not in text and kind is not dict:
            text += f" (default: {str(setting.default).lower() if kind is bool else setting.default})"
        group.add_argument(f"--{setting.name.replace('_', '-')}", help=text.replace("%", "%%"), **options)


def _kind(hint: Any) -> type:
    """``int`` of ``int | None``, ``dict`` of ``dict[str, Any]``."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return get_origin(hint) or hint


class _Settings(argparse.Action):
    """``degree=3 window=centred`` or one JSON object, as a dictionary."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        settings = dict(getattr(namespace, self.dest, {}))
        for text in values:
            name, equals, value = text.partition("=")
            if text.startswith("{"):
                settings |= _parsed(text)
            elif equals:
                settings[name] = _parsed(value)
            else:
                parser.error(f"argument {option}: {text!r} is not name=value")
        setattr(namespace, self.dest, settings)


def _parsed(text: str) -> Any:
    """A JSON value, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def _listed(words: Sequence[str]) -> list[str]:
    """``gpt2,curve`` and ``gpt2 curve`` alike."""
    return [part for word in words for part in word.replace(",", " ").split()]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise CurvekitError(f"seed is {text!r}; give whole numbers from 0 on, such as --seeds 0 1 2")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
