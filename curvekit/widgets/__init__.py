"""ipywidgets over figures and generation, for JupyterLab."""

from curvekit.lazy import public

_HOMES = {
    "show": "gallery",
    "load_voices": "gallery",
    "Playground": "gallery",
    "SideBySide": "gallery",
    "CurveExplorer": "gallery",
    "AttentionViewer": "gallery",
    "BlindRating": "gallery",
    "FAMILIES": "gallery",
    "ALTERNATIVES": "gallery",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
