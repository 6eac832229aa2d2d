"""The command ``curvekit``: one subcommand for each thing that the library does, each a thin layer over it.

Flags of a run's settings are made from :class:`curvekit.training.RunConfig`, so none is written twice. Heavy modules
load inside the commands, and help costs nothing. What ``evaluate``, ``generate`` and ``compare`` print on standard
output can go into a file; what else there is to say goes to standard error. Exit status: 0; 2 for an input that
cannot work, in one sentence; 130 when stopped by Ctrl-C; 141 when nobody reads on.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import re
import signal
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Union, get_args, get_origin, get_type_hints

from curvekit import __version__
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError, pick
from curvekit.experiments.results import INTERVAL, cells, markdown_table
from curvekit.files import read_json, write_text
from curvekit.generation import console
from curvekit.training.runs import load_run
from curvekit.training.settings import MAIN_RECIPES, PRETRAINING, SPLITS, RunConfig

RESULTS_BEGIN, RESULTS_END = "<!-- results:begin -->", "<!-- results:end -->"
BENCHMARKS_BEGIN, BENCHMARKS_END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
# What lies outside a program: its message says more than a traceback.
_SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        with _plain_warnings():
            arguments.command(arguments)
            if sys.stdout is not None:  # closed by who called
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
    from curvekit.recipes import RECIPES
    from curvekit.reports.execution import report

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
    from curvekit.training.trainer import train

    config = _config(arguments)
    run = train(config, arguments.out or Path("runs") / config.slug())
    _print_metrics(run.metrics)
    print(f"{'run':<18}{run.folder}")


def pretrain(arguments: argparse.Namespace) -> None:
    from curvekit.training.cards import publish, require_place
    from curvekit.training.pretraining import pretrain

    settings = _given(arguments) | {"data_dir": arguments.data_dir}
    if arguments.ship:
        require_place(arguments.ship)  # before hours of training
    run = pretrain(out=arguments.out, name=arguments.name, announce=_say, **settings)
    _print_metrics(run.metrics)
    print(f"{'run':<18}{run.folder}")
    if arguments.ship:
        publish(run, arguments.ship, arguments.data_dir, announce=_say)
        print(f"{'shipped':<18}{arguments.ship}")


def card(arguments: argparse.Namespace) -> None:
    from curvekit.training.cards import SHOWN, measure

    told = read_json(arguments.folder / "card.json")["figures"]
    apart = []
    for name, figure in measure(arguments.folder, arguments.data_dir, announce=_say).items():
        print(name)
        for metric in SHOWN:
            print(f"  {metric.replace('_', ' '):<18}{figure[metric]:<12.4f} card {told[name][metric]:.4f}")
            if abs(figure[metric] - told[name][metric]) > 1e-3 * abs(told[name][metric]):
                apart.append(f"{metric} of {name}")
    if apart:
        raise CurvekitError(f"the card tells otherwise: {', '.join(apart)}; were the files or the data changed?")


def evaluate(arguments: argparse.Namespace) -> None:
    from curvekit.evaluation.metrics import score_documents
    from curvekit.text.corpora import corpus_revision, load_corpus

    corpus = load_corpus(arguments.corpus, arguments.data_dir, announce=_say)
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
    if arguments.json:
        print(json.dumps(score.to_dict(), ensure_ascii=False))
        return
    _print_metrics(score.to_dict())
    print(f"{'tokens':<18}{int(score.tokens.sum()):,} in {len(texts):,} documents")
    print(f"{'signature':<18}{score.signature_string()}")


def compare(arguments: argparse.Namespace) -> None:
    from curvekit.experiments.comparison import compare, load_comparison

    first = arguments.folders[0]
    if arguments.readme is not None:
        if len(arguments.folders) > 1 or arguments.baseline:
            raise CurvekitError("--readme takes the folder of one comparison, as it was saved; leave the rest out")
        _fill(arguments.readme, results_block(first), RESULTS_BEGIN, RESULTS_END)
        return
    if len(arguments.folders) == 1 and (first / "comparison.json").exists():
        comparison = load_comparison(first)
        if arguments.baseline not in (None, comparison.baseline):
            folders = [first / run["folder"] for run in comparison.runs]
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


def bench(arguments: argparse.Namespace) -> None:
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "harness.py").exists():
        raise CurvekitError(
            "the benchmarks come with the repository and not with the package; run `make bench` in a checkout of it"
        )
    sys.path.insert(0, str(root))
    if arguments.readme is not None:
        block = importlib.import_module("benchmarks.table").benchmarks_block(arguments.out)
        _fill(arguments.readme, block, BENCHMARKS_BEGIN, BENCHMARKS_END)
        return
    groups = _listed(arguments.names) or importlib.import_module("benchmarks").GROUPS
    harness = importlib.import_module("benchmarks.harness")
    settings = harness.Settings(quick=arguments.quick, data_dir=arguments.data_dir)
    print(harness.run(groups, arguments.out, settings, announce=_say))


# What they share


def _config(arguments: argparse.Namespace) -> RunConfig:
    """The defaults, over them what was given."""
    return RunConfig.from_dict(_given(arguments)).validate()


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the file of ``--config``, over them the flags."""
    given = vars(arguments)
    values = read_json(arguments.config) if arguments.config else {}
    values |= {each.name: given[each.name] for each in fields(RunConfig) if each.name in given}
    return values


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


def _fill(path: Path, block: str, first: str, last: str) -> None:
    """Put ``block`` between two marks of a page, which is otherwise left as it is."""
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CurvekitError(f"cannot read {path}: {error.strerror}") from error
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise CurvekitError(f"{path} has no lines {first} and {last} to write between")
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
        type=_path,
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
        "--notebooks", nargs="+", type=_path, metavar="FILE", help="what is executed (default: curvekit's 01 to 04)"
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
        "--out", type=_path, metavar="FOLDER", help="the run's folder (default: runs/ and a name made of the settings)"
    )
    _add_settings(each)

    each = command(
        pretrain,
        "pretrain a small base on novels, stories and articles; given again after a stop, it goes on",
        "  curvekit pretrain --data-dir data\n"
        "  nohup curvekit pretrain --data-dir data --ship mini > pretrain.log 2>&1 &\n"
        "  curvekit pretrain --data-dir data --name deep --model n_layer=6 n_embd=256 n_head=4",
        "curvekit pretrain --data-dir FOLDER [--out FOLDER] [--name NAME] [--ship FOLDER] [SETTING ...]",
    )
    each.add_argument(
        "--data-dir",
        type=_path,
        required=True,
        metavar="FOLDER",
        help="holds books/*.txt, stories/stories.txt and wikitext-2/",
    )
    each.add_argument(
        "--out",
        type=_path,
        default=Path("runs/pretrain"),
        metavar="FOLDER",
        help="corpus, vocabulary and runs (default: %(default)s)",
    )
    each.add_argument(
        "--name", default="mini", help="of this run, beside others with other settings (default: %(default)s)"
    )
    each.add_argument(
        "--ship",
        type=_path,
        metavar="FOLDER",
        help="write the trained model and its card there; a base that shipped there before is replaced",
    )
    _add_settings(
        each,
        without=("recipe", "base", "corpus", "data_dir", "scratch", "tokenizer", "freeze", "encoder", "context"),
        defaults=PRETRAINING,
    )

    each = command(
        card,
        "measure a shipped base anew and compare it with its card",
        "  curvekit card curvekit/assets/mini --data-dir data",
    )
    each.add_argument("folder", type=_path, metavar="FOLDER", help="of the base, with its card.json")
    each.add_argument(
        "--data-dir", type=_path, required=True, metavar="FOLDER", help="as `curvekit pretrain` was given"
    )

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
        "--data-dir", type=_path, metavar="FOLDER", help="folder with the corpus's files, instead of the hub"
    )
    each.add_argument(
        "--split", default="test", help="train, validation or test (default: %(default)s)", choices=("train", *SPLITS)
    )
    each.add_argument("--documents", type=_positive, metavar="N", help="only the first N documents")
    each.add_argument(
        "--context",
        type=_positive,
        metavar="TOKENS",
        help="tokens in a window (default: the run's, or the model's positions)",
    )
    each.add_argument(
        "--stride", type=_positive, metavar="TOKENS", help="tokens that a window adds (default: half the context)"
    )
    each.add_argument(
        "--batch-size",
        type=_positive,
        metavar="N",
        help="windows scored together; changes no figure (default: what suits the machine)",
    )
    each.add_argument("--json", action="store_true", help="print the score of every document as JSON")

    each = command(
        console.generate,
        "continue prompts with a run or a base",
        console.EXAMPLES,
    )
    console.add_flags(each)

    each = command(
        compare,
        "print the table of a report, or compare finished runs, with paired intervals",
        "  curvekit compare reports/pydocs-mini\n"
        "  curvekit compare runs/gpt2 runs/curve\n"
        "  curvekit compare reports/wikitext-2 --readme README.md",
    )
    each.add_argument(
        "folders", nargs="+", type=_path, metavar="FOLDER", help="the folder of a report, or those of runs"
    )
    each.add_argument(
        "--baseline",
        metavar="RECIPE",
        help="what is compared with (default: the first run's recipe, or the report's own; another needs its runs)",
    )
    form = each.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="a LaTeX table instead of Markdown")
    form.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    form.add_argument("--readme", type=_path, metavar="PAGE", help="write the results between the marks of a page")

    each = command(
        bench,
        "measure curvekit beside what others use, in interleaved pairs",
        "  curvekit bench                     every group of rows\n"
        "  curvekit bench attention curve     two of them; other rows stay as they are\n"
        "  curvekit bench --readme README.md  what was measured, between the marks of a page",
    )
    each.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="startup, attention, curve, training, pipeline, generation, perplexity, packing (default: all)",
    )
    each.add_argument(
        "--out",
        type=_path,
        default=Path("reports/benchmarks"),
        metavar="FOLDER",
        help="where rows, tables and figures go (default: %(default)s)",
    )
    each.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    each.add_argument(
        "--data-dir", metavar="FOLDER", help="WikiText-2, instead of the documentation of the Python installation"
    )
    each.add_argument(
        "--readme", type=_path, metavar="PAGE", help="write the rows of --out between the marks of a page"
    )
    return whole


def _add_settings(
    each: argparse.ArgumentParser, without: Sequence[str] = (), defaults: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """A flag for every field of RunConfig; one that is not given is not in the namespace.

    ``defaults`` are those of the command where they are not RunConfig's own.
    """
    group = each.add_argument_group("settings of a run")
    group.add_argument(
        "--config",
        type=_path,
        metavar="FILE",
        help="a JSON file with settings, such as a run's config.json; a flag overrides it",
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
        text, default = setting.metadata["help"], defaults.get(setting.name, setting.default)
        if setting.name in defaults:
            text = re.sub(r" \(default: .*?\)", "", text)
        if "default" not in text and kind is not dict:
            text += f" (default: {str(default).lower() if kind is bool else default})"
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
                if not isinstance(parsed := _parsed(text), dict):
                    parser.error(f"argument {option}: {text!r} is no JSON object; quote the names in it")
                settings |= parsed
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
