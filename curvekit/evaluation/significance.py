"""Whether two models differ, or only seem to: the paired bootstrap over documents and seeds, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, t

from curvekit.errors import CurvekitError, pick
from curvekit.evaluation.metrics import LanguageModelScore

SAMPLES = 10_000


@dataclass(frozen=True)
class PairedDifference:
    """Loss of a minus loss of b, on the same documents and seeds. Below zero, a is better.

    Attributes:
        difference, low, high: nats a ``unit``, and the 95% interval.
        p: two-sided, for no difference at all.
        relative_perplexity: exp(difference) - 1, the change of perplexity from b to a.
        per_seed: the difference under each seed. With one seed nothing is known about others: the interval then holds
            for these very runs only.
        documents, samples: how many were compared, and how many bootstrap samples drawn.
        unit: ``token`` or ``byte``.
    """

    difference: float
    low: float
    high: float
    p: float
    relative_perplexity: float
    per_seed: tuple[float, ...]
    documents: int
    samples: int
    unit: str

    @property
    def significant(self) -> bool:
        """The 95% interval leaves zero out."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """In words, for a: "better", "worse" or "no significant difference"."""
        if not math.isfinite(self.difference):
            return "diverged: no finite loss"
        if math.isnan(self.low):
            return "not tested: one document, one seed"
        if not self.significant:
            return "no significant difference"
        return "better" if self.difference < 0 else "worse"

    def figures(self) -> dict[str, Any]:
        """What a row of a table says of it."""
        names = ("difference", "low", "high", "p", "relative_perplexity", "verdict")
        return {name: getattr(self, name) for name in names}


def paired_bootstrap(
    a: LanguageModelScore | Sequence[LanguageModelScore],
    b: LanguageModelScore | Sequence[LanguageModelScore],
    samples: int = SAMPLES,
    seed: int = 0,
    unit: str = "token",
) -> PairedDifference:
    """Test whether the loss of ``a`` differs from that of ``b``, by resampling documents and seeds together.

    With d[s, i] the difference in negative log-likelihood on document i under seed s, and n[i] its tokens,

        difference = sum_si d[s, i] / (S * sum_i n[i])

    Each sample draws documents and, apart from them, seeds with replacement, the same for both models, and takes
    the same ratio; the interval is the 2.5 and 97.5 percentiles. A few seeds resampled as they are give far too
    narrow an interval: with 3, where seeds are the main source of noise, it holds the truth 7 times in 10. So each
    seed's distance from the mean over seeds is first widened by sqrt(S / (S - 1)) t(0.975, S - 1) / z(0.975), which
    brings it to 93% or more (simulated with 2 to 10 seeds). p is the smallest level whose interval, widened for that
    level, leaves zero out.

    Args:
        a, b: one score a seed, in the same order of seeds; a single score stands for one seed.
        samples: bootstrap samples.
        seed: of the resampling.
        unit: ``token``, or ``byte`` to compare across tokenizers.

    Raises:
        CurvekitError: other documents, seeds or signatures: it names what differs; or a model that leaks.

    Source:
        Koehn 2004 (paired bootstrap); Owen 2007, The pigeonhole bootstrap (two crossed factors).
    """
    pick(unit, ("token", "byte"), "unit")
    a, b = ([x] if isinstance(x, LanguageModelScore) else list(x) for x in (a, b))
    if not a or len(a) != len(b):
        raise CurvekitError(f"{len(a)} seeds cannot be paired with {len(b)}: give one score a seed of each")
    _refuse_unpaired([*a, *b], unit)
    delta = np.stack([x.nll - y.nll for x, y in zip(a, b, strict=True)])  # (S, D)
    count = (a[0].tokens if unit == "token" else a[0].bytes).astype(np.float64)  # (D,)
    delta, count = delta[:, count > 0], count[count > 0]
    return resampled(delta, count, samples, seed, unit)


def resampled(
    delta: np.ndarray, count: np.ndarray, samples: int = SAMPLES, seed: int = 0, unit: str = "answer"
) -> PairedDifference:
    """The test of :func:`paired_bootstrap` on any differences.

    Args:
        delta: ``[seeds, items]``, the sum of what differs in each item.
        count: ``[items]``, how much of it there is: 1 where each item has one number.
        unit: what the difference is per.
    """
    seeds, documents = delta.shape
    per_seed = delta.sum(1) / count.sum()  # (S,)
    difference = float(per_seed.mean())

    draw = np.random.default_rng(seed)
    plain, of_seed = [], []  # each sample's statistic, and the part of it that is the seeds' distance from their mean
    for start in range(0, samples, chunk := max(1, 4_000_000 // documents)):
        size = min(chunk, samples - start)
        of_documents = draw.multinomial(documents, np.full(documents, 1 / documents), size)  # (size, D)
        of_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size)  # (size, S)
        plain.append(((of_seeds @ delta) * of_documents).sum(1) / (seeds * (of_documents @ count)))
        of_seed.append(of_seeds @ (per_seed - difference) / seeds)
    statistic, spread = np.concatenate(plain), np.concatenate(of_seed)

    def interval(level: float) -> tuple[float, float]:
        widened = statistic + (_widening(seeds, level) - 1) * spread
        low, high = np.quantile(widened, [level / 2, 1 - level / 2])
        return float(low), float(high)

    low, high = interval(0.05)
    p = _smallest_level(lambda level: interval(level)[0] > 0 or interval(level)[1] < 0, 2 / (samples + 1))
    if not math.isfinite(difference) or documents == seeds == 1:
        low = high = p = math.nan
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        p=p,
        relative_perplexity=math.expm1(min(difference, 700.0)),
        per_seed=tuple(per_seed.tolist()),
        documents=documents,
        samples=samples,
        unit=unit,
    )


def _widening(seeds: int, level: float) -> float:
    """How far a few seeds stand apart for an interval at 1 - ``level``, beside how far resampling puts them."""
    if seeds == 1:
        return 1.0
    return math.sqrt(seeds / (seeds - 1)) * t.ppf(1 - level / 2, seeds - 1) / norm.ppf(1 - level / 2)


def _smallest_level(rejects: Callable[[float], bool], least: float) -> float:
    """The smallest level at which a test rejects, by bisection of its logarithm; 1 where it never does."""
    if rejects(least):
        return least
    low, high = (least, 0.05) if rejects(0.05) else (0.05, 0.999)  # on the side of 5 % on which the interval is
    if not rejects(high):
        return 1.0
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rejects(middle) else (middle, high)
    return high


def _refuse_unpaired(scores: Sequence[LanguageModelScore], unit: str) -> None:
    """Refuse two numbers that were measured differently, and those of a model that copies what it should predict."""
    if leaking := next((score for score in scores if score.leaks), None):
        raise CurvekitError(
            f"{leaking.signature.get('recipe') or 'a model'} sees the words that it is to predict, so nothing can be "
            "compared with it; score it word by word (curvekit.evaluation.prefixes.score_both_ways)"
        )
    keys = ["corpus", "revision", "split", "documents", "texts", "context", "stride", "prefix", "denominators"]
    if unit == "token":
        keys += ["tokenizer_hash"]
    first = scores[0]
    for other in scores[1:]:
        pairs = {key: (first.signature.get(key), other.signature.get(key)) for key in [*keys, "dtype"]}
        differing = [f"{key} ({x} against {y})" for key, (x, y) in pairs.items() if x != y]
        if not differing and (
            len(first.nll) != len(other.nll)
            or (first.bytes != other.bytes).any()
            or (unit == "token" and (first.tokens != other.tokens).any())
        ):
            differing = ["documents"]
        if differing:
            across = (
                "; tokenizers differ: curvekit.evaluation.significance.paired_bootstrap(..., unit='byte') compares them"
            )
            hint = across if "tokenizer_hash" in str(differing) else ""
            raise CurvekitError(f"these scores differ in {', '.join(differing)}; evaluate both alike{hint}")


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): the chance of any false finding among them stays at the level."""
    order = np.argsort(p)
    steps = np.asarray(p, dtype=float)[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(p) else []
    return adjusted.tolist()


def corrected(family: Sequence[dict[str, Any]]) -> None:
    """Put beside the ``p`` of each row of a family of tests its ``p_holm``."""
    for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = p


@dataclass(frozen=True)
class ItemDifference:
    """Mean of a figure of a minus that of b over the same items, its 95% interval and two-sided p."""

    difference: float
    low: float
    high: float
    p: float
    items: int

    @property
    def significant(self) -> bool:
        """The 95% interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_items(a: Sequence[float], b: Sequence[float], samples: int = SAMPLES, seed: int = 0) -> ItemDifference:
    """Test whether a figure of items differs, such as F1 of the answers to the same questions.

        difference = mean_i (a_i - b_i)

    Each sample draws items with replacement; the interval is the 2.5 and 97.5 percentiles. It holds for these two
    models: nothing is known about other seeds.

    Raises:
        CurvekitError: not the same number of items, or fewer than two.
    """
    if len(a) != len(b) or len(a) < 2:
        raise CurvekitError(f"{len(a)} and {len(b)} items are no pairs to compare; give two or more of each")
    delta = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    items = len(delta)
    draw, chunk = np.random.default_rng(seed), max(1, 4_000_000 // items)
    means = [
        delta[draw.integers(0, items, (min(chunk, samples - start), items))].mean(1)
        for start in range(0, samples, chunk)
    ]
    drawn = np.concatenate(means)
    low, high = np.quantile(drawn, [0.025, 0.975])

    def rejects(level: float) -> bool:
        below, above = np.quantile(drawn, [level / 2, 1 - level / 2])
        return bool(below > 0 or above < 0)

    p = _smallest_level(rejects, 2 / (samples + 1))
    return ItemDifference(float(delta.mean()), float(low), float(high), p, items)
