"""What a person touches in JupyterLab: text as it streams, models side by side, curves, attention, blind ratings.

Each widget is a thin layer over :mod:`curvekit.generation` and :mod:`curvekit.figures`, and has a static figure,
``still``, for where nobody can press a button: :func:`show` chooses. A widget keeps no state outside itself, so any
number of them work in one notebook. There is no script in them and nothing is loaded from anywhere; whatever a user
or a model wrote is escaped.
"""

from curvekit.lazy import public

_HOMES = {
    "show": "display",
    "Voices": "voices",
    "load_voices": "voices",
    "Playground": "playground",
    "SideBySide": "side_by_side",
    "CurveExplorer": "curve_explorer",
    "FAMILIES": "curve_explorer",
    "AttentionViewer": "attention_viewer",
    "BlindRating": "blind_rating",
    "Chat": "chat",
    "ALTERNATIVES": "writing",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
