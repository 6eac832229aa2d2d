"""A conversation with a model: who said what, an answer as it grows, and turns that can be changed and taken out.

The model reads the turns by its own chat template, or as lines ``User:`` and ``Assistant:``, with the earliest left
out where they do not fit. What it is asked is what ``curvekit train --task`` trains on dialogues.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import Piece, positions_of, stream
from curvekit.text.prompts import Prompter
from curvekit.text.tasks import Task, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from curvekit.generation.streams import Completion

CHAT = Task("chat", "a conversation", "dialogue", "", new_tokens=128)


class Conversation:
    """Turns of a user and a model.

    Args:
        sampling: how answers are drawn; its seed grows by one with each.
        form: ``chat`` by the tokeniser's template, ``plain`` without, ``auto`` by the template if there is one.
        system: what the model is told before the first turn; None: what its template says by itself.

    Attributes:
        turns: what was said.
        last: how the last answer came about.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling | None = None,
        form: str = "auto",
        system: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.sampling = sampling or Sampling(max_new_tokens=CHAT.new_tokens, top_p=0.95)
        self.prompter = Prompter(CHAT, tokenizer, positions_of(model), form)
        self.system = system
        self.turns: list[Turn] = []
        self.last: Completion | None = None

    def say(self, text: str, cancel: threading.Event | None = None) -> Iterator[Piece]:
        """The user's turn, and the pieces of the answer to it.

        What has come when the reader stops, or ``cancel`` is set, is the answer.

        Raises:
            CurvekitError: the turn is empty; a setting is out of range.
        """
        text = " ".join(text.split()) if not self.prompter.chat else text.strip()
        if not text:
            raise CurvekitError("there is nothing to answer; write something")
        self.turns.append(Turn("user", text))
        return self._answer(cancel)

    def again(self, cancel: threading.Event | None = None) -> Iterator[Piece]:
        """Another answer in the place of the last one.

        Raises:
            CurvekitError: nothing was said yet.
        """
        if self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()
        if not self.turns:
            raise CurvekitError("there is no answer yet to write again; say something first")
        return self._answer(cancel)

    def edit(self, number: int, text: str) -> None:
        """Change the turn of that number, from 1 on, and forget what was said after it.

        Raises:
            CurvekitError: there is no such turn, or no text.
        """
        if not 1 <= number <= len(self.turns):
            raise CurvekitError(f"there is no turn {number}; give 1 to {len(self.turns)}" if self.turns else
                                f"there is no turn {number}; nothing was said yet")  # fmt: skip
        if not text.strip():
            raise CurvekitError(f"turn {number} would be empty; write it anew")
        self.turns[number - 1 :] = [Turn(self.turns[number - 1].role, text.strip())]

    def export(self) -> dict[str, Any]:
        """The conversation as a row of a dialogue task: ``{"turns": [{"role", "text"}, ...]}``."""
        told = [Turn("system", self.system)] if self.system else []
        return {"turns": [turn._asdict() for turn in (*told, *self.turns)]}

    def prompt(self) -> list[int]:
        """The token ids that the model is asked to go on from."""
        told = [Turn("system", self.system)] if self.system else []
        return self.prompter.history([*told, *self.turns], self.sampling.max_new_tokens)

    def _answer(self, cancel: threading.Event | None) -> Iterator[Piece]:
        settings = asdict(self.sampling) | {"num_return_sequences": 1, "num_beams": 1}
        settings["stop"] = (*self.sampling.stop, *self.prompter.stop)
        said: list[str] = []
        pieces = stream(self.model, self.tokenizer, self.prompt(), cancel=cancel, **settings)
        try:
            with closing(pieces):
                for piece in pieces:
                    said.append(piece.text)
                    yield piece
        finally:
            self.last = pieces.completion
            if text := "".join(said).strip():
                self.turns.append(Turn("assistant", text))
            if self.sampling.temperature > 0:
                self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
