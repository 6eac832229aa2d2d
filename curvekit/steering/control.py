"""What a text is steered by: one object for codes, attribute gradients, mixed logits and vectors, and its settings.

Nothing is loaded here. What a setting names (an attribute model, an expert, a vector) is opened when a text is written,
so a control is a JSON object: the same in a file, on the command line, in a widget and in a request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError, pick
from curvekit.files import checked_path, read_json
from curvekit.text.codes import checked_code, header, joined

_MOST_WORDS = 10_000  # of a bag


def _setting(default: Any, help: str, least: float | None = None, most: float | None = None, file: bool = False) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most, "file": file})


@dataclass(frozen=True)
class Control:
    """How a text is steered. The defaults steer nothing; several ways may go together.

    ======================== ==========================================================================================
    codes, preface           the model reads them before the prompt (CTRL, instructions)
    bag, attribute           PPLM: gradient steps on a copy of the cache, see :mod:`curvekit.steering.pplm`
    expert, antiexpert       DExperts, see :mod:`curvekit.steering.mixing`
    guidance_scale           classifier-free guidance by codes and preface, see the same
    vector                   a direction added to the residual stream, see :mod:`curvekit.steering.vectors`
    ======================== ==========================================================================================

    The ``metadata`` of ``fields(Control)`` tell of each its ``help``, its range, and as ``file`` whether it names a
    file or a model.

    Raises:
        CurvekitError: a value of another type or out of range, or a setting that lacks the one it belongs to.
    """

    codes: tuple[str, ...] = _setting((), "control codes that a model was fine-tuned with; may be given several times")
    preface: str = _setting("", "a text that is read before the prompt and not printed, such as an instruction")
    bag: tuple[str, ...] = _setting((), "PPLM: words whose probability is raised, such as love,joy,happy")
    attribute: str | None = _setting(None, "PPLM: an attribute model, as `curvekit attribute` makes it", file=True)
    label: str | None = _setting(None, "the label of the attribute model that is sought")
    step_size: float = _setting(0.05, "PPLM: length of a gradient step, in each layer", least=0, most=1e3)
    iterations: int = _setting(3, "PPLM: gradient steps for each token", least=1, most=100)
    kl_scale: float = _setting(0.01, "PPLM: weight of the divergence from the unsteered model", least=0, most=1e3)
    gm_scale: float = _setting(
        0.9, "PPLM: exponent of the steered probabilities in the geometric mean with the others", least=0, most=1
    )
    expert: str | None = _setting(None, "DExperts: a run or base that writes what is sought", file=True)
    antiexpert: str | None = _setting(
        None, "DExperts: one that writes the opposite (default: the model itself)", file=True
    )
    expert_weight: float = _setting(1.0, "DExperts: a in logits + a (expert's - anti-expert's)", least=-100, most=100)
    guidance_scale: float = _setting(
        1.0, "classifier-free guidance: how far codes and preface count; 1: as they do", least=-100, most=100
    )
    negative: str = _setting("", "classifier-free guidance: what stands in the place of codes and preface otherwise")
    vector: str | None = _setting(None, "a steering vector's file, as `curvekit vector` makes it", file=True)
    vector_scale: float = _setting(1.0, "how many times the vector is added", least=-1e4, most=1e4)

    def __post_init__(self) -> None:
        for each in fields(self):
            self._check(each.name, str(each.type), each.metadata)
        for code in self.codes:
            checked_code(code, "a code")
        if len(self.bag) > _MOST_WORDS:
            raise CurvekitError(f"the bag holds {len(self.bag):,} words; give at most {_MOST_WORDS:,}")
        if any(not word.strip() for word in self.bag):
            raise CurvekitError("the bag holds an empty word; leave it out")
        if self.antiexpert is not None and self.expert is None:
            raise CurvekitError(f"antiexpert is {self.antiexpert!r} without an expert; give expert too")
        if self.label is not None and self.attribute is None:
            raise CurvekitError(f"label is {self.label!r} without an attribute model; give attribute too")
        if self.guidance_scale != 1 and not self.before:
            raise CurvekitError(
                f"guidance_scale is {self.guidance_scale:g}, and nothing stands before the prompt that could guide; "
                "give codes or preface"
            )
        if self.negative and self.guidance_scale == 1:
            raise CurvekitError("negative is read by classifier-free guidance alone; give guidance_scale too")

    def _check(self, name: str, kind: str, notes: Mapping[str, Any]) -> None:
        value = getattr(self, name)
        if kind.startswith("tuple"):
            if isinstance(value, str) or not all(isinstance(each, str) for each in value):
                raise CurvekitError(f"{name} is {value!r}; give a list of words")
            object.__setattr__(self, name, tuple(value))
        elif kind.startswith("str"):
            if not isinstance(value, str) and not (value is None and "None" in kind):
                raise CurvekitError(f"{name} is {value!r}; give text")
            if notes["file"] and value is not None:
                checked_path(value, name)
        else:
            whole = kind == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise CurvekitError(f"{name} is {value!r}; give a {'whole ' * whole}number")
            if not math.isfinite(value) or not notes["least"] <= value <= notes["most"]:
                raise CurvekitError(f"{name} is {value!r}; give {notes['least']:g} to {notes['most']:g}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Control:
        """Settings by name; an unknown one raises ``CurvekitError`` with the nearest."""
        if not isinstance(values, Mapping):
            raise CurvekitError(f"control is {values!r}; give an object of settings, such as {{'codes': ['poem']}}")
        known = [each.name for each in fields(cls)]
        return cls(**{pick(str(name), known, "setting of a control"): value for name, value in values.items()})

    @classmethod
    def read(cls, path: str | Path) -> Control:
        """The control in a JSON file, which the error names."""
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except CurvekitError as error:
            raise CurvekitError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """What is not a default, as JSON can hold it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(_NOTHING, name)
        }

    @property
    def before(self) -> str:
        """What the model reads before the prompt."""
        return joined(header(self.codes), self.preface)

    @property
    def gradients(self) -> bool:
        """Whether PPLM takes part."""
        return bool(self.bag) or self.attribute is not None

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1

    @property
    def steps(self) -> bool:
        """Whether the steps of generation are other than a model's own; codes and a preface leave them as they are."""
        return self.gradients or self.expert is not None or self.guided or self.vector is not None

    @property
    def files(self) -> list[str]:
        """The settings that name a file or a model."""
        return [each.name for each in fields(self) if each.metadata["file"] and getattr(self, each.name) is not None]


_NOTHING = Control()
