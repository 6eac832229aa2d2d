"""Recipes: named variants of a model, and the settings that each of them is.

A recipe's parts: where the states come from that the curve runs through (``source``), what they see (``context``), the
curve, what mixes neighbouring states inside the blocks (``sites``), and the attention. ``plain`` (on a
GPT-2 also ``gpt2``) is transformers' own model, weight for weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from curvekit.errors import CurvekitError, pick

SOURCES = ("none", "encoder", "self")
ATTENTIONS = {  # what `attention` may be, and the member of the family that it is
    "softmax": "softmax",
    "softemax": "stable",
    "softmax1": "softmax1",
    "published": "published",
    "inverse": "inverse",
    "plus": "plus",
    "plus-inverse": "plus-inverse",
    "sink": "stable",
}
FIXED_SINKS = {"softmax", "softmax1"}  # attentions whose sink cannot be set
# What a user has registered beside what is here, see curvekit.variants.
OWN_RECIPES: dict[str, str] = {}  # recipes, and what each is in words
OWN_PARTS: dict[str, str] = {}  # normalisers and blends, and 12 digits of the source of each

_THREE = ("point", "tangent", "curvature")
_BLOCKS = ("attention", "mlp")

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpt2": {},
    "curve": {"source": "encoder"},
    "softemax": {"attention": "softemax"},
    "curve+softemax": {"source": "encoder", "attention": "softemax"},
    "published": {
        "source": "encoder",
        "context": "bidirectional",
        "window": "centred",
        "normalisation": "published",
        "fusion": "replace",
        "positions": "sinusoidal",
    },
    "encoder": {"source": "encoder", "degree": 0},
    "self-curve": {"source": "self"},
    "random-encoder": {"source": "encoder", "random_encoder": True},
    "curve-causal": {"source": "encoder", "context": "causal"},
    "sink": {"attention": "sink"},
    "curve+sink": {"source": "encoder", "attention": "sink"},
    "softmax1": {"attention": "softmax1"},
    # members of the family of curves
    "curve3": {"source": "encoder", "channels": _THREE},
    "curve3+softemax": {"source": "encoder", "channels": _THREE, "attention": "softemax"},
    "curve3+sink": {"source": "encoder", "channels": _THREE, "attention": "sink"},
    "self-curve3": {"source": "self", "channels": _THREE},
    "curve3-places": {"source": "encoder", "channels": _THREE, "learn_place": True},
    "learned": {"source": "encoder", "curve_weights": "learned"},
    "bspline": {"source": "encoder", "curve_weights": "bspline"},
    # a curve through the hidden states of every block
    "sites": {"sites": _BLOCKS},
    "sites-attention": {"sites": ("attention",)},
    "sites-mlp": {"sites": ("mlp",)},
    "sites-zero": {"sites": _BLOCKS, "site_gate": 0.0},
    "curve3+sites": {"source": "encoder", "channels": _THREE, "sites": _BLOCKS},
    "curve3+sites+softemax": {"source": "encoder", "channels": _THREE, "sites": _BLOCKS, "attention": "softemax"},
    "self-curve3+sites": {"source": "self", "channels": _THREE, "sites": _BLOCKS},
    # peers, as others published them
    "smear": {"sites": ("embedding",), "mixer": "smear", "site_gate": 0.0},
    "canon": {"sites": _BLOCKS, "mixer": "canon"},
    "canon-a": {"sites": ("attention",), "mixer": "canon"},
    "curve3+canon+softemax": {
        "source": "encoder",
        "channels": _THREE,
        "sites": _BLOCKS,
        "mixer": "canon",
        "attention": "softemax",
    },
    "encoder+canon+softemax": {
        "source": "encoder",
        "degree": 0,
        "sites": _BLOCKS,
        "mixer": "canon",
        "attention": "softemax",
    },
    "token-shift": {"sites": _BLOCKS, "mixer": "shift"},
    "trigram": {"source": "self", "channels": ("neighbours",)},
}


def pick_recipe(recipe: str) -> str:
    """Return ``recipe`` if it is one of :data:`RECIPES`.

    Raises:
        CurvekitError: it is not, with the nearest names, and what is said to have one of one's own.
    """
    if recipe in RECIPES:
        return recipe
    try:
        return pick(recipe, RECIPES, "recipe")
    except CurvekitError as error:
        raise CurvekitError(f"{error}; one of your own is known after --plugin FILE") from None


def recipe_settings(recipe: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Fields of a curve's configuration for a recipe: its own, and ``overrides``, which several recipes may share.

    A recipe without a curve takes no notice of ``degree``, nor does ``encoder``, whose degree 0 is what it is there
    for; one whose attention has a fixed sink takes none of ``log_sink``.

    Raises:
        CurvekitError: an unknown recipe.
    """
    own = RECIPES[pick_recipe(recipe)]
    settings = own | {"recipe": recipe} | overrides
    if own.get("degree") == 0:
        settings["degree"] = 0
    if settings.get("attention", "softmax") in FIXED_SINKS:
        settings.pop("log_sink", None)
    return settings


def added_parts(settings: Mapping[str, Any]) -> set[str]:
    """What of these :func:`recipe_settings` is learned beside the base: a ``curve``, ``sites`` in blocks, ``sinks``."""
    there = {
        "curve": settings.get("source", "none") != "none",
        "sites": bool(settings.get("sites")),
        "sinks": settings.get("attention", "softmax") == "sink",
    }
    return {part for part, is_there in there.items() if is_there}


def own_parts(used: Iterable[str], saved: Mapping[str, str] | None) -> dict[str, str] | None:
    """Of the parts that a model uses, those that a user registered, with the digits of their source.

    Args:
        used: names of its attention and of its curve's weights.
        saved: what this returned when the model was made; a part whose source has changed since is warned of.

    Raises:
        CurvekitError: a saved part is registered nowhere.
    """
    for name, digits in (saved or {}).items():
        if name not in OWN_PARTS:
            raise CurvekitError(
                f"this model was made with {name!r}, which is registered nowhere; name the file that registers it with "
                "--plugin FILE, or in Python call register_normaliser or register_blend before"
            )
        if OWN_PARTS[name] != digits:
            warnings.warn(
                f"{name!r} is registered with another source than when this model was made: it may compute otherwise",
                stacklevel=2,
            )
    return {name: OWN_PARTS[name] for name in used if name in OWN_PARTS} or None


def check_source_side(settings: Mapping[str, Any]) -> None:
    """Refuse what an encoder-decoder such as T5 has no place for. Its curve runs through the source alone.

    All recipes with an attention or a curve fit, also those whose curve looks ahead: the source is complete before
    the first word of the target is written.

    Args:
        settings: ``recipe``, ``attention``, ``sites`` and ``freeze`` of a configuration.

    Raises:
        CurvekitError: one sentence about the first that does not fit.
    """
    recipe, attention = settings.get("recipe", "plain"), settings.get("attention", "softmax")
    if recipe == "gpt2":
        raise CurvekitError("'gpt2' is what the plain recipe of a GPT-2 is called; on a T5 take 'plain'")
    if settings.get("sites"):
        raise CurvekitError(
            f"the recipe {recipe!r} mixes neighbouring states in the blocks of one stack, and a T5 has two, of which "
            "one looks ahead; on a T5 take a curve through the source, such as 'published', 'curve' or 'self-curve'"
        )
    if ATTENTIONS.get(attention) in ("inverse", "plus-inverse"):
        raise CurvekitError(
            f"attention {attention!r} turns scores around, and a T5's hold its position bias, which would be turned "
            "with them or not; take another member, such as 'softemax'"
        )
    if settings.get("freeze") == "all_but_head":
        raise CurvekitError("freeze is 'all_but_head', and a T5's head is its embeddings; give none or a number")


def check_freeze(which: str, blocks: int | None = None) -> None:
    """Refuse what ``freeze`` cannot be; ``blocks`` is how many the model has, where that is known."""
    if which in ("none", "embeddings", "all_but_head"):
        return
    if not (which.isascii() and which.isdecimal()):
        raise CurvekitError(f"freeze is {which!r}; give none, embeddings, all_but_head, or a number of first blocks")
    if blocks is not None and int(which) > blocks:
        raise CurvekitError(f"freeze is {which!r}, but the base has {blocks} blocks; give at most {blocks}")
