"""Prompts and answers as token ids, the same in training, in sampling and in scoring.

A plain prompt follows one end-of-text token, as a document does in training (:mod:`curvekit.generation.streams`).
With the chat template it is the user's message, as the tokeniser's own template writes it. An answer that is whole
ends in the end-of-text token; one that was cut at its length has none, and none is learned from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.generation.streams import positions_of
from curvekit.text.tokenization import start_token

_DECODING: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


def prompt_ids(tokenizer: Any, prompt: str, chat: bool = False) -> list[int]:
    """The token ids that an answer follows.

    Raises:
        CurvekitError: a chat is asked of a tokeniser that has no template.
    """
    if not chat:
        return [start_token(tokenizer), *tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]]
    if not getattr(tokenizer, "chat_template", None):
        raise CurvekitError("chat is true, and this base has no chat template; use smollm2, or leave chat out")
    messages = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def answer_ids(tokenizer: Any, answer: str, ended: bool = True) -> list[int]:
    """The token ids of an answer, with the end-of-text token where it ``ended``."""
    ids = list(tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if ended else ids


def answer_text(tokenizer: Any, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of an answer, and whether it came to its end."""
    end = tokenizer.eos_token_id
    ended = end in ids
    whole = list(ids[: list(ids).index(end)]) if ended else list(ids)
    return str(tokenizer.decode(whole, **_DECODING)), ended


def check_room(model: Any, lengths: Sequence[int], what: str) -> None:
    """Refuse what is longer than the model's positions.

    Raises:
        CurvekitError: with the longest, and how many there are.
    """
    room = positions_of(model)
    if long := [number for number, length in enumerate(lengths) if length > room]:
        worst = max(long, key=lambda number: lengths[number])
        raise CurvekitError(
            f"{len(long)} of {len(lengths)} {what} are longer than the model's {room} positions, {what[:-1]} "
            f"{worst + 1} with {lengths[worst]:,} tokens; shorten or remove them, or take a base with more positions"
        )
