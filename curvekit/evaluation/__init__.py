"""Figures of one model, and how sure a difference is: losses and text scores, paired intervals, attention rows."""

from curvekit.lazy import public

_HOMES = {
    "score_documents": "metrics",
    "score_targets": "targets",
    "text_metrics": "metrics",
    "LanguageModelScore": "metrics",
    "paired_bootstrap": "significance",
    "ZooSettings": "zoo_settings",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
