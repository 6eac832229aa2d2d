"""Which scripts a text is written in, and which of its characters no reader should meet.

The script of a letter is the first word of its Unicode name (``CYRILLIC SMALL LETTER A``), with Japan's two kana and
Chinese characters under the names of ISO 15924. Digits, punctuation and spaces belong to none.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

_NAMES = {"CJK": "Han", "KATAKANA-HIRAGANA": "Katakana", "HALFWIDTH": "Katakana", "FULLWIDTH": "Latin"}
UNKNOWN = {
    "Cn": "unassigned",
    "Co": "private use",
    "Cs": "half of a surrogate pair",
    "Cc": "control",
}
LANGUAGES = {  # two-letter name of a language -> the scripts that it is written in
    **dict.fromkeys(
        [
            "en",
            "fr",
            "de",
            "es",
            "it",
            "pt",
            "nl",
            "sv",
            "da",
            "no",
            "fi",
            "pl",
            "cs",
            "sk",
            "sl",
            "hr",
            "hu",
            "ro",
            "tr",
            "vi",
            "id",
            "ca",
            "et",
            "lv",
            "lt",
        ],
        ("Latin",),
    ),
    **dict.fromkeys(["ru", "uk", "bg", "be", "mk"], ("Cyrillic",)),
    "sr": ("Cyrillic", "Latin"),
    "el": ("Greek",),
    **dict.fromkeys(("ar", "fa", "ur"), ("Arabic",)),
    **dict.fromkeys(("he", "yi"), ("Hebrew",)),
    **dict.fromkeys(("hi", "mr", "ne"), ("Devanagari",)),
    "bn": ("Bengali",),
    "ta": ("Tamil",),
    "th": ("Thai",),
    "ka": ("Georgian",),
    "hy": ("Armenian",),
    "zh": ("Han",),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ko": ("Hangul", "Han"),
}


@lru_cache(2**14)
def script_of(character: str) -> str | None:
    """``Latin``, ``Cyrillic``, ``Han``, ...; None where it is no letter or mark of one."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    name = unicodedata.name(character, "").split(" ")[0]
    if name == "COMBINING" or (unicodedata.category(character) == "Lm" and name == "MODIFIER"):
        return None
    return _NAMES.get(name) or name.capitalize() or None


def scripts(characters: Mapping[str, int] | Iterable[str]) -> Counter[str]:
    """How many letters of each script there are among characters, or among their counts."""
    found: Counter[str] = Counter()
    counts = characters if isinstance(characters, Mapping) else Counter(characters)
    for character, count in counts.items():
        if script := script_of(character):
            found[script] += count
    return found


def what_is_wrong(character: str) -> str | None:
    """Why a character is no text: ``replacement``, ``unassigned``, ``private use`` or ``control``; None of others."""
    if character == "\ufffd":
        return "replacement"
    if character in "\n\t":
        return None
    return UNKNOWN.get(unicodedata.category(character))


def writes_from_right(text: str) -> bool:
    """Whether a text begins from the right: the first letter with a direction has that one (Unicode's rule P2)."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("R", "AL", "L"):
            return direction != "L"
    return False
