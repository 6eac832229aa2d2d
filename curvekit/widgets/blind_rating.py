"""Blind rating: two continuations by hidden models, three questions, and answers that go to a file at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Box, Button, Label, Layout, Text, ToggleButton, ToggleButtons
from matplotlib.figure import Figure

from curvekit import figures
from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling
from curvekit.preferences.ratings import ANSWERS, QUESTIONS, Pair, append_rating, pairs, read_ratings, win_rates
from curvekit.reports.markup import table
from curvekit.widgets.controls import BESIDE, ROW, WRAP, image
from curvekit.widgets.panels import Panel, Sample, Stop, follow
from curvekit.widgets.voices import Voices
from curvekit.widgets.writing import begin, now


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
        self.columns, self.summary, self.count = Box(layout=BESIDE), HTML(), Label()
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
            Box([self.start, self.halt, self.rater], layout=WRAP),
            self.message,
            self.columns,
            *self.answers.values(),
            Box([self.save, self.tally, self.count], layout=Layout(margin="8px 0 0 0", **ROW)),
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
        begun = [begin(voice, pair.prompt, stop, sampling) for voice in voices]
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
            row = {"time": now(), "rater": self.rater.value, **pair._asdict()}
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
            self.summary.value = image(_rates_figure(ratings)) + str(table(rows))


def _rates_figure(ratings: Sequence[Mapping[str, Any]]) -> Figure:
    return figures.win_rates({question: win_rates(ratings, name) for name, question in QUESTIONS.items()})
