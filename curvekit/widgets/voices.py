"""The models that write in widgets, each with its tokeniser, by the short names that a reader sees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.bases.adapters import share_bases
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES

Voices = Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]


def load_voices(models: Sequence[str]) -> Voices:
    """Models and their tokenisers, by short names: as much of a path as tells it from those before it.

    Args:
        models: as :func:`curvekit.bases.opening.open_model` takes them: bases, folders of models, folders of runs; or
            ``base:recipe``, such as ``mini:softemax``, a base whose weights are put into a recipe without training.

    Raises:
        CurvekitError: a model that cannot be had, or that is given twice.
    """
    voices: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
    for model in models:
        base, _, recipe = model.rpartition(":")
        parts = Path(model).parts
        names = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)] or [model]
        names = [re.sub(r"-seed\d+$", "", names[0]), *names]
        name = next((name for name in names if name not in voices), None)
        if name is None:
            raise CurvekitError(f"the model {model!r} is given twice; give every model once")
        voices[name] = open_model(base, recipe) if base and recipe in RECIPES else open_model(model)
    share_bases(voice[0] for voice in voices.values())
    return voices
