"""Models side by side: one prompt and one seed, streamed in a column for each model."""

from __future__ import annotations

from typing import Any

from ipywidgets import Box
from matplotlib.figure import Figure

from curvekit.figures.drawing import colour
from curvekit.generation.sampling import Sampling
from curvekit.widgets.controls import GRID, WRAP
from curvekit.widgets.panels import Sample, Stop, follow
from curvekit.widgets.voices import Voices
from curvekit.widgets.writing import Writer, begin, written


class SideBySide(Writer):
    """One prompt and one seed through several models, streamed in columns; arguments as the playground's."""

    def __init__(self, voices: Voices, prompt: str = "", **settings: Any) -> None:
        super().__init__(voices, prompt, settings)
        self.children = [
            self.prompt,
            Box(list(self.knobs.values()), layout=GRID),
            Box([self.start, self.halt, self.seed], layout=WRAP),
            self.message,
            self.results,
        ]

    @staticmethod
    def still(voices: Voices, prompt: str = "", **settings: Any) -> Figure:
        sampling = Sampling(**settings)
        return written([(name, voice, sampling.seed) for name, voice in voices.items()], prompt, sampling)

    def generate(self) -> None:
        with self.shielded():
            sampling, prompt = self.chosen(), self.prompt.value
            self.work(lambda stop: self._write(stop, prompt, sampling))

    def _write(self, stop: Stop, prompt: str, sampling: Sampling) -> None:
        self.say("")
        samples = [Sample(name, prompt, colour(name.rpartition(":")[2])) for name in self.voices]
        self.results.children = [sample.box for sample in samples]
        begun = [begin(voice, prompt, stop, sampling) for voice in self.voices.values()]
        self.report(stop, prompt, follow(list(zip(samples, begun, strict=True))))
