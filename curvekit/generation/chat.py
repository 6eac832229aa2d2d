"""The chat in a terminal: a conversation line by line, which can be looked at, changed, taken back and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from curvekit.errors import CurvekitError
from curvekit.files import append_jsonl, checked_path
from curvekit.generation.console import Console, put, say, speed
from curvekit.generation.conversation import Conversation
from curvekit.generation.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from curvekit.generation.streams import Piece

BANNER = """\
Type what you want to say and press Enter. Ctrl-C stops an answer, Ctrl-D or :quit ends.
  :again                   another answer in the place of the last one
  :edit 3 NEW TEXT         change turn 3 and forget what came after it; a turn of yours is answered again
  :history                 what was said, by number
  :system TEXT             tell the model who it is; :new begins anew
  :export chat.jsonl       append the conversation to a file, a row that `curvekit train --task` reads
  :set temperature=0.8     changes a setting (:show lists them)"""


class Chat(Console):
    """A conversation at a terminal, or of the lines of a file."""

    banner = BANNER
    commands = (*Console.commands, "again", "edit", "history", "system", "new", "export")

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        form: str = "auto",
        system: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, sampling)
        self.talk = Conversation(model, tokenizer, sampling, form, system)

    def answer(self, prompt: str) -> None:
        """Say a line and write the answer to it; an empty line says nothing."""
        if prompt.strip():
            self._write(self._settled().say(prompt))

    def command(self, line: str) -> None:
        """A line that begins with a colon."""
        name, _, rest = line[1:].strip().partition(" ")
        if name == "again":
            self._write(self._settled().again())
        elif name == "edit":
            self._edit(rest)
        elif name == "history":
            for number, turn in enumerate(self.talk.turns, start=1):
                say(f"{number:>3} {turn.role}: {turn.text}")
        elif name == "system":
            self.talk.system = rest.strip() or None
        elif name == "new":
            self.talk.turns.clear()
        elif name == "export":
            self._export(rest.strip())
        else:
            super().command(line)

    def _settled(self) -> Conversation:
        self.talk.sampling = self.sampling
        return self.talk

    def _edit(self, rest: str) -> None:
        number, _, text = rest.strip().partition(" ")
        if not number.isdigit():
            raise CurvekitError("write :edit NUMBER TEXT, such as :edit 1 Who are you?")
        self.talk.edit(int(number), text)
        if self.talk.turns[-1].role == "user":
            self._write(self._settled().again())

    def _export(self, name: str) -> None:
        if not name or not self.talk.turns:
            raise CurvekitError("write :export FILE, once something was said")
        path: Path = checked_path(name, "the file")
        if path.exists() and path.suffix != ".jsonl":
            raise CurvekitError(f"{path} is there and is no .jsonl; name a new file or one of conversations")
        append_jsonl(path, self.talk.export())
        say(f"  [{len(self.talk.turns)} turns appended to {path}]")

    def _write(self, pieces: Iterator[Piece]) -> None:
        try:
            for piece in pieces:
                put(piece.text)
        except KeyboardInterrupt:
            put("\n")
            say("  [stopped]")
        else:
            put("\n")
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        self.sampling = self.talk.sampling
        if self.talk.last is not None:
            said = "nothing; " if not self.talk.last.text.strip() else ""
            say(f"  [{said}{speed([self.talk.last])}; ended by {self.talk.last.reason}]")
