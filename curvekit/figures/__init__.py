"""Every picture as a pure ``figure(data) -> matplotlib Figure``, by subject.

A function takes arrays (numpy, lists or tensors) and returns a new ``Figure``, so that the same call serves a
notebook, a headless report and a widget. A picture's label (``figure.get_label()``) describes it in words.
The style is that of :mod:`curvekit.figures.drawing`; :func:`save` writes a figure as SVG and PNG.
"""

from curvekit.lazy import public

_HOMES = {
    "NORMALISERS": "normalisers",
    "UNBOUNDED": "normalisers",
    "family": "normalisers",
    "limits": "normalisers",
    "overflow": "normalisers",
    "gradients": "normalisers",
    "row_sums": "normalisers",
    "attention_maps": "attention",
    "attention_rows": "attention",
    "project": "embeddings",
    "sentence_curve": "embeddings",
    "word_in_contexts": "embeddings",
    "curve_family": "curves",
    "curve_weights": "curves",
    "leak_map": "leaks",
    "leak_perplexity": "leaks",
    "training_curves": "training",
    "learning_curves": "training",
    "INGREDIENTS": "comparisons",
    "difference_intervals": "comparisons",
    "difference_by_group": "comparisons",
    "ablations": "comparisons",
    "differences_by_rung": "ladder",
    "gain_by_bin": "ladder",
    "losses_by_depth": "ladder",
    "looks_back": "ladder",
    "losses_by_context": "lengths",
    "differences_by_rate": "grid",
    "document_lengths": "corpora",
    "zipf": "corpora",
    "shares_of_scripts": "corpora",
    "price_of_a_vocabulary": "corpora",
    "quality_and_cost": "zoo",
    "success_against_perplexity": "steering",
    "recognised": "steering",
    "price_of_languages": "corpora",
    "calibration": "frequency",
    "sinks_by_depth": "sinks",
    "win_rates": "ratings",
    "preference_changes": "preferences",
    "preference_histories": "preferences",
    "task_figures": "tasks",
    "accuracy_by_shots": "tasks",
    "benchmark_ratios": "benchmarks",
    "importances": "search",
    "slices": "search",
    "parallel_coordinates": "search",
    "fold_spread": "search",
    "cost": "search",
    "token_cuts": "shading",
    "token_differences": "shading",
    "token_probabilities": "shading",
    "Picture": "drawing",
    "colour": "drawing",
    "save": "drawing",
}

__getattr__, __dir__, __all__ = public(__name__, _HOMES)
