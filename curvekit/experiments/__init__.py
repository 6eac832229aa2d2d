"""Many runs: recipes by seeds from equal terms, compared with intervals and contrasts."""

from curvekit.lazy import public

_HOMES = {
    "run_experiment": "comparison",
    "compare": "comparison",
    "Comparison": "comparison",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
