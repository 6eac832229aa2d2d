"""The curve explorer: a sentence as a path, and what the curve embedding of each of its words blends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ipywidgets import HTML, Box, FloatSlider, IntSlider, Layout, Text
from matplotlib.figure import Figure

from curvekit.bases.berts import load_bert
from curvekit.curves import bernstein_weights, bspline_weights, curve
from curvekit.encoders import CONTEXTS, ContextEncoder
from curvekit.errors import CurvekitError
from curvekit.figures.embeddings import project, sentence_curve
from curvekit.widgets.controls import WIDE, WRAP, Words, choice, image
from curvekit.widgets.panels import Panel

FAMILIES = {"Bézier": bernstein_weights, "B-spline": bspline_weights}


class CurveExplorer(Panel):
    """A sentence as a path: how degree, place and context change the curve, and what each word's point blends.

    Args:
        sentence: to begin with.
        encoder: the BERT whose states the curve runs through; see :func:`curvekit.encoders.locate_encoder`.
        degree, place, context, family: of the curve to begin with; ``family`` is ``Bézier`` or ``B-spline``.
        most: words that are drawn at most.
    """

    def __init__(
        self,
        sentence: str,
        encoder: str = "minilm",
        *,
        degree: int = 2,
        place: float = 0.5,
        context: str = "static",
        family: str = "Bézier",
        most: int = 24,
    ) -> None:
        super().__init__()
        self.reader, self.most, self.chosen = _SentenceReader(encoder), most, -1
        wide = Layout(flex="1 1 300px", min_width="240px", max_width="400px")
        label = {"description_width": "60px"}
        self.sentence = Text(sentence, continuous_update=False, layout=Layout(**WIDE))
        self.sentence.placeholder = "a sentence; press Enter"
        self.degree = IntSlider(degree, min=0, max=5, description="degree", style=label, layout=wide)
        self.place = FloatSlider(place, min=0, max=1, step=0.05, description="place", style=label, layout=wide)
        self.context = choice("context", CONTEXTS, context)
        self.family = choice("curve", FAMILIES, family)
        self.words, self.picture = Words(self.choose), HTML()
        for control in (self.sentence, self.degree, self.place, self.context, self.family):
            control.observe(lambda _: self.draw(), "value")
        self.children = [
            self.sentence,
            Box([self.degree, self.place, self.context, self.family], layout=WRAP),
            self.words.row,
            self.message,
            self.picture,
        ]
        self.draw()

    @staticmethod
    def still(
        sentence: str,
        encoder: str = "minilm",
        *,
        degree: int = 2,
        place: float = 0.5,
        context: str = "static",
        family: str = "Bézier",
        most: int = 24,
    ) -> Figure:
        reader = _SentenceReader(encoder)
        words, states = reader.read(sentence, context)
        return _curve_figure(words[:most], states[:most], degree, place, family, -1)

    def choose(self, place: int) -> None:
        """What a click on a word does."""
        self.chosen = place
        self.draw()

    def draw(self) -> None:
        with self.shielded():
            words, states = self.reader.read(self.sentence.value, self.context.value)
            kept = words[: self.most]
            if [button.description for button in self.words.row.children] != kept:
                self.words.fill(kept)
                self.chosen = -1
            self.words.mark(self.chosen % len(kept))
            settings = (self.degree.value, self.place.value, self.family.value, self.chosen)
            self.picture.value = image(_curve_figure(kept, states[: self.most], *settings))
            dropped = len(words) - len(kept)
            note = f"Drawn are the first {len(kept)} words; {dropped} more are not." if dropped else ""
            if self.context.value == "bidirectional":
                note += " This context reads the words that follow: in a language model it leaks."
            self.say(note.strip(), "warning")


class _SentenceReader:
    """Words and encoder states of a sentence; the encoder is loaded once, its contexts when first asked for."""

    def __init__(self, encoder: str) -> None:
        self.bert, self.wordpieces = load_bert(encoder)
        self.readers: dict[str, ContextEncoder] = {}

    @torch.no_grad()
    def read(self, sentence: str, context: str) -> tuple[list[str], torch.Tensor]:
        """Word pieces (T,) and states (T, width)."""
        if context not in self.readers:
            self.readers[context] = ContextEncoder(self.bert.config.to_dict(), context).eval()
            self.readers[context].fill(self.bert)
        most = self.bert.config.max_position_embeddings
        ids = self.wordpieces(sentence, add_special_tokens=False, verbose=False)["input_ids"][:most]
        if len(ids) < 2:
            raise CurvekitError(f"{sentence[:60]!r} has {len(ids)} words; a curve needs two, so type a sentence")
        words = [str(self.wordpieces.convert_ids_to_tokens(i)) for i in ids]
        return words, self.readers[context](torch.tensor([ids]))[0]


def _curve_figure(
    words: Sequence[str], states: torch.Tensor, degree: int, place: float, family: str, chosen: int
) -> Figure:
    weigh = FAMILIES[family]
    weights, at = weigh(degree, place), chosen % len(words)
    arcs = torch.stack([curve(states[None], weigh(degree, t.item()))[0] for t in torch.linspace(0, 1, 17)], 1)
    embedded = curve(states[None], weights)[0]
    blend: dict[int, float] = {}
    for k, weight in enumerate(weights.tolist()):  # before its first word the curve is clamped to it
        before = max(at - degree + k, 0)
        blend[before] = blend.get(before, 0.0) + weight
    points, pieces, rings, share = project(states, arcs, embedded)
    return sentence_curve(points, words, pieces, rings, share, (at, blend))
