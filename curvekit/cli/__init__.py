"""The command ``curvekit``: a file for each command, thin over the library."""

from curvekit.lazy import public

_HOMES = {
    "main": "frame",
    "parser": "frame",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
