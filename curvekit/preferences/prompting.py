"""The prompts of a preference run: those that train, and held-out ones on which its start and its end are compared."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DatasetDict

from curvekit.decoding import read_lines
from curvekit.errors import CurvekitError
from curvekit.files import present, read_jsonl
from curvekit.preferences.encoding import prompt_ids
from curvekit.preferences.settings import PreferenceConfig

_APART = 64  # tokens from one beginning to the next within a document
_HELD_OUT = 5  # every fifth prompt of a file at most


class Prompts(NamedTuple):
    """No prompt stands in both."""

    train: list[str]
    test: list[str]


def gather_prompts(config: PreferenceConfig, tokenizer: Any, corpus: DatasetDict) -> Prompts:
    """The prompts of a file, of which some are held out; or beginnings in the corpus's documents.

    Training prompts are of its train split, the others of its test split. A document gives one more beginning every 64
    tokens, once all have given one.

    Raises:
        CurvekitError: there are too few.
    """
    if config.prompts is not None:
        return _divided(config, read_prompts(config.prompts))
    train = _beginnings(tokenizer, corpus["train"]["text"], config.prompt_tokens, config.prompt_count, config.seed)
    test = _beginnings(tokenizer, corpus["test"]["text"], config.prompt_tokens, config.test_prompts, 0)
    held_out = set(test)
    train = [prompt for prompt in train if prompt not in held_out]
    if not train or not test:
        raise CurvekitError(
            f"{config.corpus} has no document of {config.prompt_tokens} tokens to begin a prompt with; "
            "lower prompt_tokens or name another corpus"
        )
    return Prompts(train, test)


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, each once: rows with ``prompt`` of JSON lines, else one a line.

    Raises:
        CurvekitError: there is no such file, or a row has no prompt.
    """
    path = Path(path)
    if not present(path) or not path.is_file():
        raise CurvekitError(f"there is no file {path}; name a file of prompts, one a line")
    if path.suffix.lower() == ".jsonl":
        found = [row["prompt"] for row in read_jsonl(path, {"prompt": str})]
    else:
        found = [line.rstrip("\n") for line in read_lines(path)]
    found = list(dict.fromkeys(prompt for prompt in found if prompt.strip()))
    if not found:
        raise CurvekitError(f"{path} has no prompt; write one a line")
    return found


def _divided(config: PreferenceConfig, prompts: list[str]) -> Prompts:
    if len(prompts) < 2:
        raise CurvekitError(f"{config.prompts} has one prompt; give two or more, of which some are held out")
    random.Random(0).shuffle(prompts)
    held_out = max(1, min(config.test_prompts, len(prompts) // _HELD_OUT))
    return Prompts(prompts[held_out:], prompts[:held_out])


def _beginnings(tokenizer: Any, texts: Sequence[str], length: int, count: int, seed: int) -> list[str]:
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    found: dict[str, None] = {}
    for prompt in _all_beginnings(tokenizer, [texts[i] for i in order], length):
        found.setdefault(prompt)
        if len(found) == count:
            break
    return list(found)


def _all_beginnings(tokenizer: Any, texts: Sequence[str], length: int) -> Iterator[str]:
    cut: dict[int, list[int]] = {}
    place = 0
    while True:
        any_left = False
        for number, text in enumerate(texts):
            if number not in cut:
                cut[number] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            ids = cut[number][place : place + length]
            if len(ids) == length:
                any_left = True
                yield str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        if not any_left:
            return
        place += _APART


def encoded(config: PreferenceConfig, tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts as token ids."""
    return [prompt_ids(tokenizer, prompt, config.chat) for prompt in prompts]
