"""A model by language, and the price that a vocabulary asks of each.

Bits a byte compare models of any tokeniser on one language; between languages they do not, for a letter of Russian has
two bytes and one of Chinese three. What a vocabulary costs is counted on aligned texts, which say the same in every
language: tokens it takes there, as a multiple of English's (Petrov et al. 2023, Language Model Tokenizers Introduce
Unfairness Between Languages).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import LanguageModelScore, score_documents
from curvekit.text.corpora import load_corpus
from curvekit.text.documents import Announce
from curvekit.text.scripts import LANGUAGES

_ALIGNED = re.compile(r"(?:.*[._-])?([a-z]{2})\.txt")


def languages_of(folder: str | Path) -> dict[str, Path]:
    """The sub-folders of a folder that are called by the two letters of a language.

    Raises:
        CurvekitError: there is none.
    """
    folder = Path(folder)
    found = {path.name: path for path in sorted(folder.glob("*")) if path.is_dir() and path.name in LANGUAGES}
    if not found:
        raise CurvekitError(f"{folder} has no folder of a language, such as {folder / 'fr'}; name one that has")
    return found


def score_languages(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    documents: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    announce: Announce = lambda text: None,
) -> dict[str, LanguageModelScore]:
    """The score of the test split of each language below ``folder``."""
    found = {}
    for language, path in languages_of(folder).items():
        texts = load_corpus(path, announce=announce)["test"]["text"][:documents]
        found[language] = score_documents(
            model, tokenizer, texts, context=context, stride=stride, signature={"corpus": language, "split": "test"}
        )
    return found


def aligned_files(folder: str | Path) -> dict[str, str]:
    """Texts of a folder that are translations of one another, line by line: language -> text.

    Raises:
        CurvekitError: fewer than two files named like ``xquad.de.txt``, or files of unequal numbers of lines.
    """
    folder = Path(folder)
    named = {match[1]: path for path in sorted(folder.glob("*.txt")) if (match := _ALIGNED.fullmatch(path.name))}
    texts = {language: read_whole(path) for language, path in named.items()}
    if len(texts) < 2:
        raise CurvekitError(f"{folder} has {len(texts)} files named by a language, such as text.de.txt; two are needed")
    lines = {language: len(text.splitlines()) for language, text in texts.items()}
    if len(set(lines.values())) > 1:
        raise CurvekitError(f"the files of {folder} are not aligned: {lines} lines; give files of equal lines")
    return texts


def prices(texts: Mapping[str, str], tokenizers: Mapping[str, Any], reference: str = "en") -> dict[str, dict[str, Any]]:
    """What each tokeniser asks of each language: tokeniser -> language -> ``tokens``, ``per_word``, ``premium``.

    Args:
        texts: language -> text, all of the same content.
        reference: the language whose tokens, with the same tokeniser, are the unit of ``premium``; English, or the
            first where it is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    reference = reference if reference in texts else next(iter(texts))
    for name, tokenizer in tokenizers.items():
        counts = {
            language: sum(map(len, tokenizer(text.splitlines(), add_special_tokens=False, verbose=False)["input_ids"]))
            for language, text in texts.items()
        }
        found[name] = {
            language: {
                "tokens": count,
                "per_word": count / max(1, len(texts[language].split())),
                "premium": count / max(1, counts[reference]),
            }
            for language, count in counts.items()
        }
    return found
