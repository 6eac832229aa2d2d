"""The attention viewer: what one position attends to, under one normaliser and another, from the same scores."""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import HTML, Box, Dropdown, IntSlider, Layout, Text, ToggleButton
from matplotlib.figure import Figure

from curvekit.evaluation.inspection import Attention, attention_of, sink_shares
from curvekit.figures.attention import attention_rows
from curvekit.normalisers import VARIANTS
from curvekit.variants.normalisers import NORMALISERS
from curvekit.widgets.controls import WIDE, WRAP, Words, image
from curvekit.widgets.panels import Panel
from curvekit.widgets.voices import Voices


class AttentionViewer(Panel):
    """What one position attends to, under the model's own normaliser and under others, from the same scores.

    Args:
        voices: name -> (model, tokenizer); any model whose attention transformers can exchange. One that only
            exposes its weights is shown as it is.
        text: to begin with.
        members: names of :data:`curvekit.normalisers.VARIANTS`, or registered ones, to compare with.
        layer, head: to begin with, from 0.
        most: tokens that are read at most, the last ones of the text.
    """

    def __init__(
        self,
        voices: Voices,
        text: str,
        *,
        members: Sequence[str] = ("softmax", "stable", "softmax1"),
        layer: int = 0,
        head: int = 0,
        most: int = 32,
    ) -> None:
        super().__init__()
        self.voices, self.most, self.chosen = voices, most, -1
        self.read: Attention | None = None
        narrow = Layout(flex="1 1 220px", min_width="200px", max_width="300px")
        self.text = Text(text, continuous_update=False, placeholder="a text; press Enter", layout=Layout(**WIDE))
        self.model = Dropdown(options=list(voices), description="model", layout=Layout(width="250px"))
        self.model.style.description_width = "50px"
        label = {"description_width": "50px"}
        self.layer = IntSlider(layer, min=0, max=max(layer, 0), description="layer", style=label, layout=narrow)
        self.head = IntSlider(head, min=0, max=max(head, 0), description="head", style=label, layout=narrow)
        known = (*VARIANTS, *NORMALISERS)
        self.members = {v: ToggleButton(v in members, description=v, layout=Layout(width="auto")) for v in known}
        self.words, self.picture = Words(self.choose), HTML()
        for control in (self.text, self.model):
            control.observe(lambda _: self.attend(), "value")
        for control in (self.layer, self.head, *self.members.values()):
            control.observe(lambda _: self.draw(), "value")
        self.children = [
            self.text,
            Box([*([self.model] if len(voices) > 1 else []), self.layer, self.head], layout=WRAP),
            Box(list(self.members.values()), layout=WRAP),
            self.words.row,
            self.message,
            self.picture,
        ]
        self.attend()

    @staticmethod
    def still(
        voices: Voices,
        text: str,
        *,
        members: Sequence[str] = ("softmax", "stable", "softmax1"),
        layer: int = 0,
        head: int = 0,
        most: int = 32,
    ) -> Figure:
        read = attention_of(*next(iter(voices.values())), text, most)
        return _attention_figure(read, layer, head, len(read.tokens) - 1, members)

    def attend(self) -> None:
        """Run the model over the text."""
        with self.shielded():
            self.read = None
            self.read = attention_of(*self.voices[self.model.value], self.text.value, self.most)
            layers, heads = self.read.weights.shape[:2]
            self.layer.max, self.head.max = layers - 1, heads - 1
            self.words.fill(self.read.tokens)
            self.chosen = -1
            self.draw()

    def choose(self, place: int) -> None:
        """What a click on a token does: it becomes the one that reads."""
        self.chosen = place
        self.draw()

    def draw(self) -> None:
        with self.shielded():
            if self.read is None:
                return
            position = self.chosen % len(self.read.tokens)
            self.words.mark(position)
            members = [name for name, button in self.members.items() if button.value]
            picture = _attention_figure(self.read, self.layer.value, self.head.value, position, members)
            self.picture.value = image(picture)
            notes = [f"The first {self.read.cut} tokens are left out."] if self.read.cut else []
            if self.read.scores is None:
                notes.append("This model hands out its weights only, so no other normaliser can be shown.")
            self.say(" ".join(notes), "warning")


def _attention_figure(read: Attention, layer: int, head: int, position: int, members: Sequence[str]) -> Figure:
    rows = read.rows(layer, head, position, members)
    return attention_rows(rows, read.tokens[: position + 1], sink_shares(rows))
