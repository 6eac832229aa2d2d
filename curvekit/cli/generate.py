"""``curvekit generate``: what a model writes after prompts from the command line, a file, a pipe or a conversation."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from curvekit.bases.opening import open_model
from curvekit.cli.control import add_control, control
from curvekit.cli.flags import Commands, add_plugin, boolean, command, path
from curvekit.cli.printing import say
from curvekit.decoding import decoded, read_whole
from curvekit.errors import CurvekitError
from curvekit.generation.console import FLAGS, TYPES, Console, speed
from curvekit.generation.sampling import Sampling

if TYPE_CHECKING:
    from curvekit.generation.streams import Completion
    from curvekit.steering.control import Control

SHARE = 0.95  # of the probability that the command draws from, where the library draws from all


def add(commands: Commands) -> None:
    each = command(
        commands,
        "generate",
        run,
        "continue prompts with a run or a base, or write a T5's targets for them",
        "  curvekit generate runs/curve 'The curve runs through'\n"
        "  curvekit generate gpt2 'A river' --recipe softemax --temperature 0.8 --top-k 50 --stop '.'\n"
        "  curvekit generate gpt2 --file prompts.txt --json > texts.jsonl\n"
        "  echo 'Once upon a time' | curvekit generate runs/curve - --count 3\n"
        "  curvekit generate runs/curve --interactive\n"
        "  curvekit generate smollm2 'The film was' --bag great,wonderful,best --step-size 0.05\n"
        "  curvekit generate runs/authors 'The morning was' --code jane-austen --guidance-scale 1.5",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    each.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="a text; - reads one a line from standard input; none begins a document",
    )
    each.add_argument("--file", type=path, help="a text file with one prompt a line")
    each.add_argument("--recipe", metavar="NAME", help="build this recipe on the base (default: the base itself)")
    form = each.add_mutually_exclusive_group()
    form.add_argument("--interactive", action="store_true", help="ask for prompts, with a history; explains itself")
    form.add_argument("--json", action="store_true", help="print one JSON object a line: prompt, continuation, ...")
    each.add_argument("--speed", action="store_true", help="tell tokens a second and the time to the first token")
    add_sampling(each)
    add_control(each)
    add_plugin(each)


def add_sampling(each: argparse.ArgumentParser, tokens: int | None = None) -> None:
    """A flag for every setting of :class:`Sampling`; ``tokens`` is the command's own most of new ones."""
    group = each.add_argument_group("sampling")
    for name, setting in FLAGS.items():
        options: dict[str, Any] = {"dest": setting.name, "type": TYPES[str(setting.type)]}
        default = {"top_p": SHARE, "max_new_tokens": tokens or setting.default}.get(setting.name, setting.default)
        if setting.name == "stop":
            options |= {"action": "append", "default": [], "metavar": "TEXT", "help": setting.metadata["help"]}
        else:
            options |= {"default": default, "metavar": "N" if setting.type == "int" else "X"}
            options |= {"help": f"{setting.metadata['help']} (default: {default})"}
        names = dict.fromkeys((name, setting.name))  # ours, and that of transformers
        group.add_argument(*(f"--{each.replace('_', '-')}" for each in names), **options)
    group.add_argument(
        "--do-sample",
        nargs="?",
        const=True,
        type=boolean,
        metavar="true|false",
        help="false takes the likeliest token every time, as --temperature 0 does (default: as the others say)",
    )


def sampling_of(arguments: argparse.Namespace, steered: Control | None = None) -> Sampling:
    """The settings that the flags of :func:`add_sampling` name."""
    settings = {each.name: getattr(arguments, each.name) for each in FLAGS.values()}
    if arguments.do_sample is False:
        settings["temperature"] = 0.0
    elif arguments.do_sample and (settings["temperature"] == 0 or settings["num_beams"] > 1):
        raise CurvekitError("--do-sample draws tokens, and temperature 0 and beams do not; leave one of them out")
    return Sampling(**settings, control=steered)


def run(arguments: argparse.Namespace) -> None:
    """Each text goes to standard output, what else there is to say to standard error."""
    sampling = sampling_of(arguments, control(arguments))
    if sys.stdout is None:
        raise CurvekitError("standard output is closed; leave it open or redirect it")
    if arguments.interactive and (arguments.prompt or arguments.file):
        raise CurvekitError("--interactive asks for prompts itself; leave PROMPT and --file out")
    prompts = [] if arguments.interactive else _prompts(arguments)
    console = Console(*open_model(arguments.model, arguments.recipe, seq2seq=True), sampling)
    if arguments.interactive:
        console.converse()
    elif arguments.json:
        for each in console.completions(prompts):
            print(json.dumps(_row(each, arguments.speed), ensure_ascii=False), flush=True)
    else:
        _print(console, prompts, arguments.speed)


def _print(console: Console, prompts: list[str], tell_speed: bool) -> None:
    # A batch is faster, a stream is seen sooner: at a terminal, or where there is but one text, it streams.
    sampling = console.sampling
    streams = sys.stdout.isatty() or len(prompts) * sampling.num_return_sequences == 1
    done = []
    for each in console.write(prompts) if streams and sampling.num_beams == 1 else console.print(prompts):
        done.append(each)
        if each.truncated:
            say(f"curvekit: warning: {console.truncation(each)}")
    if tell_speed:
        say(f"curvekit: {speed(done)}")


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """The prompts asked for: one, or one for each line of a file or of standard input."""
    if arguments.file is None and arguments.prompt != "-":
        return [arguments.prompt or ""]
    if arguments.file is not None and arguments.prompt:
        raise CurvekitError(f"give the prompt {arguments.prompt!r} or --file {arguments.file}, not both")
    source = arguments.file or "standard input"
    if arguments.file is None and sys.stdin is None:
        raise CurvekitError("standard input is closed; give the prompt as an argument or with --file")
    try:
        text = read_whole(arguments.file) if arguments.file else decoded(sys.stdin.buffer.read(), source)
    except OSError as error:
        raise CurvekitError(f"cannot read {source}: {error.strerror}; give a text file with a prompt a line") from error
    prompts = [line for line in text.split("\n") if line.strip()]
    if not prompts:
        raise CurvekitError(f"{source} has no prompt; write one a line")
    return prompts


def _row(each: Completion, times: bool) -> dict[str, Any]:
    """A line of ``--json``; without the times, the same command prints the same lines."""
    row = {"prompt": each.prompt, "continuation": each.text, "seed": each.seed, "tokens": each.tokens}
    row |= {"reason": each.reason, "truncated": each.truncated}
    took = {"seconds": each.seconds, "first_token_seconds": each.first_token_seconds}
    return row | (took if times else {})
