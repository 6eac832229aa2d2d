"""Variants of a user's own: recipes, normalisers and blends, registered in a notebook or by a plugin, and checked."""

from curvekit.lazy import public

_HOMES = {
    "register_recipe": "recipes",
    "register_normaliser": "normalisers",
    "slowdown": "normalisers",
    "register_blend": "blends",
    "unregister": "recipes",
    "load_plugin": "plugins",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
