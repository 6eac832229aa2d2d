"""The models that write in widgets, each with its tokeniser, by the short names that a reader sees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.bases.adapters import share_bases
from curvekit.bases.opening import open_model
from curvekit.recipes import RECIPES

Voices = Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]


def load_voices(models: Sequence[str]) -> Voices:
    """Models and their tokenisers, by short names; adapters of one base hold its weights once.

    Args:
        models: as :func:`curvekit.bases.opening.open_model` takes them: bases, folders of models, folders of runs; or
            ``base:recipe``, such as ``mini:softemax``, a base whose weights are put into a recipe without training.

    Raises:
        CurvekitError: a model that cannot be had.
    """
    voices = {}
    for model in models:
        base, _, recipe = model.rpartition(":")
        short = re.sub(r"-seed\d+$", "", Path(model).name)
        name = short if short not in voices else Path(model).name
        voices[name] = open_model(base, recipe) if base and recipe in RECIPES else open_model(model)
    share_bases(voice[0] for voice in voices.values())
    return voices
