"""One run, from its settings to its metrics: checkpoints, optimisers, tracking, and the base that ships."""

from curvekit.lazy import public

_HOMES = {
    "RunConfig": "settings",
    "Run": "runs",
    "load_run": "runs",
    "train": "trainer",
    "fit": "trainer",
    "evaluate": "trainer",
    "pretrain": "pretraining",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
