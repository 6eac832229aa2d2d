"""curvekit: does a curve through BERT's embeddings, or SoftEMax in attention, make a better language model?

The idea stands at the top: :mod:`~curvekit.normalisers`, :mod:`~curvekit.attention`, :mod:`~curvekit.curves`,
:mod:`~curvekit.encoders`, :mod:`~curvekit.modeling` and :mod:`~curvekit.causality`. Around it are wings, each a folder
that says what it is for. Names load on first use, so that ``import curvekit`` costs next to nothing; transformers' auto
classes open curvekit's models from then on.
"""

from curvekit.lazy import public
from curvekit.registration import announce

__version__ = "0.1.0"

_HOMES = {
    "LOG_C": "normalisers",
    "SoftEMax": "normalisers",
    "softemax": "normalisers",
    "softemax_attention": "attention",
    "CurveEmbedding": "curves",
    "bernstein_weights": "curves",
    "curve": "curves",
    "CurveGPT2Config": "configuration",
    "CurveGPT2LMHeadModel": "modeling",
    "CurveGPTNeoForCausalLM": "modeling",
    "CurveLlamaForCausalLM": "modeling",
    "RECIPES": "recipes",
    "register_recipe": "variants.recipes",
    "register_normaliser": "variants.normalisers",
    "register_blend": "variants.blends",
    "build_model": "bases.building",
    "future_leak": "causality",
    "load_corpus": "text.corpora",
    "pack": "text.packing",
    "score_documents": "evaluation.metrics",
    "text_metrics": "evaluation.metrics",
    "RunConfig": "training.settings",
    "train": "training.trainer",
    "load_run": "training.runs",
    "paired_bootstrap": "evaluation.significance",
    "run_experiment": "experiments.comparison",
    "generate": "generation.streams",
    "report": "reports.execution",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
__all__ += ["__version__"]

announce()
