"""The benchmark suite: what curvekit costs beside what others use, measured in the same run, as ratios.

Each room but :mod:`benchmarks.harness` (pairs, ratios, memory, rows), :mod:`benchmarks.table` (rows on paper) and
:mod:`benchmarks.soak` (a service under load for ten minutes) is a group of rows, a function ``cases(settings)`` that
yields one :class:`benchmarks.harness.Case` at a time. The peers are written anew here, as their users write them. A
benchmark never fails on time; it fails where both sides should have computed the same thing and did not.

    curvekit bench              every group
    curvekit bench attention    one
    python -m benchmarks.soak   the service's memory and errors, apart from the rows
"""

GROUPS = (
    "startup", "attention", "curve", "training", "pipeline",
    "generation", "steering", "perplexity", "packing", "serving",
)  # fmt: skip
