"""The conversation in a terminal: a model's texts as they are produced, its settings by name, a history of lines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.decoding import even
from curvekit.errors import CurvekitError, pick
from curvekit.files import parse_json
from curvekit.generation.sampling import Sampling, row_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from curvekit.generation.streams import Completion

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:([ntr\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")


def unescaped(text: str) -> str:
    r"""A text in which ``\n``, ``\t``, ``\r``, ``\\``, ``\xHH`` and ``\uHHHH`` are what shells and Python call them."""

    def character(found: re.Match) -> str:
        number = int(found[2] or found[3] or found[4] or "0", 16)
        if found[1]:
            return _ESCAPES[found[1]]
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else found[0]

    return _ESCAPE.sub(character, text)


TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "tuple[str, ...]": unescaped}
FLAGS = {  # settings by their short names; a control is an object of its own
    str(each.metadata["flag"] or each.name): each for each in fields(Sampling) if each.name != "control"
}
HISTORY_LINES = 1000

BANNER = """\
Type the beginning of a text and press Enter; an empty line begins a document.
  Ctrl-C stops a text, Ctrl-D or :quit ends. The arrow keys bring back earlier lines.
  :set temperature=0.8     changes a setting (:show lists them; stop='["."]' takes a JSON list)
  :set control={"bag": ["sea", "ship"], "step_size": 0.05}     steers; :set control= ends that
  :seed 7                  the next text's seed; it grows by one with every text"""


class Console:
    """A model, how it samples, and the ways to bring its texts to standard output."""

    banner = BANNER
    commands: tuple[str, ...] = ("set", "seed", "show", "help", "quit")  # of lines that begin with a colon

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling

    def completions(self, prompts: Sequence[str]) -> Iterator[Completion]:
        from curvekit.generation.streams import complete

        return complete(self.model, self.tokenizer, prompts, **asdict(self.sampling))

    def print(self, prompts: Sequence[str]) -> Iterator[Completion]:
        """Whole texts, a batch at a time."""
        for number, each in enumerate(self.completions(prompts)):
            put("\n" * (number > 0) + each.prompt + self.between + each.text + "\n")
            yield each

    def write(self, prompts: Sequence[str]) -> Iterator[Completion]:
        """The same texts, token by token; one that is stopped ends with a line's end all the same."""
        from curvekit.generation.streams import stream

        settings = asdict(self.sampling) | {"num_return_sequences": 1}
        for row, prompt in enumerate(prompt for prompt in prompts for _ in range(self.sampling.num_return_sequences)):
            settings["seed"] = row_seed(self.sampling.seed, row)
            with closing(stream(self.model, self.tokenizer, prompt, **settings)) as pieces:
                put("\n" * (row > 0) + prompt + self.between)
                try:
                    for piece in pieces:
                        put(piece.text)
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        put("\n")
            if pieces.completion is not None:
                yield pieces.completion

    @property
    def between(self) -> str:
        """What stands between a prompt and its continuation: a target begins a line of its own."""
        return "\n" if self.model.config.is_encoder_decoder else ""

    def truncation(self, each: Completion) -> str:
        """What is said of a prompt that did not fit: a source loses its end."""
        which = "last" if self.model.config.is_encoder_decoder else "first"
        return f"the prompt is too long, its {which} {each.truncated} tokens were left out"

    # The conversation

    def converse(self) -> None:
        """Continue the lines of standard input, at a terminal with a prompt and a history, until it ends.

        Raises:
            CurvekitError: standard input is closed. What is wrong with a line is told, and the conversation goes on.
        """
        if sys.stdin is None:
            raise CurvekitError("standard input is closed, and --interactive reads from it")
        asks = sys.stdin.isatty()
        if asks:
            say(self.banner)
        with _history() if asks else contextlib.nullcontext():
            while True:
                try:
                    line = even(input("> " if asks else ""))
                    if line.strip() in (":quit", ":q"):
                        return
                    self.command(line) if line.startswith(":") else self.answer(line)
                except EOFError:
                    if asks:
                        say("")
                    return
                except KeyboardInterrupt:
                    say("")
                except UnicodeDecodeError as error:
                    raise CurvekitError(f"standard input is not UTF-8 text ({error}); convert it first") from error
                except (CurvekitError, RuntimeError) as error:  # the model's failures too: the conversation goes on
                    say(f"curvekit: error: {error}")

    def command(self, line: str) -> None:
        """A line that begins with a colon."""
        name, _, rest = line[1:].strip().partition(" ")
        name = pick(name, self.commands, "command")
        if name == "help":
            say(self.banner)
        elif name == "show":
            for flag, each in FLAGS.items():
                say(f"  {flag:<20}{getattr(self.sampling, each.name)!s:<12}{each.metadata['help']}")
            say(f"  {'control':<20}{json.dumps(self.sampling.control.to_dict()) if self.sampling.control else 'none'}")
        else:
            key, equals, value = ("seed", "=", rest) if name == "seed" else rest.partition("=")
            if not equals:
                raise CurvekitError("write :set NAME=VALUE, such as :set temperature=0.8")
            self.set(key.strip().replace("-", "_"), value.strip())

    def set(self, key: str, text: str) -> None:
        names = {flag.replace("-", "_"): each for flag, each in FLAGS.items()} | {e.name: e for e in fields(Sampling)}
        each = names[pick(key, names, "setting")]
        if each.name == "control":
            self.sampling = self.sampling.changed("control", parse_json(text, "control") if text else None)
            return
        try:
            value = parse_json(text, key) if text.startswith("[") else TYPES[str(each.type)](text)
        except (ValueError, OverflowError) as error:
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
                    say(f"  [{self.truncation(each)}]")
        except KeyboardInterrupt:
            say("  [stopped]")
        if done:
            say(f"  [{speed(done)}; seed {self.sampling.seed}]")
        if self.sampling.temperature > 0:
            self.sampling = self.sampling.changed("seed", self.sampling.seed + 1)


def put(text: str) -> None:
    """Write text at once. A terminal would obey control characters, so it is shown them."""
    if sys.stdout.isatty():
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    print(text, end="", flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def speed(done: Sequence[Completion]) -> str:
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
            say(f"curvekit: warning: the history cannot be kept in {path} ({error.strerror})")
