"""Words in any script: how a text is cut for ROUGE, and which of sacrebleu's tokenisers its script asks for.

``rouge_score`` keeps ``a`` to ``z`` and digits alone, so that equal Russian texts score 0. Here a word is a run of
letters, marks and digits of Unicode; of ASCII the words are those of ``rouge_score``. Scripts that write no spaces
(Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) and pictures such as emoji are cut by characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF), (0x3005, 0x3007))
_OTHER = ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xE00, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x109F), (0x1780, 0x17FF))
_SHARE = 0.2  # of the letters, from which a text counts as one without spaces: a letter of Chinese says more than one


class WordTokenizer:
    """What ``RougeScorer`` asks of a tokeniser: lower-case words, stemmed (Porter) where ``stem`` says so."""

    def __init__(self, stem: bool = False) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.english = DefaultTokenizer(use_stemmer=stem)

    def tokenize(self, text: str) -> list[str]:
        found = words(text.lower())
        return [each for word in found for each in (self.english.tokenize(word) if word.isascii() else [word])]


def words(text: str) -> list[str]:
    """The words of a text; of scripts without spaces, its characters with their marks."""
    found: list[str] = []
    within = False  # a word that may go on
    for character in unicodedata.normalize("NFKC", text):
        kind = unicodedata.category(character)
        if kind == "Cf":  # joiners, soft hyphens, directions
            continue
        if kind[0] == "M" and found:
            found[-1] += character
        elif kind == "So" or (kind[0] in "LN" and _alone(character)):
            found.append(character)
            within = False
        elif kind[0] not in "LMN":
            within = False
        elif within:
            found[-1] += character
        else:
            found.append(character)
            within = True
    return found


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """sacrebleu's name of the tokeniser: ``zh`` for Chinese, ``char`` for others without spaces, else ``13a``."""
    letters = han = other = 0
    for text in texts:
        for character in text:
            if character.isalpha():
                letters += 1
                han += _in(character, _HAN)
                other += _in(character, _OTHER)
    if han + other <= _SHARE * letters:
        return "13a"
    return "zh" if han > 9 * other else "char"


@lru_cache(2**14)
def _alone(character: str) -> bool:
    return _in(character, _HAN) or _in(character, _OTHER)


def _in(character: str, ranges: Iterable[tuple[int, int]]) -> bool:
    return character > "\u0dff" and any(first <= ord(character) <= last for first, last in ranges)
