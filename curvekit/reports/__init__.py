"""Notebooks executed into pages: papermill, HTML that opens offline, tables in words."""

from curvekit.lazy import public

_HOMES = {
    "report": "execution",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
