"""Rows of steering: what a token costs that is steered, beside one of the same model that is not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Different, Goal, Settings
from curvekit.bases.opening import open_model
from curvekit.generation.streams import complete
from curvekit.steering.control import Control
from curvekit.steering.states import blocks_of
from curvekit.steering.vectors import difference_of_means
from curvekit.text.codes import header, joined

PROMPT = "The film begins on a small island, and"
BAG = ("sea", "ship", "sailor", "storm", "wave", "harbour", "captain", "shore")
CODE = "sea"


def cases(settings: Settings) -> Iterator[Case]:
    name, new = ("mini", 4) if settings.quick else ("smollm2", 24)
    model, words = open_model(name)
    model.to(settings.device).config.control_codes = (CODE,)  # as of one that was fine-tuned with it
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.safetensors"
        texts = [f"The {word} was there." for word in BAG], ["The house was there."]
        difference_of_means(model, words, *texts, len(blocks_of(model)) // 2).save(path)
        vector, codes = Control(vector=str(path)), Control(codes=(CODE,))
        preface, expert, bag = Control(preface="This is about the sea."), Control(expert=name), Control(bag=BAG)
        guided = replace(preface, guidance_scale=1.5)
        for way, cost, control, idle in (
            ("codes", 1.05, codes, (codes, None, joined(header((CODE,)), PROMPT))),
            ("a vector", 1.05, vector, (replace(vector, vector_scale=0.0), None, PROMPT)),
            ("guidance", 2.2, guided, (replace(guided, negative=preface.preface), preface, PROMPT)),
            ("an expert", 2.2, expert, (replace(expert, expert_weight=2.0), None, PROMPT)),
            ("PPLM, 3 steps a token", 12.0, bag, (replace(bag, step_size=0.0), None, PROMPT)),
        ):
            yield _case(f"{way}, {name}, {new} tokens", (model, words), new, control, cost, idle)


def _case(
    row: str, voice: tuple[Any, Any], new: int, control: Control, cost: float, idle: tuple[Control, Control | None, str]
) -> Case:
    """``idle``: a control that changes nothing, and the control and prompt that write the same text."""

    def write(control: Control | None, prompt: str = PROMPT) -> Any:
        (found,) = complete(*voice, [prompt], max_new_tokens=new, temperature=0.0, control=control)
        return found

    def check() -> str:
        mine, theirs = write(idle[0]), write(*idle[1:])
        if mine.text != theirs.text:
            raise Different(f"where nothing should steer, the texts are {mine.text!r} and {theirs.text!r}")
        if any(write(each).tokens != new for each in (control, None)):
            raise Different(f"a text ended before its {new} tokens")
        return "where nothing steers, the texts are equal"

    return Case(
        row,
        "steered",
        "the same model, not steered",
        lambda: write(control),
        lambda: write(None),
        check,
        Goal("ratio", round(1 / cost, 3)),
        work=new,
        unit="tokens",
        seconds=20.0,
    )
