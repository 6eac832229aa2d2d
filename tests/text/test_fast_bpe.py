"""tiktoken where it gives the tokeniser's ids, and the usual path where it would not."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from curvekit.bases.tokenizer import base_tokenizer
from curvekit.text import fast_bpe as room
from curvekit.text.fast_bpe import Unlike, fast_bpe
from curvekit.text.packing import pack, tokenizer_fingerprint

TEXTS = [
    "It's 3,200 naïve words - don't you'll",
    " two  spaces\n\nand\ttabs \n \n",
    "漢字とかな \U0001f600 e\u0301 \u00a0 no-break",
    "<|endoftext|> in the middle <|endoftext|>",
    "the <unk> of <unk> , <unk>",
    "",
    " ",
]


def usual(tokenizer, texts):
    return [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def changed(tokenizer, **rules):
    """The same tokeniser with other rules."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    for name, value in rules.items():
        part, _, key = name.partition("__")
        if key:
            whole[part][key] = value
        else:
            whole[part] = value
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)), eos_token="<|endoftext|>")


def vocabularies(tiny_tokenizer):
    yield tiny_tokenizer
    yield base_tokenizer("mini")
    folder = Path(os.environ.get("CURVEKIT_TEST_DATA", "none")).parent / "tokenizers" / "gpt2"
    if folder.exists():
        yield PreTrainedTokenizerFast.from_pretrained(str(folder))


def test_the_ids_are_those_of_the_tokeniser(tiny_tokenizer, tiny_texts):
    for tokenizer in vocabularies(tiny_tokenizer):
        fast = room._made(tokenizer)
        assert fast is not None
        assert fast.cut([*TEXTS, *tiny_texts]) == usual(tokenizer, [*TEXTS, *tiny_texts])


@cache
def mini():
    return base_tokenizer("mini")


@given(st.text(max_size=60))
def test_any_text_has_the_ids_of_the_tokeniser(text):
    tokenizer = mini()
    text = text.encode("utf-8", "replace").decode()
    assert fast_bpe(tokenizer, "mini").cut([text]) == usual(tokenizer, [text])


@pytest.mark.parametrize(
    "rules",
    [
        {"pre_tokenizer__add_prefix_space": True},
        {"pre_tokenizer__use_regex": False},
        {"normalizer": {"type": "Lowercase"}},
        {"model__ignore_merges": True},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_other_rules_take_the_usual_path(tiny_tokenizer, rules):
    assert room._made(changed(tiny_tokenizer, **rules)) is None


def test_merges_that_are_not_in_the_order_of_their_ids_take_the_usual_path(tiny_tokenizer):
    merges = json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert room._made(changed(tiny_tokenizer, model__merges=merges[::-1])) is None


def test_texts_that_show_a_difference_take_the_usual_path(tiny_tokenizer, tiny_texts, monkeypatch):
    fingerprint = tokenizer_fingerprint(tiny_tokenizer)
    monkeypatch.setattr(room, "_known", {})
    wrong = room._made(tiny_tokenizer)
    monkeypatch.setattr(wrong, "cut", lambda texts: [[0] for _ in texts])
    with pytest.raises(Unlike):
        wrong.encode(tiny_texts, lambda texts: usual(tiny_tokenizer, texts))
    room._known[fingerprint] = wrong
    by_usual = pack(tiny_texts, tiny_tokenizer, 8, progress=False).stream.tolist()
    assert room._known[fingerprint] is None
    room._known.clear()
    assert pack(tiny_texts, tiny_tokenizer, 8, progress=False).stream.tolist() == by_usual
