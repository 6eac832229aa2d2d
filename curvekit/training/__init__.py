"""One run, from its settings to its metrics: checkpoints, optimisers, tracking, and the base that ships."""

from curvekit.lazy import public

_HOMES = {
    "RunConfig": "runs",
    "Run": "runs",
    "load_run": "runs",
    "open_model": "runs",
    "train": "trainer",
    "fit": "trainer",
    "evaluate": "trainer",
    "pretrain": "pretraining",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
