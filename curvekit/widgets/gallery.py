"""What a person touches in JupyterLab: text as it streams, models side by side, curves, attention, blind ratings.

Each widget is a thin layer over :mod:`curvekit.generation` and :mod:`curvekit.figures`, and has a static figure,
``still``, for where nobody can press a button: :func:`show` chooses. A widget keeps no state outside itself, so any
number of them work in one notebook. There is no script in them and nothing is loaded from anywhere; whatever a user
or a model wrote is escaped.
"""

from __future__ import annotations

import base64
import functools
import html
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ipywidgets import (
    HTML,
    BoundedIntText,
    Box,
    Button,
    Dropdown,
    FloatSlider,
    IntSlider,
    Label,
    Layout,
    Text,
    Textarea,
    ToggleButton,
    ToggleButtons,
)
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit import figures
from curvekit.bases.berts import load_bert
from curvekit.bases.opening import open_model
from curvekit.curves import bernstein_weights, bspline_weights, curve
from curvekit.encoders import CONTEXTS, ContextEncoder
from curvekit.errors import CurvekitError
from curvekit.evaluation.inspection import Attention, attention_of, sink_shares
from curvekit.figures.drawing import Picture, colour, render
from curvekit.files import write_jsonl
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.generation.streams import Completion, Stream, positions_of, stream
from curvekit.modeling import RECIPES
from curvekit.normalisers import VARIANTS
from curvekit.preferences.ratings import ANSWERS, QUESTIONS, Pair, append_rating, pairs, read_ratings, win_rates
from curvekit.reports.markup import table, texts
from curvekit.widgets.panels import Panel, Sample, Stop, follow

Voices = Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]
FAMILIES = {"Bézier": bernstein_weights, "B-spline": bspline_weights}
ALTERNATIVES = 5

_ROW = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "width": "100%"}
_WRAP = Layout(**_ROW)
_BESIDE = Layout(**_ROW | {"align_items": "flex-start"})  # texts of unequal length
_GRID = Layout(display="grid", grid_template_columns="repeat(auto-fill, minmax(290px, 1fr))", width="100%")
_WIDE = {"width": "calc(100% - 4px)"}  # a control's margins are not part of its width


def show(
    widget: type[Panel], name: str, *args: Any, static: bool | None = None, report_dir: str = "", **settings: Any
) -> Panel | Picture:
    """The widget with these arguments, or its figure where nobody can touch it.

    Args:
        widget: a class of this module.
        name: of the figure's files.
        static: a figure; None: where no front end of a person has started the kernel, as under papermill.
        report_dir: receives the figure, as in :func:`curvekit.figures.drawing.save`.
    """
    if static is None:
        static = not {"JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"} & set(os.environ)
    return figures.save(widget.still(*args, **settings), name, report_dir) if static else widget(*args, **settings)


def load_voices(models: Sequence[str]) -> Voices:
    """Models and their tokenisers, by short names: as much of a path as tells it from those before it.

    Args:
        models: as :func:`curvekit.bases.opening.open_model` takes them: bases, folders of models, folders of runs; or
            ``base:recipe``, such as ``mini:softemax``, a base whose weights are put into a recipe without training.

    Raises:
        CurvekitError: a model that cannot be had, or that is given twice.
    """
    voices: dict[str, Any] = {}
    for model in models:
        base, _, recipe = model.rpartition(":")
        parts = Path(model).parts
        names = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)] or [model]
        names = [re.sub(r"-seed\d+$", "", names[0]), *names]
        name = next((name for name in names if name not in voices), None)
        if name is None:
            raise CurvekitError(f"the model {model!r} is given twice; give every model once")
        voices[name] = open_model(base, recipe) if base and recipe in RECIPES else open_model(model)
    return voices


_KNOBS: dict[str, tuple[float, float, float]] = {
    "temperature": (0, 2, 0.05),
    "top_p": (0.05, 1, 0.01),
    "top_k": (0, 200, 1),
    "min_p": (0, 0.5, 0.01),
    "repetition_penalty": (1, 2, 0.05),
    "max_new_tokens": (1, 512, 1),
}
_HELP = {each.name: each.metadata["help"] for each in fields(Sampling)}


class _Writer(Panel):
    """A panel with a prompt, the settings of sampling, and Generate and Stop."""

    def __init__(self, voices: Voices, prompt: str, settings: Mapping[str, Any]) -> None:
        if not voices:
            raise CurvekitError("there is no model to write; give at least one, as {name: (model, tokenizer)}")
        self.voices, self.sampling = voices, Sampling(**settings)
        most = min(positions_of(model) for model, _ in voices.values()) - 1
        self.prompt = Textarea(prompt, placeholder="a prompt; an empty one begins a document", rows=3)
        self.prompt.layout = Layout(height="auto", **_WIDE)
        self.knobs: dict[str, Any] = {}
        for name, (low, high, step) in _KNOBS.items():
            high = min(high, most) if name == "max_new_tokens" else high
            value = min(max(getattr(self.sampling, name), low), high)
            kind = FloatSlider if isinstance(step, float) else IntSlider
            self.knobs[name] = kind(
                value,
                min=low,
                max=high,
                step=step,
                description={"max_new_tokens": "tokens"}.get(name, name.replace("_", " ")),
                tooltip=_HELP[name],
                continuous_update=False,
                style={"description_width": "120px"},
                layout=Layout(width="auto"),
            )
        self.seed = BoundedIntText(self.sampling.seed, min=0, max=2**53 - 1, description="seed", tooltip=_HELP["seed"])
        self.seed.style.description_width, self.seed.layout.width = "40px", "190px"
        self.results = Box(layout=_BESIDE)
        super().__init__()
        self.start.on_click(lambda _: self.generate())

    def chosen(self, **more: Any) -> Sampling:
        """The settings as the sliders stand."""
        values = {name: knob.value for name, knob in self.knobs.items()}
        return Sampling(**asdict(self.sampling) | values | {"seed": self.seed.value} | more)

    def generate(self) -> None:
        """What the button does."""
        raise NotImplementedError

    def report(self, stop: Stop, prompt: str, done: Sequence[Completion | Exception]) -> None:
        """Say what happened, where it was not simply what was asked for."""
        if failures := [each for each in done if isinstance(each, Exception)]:
            self.fail(failures[0])
            return
        cut = max((each.truncated for each in done if isinstance(each, Completion)), default=0)
        notes = [f"Stopped: {stop.why}."] if stop.is_set() else []
        if cut:
            notes.append(f"The prompt was too long: its first {cut} tokens were left out.")
        if not prompt.strip():
            notes.append("The prompt was empty, so the model began a document.")
        self.say(" ".join(notes), "warning" if cut or stop.is_set() else "note")


def _begin(voice: tuple[Any, Any], prompt: str, stop: Stop, sampling: Sampling) -> Callable[[], Stream]:
    return functools.partial(stream, *voice, prompt, cancel=stop, alternatives=ALTERNATIVES, **asdict(sampling))


class Playground(_Writer):
    """Write with a model: every setting a slider, text as it is produced, each token coloured by its probability.

    Args:
        voices: name -> (model, tokenizer).
        prompt: to begin with.
        samples: how many continuations a press of Generate writes; each says the seed that writes it again.
        history: file that Export writes, a JSON line for each continuation of this widget.
        settings: fields of :class:`curvekit.generation.sampling.Sampling` to begin with.

    Raises:
        CurvekitError: no model, or a setting out of range.
    """

    def __init__(
        self,
        voices: Voices,
        prompt: str = "",
        *,
        samples: int = 1,
        history: str | Path = "generation-history.jsonl",
        **settings: Any,
    ) -> None:
        super().__init__(voices, prompt, settings)
        self.history: list[dict[str, Any]] = []
        self.model = Dropdown(options=list(voices), description="model", layout=Layout(width="auto"))
        self.model.style.description_width = "120px"
        self.samples = BoundedIntText(samples, min=1, max=8, description="samples", layout=Layout(width="130px"))
        self.samples.style.description_width = "60px"
        self.renew = ToggleButton(True, description="new seed each time", layout=Layout(width="180px"))
        self.renew.tooltip = "after each Generate the seed grows by one; off: Generate writes the same text again"
        self.file = Text(str(history), layout=Layout(width="260px"), tooltip="where Export writes")
        self.export = Button(description="Export", icon="download", disabled=True, layout=Layout(width="100px"))
        self.export.on_click(lambda _: self.save())
        self.past = HTML()
        self.children = [
            self.prompt,
            Box([*([self.model] if len(voices) > 1 else []), *self.knobs.values()], layout=_GRID),
            Box([self.start, self.halt, self.samples, self.seed, self.renew], layout=_WRAP),
            self.message,
            self.results,
            Box([Label("history"), self.file, self.export], layout=_WRAP),
            self.past,
        ]

    @staticmethod
    def still(
        voices: Voices,
        prompt: str = "",
        *,
        samples: int = 1,
        history: str | Path = "",
        **settings: Any,
    ) -> Figure:
        sampling = Sampling(**settings)
        name, voice = next(iter(voices.items()))
        seeds = _seeds(sampling, samples)
        headings = [name] if samples == 1 else [f"{name}, seed {seed}" for seed in seeds]
        return _written([(h, voice, seed) for h, seed in zip(headings, seeds, strict=True)], prompt, sampling)

    def generate(self) -> None:
        with self.shielded():
            sampling, prompt, name = self.chosen(), self.prompt.value, self.model.value
            seeds = _seeds(sampling, self.samples.value)
            self.work(lambda stop: self._write(stop, name, prompt, sampling, seeds))

    def _write(self, stop: Stop, name: str, prompt: str, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.say("")
        samples = [Sample("" if len(seeds) == 1 else f"seed {seed}", prompt) for seed in seeds]
        self.results.children = [sample.box for sample in samples]
        done: list[Completion | Exception] = []
        for sample, seed in zip(samples, seeds, strict=True):
            if stop.is_set():
                sample.foot = "not begun"
                sample.draw()
                continue
            one = sampling.changed("seed", seed)
            done += follow([(sample, _begin(self.voices[name], prompt, stop, one))])
            if isinstance(ended := done[-1], Completion):
                self._remember(name, one, sample, ended)
        if self.renew.value:
            self.seed.value = sampling.seed + 1
        self.report(stop, prompt, done)

    def _remember(self, name: str, sampling: Sampling, sample: Sample, done: Completion) -> None:
        odds = [round(piece.probability, 6) for piece in sample.pieces]
        told: dict[str, Any] = {
            "text": done.text,
            "tokens": [piece.text for piece in sample.pieces],
            "probabilities": odds,
        }
        told |= {"reason": done.reason, "truncated": done.truncated, "seconds": round(done.seconds, 3)}
        self.history.append({"time": _now(), "model": name, "prompt": done.prompt, **asdict(sampling), **told})
        rows = [
            {
                "model": row["model"],
                "seed": str(row["seed"]),
                "temperature": f"{row['temperature']:g}",
                "text": (row["prompt"][-80:] + row["text"])[:400],
            }
            for row in self.history[:-13:-1]
        ]
        count = len(self.history)
        summary = f"{count} continuation{'s' * (count > 1)} of this widget" + (", the last twelve" * (count > 12))
        self.past.value = f"<details><summary>{summary}</summary>{texts(rows)}</details>"
        self.export.disabled = False

    def save(self) -> None:
        """Write the history as JSON lines, whole or not at all."""
        with self.shielded():
            path = write_jsonl(self.file.value, self.history)
            self.say(f"{len(self.history)} continuations written to {path}", "done")


class SideBySide(_Writer):
    """One prompt and one seed through several models, streamed in columns; arguments as :class:`Playground`'s."""

    def __init__(self, voices: Voices, prompt: str = "", **settings: Any) -> None:
        super().__init__(voices, prompt, settings)
        self.children = [
            self.prompt,
            Box(list(self.knobs.values()), layout=_GRID),
            Box([self.start, self.halt, self.seed], layout=_WRAP),
            self.message,
            self.results,
        ]

    @staticmethod
    def still(voices: Voices, prompt: str = "", **settings: Any) -> Figure:
        sampling = Sampling(**settings)
        return _written([(name, voice, sampling.seed) for name, voice in voices.items()], prompt, sampling)

    def generate(self) -> None:
        with self.shielded():
            sampling, prompt = self.chosen(), self.prompt.value
            self.work(lambda stop: self._write(stop, prompt, sampling))

    def _write(self, stop: Stop, prompt: str, sampling: Sampling) -> None:
        self.say("")
        samples = [Sample(name, prompt, colour(name.rpartition(":")[2])) for name in self.voices]
        self.results.children = [sample.box for sample in samples]
        begun = [_begin(voice, prompt, stop, sampling) for voice in self.voices.values()]
        self.report(stop, prompt, follow(list(zip(samples, begun, strict=True))))


def _seeds(sampling: Sampling, samples: int) -> list[int]:
    return [row_seed(sampling.seed, row) for row in range(samples)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _written(blocks: Sequence[tuple[str, tuple[Any, Any], int]], prompt: str, sampling: Sampling) -> Figure:
    """What each of (heading, voice, seed) writes, as a figure."""
    drawn = {}
    for heading, voice, seed in blocks:
        pieces = [p for p in stream(*voice, prompt, **asdict(sampling.changed("seed", seed))) if p.text]
        drawn[heading] = ([piece.text for piece in pieces], [piece.probability for piece in pieces])
    return figures.token_probabilities(drawn, prompt)


class _Words:
    """A row of buttons, a word each, of which one is chosen."""

    def __init__(self, choose: Callable[[int], None]) -> None:
        self.choose, self.row = choose, Box(layout=_WRAP)

    def fill(self, words: Sequence[str]) -> None:
        buttons = []
        for place, word in enumerate(words):
            spelt = word.replace("\n", "↵").replace("\t", "→").strip(" ") or "·"
            button = Button(description=spelt, layout=Layout(width="auto", margin="1px"))
            button.on_click(lambda _, place=place: self.choose(place))
            buttons.append(button)
        self.row.children = buttons

    def mark(self, chosen: int) -> None:
        for place, button in enumerate(self.row.children):
            button.button_style = "primary" if place == chosen else ""


def _image(figure: Figure) -> str:
    """A figure as an image that fits its column, with its description."""
    data = base64.b64encode(render(figure, dpi=150)).decode()
    alt = html.escape(str(figure.get_label()))
    width = round(100 * figure.get_figwidth())
    return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="width:{width}px;max-width:100%;height:auto">'


class CurveExplorer(Panel):
    """A sentence as a path: how degree, place and context change the curve, and what each word's point blends.

    Args:
        sentence: to begin with.
        encoder: the BERT whose states the curve runs through; see :func:`curvekit.bases.berts.locate_encoder`.
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
        self.sentence = Text(sentence, continuous_update=False, layout=Layout(**_WIDE))
        self.sentence.placeholder = "a sentence; press Enter"
        self.degree = IntSlider(degree, min=0, max=5, description="degree", style=label, layout=wide)
        self.place = FloatSlider(place, min=0, max=1, step=0.05, description="place", style=label, layout=wide)
        self.context = _choice("context", CONTEXTS, context)
        self.family = _choice("curve", FAMILIES, family)
        self.words, self.picture = _Words(self.choose), HTML()
        for control in (self.sentence, self.degree, self.place, self.context, self.family):
            control.observe(lambda _: self.draw(), "value")
        self.children = [
            self.sentence,
            Box([self.degree, self.place, self.context, self.family], layout=_WRAP),
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
            self.picture.value = _image(_curve_figure(kept, states[: self.most], *settings))
            dropped = len(words) - len(kept)
            note = f"Drawn are the first {len(kept)} words; {dropped} more are not." if dropped else ""
            if self.context.value == "bidirectional":
                note += " This context reads the words that follow: in a language model it leaks."
            self.say(note.strip(), "warning")


def _choice(name: str, options: Any, value: str) -> ToggleButtons:
    row = ToggleButtons(options=list(options), value=value, description=name)
    row.style.button_width, row.style.description_width = "auto", "60px"
    return row


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
    points, pieces, rings, share = figures.project(states, arcs, embedded)
    return figures.sentence_curve(points, words, pieces, rings, share, (at, blend))


class AttentionViewer(Panel):
    """What one position attends to, under the model's own normaliser and under others, from the same scores.

    Args:
        voices: name -> (model, tokenizer); any model whose attention transformers can exchange. One that only
            exposes its weights is shown as it is.
        text: to begin with.
        members: names of :data:`curvekit.normalisers.VARIANTS` to compare with.
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
        self.text = Text(text, continuous_update=False, placeholder="a text; press Enter", layout=Layout(**_WIDE))
        self.model = Dropdown(options=list(voices), description="model", layout=Layout(width="250px"))
        self.model.style.description_width = "50px"
        label = {"description_width": "50px"}
        self.layer = IntSlider(layer, min=0, max=max(layer, 0), description="layer", style=label, layout=narrow)
        self.head = IntSlider(head, min=0, max=max(head, 0), description="head", style=label, layout=narrow)
        self.members = {v: ToggleButton(v in members, description=v, layout=Layout(width="auto")) for v in VARIANTS}
        self.words, self.picture = _Words(self.choose), HTML()
        for control in (self.text, self.model):
            control.observe(lambda _: self.attend(), "value")
        for control in (self.layer, self.head, *self.members.values()):
            control.observe(lambda _: self.draw(), "value")
        self.children = [
            self.text,
            Box([*([self.model] if len(voices) > 1 else []), self.layer, self.head], layout=_WRAP),
            Box(list(self.members.values()), layout=_WRAP),
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
            self.picture.value = _image(picture)
            notes = [f"The first {self.read.cut} tokens are left out."] if self.read.cut else []
            if self.read.scores is None:
                notes.append("This model hands out its weights only, so no other normaliser can be shown.")
            self.say(" ".join(notes), "warning")


def _attention_figure(read: Attention, layer: int, head: int, position: int, members: Sequence[str]) -> Figure:
    rows = read.rows(layer, head, position, members)
    return figures.attention_rows(rows, read.tokens[: position + 1], sink_shares(rows))


class BlindRating(Panel):
    """Two continuations by hidden models: which is better, more fluent, on topic? Answers go to a file, at once.

    Args:
        voices: name -> (model, tokenizer), two or more.
        prompts: that are continued.
        path: the file of the ratings; any number of kernels may append to it.
        rater: who rates, as written into the file.
        seed: of the order of pairs and of their samples; None: another one each time.
        settings: fields of :class:`curvekit.generation.sampling.Sampling`.
    """

    def __init__(
        self,
        voices: Voices,
        prompts: Sequence[str],
        path: str | Path,
        *,
        rater: str = "",
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.voices, self.path, self.sampling = voices, Path(path), Sampling(**settings)
        self.pair: Pair | None = None
        self.samples: list[Sample] = []
        self.start.description = "Next pair"
        self.rater = Text(rater, description="rater", layout=Layout(width="220px"))
        self.rater.style.description_width = "40px"
        self.save = Button(description="Save", icon="check", disabled=True, button_style="success")
        self.save.layout.width = "100px"
        self.tally = ToggleButton(description="Results", icon="bar-chart", layout=Layout(width="110px"))
        self.columns, self.summary, self.count = Box(layout=_BESIDE), HTML(), Label()
        self.answers: dict[str, ToggleButtons] = {}
        options = list(zip(("left", "no difference", "right"), ANSWERS, strict=True))
        for name, question in QUESTIONS.items():
            row = ToggleButtons(options=options, value=None, description=question)
            row.style.button_width, row.style.description_width = "110px", "160px"
            row.observe(lambda _: self._ready(), "value")
            self.answers[name] = row
        self.start.on_click(lambda _: self.next())
        self.save.on_click(lambda _: self.rate())
        self.tally.observe(lambda _: self._summarise(), "value")
        self.children = [
            Box([self.start, self.halt, self.rater], layout=_WRAP),
            self.message,
            self.columns,
            *self.answers.values(),
            Box([self.save, self.tally, self.count], layout=Layout(margin="8px 0 0 0", **_ROW)),
            self.summary,
        ]
        self._ask(False)
        self.order: Iterator[Pair] = iter(())
        with self.shielded():
            self.order = pairs(list(voices), prompts, seed)
            self._summarise()

    @staticmethod
    def still(
        voices: Voices,
        prompts: Sequence[str],
        path: str | Path,
        *,
        rater: str = "",
        seed: int | None = None,
        **settings: Any,
    ) -> Figure:
        return _rates_figure(read_ratings(path))

    def next(self) -> None:
        """Write another pair; an unsaved one is dropped."""
        with self.shielded():
            if self.busy:
                self.say("This pair is still being written; stop it first.", "warning")
                return
            self.pair = pair = next(self.order, None)
            if pair is None:
                raise CurvekitError("a blind rating needs two models and a prompt; name more models")
            self._ask(False)
            self.work(lambda stop: self._write(stop, pair))

    def _write(self, stop: Stop, pair: Pair) -> None:
        self.say("")
        self.samples = [Sample(side, pair.prompt, blind=True) for side in ("left", "right")]
        self.columns.children = [sample.box for sample in self.samples]
        sampling = self.sampling.changed("seed", pair.seed)
        voices = [self.voices[name] for name in (pair.first, pair.second)]
        begun = [_begin(voice, pair.prompt, stop, sampling) for voice in voices]
        done = follow(list(zip(self.samples, begun, strict=True)))
        if stop.is_set():
            self.say(f"Stopped: {stop.why}. A pair is rated when it is whole; press Next pair.", "warning")
        elif failures := [each for each in done if isinstance(each, Exception)]:
            self.fail(failures[0])
        else:
            self._ask(True)

    def _ask(self, whole: bool) -> None:
        """Show the questions, or hide them: a row of these buttons does not follow ``disabled`` once it is drawn."""
        for row in self.answers.values():
            row.value, row.layout.visibility = None, "visible" if whole else "hidden"
        self._ready()

    def _ready(self) -> None:
        self.save.disabled = any(row.value is None for row in self.answers.values())

    def rate(self) -> None:
        """Save the answers and write the next pair."""
        with self.shielded():
            if self.pair is None or self.save.disabled:
                self.say("Answer the three questions first.", "warning")
                return
            pair, texts = self.pair, [sample.text for sample in self.samples]
            row = {"time": _now(), "rater": self.rater.value, **pair._asdict()}
            row |= {"first_text": texts[0], "second_text": texts[1]}
            row |= {name: answer.value for name, answer in self.answers.items()}
            append_rating(self.path, row | {"sampling": asdict(self.sampling.changed("seed", pair.seed))})
            self._summarise()
            self.next()

    def _summarise(self) -> None:
        with self.shielded():
            ratings = read_ratings(self.path)
            self.count.value = f"ratings in {self.path}: {len(ratings)}"
            if not self.tally.value:
                self.summary.value = ""
                return
            rows = [{"question": name, **row} for name in QUESTIONS for row in win_rates(ratings, name)]
            self.summary.value = _image(_rates_figure(ratings)) + str(table(rows))


def _rates_figure(ratings: Sequence[Mapping[str, Any]]) -> Figure:
    return figures.win_rates({question: win_rates(ratings, name) for name, question in QUESTIONS.items()})
