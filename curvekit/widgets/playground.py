"""The playground: write with one model, every setting a slider, each token coloured by its probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipywidgets import HTML, BoundedIntText, Box, Button, Dropdown, Label, Layout, Text, ToggleButton
from matplotlib.figure import Figure

from curvekit.files import write_jsonl
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import Completion
from curvekit.ownership import require_file, rows_with
from curvekit.reports.markup import texts
from curvekit.widgets.controls import GRID, WRAP
from curvekit.widgets.panels import Sample, Stop, follow
from curvekit.widgets.steering import Steering
from curvekit.widgets.voices import Voices
from curvekit.widgets.writing import Writer, begin, now, seeds_of, written


class Playground(Writer):
    """Write with a model: every setting a slider, text as it is produced, each token coloured by its probability.

    A section that folds holds what the text is steered by.

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
        self.steering = Steering(self.sampling.control)
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
            Box([*([self.model] if len(voices) > 1 else []), *self.knobs.values()], layout=GRID),
            self.steering.box,
            Box([self.start, self.halt, self.samples, self.seed, self.renew], layout=WRAP),
            self.message,
            self.results,
            Box([Label("history"), self.file, self.export], layout=WRAP),
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
        seeds = seeds_of(sampling, samples)
        headings = [name] if samples == 1 else [f"{name}, seed {seed}" for seed in seeds]
        return written([(h, voice, seed) for h, seed in zip(headings, seeds, strict=True)], prompt, sampling)

    def generate(self) -> None:
        with self.shielded():
            sampling = self.chosen(control=self.steering.control())
            prompt, name = self.prompt.value, self.model.value
            seeds = seeds_of(sampling, self.samples.value)
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
            done += follow([(sample, begin(self.voices[name], prompt, stop, one))])
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
        self.history.append({"time": now(), "model": name, "prompt": done.prompt, **asdict(sampling), **told})
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
            require_file(self.file.value, rows_with("time", "model", "prompt", "text", "probabilities"))
            path = write_jsonl(self.file.value, self.history)
            self.say(f"{len(self.history)} continuations written to {path}", "done")
