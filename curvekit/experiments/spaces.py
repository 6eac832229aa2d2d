"""What a search may vary: a range or a list of values for each setting, such as ``learning_rate=1e-4:1e-2:log``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from curvekit.errors import CurvekitError, pick
from curvekit.training.settings import RunConfig

FORM = "write NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=VALUE,VALUE,..., such as learning_rate=1e-4:1e-2:log"
_HINTS = get_type_hints(RunConfig)
_FIXED = {  # why these are not searched
    "recipe": "recipes are compared, each with a search of its own; give --recipes",
    "base": "a search is about one base",
    "corpus": "a search is about one corpus",
    "seed": "a good seed is no good setting",
    "steps": "every trial has the same budget of tokens; give --steps",
}
_SCORED = ("context_eval", "stride", "eval_documents", "validation_documents", "keep_tokens", "eval_every", "patience")
_WRITTEN = ("sample_prompts", "prompt_tokens", "sample_tokens", "temperature", "top_p")


@dataclass(frozen=True)
class Dimension:
    """One setting of the space: values from ``low`` to ``high``, both included, or one of ``choices``."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return not self.choices and isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """The values that must be possible for all to be: the ends of a range, or every choice."""
        return self.choices or (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}


Space = tuple[Dimension, ...]


def written(dimension: Mapping[str, Any]) -> str:
    """A dimension of :meth:`Dimension.to_dict` as :func:`parse_space` reads it."""
    if "choices" in dimension:
        return ",".join(map(str, dimension["choices"]))
    return f"{dimension['low']}:{dimension['high']}" + (":log" if dimension["log"] else "")


def searchable() -> list[str]:
    """The settings that a search may vary."""
    kept = {*_FIXED, *_SCORED, *_WRITTEN, "model", "tokenizer", "vocabulary", "precision", "compile"}
    return [each.name for each in dataclasses.fields(RunConfig) if each.metadata["result"] and each.name not in kept]


def parse_space(words: Iterable[str], config: RunConfig) -> Space:
    """The dimensions of a space from their texts, each of whose ends has been tried on the settings.

    Raises:
        CurvekitError: a word of another form, a name that is no setting or none to search, a range that is empty or
            of text, or a value that no run can have.
    """
    space: dict[str, Dimension] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not text:
            raise CurvekitError(f"{word!r} is no part of a space; {FORM}")
        if name in space:
            raise CurvekitError(f"the space names {name} twice; give it once")
        space[name] = _dimension(name, text)
    if not space:
        raise CurvekitError(f"the space is empty; {FORM}")
    for dimension in space.values():
        for value in dimension.ends():
            with_values(config, {dimension.name: value}).validate()
    return tuple(space.values())


def _dimension(name: str, text: str) -> Dimension:
    if name in _FIXED:
        raise CurvekitError(f"{name} is no setting to search: {_FIXED[name]}")
    if name in _SCORED or name in _WRITTEN:
        raise CurvekitError(f"{name} is no setting to search: it changes how a model is measured, not the model")
    kinds: tuple[type, ...] = ()
    if not name.startswith("model."):
        pick(name, searchable(), "setting to search")
        hint = _HINTS[name]
        kinds = tuple(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))
    parts = text.split(":")
    if len(parts) == 1:
        choices = tuple(dict.fromkeys(_value(name, part, kinds) for part in text.split(",") if part))
        if len(choices) < 2:
            raise CurvekitError(f"{name} has one value, {text!r}, and nothing to search; give it as a setting")
        return Dimension(name, choices=choices)
    if len(parts) > 3 or (len(parts) == 3 and parts[2] != "log"):
        raise CurvekitError(f"{name}={text} is no range; {FORM}")
    low, high = (_value(name, part, kinds) for part in parts[:2])
    if isinstance(low, str | bool) or isinstance(high, str | bool):
        raise CurvekitError(f"{name}={text} is no range of numbers; list its values, separated by commas")
    if float in kinds or isinstance(low, float) or isinstance(high, float):
        low, high = float(low), float(high)
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise CurvekitError(f"the range of {name}, {text}, is empty; give the lower end first")
    log = len(parts) == 3
    if log and low <= 0:
        raise CurvekitError(f"the range of {name} begins at {low}, where a log scale has no place; begin above 0")
    return Dimension(name, low, high, log)


def _value(name: str, text: str, kinds: tuple[type, ...]) -> Any:
    if kinds == (str,):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, list | dict) or value is None:
        raise CurvekitError(f"{name} has the value {text!r}; give numbers or words")
    if kinds and str not in kinds and isinstance(value, str):
        raise CurvekitError(f"{name} has the value {text!r}, which is no number; {FORM}")
    return value


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The settings with some values of a space in them, and as many steps as read the same number of tokens."""
    own = {name: value for name, value in values.items() if not name.startswith("model.")}
    model = {name.removeprefix("model."): value for name, value in values.items() if name.startswith("model.")}
    budget = config.steps * tokens_of_step(config)
    changed = RunConfig.from_dict(config.to_dict() | own | {"model": config.model | model})
    steps = max(1, round(budget / tokens_of_step(changed)))
    return dataclasses.replace(changed, steps=steps, eval_every=max(1, steps // 4), save_every=max(1, steps // 4))


def tokens_of_step(config: RunConfig) -> int:
    """Tokens that one step reads."""
    return config.accumulate * config.batch_size * config.block_size


def as_given(config: RunConfig, space: Space) -> dict[str, Any]:
    """What the settings themselves have in each dimension, where they have it."""
    return {
        each.name: config.model.get(each.name[6:]) if each.name.startswith("model.") else getattr(config, each.name)
        for each in space
    }


def grid(space: Space) -> dict[str, Sequence[Any]]:
    """Every value of every dimension.

    Raises:
        CurvekitError: a range of fractions has no end of values.
    """
    if between := [each.name for each in space if not each.choices and not each.whole]:
        raise CurvekitError(f"a grid has no end of values for the range of {between[0]}; list some, as in 1e-4,1e-3")
    return {each.name: each.choices or list(range(int(each.low), int(each.high) + 1)) for each in space}  # type: ignore[arg-type]


def grid_size(space: Space) -> int:
    """How many points a grid has."""
    return len(list(itertools.product(*grid(space).values())))
