"""The chat: a conversation with a model, turn by turn, which can be stopped, answered again, edited and exported."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ipywidgets import HTML, BoundedIntText, Box, Button, Dropdown, Label, Layout, Text
from matplotlib.figure import Figure

from curvekit.errors import CurvekitError
from curvekit.figures.shading import token_probabilities
from curvekit.files import append_jsonl
from curvekit.generation.conversation import Conversation
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import Piece
from curvekit.ownership import require_file, rows_with
from curvekit.widgets.controls import GRID, WRAP
from curvekit.widgets.panels import REFRESH, Stop
from curvekit.widgets.voices import Voices
from curvekit.widgets.writing import Writer

_TURN = "margin:4px 0;padding:4px 10px;border-radius:6px;line-height:1.5;overflow-wrap:anywhere;white-space:pre-wrap"
_SIDES = {"user": "background:rgba(127,127,127,0.14);margin-left:12%", "assistant": "margin-right:12%"}


class Chat(Writer):
    """Talk with a model: history, another answer, a changed turn, Stop, and an export that a task can be trained on.

    Args:
        voices: name -> (model, tokenizer).
        message: to begin with.
        system: what the models are told first; None: what their chat templates say.
        form: ``chat`` by the tokeniser's template, ``plain`` without, ``auto`` by the template if there is one.
        history: file that Export appends to, a JSON line for each conversation.
        settings: fields of :class:`curvekit.generation.sampling.Sampling` to begin with.

    Raises:
        CurvekitError: no model, a setting out of range, or no chat template where one is asked for.
    """

    def __init__(
        self,
        voices: Voices,
        message: str = "",
        *,
        system: str | None = None,
        form: str = "auto",
        history: str | Path = "chat.jsonl",
        **settings: Any,
    ) -> None:
        super().__init__(voices, message, {"max_new_tokens": 128, "top_p": 0.95, **settings})
        self.talks = {name: Conversation(*voice, self.sampling, form, system) for name, voice in voices.items()}
        self.prompt.placeholder, self.prompt.rows = "what you want to say", 2
        self.start.description, self.start.icon = "Send", "paper-plane"
        self.model = Dropdown(options=list(voices), description="model", layout=Layout(width="auto"))
        self.model.style.description_width = "120px"
        self.model.observe(lambda _: self.draw(), "value")
        self.renew = self._button("Again", "refresh", self.again, "another answer in the place of the last one")
        self.number = BoundedIntText(1, min=1, max=999, description="turn", layout=Layout(width="120px"))
        self.number.style.description_width = "40px"
        self.change = self._button("Edit", "pencil", self.edit, "put what is written above in the place of this turn")
        self.clear = self._button("New", "trash", self.begin_anew, "forget the conversation")
        self.file = Text(str(history), layout=Layout(width="260px"), tooltip="where Export appends")
        self.export = self._button("Export", "download", self.save, "append the conversation to the file")
        self.children = [
            self.results,
            self.prompt,
            Box([self.start, self.halt, self.renew, self.number, self.change, self.clear], layout=WRAP),
            self.message,
            Box([*([self.model] if len(voices) > 1 else []), *self.knobs.values()], layout=GRID),
            Box([self.seed, Label("export"), self.file, self.export], layout=WRAP),
        ]
        self.screen = HTML(layout=Layout(width="100%"))
        self.results.children = [self.screen]
        self.draw()

    @staticmethod
    def still(
        voices: Voices,
        message: str = "",
        *,
        system: str | None = None,
        form: str = "auto",
        history: str | Path = "",
        **settings: Any,
    ) -> Figure:
        sampling, drawn = Sampling(**{"max_new_tokens": 128, "top_p": 0.95, **settings}), {}
        for name, voice in voices.items():
            pieces = [piece for piece in Conversation(*voice, sampling, form, system).say(message) if piece.text]
            drawn[name] = ([piece.text for piece in pieces], [piece.probability for piece in pieces])
        return token_probabilities(drawn, f"{message}\n")

    @property
    def talk(self) -> Conversation:
        """The conversation with the model that is chosen."""
        return self.talks[self.model.value]

    def _button(self, name: str, icon: str, press: Callable[[], None], tip: str) -> Button:
        button = Button(description=name, icon=icon, tooltip=tip, layout=Layout(width="90px"))
        button.on_click(lambda _: press())
        return button

    def generate(self) -> None:
        """Send what is written, and read the answer."""
        with self.shielded():
            text = self.prompt.value
            if not text.strip():
                raise CurvekitError("there is nothing to answer; write something")
            self._begin(lambda talk, stop: talk.say(text, stop))

    def again(self) -> None:
        """Another answer in the place of the last one."""
        with self.shielded():
            self._begin(lambda talk, stop: talk.again(stop))

    def edit(self) -> None:
        """Put what is written in the place of a turn; a user's is answered again."""
        with self.shielded():
            if self.busy:
                raise CurvekitError("an answer is still being written; stop it first")
            self.talk.edit(self.number.value, self.prompt.value)
            self.prompt.value = ""
            self.draw()
            if self.talk.turns[-1].role == "user":
                self._begin(lambda talk, stop: talk.again(stop))

    def begin_anew(self) -> None:
        """Forget what was said."""
        with self.shielded():
            if self.busy:
                raise CurvekitError("an answer is still being written; stop it first")
            self.talk.turns.clear()
            self.say("")
            self.draw()

    def save(self) -> None:
        """Append the conversation to the file, as a row that ``curvekit train --task`` reads."""
        with self.shielded():
            if not self.talk.turns:
                raise CurvekitError("nothing was said yet; there is nothing to export")
            require_file(self.file.value, rows_with("turns"))
            append_jsonl(self.file.value, self.talk.export())
            self.say(f"{len(self.talk.turns)} turns appended to {self.file.value}", "done")

    def _begin(self, pieces: Callable[[Conversation, Stop], Iterator[Piece]]) -> None:
        sampling, talk = self.chosen(), self.talk
        if not self.busy:
            talk.sampling = sampling
        self.work(lambda stop: self._write(stop, talk, pieces))

    def _write(self, stop: Stop, talk: Conversation, begin: Callable[[Conversation, Stop], Iterator[Piece]]) -> None:
        self.say("")
        said, due = "", 0.0
        try:
            pieces = begin(talk, stop)
            self.prompt.value = ""
            with closing(pieces):  # type: ignore[type-var]  # a generator
                for piece in pieces:
                    said += piece.text
                    if time.monotonic() >= due:
                        self.draw(talk, said)
                        due = time.monotonic() + REFRESH
        finally:
            self.draw(talk)
            self.seed.value = talk.sampling.seed
        if stop.is_set():
            self.say(f"Stopped: {stop.why}.", "warning")
        elif not said.strip():
            self.say("The model said nothing.", "warning")

    def draw(self, talk: Conversation | None = None, growing: str = "") -> None:
        """Show the turns, and an answer that grows."""
        talk = talk or self.talk
        turns = [(str(number), turn.role, turn.text) for number, turn in enumerate(talk.turns, start=1)]
        turns += [("…", "assistant", growing)] if growing else []
        shown = "".join(
            f'<div style="{_TURN};{_SIDES[role]}" dir="auto"><span style="opacity:0.6">{number} {role}</span>\n'
            f"{html.escape(text)}</div>"
            for number, role, text in turns
        )
        self.screen.value = f'<div role="log" aria-live="polite">{shown}</div>'
