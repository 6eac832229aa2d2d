"""Byte-level BPE by tiktoken, for the vocabularies for which it gives the ids that the tokeniser itself gives.

tiktoken merges the pair whose result has the lowest id; a tokeniser of transformers the pair that stands first in its
list of merges. Where the ids of the results rise along the list the two are one rule. That, the pre-tokeniser and the
absence of anything else (normaliser, prefix space, dropout, digits apart) are looked up in the tokeniser; then, once
for a vocabulary, the ids of both are compared on the first texts that are cut. Whatever differs takes the usual path.

Source: github.com/openai/tiktoken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# GPT-2's expression as tiktoken writes it: the same words, with possessive repetition.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_PROBE = "It's 3,200 naïve words—don't\tyou'll \n\n  see “these” 漢字 \U0001f600\u00a0x  "
_known: dict[str, FastBPE | None] = {}


class FastBPE:
    """tiktoken's encoder of one vocabulary.

    Args:
        encoding: tiktoken's.
        added: words that have an id of their own wherever they stand, such as the end of a text.
    """

    def __init__(self, encoding: Any, added: Mapping[str, int]) -> None:
        self.encoding, self.ids = encoding, dict(added)
        longest = sorted(self.ids, key=len, reverse=True)
        self.words = re.compile(f"({'|'.join(map(re.escape, longest))})") if longest else None
        self.compared = False

    def encode(self, texts: Sequence[str], usual: Any) -> list[list[int]]:
        """The ids of each text; ``usual`` gives those of the tokeniser, with which the first texts are compared.

        Raises:
            Unlike: the first texts have others.
        """
        if not self.compared:
            wanted = usual(texts)
            if self.cut(texts) != wanted:
                raise Unlike
            self.compared = True
            return wanted
        return self.cut(texts)

    def cut(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text by tiktoken alone."""
        encode = self.encoding.encode_ordinary
        if self.words is None:
            return [encode(text) for text in texts]
        found = []
        for text in texts:
            ids: list[int] = []
            for place, part in enumerate(self.words.split(text)):  # the odd ones are the words
                ids += [self.ids[part]] if place % 2 else encode(part)
            found.append(ids)
        return found


class Unlike(Exception):
    """tiktoken gives other ids than the tokeniser."""


def fast_bpe(tokenizer: Any, fingerprint: str) -> FastBPE | None:
    """The fast way for a tokeniser, or None where there is none; looked for once for each fingerprint."""
    if fingerprint not in _known:
        _known[fingerprint] = _made(tokenizer)
    return _known[fingerprint]


def forget(fingerprint: str) -> None:
    """Take the usual path from here on: texts have shown that the ids differ."""
    _known[fingerprint] = None


def _made(tokenizer: Any) -> FastBPE | None:
    try:
        import tiktoken
    except ImportError:
        return None
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    ranks = _ranks(rules)
    if ranks is None:
        return None
    added = rules["added_tokens"]
    if any(each[flag] for each in added for flag in ("single_word", "lstrip", "rstrip", "normalized")):
        return None
    encoding = tiktoken.Encoding("curvekit", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    own = tokenizer.backend_tokenizer.encode(_PROBE, add_special_tokens=False).ids
    fast = FastBPE(encoding, {each["content"]: each["id"] for each in added})
    return fast if fast.cut([_PROBE]) == [own] else None


def _ranks(rules: dict[str, Any]) -> dict[bytes, int] | None:
    """The id of every token by its bytes, if merging by the lowest id is merging by the list."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    model, before = rules["model"], rules["pre_tokenizer"] or {}
    plain = not any(
        model.get(name) for name in ("dropout", "byte_fallback", "ignore_merges", "continuing_subword_prefix")
    )
    own_words = before.get("type") == "ByteLevel" and before.get("use_regex", True) and not before["add_prefix_space"]
    if model.get("type") != "BPE" or rules["normalizer"] or not plain or not own_words:
        return None
    vocabulary: dict[str, int] = model["vocab"]
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    if any(letter not in vocabulary for letter in byte_of):
        return None
    pairs = [each if isinstance(each, list) else each.split(" ") for each in model["merges"]]
    made = [vocabulary.get("".join(pair), -1) for pair in pairs]
    lowest = max(vocabulary[letter] for letter in byte_of)
    if any(a >= b for a, b in zip([lowest, *made], made, strict=False)):
        return None
    tokens = [*byte_of, *("".join(pair) for pair in pairs)]
    return {bytes(byte_of[letter] for letter in token): vocabulary[token] for token in tokens}
