"""The texts of the benchmarks: WikiText, or else the documentation of Python; and a tokeniser."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.harness import Settings
from curvekit.text.corpora import load_corpus
from curvekit.text.tokenization import base_tokenizer


@cache
def corpus(data_dir: str | None) -> tuple[str, Any]:
    """The name of the corpus and its splits."""
    name = "wikitext-2" if data_dir else "pydocs"
    return name, load_corpus(name, data_dir)


@cache
def tokenizer() -> Any:
    """That of the base ``mini``: the same for both sides of every row."""
    return base_tokenizer("mini")


def beginning(settings: Settings, split: str, characters: int) -> str:
    """So many first characters of a split, one document after the other; begun anew where it ends before."""
    text = "\n\n".join(corpus(settings.data_dir)[1][split]["text"])
    return (text * (1 + characters // max(len(text), 1)))[:characters]
