"""Which scripts a text is written in, and which of its characters no reader should meet.

The script of a letter is the first word of its Unicode name (``CYRILLIC SMALL LETTER A``), with Japan's two kana and
Chinese characters under the names of ISO 15924. Digits, punctuation and spaces belong to none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from curvekit.errors import CurvekitError

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


def language_of(path: Path) -> str | None:
    """The language that a folder or a file is named after: ``texts/ru``, ``ru.txt``, ``xquad.ru.txt``; None if none."""
    name = path.name if path.is_dir() else re.split(r"[._-]", path.stem)[-1]
    return name if name in LANGUAGES else None


def require_script(path: Path, texts: Iterable[str]) -> None:
    """Refuse texts that are not in the script of the language that their folder or file is named after.

    Raises:
        CurvekitError: of the first 20,000 letters, fewer than half are.
    """
    if (language := language_of(path)) is None:
        return
    seen: Counter[str] = Counter()
    for text in texts:
        seen += scripts(text[:20_000])
        if seen.total() >= 20_000:
            break
    own = sum(seen[script] for script in LANGUAGES[language])
    if seen.total() >= 100 and own < seen.total() / 2:
        script, most = seen.most_common(1)[0]
        raise CurvekitError(
            f"{path} is named after a language ({language}) that is written in {' or '.join(LANGUAGES[language])}, and "
            f"{most / seen.total():.0%} of its letters are {script}; mend the file, or rename it"
        )


def writes_from_right(text: str) -> bool:
    """Whether a text begins from the right: the first letter with a direction has that one (Unicode's rule P2)."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("R", "AL", "L"):
            return direction != "L"
    return False
