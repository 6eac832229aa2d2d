"""curvekit: does a curve through BERT's embeddings, or SoftEMax in attention, make GPT-2 a better language model?

Names load on first use, so that ``import curvekit`` costs next to nothing. The function ``softemax`` is
imported from its module of the same name: ``from curvekit.softemax import softemax``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "LOG_C": "softemax",
    "SoftEMax": "softemax",
    "softemax_attention": "attention",
    "CurveEmbedding": "curves",
    "bernstein_weights": "curves",
    "curve": "curves",
    "CurveGPT2Config": "modeling",
    "CurveGPT2LMHeadModel": "modeling",
    "RECIPES": "modeling",
    "build_model": "modeling",
    "future_leak": "causality",
    "load_corpus": "corpora",
    "pack": "packing",
    "score_documents": "metrics",
    "text_metrics": "metrics",
    "RunConfig": "runs",
    "train": "training",
    "load_run": "runs",
    "paired_bootstrap": "significance",
    "run_experiment": "experiments",
    "generate": "generation",
    "report": "reports",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'curvekit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"curvekit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
