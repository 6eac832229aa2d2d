"""Text from a model: whole batches of continuations, or one continuation as it grows.

Sampling, beams and caches are transformers' ``generate``. What is added here is what a research kit needs
around it: prompts of unequal length in one batch, prompts longer than the model, a seed that leaves the
caller's random state alone, and a stream that can be stopped and that never hangs its reader.

A training document follows one end-of-text token, so a prompt does too: the model is asked for what it was
trained on, the beginning of a document.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TextIteratorStreamer,
)

from curvekit.errors import CurvekitError


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    num_beams: int = 1,
    num_return_sequences: int = 1,
    seed: int = 0,
    stop: Sequence[str] = (),
    batch_size: int = 16,
) -> list[str]:
    """Continue every prompt; return the continuations alone, in the order of the prompts.

    Each new token is drawn from ``softmax(logits / temperature)`` after the filters. The same arguments give
    the same texts on the same machine, and the global random state is afterwards what it was before.

    Args:
        prompts: any texts; an empty one begins a document. One that does not fit into the model's positions
            together with the new tokens loses its beginning.
        max_new_tokens: tokens added at most; a continuation ends earlier at end-of-text or at a ``stop``.
        temperature: 0 takes the most likely token (or beam) every time.
        top_k, top_p, min_p: keep the k most likely tokens; the smallest set whose probability reaches p;
            those at least ``min_p`` times as likely as the best. 0, 1 and 0 keep all.
        repetition_penalty, no_repeat_ngram_size: transformers' own; 1 and 0 change nothing.
        num_beams, num_return_sequences: beams a prompt, and continuations a prompt. With n of them the
            result has ``n * len(prompts)`` texts, those of the first prompt first.
        stop: a continuation is cut before the first of these strings.
        batch_size: prompts generated together. Sampled texts depend on it, greedy ones do not.

    Raises:
        CurvekitError: a setting is out of range, or the new tokens alone exceed the model's positions.
    """
    config = _settings(
        tokenizer,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        stop=stop,
    )
    if batch_size < 1:
        raise CurvekitError(f"batch_size is {batch_size}; give 1 or more")
    texts: list[str] = []
    with _evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            inputs = _encode(model, tokenizer, prompts[start : start + batch_size], max_new_tokens)
            ids = model.generate(**inputs, generation_config=config, tokenizer=tokenizer)  # type: ignore[operator]
            new = ids[:, inputs["input_ids"].shape[1] :]  # (prompts * num_return_sequences, new tokens)
            texts += tokenizer.batch_decode(new, **_DECODING)
    return [_before_stop(text, stop) for text in texts]


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    stop: Sequence[str] = (),
    cancel: threading.Event | None = None,
    timeout: float = 60.0,
    **settings: Any,
) -> Iterator[str]:
    """Yield one continuation piece by piece; the pieces joined are what :func:`generate` returns.

    The model runs in a thread of its own. Setting ``cancel``, or closing the generator, ends it after the
    token in progress. What fails in the thread is raised here. While it runs, the global random state belongs
    to it: draw nothing elsewhere in the process if the text must be reproducible.

    Args:
        cancel: an event that a Stop button sets.
        timeout: seconds to wait for the next token.
        settings: temperature, top_k and the other filters of :func:`generate`; beams cannot be streamed.

    Raises:
        CurvekitError: as :func:`generate`, or no token came within ``timeout`` seconds.
    """
    config = _settings(tokenizer, max_new_tokens=max_new_tokens, stop=stop, **settings)
    if config.num_beams > 1 or config.num_return_sequences > 1:
        raise CurvekitError("one continuation can be streamed; leave num_beams and num_return_sequences at 1")
    inputs = _encode(model, tokenizer, [prompt], max_new_tokens)
    cancel = cancel or threading.Event()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=timeout, **_DECODING)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with _evaluating(model), torch.random.fork_rng():
                torch.manual_seed(seed)
                model.generate(  # type: ignore[operator]
                    **inputs,
                    generation_config=config,
                    tokenizer=tokenizer,
                    streamer=streamer,
                    stopping_criteria=[_Cancelled(cancel)],
                )
        except BaseException as failure:
            failures.append(failure)
        finally:
            streamer.end()  # a second end is harmless; a missing one leaves the reader waiting

    thread = threading.Thread(target=run, name="curvekit-stream", daemon=True)
    thread.start()
    try:
        yield from _until_stop(streamer, stop)
    except Empty as error:
        message = f"no token came within {timeout:g} s; raise the timeout or use a smaller model"
        raise CurvekitError(message) from error
    finally:
        cancel.set()
        thread.join(timeout)
    if failures:
        raise failures[0]


_DECODING: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def _settings(
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    num_beams: int = 1,
    num_return_sequences: int = 1,
) -> GenerationConfig:
    """Check what a user can get wrong and turn it into transformers' own settings."""
    allowed = {
        "max_new_tokens": (max_new_tokens >= 1, max_new_tokens, "1 or more"),
        "temperature": (temperature >= 0, temperature, "0 (greedy) or more"),
        "top_k": (top_k >= 0, top_k, "0 (all) or more"),
        "top_p": (0 < top_p <= 1, top_p, "more than 0 and at most 1"),
        "min_p": (0 <= min_p <= 1, min_p, "between 0 and 1"),
        "repetition_penalty": (repetition_penalty > 0, repetition_penalty, "more than 0"),
        "no_repeat_ngram_size": (no_repeat_ngram_size >= 0, no_repeat_ngram_size, "0 (off) or more"),
        "num_beams": (num_beams >= 1, num_beams, "1 or more"),
        "num_return_sequences": (num_return_sequences >= 1, num_return_sequences, "1 or more"),
    }
    for name, (right, value, expected) in allowed.items():
        if not right:
            raise CurvekitError(f"{name} is {value}; give {expected}")
    if isinstance(stop, str) or "" in stop:
        raise CurvekitError(f"stop is {stop!r}; give a list of strings that are not empty")
    if temperature == 0 and num_return_sequences > num_beams:
        raise CurvekitError(
            f"num_return_sequences is {num_return_sequences}, but without sampling there are only "
            f"{num_beams} different continuations; raise temperature or num_beams"
        )
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": float(temperature), "top_k": top_k, "top_p": float(top_p)}
        sampling |= {"min_p": float(min_p)} if min_p else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        repetition_penalty=float(repetition_penalty),
        no_repeat_ngram_size=no_repeat_ngram_size,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        stop_strings=list(stop) or None,
        **sampling,
    )


def _encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> dict[str, torch.Tensor]:
    """Token ids (prompts, time), each row after one end-of-text, cut and padded on its left."""
    positions = getattr(model.config, "max_context", model.config.max_position_embeddings)
    room = positions - max_new_tokens
    if room < 1:
        raise CurvekitError(
            f"max_new_tokens is {max_new_tokens}, but the model has {positions} positions; give at most {positions - 1}"
        )
    texts = (tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"] for prompt in prompts)
    rows = [[tokenizer.eos_token_id, *text][-room:] for text in texts]
    width = max(map(len, rows))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])  # (B, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])  # (B, T)
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _before_stop(text: str, stop: Sequence[str]) -> str:
    return text[: min([len(text), *(text.index(word) for word in stop if word in text)])]


def _until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """Pass pieces on, holding back so much at the end that a stop string cut in two is still found."""
    held = ""
    tail = max(map(len, stop), default=1) - 1
    for piece in pieces:
        held += piece
        if _before_stop(held, stop) != held:
            break
        ready = len(held) - tail
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    if rest := _before_stop(held, stop):
        yield rest
