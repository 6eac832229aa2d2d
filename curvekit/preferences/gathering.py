"""Pairs of answers of which one is preferred, each with its provenance: ratings, a file of columns, or a rule's scores.

A pair that teaches nothing is left out and counted: a tie, two answers that are the same, an answer that is missing.
What is left out is said, and so is what makes ratings doubtful, such as a rater who always chose the left one.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError, first_line, pick
from curvekit.files import present, read_jsonl
from curvekit.preferences.ratings import QUESTIONS, read_ratings
from curvekit.preferences.rules import sentence_ends
from curvekit.shapes import Maybe

COLUMNS = ("prompt", "chosen", "rejected")
PAIR = {
    **dict.fromkeys(COLUMNS, str),
    "chosen_ended": bool,
    "rejected_ended": bool,
    "provenance": dict,
}
ONE_SIDED = 8  # decided ratings of a rater from which choosing always the same side is worth a word


@dataclass(frozen=True)
class Preference:
    """A prompt, the answer that was preferred and the one that was not.

    ``chosen_ended`` and ``rejected_ended``: the answer is whole, so that its end is learned too. ``provenance`` says
    where the preference comes from: ``kind`` (ratings, columns, rule, feedback) and what is known besides.
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Preference:
        return cls(**{name: row[name] for name in PAIR})


@dataclass(frozen=True)
class Gathered:
    """Pairs, and what is to be said of those that were left out or are doubtful."""

    pairs: list[Preference]
    notes: list[str]


def read_pairs(path: str | Path, question: str = "better") -> Gathered:
    """The pairs of a file: ratings of the blind widget, or rows with the columns ``prompt, chosen, rejected``.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.parquet``; ratings are told by their columns ``first`` and ``second``.
        question: which of the ratings' questions decides.

    Raises:
        CurvekitError: there is no such file, it has other columns, or no pair is left.
    """
    path = Path(path)
    if not present(path) or not path.is_file():
        raise CurvekitError(f"there is no file {path}; name ratings.jsonl or a file with {', '.join(COLUMNS)}")
    rows = _rows(path)
    if not rows:
        raise CurvekitError(f"{path} has no row; give at least one pair")
    if {"first", "second"} <= rows[0].keys():
        return from_ratings(read_ratings(path), question, str(path))
    return from_columns(rows, str(path))


def from_ratings(ratings: Sequence[Mapping[str, Any]], question: str = "better", source: str = "ratings") -> Gathered:
    """A pair for each rating that decides.

    The texts were cut at their length, so the end of neither is learned.

    Raises:
        CurvekitError: no rating decides between two different texts, with the reasons.
    """
    pick(question, QUESTIONS, "question")
    left: Counter[str] = Counter()
    pairs: list[Preference] = []
    sides: dict[str, Counter[str]] = {}
    for number, row in enumerate(ratings, 1):
        answer, rater = row[question], str(row.get("rater", ""))
        if not isinstance(row.get("first_text"), str) or not isinstance(row.get("second_text"), str):
            left["have no texts"] += 1
        elif answer == "tie":
            left["are ties"] += 1
        elif row["first_text"] == row["second_text"]:
            left["have two answers that are the same"] += 1
        else:
            sides.setdefault(rater, Counter())[answer] += 1
            other = "second" if answer == "first" else "first"
            provenance = {"kind": "ratings", "line": number, "question": question, "rater": rater}
            provenance |= {"chosen": row[answer], "rejected": row[other], "side": answer}
            pairs.append(
                Preference(row["prompt"], row[f"{answer}_text"], row[f"{other}_text"], False, False, provenance)
            )
    notes = [f"{count} of {len(ratings)} ratings {why} and are left out" for why, count in left.items()]
    if not pairs:
        why = " and ".join(f"{count} {what}" for what, count in left.items()) or "there is none"
        raise CurvekitError(f"{source} has no rating that decides between two texts ({why}); rate more pairs")
    for rater, count in sides.items():
        if len(count) == 1 and (total := sum(count.values())) >= ONE_SIDED:
            side = "left" if "first" in count else "right"
            notes.append(
                f"the rater {rater!r} chose the {side} answer in all of {total} ratings, which two random sides make "
                f"happen once in {2 ** (total - 1):,}; these preferences may be of the side and not of the text"
            )
    return Gathered(pairs, notes + _contradictions(pairs))


def from_columns(rows: Sequence[Mapping[str, Any]], source: str = "the file") -> Gathered:
    """A pair for each row with ``prompt, chosen, rejected``; the answers are whole, unless the row says otherwise.

    Rows that a run wrote have ``chosen_ended``, ``rejected_ended`` and ``provenance``, which are kept.

    Raises:
        CurvekitError: a column is missing or holds no text, or no row is left.
    """
    missing = [name for name in COLUMNS if name not in rows[0]]
    if missing:
        known = ", ".join(list(rows[0])[:12])
        raise CurvekitError(f"{source} has no column {missing[0]!r}; expected {', '.join(COLUMNS)} (it has {known})")
    pairs, same = [], 0
    for number, row in enumerate(rows, 1):
        for name in COLUMNS:
            if not isinstance(row.get(name), str):
                raise CurvekitError(
                    f"{source}, row {number}: {name} is {ascii(row.get(name))[:40]}; expected text, mend the row"
                )
        if row["chosen"] == row["rejected"]:
            same += 1
            continue
        ended = [row.get(name, True) is not False for name in ("chosen_ended", "rejected_ended")]
        said = row.get("provenance")
        provenance = dict(said) if isinstance(said, dict) and said else {"kind": "columns", "row": number}
        pairs.append(Preference(row["prompt"], row["chosen"], row["rejected"], ended[0], ended[1], provenance))
    if not pairs:
        raise CurvekitError(f"in all {len(rows)} rows of {source} the two answers are the same; give other answers")
    notes = [f"{same} of {len(rows)} rows have two answers that are the same and are left out"] if same else []
    return Gathered(pairs, notes + _contradictions(pairs))


@dataclass(frozen=True)
class Answer:
    """What a model wrote after a prompt; ``ended``: it came to its end. ``kind``: sampled, or cut after a sentence."""

    text: str
    ended: bool
    kind: str = "sampled"


def answers_of(texts: Sequence[str]) -> list[Answer]:
    """Texts of which only the words count, as whole answers."""
    return [Answer(text, True) for text in texts]


def from_scores(
    prompts: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    score: Callable[[str], float],
    name: str,
    cut: bool = True,
) -> Gathered:
    """The best and the worst of each prompt's answers under a score, where they differ.

    Args:
        answers: for each prompt its samples.
        score: of an answer's text.
        name: of the score, for the provenance.
        cut: an answer that was cut off at its length also stands as it would have ended after its last full sentence,
            so that there is something to prefer where a model hardly ever ends by itself.

    Raises:
        CurvekitError: the score tells no two answers of any prompt apart.
    """
    pairs, even = [], 0
    for number, (prompt, samples) in enumerate(zip(prompts, answers, strict=True)):
        ranked = [(score(each.text), each) for each in _with_cuts(samples, cut)]
        best, worst = max(ranked, key=lambda each: each[0]), min(ranked, key=lambda each: each[0])
        if best[0] <= worst[0]:
            even += 1
            continue
        chosen, rejected = best[1], worst[1]
        provenance = {"kind": "rule", "rule": name, "prompt": number, "scores": [best[0], worst[0]]}
        provenance |= {"samples": len(samples), "chosen": chosen.kind, "rejected": rejected.kind}
        pairs.append(Preference(prompt, chosen.text, rejected.text, chosen.ended, rejected.ended, provenance))
    if not pairs:
        raise CurvekitError(
            f"{name} scores all answers to each of {len(prompts)} prompts alike, which teaches nothing; "
            "draw more samples, or take another rule"
        )
    notes = [f"{name} tells no two answers apart at {even} of {len(prompts)} prompts, which are left out"]
    return Gathered(pairs, notes if even else [])


def _with_cuts(samples: Sequence[Answer], cut: bool) -> list[Answer]:
    cuts = []
    for each in samples if cut else ():
        ends = [end for end in sentence_ends(each.text) if end < len(each.text.rstrip())]
        if ends and not each.ended:
            cuts.append(Answer(each.text[: ends[-1]], True, "cut after its last sentence"))
    return [*samples, *cuts]


def _contradictions(pairs: Sequence[Preference]) -> list[str]:
    """A note on pairs that say the opposite of one another; both are kept, as people do differ."""
    seen = Counter((each.prompt, each.chosen, each.rejected) for each in pairs)
    against = sum(min(count, seen[p, r, c]) for (p, c, r), count in seen.items() if c < r and (p, r, c) in seen)
    return [f"{against} pairs say the opposite of another; both are kept"] if against else []


def _rows(path: Path) -> list[dict[str, Any]]:
    ending = path.suffix.lower()
    if ending == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(read_whole(path))))
        except csv.Error as error:
            raise CurvekitError(f"{path} is no CSV ({first_line(error)}); write it again") from error
    if ending == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise CurvekitError(f"{path} is no Parquet file ({first_line(error)}); write it again") from error
    if ending not in (".jsonl", ".json"):
        raise CurvekitError(f"{path} ends in {ending or 'nothing'!r}; give a .jsonl, .csv or .parquet file")
    return read_jsonl(path, dict.fromkeys(("prompt", "chosen", "rejected"), Maybe(str)))
