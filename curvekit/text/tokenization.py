"""Tokenisers: each base's own, and those learned from a corpus: characters, byte-level BPE, and BPE with dropout.

Every one of them writes every text and decodes it to the same text, and is a plain tokeniser of transformers that
reloads from its saved folder as it was. Dropout belongs to training alone: :class:`DropoutTokenizer` cuts the
training text, and what is saved, scored and generated with is the tokeniser that it was made from.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from curvekit.bases.tokenizer import base_tokenizer
from curvekit.errors import CurvekitError, pick

KINDS = ("base", "characters", "bpe", "bpe-dropout")
END_OF_TEXT = "<|endoftext|>"
MINI_VOCABULARY = 8192
DROPOUT = 0.1  # the source's choice for languages written with spaces


def run_tokenizer(
    kind: str, base: str, texts: Iterable[str], vocab_size: int = MINI_VOCABULARY
) -> PreTrainedTokenizerBase:
    """The tokeniser of a run: the base's own, or one that is learned from the training texts.

    Args:
        kind: one of :data:`KINDS`. ``bpe-dropout`` is ``bpe`` but in how the training text is cut, see
            :class:`DropoutTokenizer`.
        base: see :func:`base_tokenizer`.
        texts: the training texts.
        vocab_size: entries of a BPE.

    Raises:
        CurvekitError: an unknown kind; as :func:`base_tokenizer` and :func:`train_bpe`.
    """
    kind = pick(kind, KINDS, "tokenizer")
    if kind == "base":
        return base_tokenizer(base)
    return train_characters(texts) if kind == "characters" else train_bpe(texts, vocab_size)


def train_characters(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token for each character of ``texts``, and the 256 bytes, in which every other character is written.

    Raises:
        CurvekitError: a text with a lone surrogate.
    """
    seen: set[str] = set()
    for text in encodable(texts):
        seen.update(text)
    entries = [END_OF_TEXT, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(seen)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))  # no merges: every character by itself
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finished(tokenizer)


def train_bpe(
    texts: Iterable[str], vocab_size: int = MINI_VOCABULARY, kept: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, as GPT-2's is: every text can be written in it, and it decodes to the same text.

    Args:
        texts: what the merges are learned from.
        vocab_size: entries, the 256 bytes, the end-of-text token and ``kept`` among them.
        kept: pieces of text that are one entry each and never cut, such as WikiText's ``<unk>``; ordinary tokens,
            which decode to themselves. A space before one is its own token, unless ``" <unk>"`` is kept too.

    Raises:
        CurvekitError: fewer entries than bytes, a kept piece that would not decode to itself, or a text with a
            lone surrogate.

    Source: Sennrich et al. (2016) for BPE; Radford et al. (2019) for its byte level.
    """
    least = len(pre_tokenizers.ByteLevel.alphabet()) + 1 + len(kept)
    if vocab_size < least:
        raise CurvekitError(f"a vocabulary of {vocab_size} entries cannot hold every byte; give {least} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(kept),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without(kept, encodable(texts)), trainer)
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in kept])
    for piece in kept:
        if tokenizer.decode(tokenizer.encode(piece).ids) != piece:
            raise CurvekitError(f"the kept piece {piece!r} would not decode to itself; give printable ASCII")
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _without(pieces: Sequence[str], texts: Iterable[str]) -> Iterable[str]:
    """The text between the pieces, of which no merge shall be learned."""
    if not pieces:
        return texts
    return (part for text in texts for part in re.split(_any_of(pieces), text))


def _any_of(pieces: Iterable[str]) -> str:
    """A pattern that finds the longest of them."""
    return "|".join(re.escape(piece) for piece in sorted(pieces, key=len, reverse=True))


class DropoutTokenizer:
    """A byte-level BPE that leaves merges out at random, so that a text is cut differently every time.

    A word begins as its bytes. At each step every merge that applies is left out with probability ``dropout``, and
    of the others the one learned first is made; the word is done when none is left. With dropout 0 this is BPE, with
    1 the bytes. The model meets rare pieces more often and learns what words are made of.

    It is what :func:`curvekit.text.pack` needs of a tokeniser. tokenizers has the same dropout, whose dice cannot
    be seeded; these can: the same seed and the same texts in the same order give the same tokens. It is Python, and
    cuts about half a megabyte of English a second on one core.

    Args:
        tokenizer: a byte-level BPE, as :func:`train_bpe` makes and GPT-2's is.
        dropout: probability that a merge is left out.
        seed: of the dice.

    Raises:
        CurvekitError: a tokeniser that is no BPE, or a dropout outside 0 to 1.

    Source: Provilkov, Emelianenko and Voita (2020), BPE-Dropout: Simple and Effective Subword Regularization.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dropout: float = DROPOUT, seed: int = 0) -> None:
        self.backend_tokenizer: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        rules: dict[str, Any] = json.loads(self.backend_tokenizer.to_str()) if self.backend_tokenizer else {}
        if not rules.get("model", {}).get("merges"):
            raise CurvekitError(
                f"dropout leaves merges out, and this tokeniser has none among its {len(tokenizer):,} entries; "
                "raise vocabulary, give more text, or take tokenizer bpe"
            )
        if not 0 <= dropout <= 1:
            raise CurvekitError(f"dropout is {dropout}; give a probability, 0 to 1")
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.dice = {"dropout": dropout, "seed": seed}
        self._random, self._dropout = random.Random(seed).random, dropout
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(rules["model"]["merges"])}
        self._ids: dict[str, int] = rules["model"]["vocab"]
        self._added: dict[str, int] = {token["content"]: token["id"] for token in rules["added_tokens"]}
        self._between = re.compile(f"({_any_of(self._added)})")

    def __len__(self) -> int:
        return len(self._ids | self._added)

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        """``{"input_ids": [...]}``, a list for each text; every call draws anew."""
        return {"input_ids": [list(self._encode(text)) for text in encodable(texts)]}

    def _encode(self, text: str) -> Iterator[int]:
        assert self.backend_tokenizer is not None
        for part in self._between.split(text):
            if part in self._added:
                yield self._added[part]
            else:
                for word, _ in self.backend_tokenizer.pre_tokenizer.pre_tokenize_str(part):
                    yield from (self._ids[piece] for piece in self._cut(word))

    def _cut(self, word: str) -> list[str]:
        pieces = list(word)
        before, after = list(range(-1, len(word) - 1)), list(range(1, len(word) + 1))  # places of the neighbours
        merges = [(self._ranks[pair], i, pair) for i, pair in enumerate(pairwise(word)) if pair in self._ranks]
        heapify(merges)
        left_out = []
        while merges:
            merge = heappop(merges)
            _, i, pair = merge
            j = after[i]
            if j >= len(word) or (pieces[i], pieces[j]) != pair:
                continue  # one of the two has become part of something else
            if self._random() < self._dropout:
                left_out.append(merge)
                continue
            pieces[i], pieces[j], after[i] = "".join(pair), "", after[j]
            if after[i] < len(word):
                before[after[i]] = i
            for k in (before[i], i):
                if k >= 0 and after[k] < len(word) and (pair := (pieces[k], pieces[after[k]])) in self._ranks:
                    left_out.append((self._ranks[pair], k, pair))
            for merge in left_out:
                heappush(merges, merge)
            left_out.clear()
        return [piece for piece in pieces if piece]


def encodable(texts: Iterable[str]) -> Iterator[str]:
    """The texts as they are.

    Raises:
        CurvekitError: a text with a lone surrogate, half of a character, which no file and no tokeniser can hold.
    """
    for number, text in enumerate(texts, start=1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CurvekitError(
                f"text {number} is no Unicode: its character {error.start + 1} is {text[error.start]!r}, half of a "
                "surrogate pair; mend where it was read, or put '\ufffd' in its place"
            ) from error
        yield text


def start_token(tokenizer: Any) -> int:
    """The token before each document, in training, in scoring and in generation: end-of-text, else its beginning.

    Raises:
        CurvekitError: the tokeniser has neither.
    """
    token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if token is None:
        raise CurvekitError("the tokeniser has no end-of-text token to put before documents; set its eos_token")
    return token


def begun(tokenizer: Any, text: str, most: int | None = None) -> list[int]:
    """A text's token ids after the token that stands before each document; of both together at most so many.

    Raises:
        CurvekitError: as :func:`encodable` and :func:`start_token`.
    """
    (text,) = encodable([text])
    return [start_token(tokenizer), *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]][:most]
