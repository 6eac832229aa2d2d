r"""Who writes best, from pairs: Bradley and Terry's model of blind ratings, with intervals, and how far raters agree.

With a strength theta for each model and gamma for what is shown first,

    P(a, shown first, is preferred to b) = sigmoid(theta_a - theta_b + gamma),

a tie counting as half a win of each. Strengths maximise the likelihood less ``penalty / 2 * sum theta^2``, so that one
who won every pair has no infinite strength; their mean is 0. Intervals are of a bootstrap over prompts: ratings of one
prompt are not independent.

Sources: Bradley and Terry (1952), Rank analysis of incomplete block designs; Krippendorff (2011), Computing
Krippendorff's alpha-reliability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curvekit.errors import CurvekitError, pick
from curvekit.preferences.ratings import QUESTIONS

PENALTY = 0.1  # as a normal prior of a standard deviation of 3 on every strength
SAMPLES = 1_000
_OUTCOME = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Ranking:
    """What ratings say of models.

    Attributes:
        rows: best first, ``model, strength, low, high, pairs, group``: log-odds against the mean model of its group,
            with their 95 % interval. Groups are numbered from 0: models of two groups were never compared, not even
            by way of others, and their strengths do not compare.
        position: what being shown first adds, in log-odds, with ``position_low`` and ``position_high``.
        alpha: Krippendorff's alpha of what was rated more than once, 1 where raters agree and 0 where they might as
            well have thrown dice; None where nothing was.
        rated_again: how many items that rests on.
    """

    question: str
    rows: list[dict[str, Any]]
    position: float
    position_low: float
    position_high: float
    alpha: float | None
    rated_again: int
    prompts: int

    def notes(self) -> list[str]:
        """What a reader must know before believing the ranking."""
        notes = []
        groups = {row["group"] for row in self.rows}
        if len(groups) > 1:
            of = [", ".join(row["model"] for row in self.rows if row["group"] == group) for group in sorted(groups)]
            notes.append(f"Not all were compared, not even by way of others; these do not compare: {'; '.join(of)}.")
        if self.position_low > 0 or self.position_high < 0:
            side = "first" if self.position > 0 else "second"
            notes.append(f"Raters prefer what is shown {side}: {self.position:+.2f} in log-odds; it is accounted for.")
        if self.alpha is None:
            notes.append("Nothing was rated twice, so nothing is known of how far raters agree.")
        else:
            notes.append(f"Krippendorff's alpha is {self.alpha:.2f} over {self.rated_again} items rated again.")
        if self.prompts < 10:
            notes.append(f"With {self.prompts} prompts the intervals are rough.")
        return notes


def rank(
    ratings: Iterable[Mapping[str, Any]], question: str = "better", penalty: float = PENALTY, samples: int = SAMPLES
) -> Ranking:
    """Rank models by their ratings.

    Args:
        ratings: rows of ``read_ratings``, of one file or of several.
        question: one of :data:`curvekit.preferences.ratings.QUESTIONS`.
        penalty: of the strengths' squares.
        samples: of the bootstrap.

    Raises:
        CurvekitError: no rating, or an unknown question.
    """
    pick(question, QUESTIONS, "question")
    rows = [row for row in ratings if row["first"] != row["second"]]
    if not rows:
        raise CurvekitError("there is no rating of two different models; rate some pairs first")
    models = sorted({row[side] for row in rows for side in ("first", "second")})
    place = {model: number for number, model in enumerate(models)}
    first, second = (np.array([place[row[side]] for row in rows]) for side in ("first", "second"))
    outcome = np.array([_OUTCOME[row[question]] for row in rows])
    group = _groups(len(models), first, second)
    fitted = strengths(first, second, outcome, group, penalty)

    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
    of_prompt = np.array([prompts[row["prompt"]] for row in rows])
    draw = np.random.default_rng(0)
    drawn = np.empty((samples, len(models) + 1))
    for sample in range(samples):
        weights = np.bincount(draw.integers(0, len(prompts), len(prompts)), minlength=len(prompts))[of_prompt]
        drawn[sample] = strengths(first, second, outcome, group, penalty, weights.astype(float))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    alpha, again = agreement(rows, question)
    found = [
        {
            "model": model,
            "strength": float(fitted[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "pairs": int(((first == i) | (second == i)).sum()),
            "group": int(group[i]),
        }
        for model, i in place.items()
    ]
    found.sort(key=lambda row: (row["group"], -row["strength"], row["model"]))
    ends = (float(low[-1]), float(high[-1]))
    return Ranking(question, found, float(fitted[-1]), *ends, alpha, again, len(prompts))


def strengths(
    first: np.ndarray,
    second: np.ndarray,
    outcome: np.ndarray,
    group: np.ndarray,
    penalty: float = PENALTY,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The strengths, of mean 0 in each group, and behind them what being shown first adds; by Newton's method.

    Args:
        first, second: ``[pairs]``, the numbers of the models shown first and second.
        outcome: ``[pairs]``, 1 where the first won, 0 where the second, one half for a tie.
        group: ``[models]``, from 0.
        weights: how often each pair counts.
    """
    count = len(group)
    weights = np.ones(len(first)) if weights is None else weights
    design = np.zeros((len(first), count + 1))  # [pairs, models + 1]
    rows = np.arange(len(first))
    design[rows, first] += 1.0
    design[rows, second] -= 1.0
    design[:, count] = 1.0
    theta, ridge = np.zeros(count + 1), np.full(count + 1, penalty)
    for _ in range(50):
        share = 1 / (1 + np.exp(-design @ theta))
        slope = design.T @ (weights * (outcome - share)) - ridge * theta
        curvature = (design * (weights * share * (1 - share))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        theta += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    for each in range(int(group.max()) + 1):
        theta[:count][group == each] -= theta[:count][group == each].mean()
    return theta


def _groups(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The connected parts of the graph whose edges are the pairs, numbered by their first model."""
    group = np.arange(count)
    for a, b in zip(first, second, strict=True):
        low, high = sorted((group[a], group[b]))
        group[group == high] = low
    return np.unique(group, return_inverse=True)[1]


def agreement(rows: Sequence[Mapping[str, Any]], question: str = "better") -> tuple[float | None, int]:
    """Krippendorff's alpha of the answers, and how many items were rated more than once.

    An item is a pair of texts; its values are -1, 0 and 1 for the model that comes first by name, with squared
    differences: ``alpha = 1 - observed / expected``, of pairs within items over pairs of all answers.
    """
    items: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        a, b = sorted((row["first"], row["second"]))
        value = 2 * _OUTCOME[row[question]] - 1
        key = (row["prompt"], a, b, row.get("seed"))
        items.setdefault(key, []).append(value if row["first"] == a else -value)
    units = [np.array(values) for values in items.values() if len(values) > 1]
    if not units:
        return None, 0
    every = np.concatenate(units)
    within = sum(((unit[:, None] - unit[None]) ** 2).sum() / (len(unit) - 1) for unit in units) / len(every)
    among = ((every[:, None] - every[None]) ** 2).sum() / (len(every) * (len(every) - 1))
    return (1.0 if not among else float(1 - within / among)), len(units)


def to_markdown(ranking: Ranking, losses: Mapping[str, float] | None = None) -> str:
    """The ranking as a table; ``losses`` puts the bits a byte of each model's run beside it."""
    head = ["model", "strength [95% interval]", "pairs", *(["bits/byte"] if losses else [])]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for row in ranking.rows:
        cells = [row["model"], f"{row['strength']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]", str(row["pairs"])]
        if losses:
            cells.append(f"{losses[row['model']]:.4f}" if row["model"] in losses else "n/a")
        lines.append("| " + " | ".join(cells).replace("\n", " ") + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in ranking.notes())]) + "\n"
