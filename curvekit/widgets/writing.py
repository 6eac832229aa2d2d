"""What the widgets that write share: a prompt, the settings of sampling, and Generate and Stop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from ipywidgets import BoundedIntText, Box, FloatSlider, IntSlider, Layout, Textarea
from matplotlib.figure import Figure

from curvekit.errors import CurvekitError
from curvekit.figures.shading import token_probabilities
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.generation.streams import Completion, Stream, positions_of, stream
from curvekit.widgets.controls import BESIDE, WIDE
from curvekit.widgets.panels import Panel, Stop
from curvekit.widgets.voices import Voices

ALTERNATIVES = 5  # likely tokens that are named with each one

_KNOBS: dict[str, tuple[float, float, float]] = {
    "temperature": (0, 2, 0.05),
    "top_p": (0.05, 1, 0.01),
    "top_k": (0, 200, 1),
    "min_p": (0, 0.5, 0.01),
    "repetition_penalty": (1, 2, 0.05),
    "max_new_tokens": (1, 512, 1),
}
_HELP = {each.name: each.metadata["help"] for each in fields(Sampling)}


class Writer(Panel):
    """A panel with a prompt, the settings of sampling, and Generate and Stop."""

    def __init__(self, voices: Voices, prompt: str, settings: Mapping[str, Any]) -> None:
        if not voices:
            raise CurvekitError("there is no model to write; give at least one, as {name: (model, tokenizer)}")
        self.voices, self.sampling = voices, Sampling(**settings)
        most = min(positions_of(model) for model, _ in voices.values()) - 1
        self.prompt = Textarea(prompt, placeholder="a prompt; an empty one begins a document", rows=3)
        self.prompt.layout = Layout(height="auto", **WIDE)
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
        self.results = Box(layout=BESIDE)
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


def begin(voice: tuple[Any, Any], prompt: str, stop: Stop, sampling: Sampling) -> Callable[[], Stream]:
    """What begins a stream of a voice (model, tokeniser), each of whose tokens names its alternatives."""
    return functools.partial(stream, *voice, prompt, cancel=stop, alternatives=ALTERNATIVES, **asdict(sampling))


def seeds_of(sampling: Sampling, samples: int) -> list[int]:
    """The seed that writes each of several samples again."""
    return [row_seed(sampling.seed, row) for row in range(samples)]


def now() -> str:
    """The time in UTC, to the second, as files keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def written(blocks: Sequence[tuple[str, tuple[Any, Any], int]], prompt: str, sampling: Sampling) -> Figure:
    """What each of (heading, voice, seed) writes, as a figure."""
    drawn = {}
    for heading, voice, seed in blocks:
        pieces = [p for p in stream(*voice, prompt, **asdict(sampling.changed("seed", seed))) if p.text]
        drawn[heading] = ([piece.text for piece in pieces], [piece.probability for piece in pieces])
    return token_probabilities(drawn, prompt)
