"""Rules that a program can check: each gives a text a score, where 1 is kept and 0 is broken, and says what it asks.

A rule is written as its name, or as its name and a number: ``full_sentence``, ``at_most_words:20``. It reads the
answer alone, never the prompt. Several are joined by ``+``, and their scores multiplied.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curvekit.errors import CurvekitError, pick

Score = Callable[[str], float]

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_END = re.compile(r"[.!?][\"'”’)\]]*$")
_STOP = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")  # the end of any sentence in a text
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|vs|etc|e\.g|i\.e|No|Vol|Fig|cf))\.$")
_SECOND = {"you", "your", "yours", "yourself", "yourselves", "thou", "thee", "thy", "thine", "ye"}
_UNKIND = {
    *("stupid", "idiot", "idiots", "fool", "fools", "foolish", "dumb", "hate", "hated", "hateful", "ugly", "awful"),
    *("damn", "damned", "moron", "worthless", "pathetic", "disgusting", "shut", "loser", "losers", "hell", "wretch"),
    *("scoundrel", "rascal", "beast", "villain", "kill", "killed", "curse", "cursed", "despise", "despised"),
}
_LEAST = 4  # words of a sentence that counts as one


@dataclass(frozen=True)
class Rule:
    """A rule by its ``name`` as it was written, what it ``asks``, and its ``score`` of a text."""

    name: str
    asks: str
    score: Score

    def __call__(self, text: str) -> float:
        return self.score(text)

    def kept(self, text: str) -> bool:
        """Whether the text keeps the rule in full."""
        return self.score(text) >= 1.0


def full_sentence(text: str) -> float:
    """1 where a text ends in a full sentence: of four words or more, closed by ``.``, ``!`` or ``?``.

    A full stop after an initial or an abbreviation closes none.
    """
    text = text.rstrip()
    if not _END.search(text) or _ABBREVIATION.search(text):
        return 0.0
    return float(len(words(last_sentence(text))) >= _LEAST)


def last_sentence(text: str) -> str:
    """What follows the end of the last sentence but one."""
    ends = [found.end() for found in _STOP.finditer(text) if not _ABBREVIATION.search(text[: found.end()])]
    return text[ends[-2] :] if len(ends) > 1 else text


def sentence_ends(text: str) -> list[int]:
    """Where a text could stop and keep :func:`full_sentence`: the places after each of its full sentences."""
    return [found.end() for found in _STOP.finditer(text) if full_sentence(text[: found.end()])]


def whole_sentences(text: str) -> float:
    """The share of a text that stands in full sentences: 1 where :func:`full_sentence` is, and less the longer its end
    breaks off. A reward that is mostly 0 teaches little; this one says how near an answer comes."""
    text = text.rstrip()
    ends = sentence_ends(text)
    return ends[-1] / len(text) if ends else 0.0


def no_second_person(text: str) -> float:
    """1 where nobody is addressed: no *you*, *your*, *thou* ..."""
    return float(not any(word.lower() in _SECOND for word in re.split(r"['’\W]+", text)))


def no_numbers(text: str) -> float:
    """1 where a text has no digit."""
    return float(not any(letter.isdigit() for letter in text))


def no_repetition(text: str) -> float:
    """1 where no three words in a row come twice; else the share of them that is new, below 1."""
    found = [word.lower() for word in words(text)]
    grams = list(zip(found, found[1:], found[2:], strict=False))
    return len(Counter(grams)) / len(grams) if grams else 1.0


def kind_words(text: str) -> float:
    """1 where a text has none of some forty unkind words. A list knows no irony and no context."""
    return float(not any(word.lower() in _UNKIND for word in words(text)))


def length(text: str) -> float:
    """Words of a text over 100: a reward that loves length, and is easily hacked."""
    return len(words(text)) / 100


def words(text: str) -> list[str]:
    """Runs of letters."""
    return _WORD.findall(text)


def _at_most_words(most: int) -> Score:
    return lambda text: float(len(words(text)) <= most)


def _at_least_words(least: int) -> Score:
    return lambda text: float(len(words(text)) >= least)


RULES: dict[str, tuple[str, Score]] = {
    "full_sentence": ("ends in a full sentence", full_sentence),
    "whole_sentences": ("is whole sentences to its end", whole_sentences),
    "no_second_person": ("addresses nobody", no_second_person),
    "no_numbers": ("has no digit", no_numbers),
    "no_repetition": ("repeats no three words", no_repetition),
    "kind_words": ("has no unkind word", kind_words),
    "length": ("is long (a reward to be hacked)", length),
}
COUNTED: dict[str, tuple[str, Callable[[int], Score]]] = {
    "at_most_words": ("has at most {} words", _at_most_words),
    "at_least_words": ("has at least {} words", _at_least_words),
}


def rule(name: str) -> Rule:
    """A rule by its name, such as ``full_sentence`` or ``no_numbers+at_most_words:20``.

    Raises:
        CurvekitError: there is none of that name, with the nearest ones; a number is missing, or is none.
    """
    parts = [_one(part.strip()) for part in name.split("+")]
    if len(parts) == 1:
        return parts[0]

    def product(text: str) -> float:
        score = 1.0
        for part in parts:
            score *= part(text)
        return score

    return Rule(name, " and ".join(part.asks for part in parts), product)


def _one(name: str) -> Rule:
    head, colon, number = name.partition(":")
    pick(head, [*RULES, *COUNTED], "rule")
    if head in RULES:
        if colon:
            raise CurvekitError(f"the rule {head!r} takes no number, and {name!r} gives one; leave it out")
        return Rule(name, *RULES[head])
    if not number.isdecimal() or len(number) > 9 or int(number) < 1:
        raise CurvekitError(f"the rule {name!r} needs a number of words from 1 on; write {head}:20")
    asks, make = COUNTED[head]
    return Rule(name, asks.format(int(number)), make(int(number)))


def shares(rules: Sequence[Rule], texts: Sequence[str]) -> dict[str, float]:
    """The mean score of texts under each rule."""
    return {each.name: sum(map(each, texts)) / len(texts) for each in rules} if texts else {}
