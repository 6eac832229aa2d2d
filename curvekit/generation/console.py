"""The command ``generate``: prompts from the command line, a file, a pipe or a conversation; text as it is produced."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError, pick
from curvekit.generation.sampling import Sampling, row_seed

if TYPE_CHECKING:
    from curvekit.generation.streams import Completion

EXAMPLES = (
    "  curvekit generate runs/curve 'The curve runs through'\n"
    "  curvekit generate gpt2 'A river' --recipe softemax --temperature 0.8 --top-k 50 --stop '.'\n"
    "  curvekit generate gpt2 --file prompts.txt --json > texts.jsonl\n"
    "  echo 'Once upon a time' | curvekit generate runs/curve - --count 3\n"
    "  curvekit generate runs/curve --interactive"
)
TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "tuple[str, ...]": str}
FLAGS = {str(each.metadata["flag"] or each.name): each for each in fields(Sampling)}  # settings by their short names
SHARE = 0.95  # of the probability that the command draws from, where the library draws from all
HISTORY_LINES = 1000

BANNER = """\
Type the beginning of a text and press Enter; an empty line begins a document.
  Ctrl-C stops a text, Ctrl-D or :quit ends. The arrow keys bring back earlier lines.
  :set temperature=0.8     changes a setting (:show lists them; stop='["."]' takes a JSON list)
  :seed 7                  the next text's seed; it grows by one with every text"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, among them a flag for every setting of :class:`Sampling`."""
    parser.add_argument("model", metavar="RUN_OR_BASE", help="a run's folder, a saved model's folder, or a base")
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="a text; - reads one a line from standard input; none begins a document",
    )
    parser.add_argument("--file", type=Path, help="a text file with one prompt a line")
    parser.add_argument("--recipe", metavar="NAME", help="build this recipe on the base (default: the base itself)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--interactive", action="store_true", help="ask for prompts, with a history; explains itself")
    form.add_argument("--json", action="store_true", help="print one JSON object a line: prompt, continuation, ...")
    parser.add_argument("--speed", action="store_true", help="tell tokens a second and the time to the first token")
    group = parser.add_argument_group("sampling")
    for name, each in FLAGS.items():
        options: dict[str, Any] = {"dest": each.name, "type": TYPES[str(each.type)]}
        default = SHARE if each.name == "top_p" else each.default
        if each.name == "stop":
            options |= {"action": "append", "default": [], "metavar": "TEXT", "help": each.metadata["help"]}
        else:
            options |= {"default": default, "metavar": "N" if each.type == "int" else "X"}
            options |= {"help": f"{each.metadata['help']} (default: {default})"}
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def generate(arguments: argparse.Namespace) -> None:
    """Run the command: each text goes to standard output, what else there is to say to standard error."""
    sampling = Sampling(**{each.name: getattr(arguments, each.name) for each in fields(Sampling)})
    if sys.stdout is None:
        raise CurvekitError("standard output is closed; leave it open or redirect it")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer letters than the model
    if arguments.interactive:
        if arguments.prompt or arguments.file:
            raise CurvekitError("--interactive asks for prompts itself; leave PROMPT and --file out")
        return _Console(arguments.model, arguments.recipe, sampling).run()
    prompts = _prompts(arguments)
    console = _Console(arguments.model, arguments.recipe, sampling)
    if arguments.json:
        for each in console.completions(prompts):
            print(json.dumps(_row(each, arguments.speed), ensure_ascii=False), flush=True)
        return None
    # A batch is faster, a stream is seen sooner: at a terminal, or where there is but one text, it streams.
    streams = sys.stdout.isatty() or len(prompts) * sampling.num_return_sequences == 1
    done = []
    for each in console.write(prompts) if streams and sampling.num_beams == 1 else console.print(prompts):
        done.append(each)
        if each.truncated:
            _say(f"curvekit: warning: {_truncation(each)}")
    if arguments.speed:
        _say(f"curvekit: {_speed(done)}")
    return None


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
        data = arguments.file.read_bytes() if arguments.file else sys.stdin.buffer.read()
        prompts = [line for line in data.decode("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CurvekitError(f"cannot read {source}: {error.strerror}; give a text file with a prompt a line") from error
    except UnicodeDecodeError as error:
        raise CurvekitError(f"{source} is not UTF-8 text ({error}); convert it first") from error
    if not prompts:
        raise CurvekitError(f"{source} has no prompt; write one a line")
    return prompts


class _Console:
    """A model, how it samples, and the ways to bring its texts to standard output."""

    def __init__(self, name: str, recipe: str | None, sampling: Sampling) -> None:
        self.model, self.tokenizer = open_model(name, recipe)
        self.sampling = sampling

    def completions(self, prompts: Sequence[str]) -> Iterator[Completion]:
        from curvekit.generation.streams import complete

        return complete(self.model, self.tokenizer, prompts, **asdict(self.sampling))

    def print(self, prompts: Sequence[str]) -> Iterator[Completion]:
        """Whole texts, a batch at a time."""
        for number, each in enumerate(self.completions(prompts)):
            _put("\n" * (number > 0) + each.prompt + each.text + "\n")
            yield each

    def write(self, prompts: Sequence[str]) -> Iterator[Completion]:
        """The same texts, token by token; one that is stopped ends with a line's end all the same."""
        from curvekit.generation.streams import stream

        settings = asdict(self.sampling) | {"num_return_sequences": 1}
        for row, prompt in enumerate(prompt for prompt in prompts for _ in range(self.sampling.num_return_sequences)):
            settings["seed"] = row_seed(self.sampling.seed, row)
            with closing(stream(self.model, self.tokenizer, prompt, **settings)) as pieces:
                _put("\n" * (row > 0) + prompt)
                try:
                    for piece in pieces:
                        _put(piece.text)
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        _put("\n")
            if pieces.completion is not None:
                yield pieces.completion

    # The conversation

    def run(self) -> None:
        if sys.stdin is None:
            raise CurvekitError("standard input is closed, and --interactive reads from it")
        asks = sys.stdin.isatty()
        if asks:
            _say(BANNER)
        with _history() if asks else contextlib.nullcontext():
            while True:
                try:
                    line = input("> " if asks else "")
                    if line.strip() in (":quit", ":q"):
                        return
                    self.command(line) if line.startswith(":") else self.answer(line)
                except EOFError:
                    if asks:
                        _say("")
                    return
                except KeyboardInterrupt:
                    _say("")
                except (CurvekitError, RuntimeError) as error:  # the model's failures too: the conversation goes on
                    _say(f"curvekit: error: {error}")

    def command(self, line: str) -> None:
        """A line that begins with a colon."""
        name, _, rest = line[1:].strip().partition(" ")
        name = pick(name, ("set", "seed", "show", "help", "quit"), "command")
        if name == "help":
            _say(BANNER)
        elif name == "show":
            for flag, each in FLAGS.items():
                _say(f"  {flag:<20}{getattr(self.sampling, each.name)!s:<12}{each.metadata['help']}")
        else:
            key, equals, value = ("seed", "=", rest) if name == "seed" else rest.partition("=")
            if not equals:
                raise CurvekitError("write :set NAME=VALUE, such as :set temperature=0.8")
            self.set(key.strip().replace("-", "_"), value.strip())

    def set(self, key: str, text: str) -> None:
        names = {flag.replace("-", "_"): each for flag, each in FLAGS.items()} | {e.name: e for e in fields(Sampling)}
        each = names[pick(key, names, "setting")]
        try:
            value = json.loads(text) if text.startswith("[") else TYPES[str(each.type)](text)
        except ValueError as error:
            kind = 'a list such as ["."]' if each.name == "stop" else "a number"
            raise CurvekitError(f"{key} is {text!r}; give {kind}") from error
        if each.name == "stop" and isinstance(value, str):
            value = [value] if value else []
        self.sampling = self.sampling.changed(each.name, value)

    def answer(self, prompt: str) -> None:
        """Continue one prompt, then move on to the next seed."""
        ways = self.write if self.sampling.num_beams == 1 else self.print
        done = []
        try:
            for each in ways([prompt]):
                done.append(each)
                if each.truncated:
                    _say(f"  [{_truncation(each)}]")
        except KeyboardInterrupt:
            _say("  [stopped]")
        if done:
            _say(f"  [{_speed(done)}; seed {self.sampling.seed}]")
        if self.sampling.temperature > 0:
            self.sampling = self.sampling.changed("seed", self.sampling.seed + 1)


def _put(text: str) -> None:
    """Write text at once. A terminal would obey control characters, so it is shown them."""
    if sys.stdout.isatty():
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    print(text, end="", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _row(each: Completion, speed: bool) -> dict[str, Any]:
    """A line of ``--json``; without the times, the same command prints the same lines."""
    row = {"prompt": each.prompt, "continuation": each.text, "seed": each.seed, "tokens": each.tokens}
    row |= {"reason": each.reason, "truncated": each.truncated}
    times = {"seconds": each.seconds, "first_token_seconds": each.first_token_seconds}
    return row | (times if speed else {})


def _truncation(each: Completion) -> str:
    return f"the prompt is too long, its first {each.truncated} tokens were left out"


def _speed(done: Sequence[Completion]) -> str:
    tokens = sum(each.tokens for each in done)
    # Those of one batch share their seconds, which count once.
    seconds = sum({each.seconds: None for each in done})
    return f"{tokens} tokens, {tokens / seconds:.0f} a second, the first after {done[0].first_token_seconds:.2f} s"


@contextmanager
def _history() -> Iterator[None]:
    """Lines typed earlier, for the arrow keys, in the user's cache folder; a session adds its own at its end."""
    try:
        import readline
    except ImportError:  # where Python was built without it, lines are typed anew
        yield
        return
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curvekit" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    known = readline.get_current_history_length()
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.set_history_length(HISTORY_LINES)
            readline.append_history_file(readline.get_current_history_length() - known, path)
        except OSError as error:
            _say(f"curvekit: warning: the history cannot be kept in {path} ({error.strerror})")
