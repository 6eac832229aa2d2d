"""Intervals of shares and means over clusters: what belongs together, such as the texts of a prompt, is drawn together.

The percentile bootstrap: clusters are drawn with replacement, the statistic is computed anew, and the interval holds
95 % of what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SAMPLES = 2000


def cluster_interval(
    groups: Any,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    samples: int = SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of a statistic of sums over clusters.

    Args:
        groups: of each cluster its sums, ``[clusters, figures]``, such as (successes, texts).
        statistic: from sums over the clusters drawn ``[samples, figures]`` to ``[samples]``.
    """
    sums = np.asarray(groups, dtype=np.float64)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=samples)
    found = statistic(draws @ sums)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first figure over the second, such as a share: ``[samples, 2]`` to ``[samples]``."""
    return sums[:, 0] / sums[:, 1]
