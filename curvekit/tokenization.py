"""Tokenisers: each base's own, and the byte-level BPE of ``mini``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from curvekit import hub
from curvekit.errors import CurvekitError

END_OF_TEXT = "<|endoftext|>"
MINI_VOCABULARY = 8192


def train_bpe(texts: Iterable[str], vocab_size: int = MINI_VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, as GPT-2's is: every text can be written in it, and it decodes to the same text.

    Source: Sennrich et al. (2016) for BPE; Radford et al. (2019) for its byte level.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def base_tokenizer(base: str, texts: Iterable[str] | None = None) -> PreTrainedTokenizerBase:
    """The tokeniser of a base: a folder's or a hub model's own; for ``mini`` a byte-level BPE learned from ``texts``.

    Raises:
        CurvekitError: the base has no tokeniser here and the hub cannot be reached; or ``mini`` was given no texts.
    """
    if base == "mini":
        if texts is None:
            raise CurvekitError("the base 'mini' learns its tokeniser from the training texts; give texts=... or a run")
        return train_bpe(texts)
    if not Path(base).is_dir() and not hub.cached(base, "tokenizer_config.json") and not hub.cached(base):
        hub.require(f"the base {base!r}", "use base='mini', which needs no network, or a local folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base, clean_up_tokenization_spaces=False, local_files_only=hub.local_only(base)
        )
    except (OSError, ValueError) as error:
        raise CurvekitError(f"the base {base!r} has no readable tokeniser ({str(error).splitlines()[0]})") from error
    if tokenizer.eos_token is None:
        raise CurvekitError(f"the tokeniser of {base!r} has no end-of-text token; curvekit puts one before a document")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
