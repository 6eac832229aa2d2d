"""What may be set of generation: one dataclass, of which arguments, flags and the interactive mode's names are made."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from curvekit.errors import CurvekitError, pick
from curvekit.steering.control import Control

COLDEST, HOTTEST = 1e-6, 1e6  # what logits may be divided by and stay finite
MOST_BEAMS, MOST_TEXTS = 256, 10_000  # each takes the memory of a text
_MOST = 2**31


def _setting(default: Any, help: str, flag: str = "") -> Any:
    return field(default=default, metadata={"help": help, "flag": flag})


@dataclass(frozen=True)
class Sampling:
    """How a text is continued. Each new token is drawn from ``softmax(logits / temperature)`` after the filters.

    The ``metadata`` of ``fields(Sampling)`` tell of each its ``help`` and, where it has another name there, its
    ``flag`` on the command line. The names are those of transformers' ``generate``, which does the work.

    Raises:
        CurvekitError: a value is out of range, or two of them exclude each other.
    """

    max_new_tokens: int = _setting(64, "new tokens at most", flag="tokens")
    temperature: float = _setting(1.0, "divides the logits; 0 takes the likeliest token every time")
    top_k: int = _setting(0, "draw from so many likeliest tokens; 0: from all")
    top_p: float = _setting(1.0, "draw from the likeliest tokens up to this share of the probability")
    min_p: float = _setting(0.0, "draw from tokens whose probability is at least X times the likeliest's")
    repetition_penalty: float = _setting(1.0, "makes what was there already less likely, above 1")
    no_repeat_ngram_size: int = _setting(0, "no sequence of so many tokens comes twice; 0: any may", flag="no-repeat")
    num_beams: int = _setting(1, "beams of a beam search; 1: none", flag="beams")
    num_return_sequences: int = _setting(1, "continuations of each prompt", flag="count")
    seed: int = _setting(0, "the same seed writes the same text")
    stop: tuple[str, ...] = _setting(
        (), r"a text before which the continuation ends, \n for a line break; may be given several times"
    )
    control: Control | None = field(
        default=None, metadata={"help": "what the text is steered by: an object of settings", "flag": ""}
    )

    def __post_init__(self) -> None:
        if self.control is not None and not isinstance(self.control, Control):
            if not isinstance(self.control, Mapping):
                raise CurvekitError(f"control is {self.control!r}; give a Control, or an object of its settings")
            object.__setattr__(self, "control", Control.from_dict(self.control))
        if isinstance(self.stop, str) or "" in self.stop or not all(isinstance(text, str) for text in self.stop):
            raise CurvekitError(f"stop is {self.stop!r}; give a list of strings that are not empty")
        object.__setattr__(self, "stop", tuple(self.stop))
        for each in fields(self):
            value, whole = getattr(self, each.name), each.type == "int"
            if each.name not in ("stop", "control") and (
                isinstance(value, bool) or not isinstance(value, int if whole else (int, float))
            ):
                raise CurvekitError(f"{each.name} is {value!r}; give a {'whole ' * whole}number")
        allowed = {
            "max_new_tokens": (1 <= self.max_new_tokens < _MOST, "1 or more, below 2^31"),
            "temperature": (
                self.temperature == 0 or COLDEST <= self.temperature <= HOTTEST,
                f"0 (greedy) or more: {COLDEST} to {HOTTEST:g}",
            ),
            "top_k": (0 <= self.top_k < _MOST, "0 (all) or more, below 2^31"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (COLDEST <= self.repetition_penalty <= HOTTEST, f"more than 0, at most {HOTTEST:g}"),
            "no_repeat_ngram_size": (0 <= self.no_repeat_ngram_size < _MOST, "0 (off) or more, below 2^31"),
            "num_beams": (1 <= self.num_beams <= MOST_BEAMS, f"1 or more, at most {MOST_BEAMS}"),
            "num_return_sequences": (
                1 <= self.num_return_sequences <= MOST_TEXTS,
                f"1 or more, at most {MOST_TEXTS}",
            ),
            "seed": (0 <= self.seed < 2**63, "0 or more, below 2^63"),
        }
        for name, (right, expected) in allowed.items():
            if not right:
                value = getattr(self, name)
                huge = isinstance(value, int) and value.bit_length() > 200  # Python does not write thousands of digits
                shown = f"a number of {value.bit_length():,} bits" if huge else value
                raise CurvekitError(f"{name} is {shown}; give {expected}")
        if self.num_return_sequences > self.num_beams and (self.temperature == 0 or self.num_beams > 1):
            raise CurvekitError(
                f"num_return_sequences is {self.num_return_sequences}, but without sampling there are only "
                f"{self.num_beams} different continuations; raise temperature or num_beams"
                if self.num_beams == 1
                else f"num_return_sequences is {self.num_return_sequences}, but a search with {self.num_beams} beams "
                f"finds {self.num_beams} continuations; raise num_beams"
            )
        if self.num_beams > 1 and self.control is not None and self.control.steps:
            raise CurvekitError(
                f"num_beams is {self.num_beams}, and of controls only codes and a preface go with a search; "
                "leave it at 1"
            )

    def changed(self, name: str, value: Any) -> Sampling:
        """The same with one setting changed; an unknown name raises ``CurvekitError`` with the nearest ones."""
        return replace(self, **{pick(name, [each.name for each in fields(self)], "setting"): value})


def row_seed(seed: int, row: int) -> int:
    """The seed of the ``row``-th continuation of a call: alone, with this seed, it is written again.

    The first one's is ``seed`` itself; the others lie far apart, so that the calls with seed 0 and seed 1 share none.
    """
    return seed if row == 0 else random.Random(f"{seed}/{row}").getrandbits(48)
