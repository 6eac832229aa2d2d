"""Recipes of a user's own: settings under a name, which then trains, is compared, and stands in every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curvekit.configuration import OWN_FIELDS, CurveGPT2Config
from curvekit.errors import CurvekitError, pick
from curvekit.recipes import OWN_RECIPES, RECIPES
from curvekit.variants import blends, normalisers
from curvekit.variants.names import check_name

_GIVEN = {"recipe", "encoder", "encoder_config", "base_is_random", "freeze", "registered"}  # what a run says itself


def register_recipe(name: str, settings: Mapping[str, Any], what: str = "", *, replace: bool = False) -> None:
    """Add a recipe: it then stands beside those of :data:`curvekit.recipes.RECIPES` wherever one is named.

    Args:
        name: what it is called from now on.
        settings: fields of :class:`curvekit.configuration.CurveConfigMixin`, such as ``source``, ``attention`` and
            ``curve_weights``, registered normalisers and blends among their values.
        what: what it is, for pages and lists; default its settings.
        replace: put it in the place of one that is registered under this name.

    Raises:
        CurvekitError: the name is taken, or a setting is unknown or has a value that it cannot have.
    """
    check_name(name, "recipe", RECIPES, OWN_RECIPES, replace)
    if not isinstance(settings, Mapping):
        raise CurvekitError(f"the recipe {name!r} has the settings {settings!r}; give a dictionary")
    try:
        for field in settings:
            pick(field, sorted(OWN_FIELDS - _GIVEN), "setting")
        CurveGPT2Config(**settings)
    except CurvekitError as error:
        raise CurvekitError(f"the recipe {name!r}: {error}") from error
    RECIPES[name] = dict(settings)
    OWN_RECIPES[name] = what or ", ".join(f"{field} {_written(value)}" for field, value in settings.items())


def unregister(*names: str) -> None:
    """Take registered recipes, normalisers and blends away again.

    Raises:
        CurvekitError: nothing of that name was registered.
    """
    for name in names:
        pick(name, [*OWN_RECIPES, *normalisers.NORMALISERS, *blends.BLENDS], "registered name")
        if OWN_RECIPES.pop(name, None) is not None:
            del RECIPES[name]
        normalisers.drop(name)
        blends.drop(name)


def registered() -> list[str]:
    """The names of all that is registered."""
    return list(dict.fromkeys([*OWN_RECIPES, *normalisers.NORMALISERS, *blends.BLENDS]))


def _written(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
