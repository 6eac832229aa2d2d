"""Blind ratings: which pairs are shown, the file that keeps the answers, and win rates with their interval.

A rating compares two continuations of one prompt, ``first`` and ``second``, and answers each of
:data:`QUESTIONS` with the one or the other, or with ``tie``. Which model wrote which is in the row, not on the screen.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from curvekit.errors import CurvekitError, pick
from curvekit.files import read_jsonl
from curvekit.ownership import require_file
from curvekit.shapes import Maybe

QUESTIONS = {"better": "Which is better?", "fluent": "Which is more fluent?", "on_topic": "Which stays on topic?"}
ANSWERS = ("first", "tie", "second")


class Pair(NamedTuple):
    """What a rater is shown: a prompt, the models that continue it on the left and on the right, and their seed."""

    prompt: str
    first: str
    second: str
    seed: int


def pairs(models: Sequence[str], prompts: Sequence[str], seed: int | None = None) -> Iterator[Pair]:
    """Pairs of models without end: every two of them on every prompt, in random order, then all again.

    The sides are drawn anew each time, so that a liking for the left one favours no model.

    Args:
        seed: of order, sides and samples; None: another one each time, so that two raters see other samples.

    Raises:
        CurvekitError: fewer than two models, or no prompt.
    """
    if len(set(models)) < 2 or not prompts:
        raise CurvekitError(
            f"a blind rating needs two models and a prompt, and has {len(set(models))} and {len(prompts)}; name more"
        )
    return _pairs(list(dict.fromkeys(models)), list(prompts), random.Random(seed))


def _pairs(models: list[str], prompts: list[str], draw: random.Random) -> Iterator[Pair]:
    while True:
        order = list(itertools.product(prompts, itertools.combinations(models, 2)))
        draw.shuffle(order)
        for prompt, two in order:
            first, second = draw.sample(two, 2)
            yield Pair(prompt, first, second, draw.randrange(1_000_000))


def append_rating(path: str | Path, rating: Mapping[str, Any]) -> None:
    """Append a rating as one JSON line, on the disk before this returns.

    Writers wait for each other, in this process or another. A last line that a crash cut off is removed: it was
    never acknowledged.

    Raises:
        CurvekitError: an answer is missing or none of :data:`ANSWERS`; the file holds something else than ratings,
            or cannot be written.
    """
    for question in QUESTIONS:
        pick(str(rating.get(question)), ANSWERS, f"answer to {question!r}")
    path = Path(path)
    require_file(path, _is_ratings)
    line = json.dumps(dict(rating), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
            _cut_unfinished(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CurvekitError(f"cannot write {path}: {error.strerror or error}; choose another file") from error


def _is_ratings(path: Path) -> bool:
    """A file of ratings: its first line is one; or there is no whole line, and what there is begins as one does."""
    with path.open("rb") as file:
        first = file.readline()
    if not first.endswith(b"\n"):
        begins = (b'{"time": ', b'{"prompt": ')
        return not first or any(first.startswith(each[: len(first)]) for each in begins)
    return {"prompt", "first", "second", *QUESTIONS} <= json.loads(first).keys()


def _cut_unfinished(file: Any) -> None:
    """Cut off what follows the last line end."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole > 0:
        start = max(0, whole - 4096)
        file.seek(start)
        at = file.read(whole - start).rfind(b"\n")
        whole = start + at + 1 if at >= 0 else start
        if at >= 0:
            break
    if whole < end:
        file.truncate(whole)


def read_ratings(path: str | Path) -> list[dict[str, Any]]:
    """The ratings in a file; none where there is no file.

    Raises:
        CurvekitError: a line is no rating.
    """
    rows = read_jsonl(path, dict.fromkeys(("prompt", "first", "second", *QUESTIONS), Maybe(str)))
    for number, row in enumerate(rows, 1):
        missing = [key for key in ("prompt", "first", "second", *QUESTIONS) if key not in row]
        if missing:
            raise CurvekitError(f"{path}, line {number}, is no rating: it has no {missing[0]!r}; remove the line")
        if wrong := [question for question in QUESTIONS if row[question] not in ANSWERS]:
            found = f"{wrong[0]} is {row[wrong[0]]!r}; expected {', '.join(ANSWERS)}"
            raise CurvekitError(f"{path}, line {number}: {found}; remove the line")
    return rows


def wilson(wins: float, pairs: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: where p lies with ``|wins / n - p| <= z sqrt(p (1 - p) / n)``.

    Unlike the share plus and minus its error it stays between 0 and 1, and says something after few pairs. Ties
    that count as half a win make it a little too wide, never too narrow.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    from scipy.stats import norm

    if pairs == 0:
        return 0.0, 1.0
    z2, share = float(norm.ppf((1 + level) / 2)) ** 2, wins / pairs
    middle = (share + z2 / (2 * pairs)) / (1 + z2 / pairs)
    reach = math.sqrt(z2 * (share * (1 - share) / pairs + z2 / (4 * pairs**2))) / (1 + z2 / pairs)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def win_rates(ratings: Iterable[Mapping[str, Any]], question: str = "better") -> list[dict[str, Any]]:
    """How often each model won, against all it was paired with, best first.

    Returns:
        Rows ``model, rate, low, high, wins, ties, losses``: ``rate = (wins + ties / 2) / pairs``, with the 95 %
        interval of :func:`wilson`. It takes pairs as independent; several ratings of one prompt are less than that.
    """
    pick(question, QUESTIONS, "question")
    counts: dict[str, dict[str, int]] = {}
    for row in ratings:
        for side, other in (("first", "second"), ("second", "first")):
            count = counts.setdefault(row[side], {"wins": 0, "ties": 0, "losses": 0})
            count["wins"] += row[question] == side
            count["ties"] += row[question] == "tie"
            count["losses"] += row[question] == other
    rows = []
    for model, count in counts.items():
        total, wins = sum(count.values()), count["wins"] + count["ties"] / 2
        low, high = wilson(wins, total)
        rows.append({"model": model, "rate": wins / total, "low": low, "high": high, **count})
    return sorted(rows, key=lambda row: (-row["rate"], row["model"]))
