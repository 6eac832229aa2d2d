"""Text from a model: whole batches of continuations, or one continuation as it grows.

Sampling, beams, filters and caches are transformers' ``generate``. What is added here is what a research kit needs
around it: prompts of unequal length in one batch, prompts longer than the model, dice of its own for every
continuation, and a stream that tells each token's probability, can be stopped and never hangs its reader.

A training document follows one end-of-text token, so a prompt does too: the model is asked for what it was
trained on, the beginning of a document. Of a model that writes a target for a source, such as a T5, the prompt is the
source, which ends with that token, and what it writes is the target.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from curvekit.bases.building import is_seq2seq
from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.modes import evaluating
from curvekit.steering.steered import Steered
from curvekit.text.codes import joined
from curvekit.text.pairs import source_ids
from curvekit.text.tokenization import begun, encodable, start_token

ENDLESS = 2**30  # the positions of a model that does not say where they end
_DECODING: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the bytes of a character decode to before all of them are there


@dataclass(frozen=True)
class Completion:
    """A finished continuation and how it came about.

    ``tokens`` were generated, an end-of-text and a stop string included; ``reason`` says what ended them: ``length``,
    ``eos``, ``stop string`` or ``stopped``. ``truncated`` tokens of the prompt's beginning did not fit. ``seconds``
    passed until the last token of the batch it was generated in, ``first_token_seconds`` until the first. Alone and
    with ``seed`` it is written again.
    """

    prompt: str
    text: str
    seed: int
    tokens: int
    reason: str
    truncated: int
    seconds: float
    first_token_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Alternative(NamedTuple):
    """A token that could have come instead. ``text`` shows bytes that are no text by themselves as ``\\xe2``."""

    text: str
    token_id: int
    probability: float


@dataclass(frozen=True)
class Piece:
    """One token of a stream.

    ``text`` is what it adds: nothing for an end-of-text, or while a character's bytes are incomplete.
    ``probability`` and those of the ``alternatives`` (the likeliest tokens, best first, this one mostly among them)
    are ``softmax(logits)`` after the penalties for repetition and before temperature and filters.
    """

    text: str
    token_id: int
    probability: float
    alternatives: tuple[Alternative, ...] = ()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
    **settings: Any,
) -> list[str]:
    """Continue every prompt; return the continuations alone, in the order of the prompts.

    The same arguments give the same texts on the same machine. The global random state is neither read nor changed,
    so generations in several threads do not disturb each other.

    Args:
        prompts: any texts; an empty one begins a document. One that does not fit into the model's positions
            together with the new tokens loses its beginning; a T5's source that does not fit loses its end.
        batch_size: prompts generated together; changes no text.
        settings: fields of :class:`curvekit.generation.sampling.Sampling`, such as ``temperature``. With n
            ``num_return_sequences`` the result has ``n * len(prompts)`` texts, those of the first prompt first.

    Raises:
        CurvekitError: a setting is out of range, or the new tokens alone exceed the model's positions.
    """
    return [each.text for each in complete(model, tokenizer, prompts, batch_size=batch_size, **settings)]


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> Iterator[Completion]:
    """As :func:`generate`, with how each continuation came about; yields them batch by batch.

    A prompt may also be token ids, which are taken as they are, with no end-of-text before them. The ``row``-th
    continuation has the seed ``row_seed(seed, row)``; the beams of a prompt share one. Once ``cancel`` is set, the
    token in progress is the last one.
    """
    sampling = Sampling(**settings)
    if isinstance(prompts, str):
        raise CurvekitError(f"prompts is the text {prompts[:40]!r}; give a list of texts")
    if batch_size < 1:
        raise CurvekitError(f"batch_size is {batch_size}; give 1 or more")
    if prompts:
        _room(model, sampling)
        steered = _steered(model, tokenizer, sampling)
    else:
        steered = None
    return _complete(model, tokenizer, prompts, batch_size, sampling, cancel or threading.Event(), steered)


def _complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    batch_size: int,
    sampling: Sampling,
    cancel: threading.Event,
    steered: Steered | None,
) -> Iterator[Completion]:
    copies = sampling.num_return_sequences
    drawn = copies if sampling.num_beams == 1 else 1  # a search draws for all beams of a prompt at once
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        if cancel.is_set():
            return
        clock = _Clock((cancel,))
        inputs, truncated = _encode(model, tokenizer, batch, sampling)
        seeds = [row_seed(sampling.seed, row) for row in range(start * drawn, (start + len(batch)) * drawn)]
        settings = _decoding(model, tokenizer, batch, sampling, steered)
        ids = _run(model, tokenizer, inputs, sampling, seeds, clock, **settings)
        for row, new in enumerate(ids[:, _start(model, inputs) :].tolist()):
            text, tokens, reason = _read(tokenizer, new, sampling, cancel.is_set())
            prompt = batch[row // copies]
            yield Completion(
                prompt if isinstance(prompt, str) else str(tokenizer.decode(list(prompt))),
                text,
                seeds[row * drawn // copies],
                tokens,
                reason,
                truncated[row // copies],
                clock.last,
                clock.first,
            )


class Stream(Iterator[Piece]):
    """The pieces of one continuation, as they are produced; afterwards ``completion`` tells how it came about.

    Closing it, or dropping it, stops the model.
    """

    def __init__(self, pieces: Generator[Piece], outcome: list[Completion]) -> None:
        self._pieces, self._outcome = pieces, outcome

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the model and wait for the token in progress."""
        self._pieces.close()

    @property
    def completion(self) -> Completion | None:
        """None while it runs, and after a failure."""
        return self._outcome[0] if self._outcome else None


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[int],
    *,
    cancel: threading.Event | None = None,
    alternatives: int = 0,
    timeout: float = 60.0,
    **settings: Any,
) -> Stream:
    """One continuation token by token; the texts of its pieces joined are what :func:`generate` returns.

    The model runs in a thread of its own, from the first ``next`` on, and what fails in it is raised to the reader.
    Any number of streams may run at once, of one model or of several, if none is in training mode.

    Args:
        prompt: a text, or token ids, which are taken as they are.
        cancel: an event that a Stop button sets; the token in progress is the last one.
        alternatives: how many of the likeliest tokens each piece lists.
        timeout: seconds to wait for the next token.
        settings: fields of :class:`curvekit.generation.sampling.Sampling`, such as ``temperature``.

    Raises:
        CurvekitError: as :func:`generate`; several continuations or beams, which cannot be streamed; or no token
            came within ``timeout`` seconds.
    """
    sampling = Sampling(**settings)
    if sampling.num_beams > 1 or sampling.num_return_sequences > 1:
        raise CurvekitError("one continuation can be streamed; leave num_beams and num_return_sequences at 1")
    _room(model, sampling)
    outcome: list[Completion] = []
    cancel = cancel or threading.Event()
    steered = _steered(model, tokenizer, sampling)
    return Stream(_pieces(model, tokenizer, prompt, sampling, cancel, alternatives, timeout, outcome, steered), outcome)


def _pieces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[int],
    sampling: Sampling,
    cancel: threading.Event,
    alternatives: int,
    timeout: float,
    outcome: list[Completion],
    steered: Steered | None,
) -> Generator[Piece]:
    steps: SimpleQueue[_Step | BaseException | None] = SimpleQueue()
    odds, closed, over = _Odds(), threading.Event(), threading.Event()
    teller = _Teller(steps, odds, alternatives, (cancel, closed))
    inputs, (truncated,) = _encode(model, tokenizer, [prompt], sampling)
    settings = _decoding(model, tokenizer, [prompt], sampling, steered)

    def work() -> None:
        seeds = [sampling.seed]
        try:
            _run(model, tokenizer, inputs, sampling, seeds, teller, [odds], **settings)
            steps.put(None)
        except BaseException as failure:
            steps.put(failure)
        finally:
            over.set()

    def step() -> _Step | None:
        try:
            found = steps.get(timeout=timeout)
        except Empty as error:
            message = f"no token came within {timeout:g} s; raise the timeout or use a smaller model"
            raise CurvekitError(message) from error
        if isinstance(found, BaseException):
            raise found
        return found

    new: list[int] = []
    stopped, failed = True, False  # stopped, unless the last token is read
    thread = threading.Thread(target=work, name="curvekit-stream", daemon=True)
    try:
        thread.start()  # in here, for Ctrl-C may come when it runs already
        yield from _until_stop(_spelled(tokenizer, iter(step, None), new), sampling.stop)
        stopped = cancel.is_set()
    except Exception:
        failed = True
        raise
    finally:
        closed.set()
        begun = thread.ident is not None or not failed
        if begun and over.wait(timeout):
            thread.join()
        if not failed:
            read = _read(tokenizer, new, sampling, stopped)
            shown = prompt if isinstance(prompt, str) else str(tokenizer.decode(list(prompt)))
            outcome.append(Completion(shown, read[0], sampling.seed, *read[1:], truncated, teller.last, teller.first))


class _Step(NamedTuple):
    token_id: int
    probability: float
    likeliest: list[tuple[int, float]]

    @classmethod
    def of(cls, token: int, probabilities: Tensor, alternatives: int) -> _Step:
        """A token among the ``probabilities`` ``[vocabulary]`` of all, with so many of the likeliest."""
        best = probabilities.topk(min(alternatives, len(probabilities)))
        likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return cls(token, float(probabilities[token]), likeliest)


class _Clock(StoppingCriteria):
    """Stops when one of the events is set; ``first`` and ``last`` are the seconds from its making to those tokens."""

    def __init__(self, events: Sequence[threading.Event]) -> None:
        self.events = events
        self.start = time.perf_counter()
        self.first = self.last = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.last = time.perf_counter() - self.start
        self.first = self.first or self.last
        stopped = any(event.is_set() for event in self.events)
        return torch.full((input_ids.shape[0],), stopped, device=input_ids.device)


class _StopStrings(StoppingCriteria):
    """Ends a row once one of the strings stands in its new text.

    transformers' own also stops at one that begins in the prompt, and refuses letters that take several tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.reach = max((len(word.encode()) for word in stop), default=0)  # a token has at least one byte

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        recent = input_ids[:, max(self.start, input_ids.shape[1] - self.reach) :]
        texts = self.tokenizer.batch_decode(recent, **_DECODING) if self.stop else [""] * len(input_ids)
        found = [any(word in text for word in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


class _Odds(LogitsProcessor):
    """Changes nothing; keeps the probabilities that the next token is drawn from, before temperature and filters."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.probabilities: Tensor | None = scores.softmax(-1)  # [rows, vocabulary]
        return scores

    def taken(self) -> Tensor:
        """The probabilities ``[rows, vocabulary]``, which are let go of: filters are kept for many requests."""
        taken, self.probabilities = self.probabilities, None
        assert taken is not None
        return taken


class _Teller(_Clock):
    """Tells each new token to the reader."""

    def __init__(
        self,
        steps: SimpleQueue[_Step | BaseException | None],
        odds: _Odds,
        alternatives: int,
        events: Sequence[threading.Event],
    ) -> None:
        super().__init__(events)
        self.steps, self.odds, self.alternatives = steps, odds, alternatives

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        over = super().__call__(input_ids, scores)
        self.steps.put(_Step.of(int(input_ids[0, -1]), self.odds.taken()[0], self.alternatives))
        return over


class _Dice(LogitsProcessor):
    """Changes no score, but has each row of what is drawn from them drawn with a generator of its own.

    transformers' ``generate`` takes no generator, and forking the global state would disturb other threads.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.as_subclass(_Thrown)

    @contextlib.contextmanager
    def thrown(self) -> Iterator[None]:
        before = _generators.set(self.generators)
        try:
            yield
        finally:
            _generators.reset(before)


_generators: ContextVar[Sequence[torch.Generator]] = ContextVar("_generators")


class _Thrown(Tensor):
    """What is drawn from it, or from what is computed of it, is drawn with the dice that are thrown."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.multinomial:
            return super().__torch_function__(function, types, args, kwargs or {})
        rows, *rest = args
        drawn = (
            torch.multinomial(row, *rest, **kwargs or {}, generator=generator)
            for row, generator in zip(rows.as_subclass(Tensor), _generators.get(), strict=True)
        )
        return torch.stack(list(drawn))


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return start_token(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Tensor],
    sampling: Sampling,
    seeds: Sequence[int],
    watch: StoppingCriteria,
    processors: Sequence[LogitsProcessor] = (),
    **settings: Any,
) -> Tensor:
    """transformers' ``generate``: token ids ``[prompts * continuations, padded prompt + new]``.

    ``seeds`` are the rows'; without any the global dice are thrown.
    """
    drawing: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        drawing |= {"temperature": float(sampling.temperature), "top_k": sampling.top_k, "top_p": float(sampling.top_p)}
        drawing |= {"min_p": float(sampling.min_p)} if sampling.min_p else {}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        repetition_penalty=float(sampling.repetition_penalty),
        no_repeat_ngram_size=sampling.no_repeat_ngram_size,
        num_beams=sampling.num_beams,
        num_return_sequences=sampling.num_return_sequences,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=_pad(tokenizer),
        **drawing,
    )
    if is_seq2seq(model.config):
        config.decoder_start_token_id = model.config.decoder_start_token_id
    criteria = [watch, _StopStrings(tokenizer, sampling.stop, _start(model, inputs))]
    dice = _Dice(seeds, model.device)
    processors = [*processors, dice] if seeds and sampling.temperature > 0 else [*processors]
    with evaluating(model), dice.thrown():
        written: Tensor = model.generate(  # type: ignore[operator]
            **inputs, generation_config=config, stopping_criteria=criteria, logits_processor=processors, **settings
        )
    return written.as_subclass(Tensor)


def positions_of(model: Any) -> int:
    """How many tokens the model, and its encoder if it has one, can read at once; :data:`ENDLESS` where none says."""
    found = (getattr(model.config, name, None) for name in ("max_context", "max_position_embeddings"))
    return min((each for each in found if isinstance(each, int)), default=ENDLESS)


def _room(model: PreTrainedModel, sampling: Sampling) -> int:
    """How many tokens of a prompt fit before the new ones; a source fits beside them."""
    positions = positions_of(model)
    if sampling.max_new_tokens >= positions:
        raise CurvekitError(
            f"max_new_tokens is {sampling.max_new_tokens}, but the model has {positions} positions; "
            f"give at most {positions - 1}"
        )
    return positions if is_seq2seq(model.config) else positions - sampling.max_new_tokens


def _start(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int:
    """Where the new tokens begin in what is generated: behind the prompt, or behind the token that begins a target."""
    return 1 if is_seq2seq(model.config) else inputs["input_ids"].shape[1]


def _steered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> Steered | None:
    """What a control names, opened and checked; None where nothing is steered."""
    return None if sampling.control is None else Steered(sampling.control, model, tokenizer)


def _decoding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling,
    steered: Steered | None,
) -> dict[str, Any]:
    """The argument by which ``generate`` takes the steps of a control; none where they are its own."""
    if steered is None or not steered.control.steps:
        return {}
    bare = None
    if steered.control.guided:
        inputs, _ = _encode(model, tokenizer, prompts, sampling, steered.control.negative)
        bare = inputs["input_ids"], inputs["attention_mask"]
    return {"custom_generate": steered.decoding(bare)}


def _encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling,
    before: str | None = None,
) -> tuple[dict[str, Tensor], list[int]]:
    """Token ids ``[prompts, time]``, each text after one end-of-text, cut and padded on its left; how many were cut.

    ``before`` stands before each prompt, by default what the control says.
    """
    room = _room(model, sampling)
    if is_seq2seq(model.config):
        sources = [source_ids(tokenizer, text, room) for text in prompts if isinstance(text, str)]
        ids, mask = _padded([row for row, _ in sources], _pad(tokenizer), model.device)
        return {"input_ids": ids, "attention_mask": mask}, [cut for _, cut in sources]
    before = before_of(sampling) if before is None else before
    fitted = [
        _fitted(tokenizer, text, room, before)
        if isinstance(each, str)
        else (list(each)[-room:], _cut(list(each), room))
        for each, text in zip(
            prompts, encodable(each if isinstance(each, str) else "" for each in prompts), strict=True
        )
    ]
    ids, mask = _padded([row for row, _ in fitted], _pad(tokenizer), model.device)
    return {"input_ids": ids, "attention_mask": mask}, [cut for _, cut in fitted]


def before_of(sampling: Sampling) -> str:
    """What is read before a prompt: codes and preface of the control."""
    return "" if sampling.control is None else sampling.control.before


def _fitted(tokenizer: PreTrainedTokenizerBase, text: str, room: int, before: str = "") -> tuple[list[int], int]:
    """A prompt's token ids in so much room, and how many of its words were cut; what stands before it stays.

    Raises:
        CurvekitError: that alone leaves no room for a word of the prompt.
    """
    whole = begun(tokenizer, joined(before, text))
    if not before or len(whole) <= room:
        return whole[-room:], _cut(whole, room)
    head = begun(tokenizer, before)
    if len(head) >= room:
        raise CurvekitError(
            f"codes and preface are {len(head)} tokens, and there is room for {room} with the prompt; shorten them, "
            "or ask for fewer new tokens"
        )
    return head + whole[len(head) - room :], len(whole) - room


def _cut(row: list[int], room: int) -> int:
    """How many words of a prompt do not fit; the end-of-text before them is nobody's words."""
    return max(0, len(row) - 1 - room)


def _padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[rows, time]`` of rows padded on their left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def _read(
    tokenizer: PreTrainedTokenizerBase, new: list[int], sampling: Sampling, stopped: bool = False
) -> tuple[str, int, str]:
    """The text of new tokens, how many they are without padding, and what ended them."""
    end = tokenizer.eos_token_id
    length = new.index(end) if end in new else len(new)
    while length and new[length - 1] == tokenizer.pad_token_id:
        length -= 1
    text = str(tokenizer.decode(new[:length], **_DECODING)).rstrip(_UNFINISHED)
    before = _before_stop(text, sampling.stop)
    if before != text:
        return before, length, "stop string"
    if end in new:
        return text, length + 1, "eos"
    return text, length, "stopped" if stopped and length < sampling.max_new_tokens else "length"


def _spelled(tokenizer: PreTrainedTokenizerBase, steps: Iterator[_Step], new: list[int]) -> Iterator[Piece]:
    """Give each token the text that it adds; ``new`` grows by the tokens read."""
    speller = _Speller(tokenizer, new)
    return (speller.piece(step) for step in steps)


class _Speller:
    """Gives each token the text that it adds to those of ``new``, which grows by it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, new: list[int]) -> None:
        self.tokenizer, self.new, self.shown = tokenizer, new, ""

    def piece(self, step: _Step) -> Piece:
        self.new.append(step.token_id)
        text = str(self.tokenizer.decode(self.new, **_DECODING)).rstrip(_UNFINISHED)
        added = text[len(self.shown) :]
        # Byte fallback takes back a character while the next one is unfinished.
        self.shown = max(self.shown, text, key=len)
        others = (Alternative(_token_text(self.tokenizer, other), other, odds) for other, odds in step.likeliest)
        return Piece(added, step.token_id, step.probability, tuple(others))


def _token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    if _UNFINISHED not in text:
        return text
    written = str(tokenizer.convert_ids_to_tokens(token_id))
    if byte := re.fullmatch("<0x(..)>", written):  # byte fallback's way to write a byte
        return f"\\x{byte[1].lower()}"
    return "".join(f"\\x{_BYTES[letter]:02x}" if letter in _BYTES else letter for letter in written)


# The byte level's: every byte as a printable character.
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


def _before_stop(text: str, stop: Sequence[str]) -> str:
    return text[: min([len(text), *(text.index(word) for word in stop if word in text)])]


def _until_stop(pieces: Iterator[Piece], stop: Sequence[str]) -> Iterator[Piece]:
    """Pass pieces on up to a stop string, holding back those in which one may have begun."""
    gate = _Gate(stop)
    for piece in pieces:
        yield from gate.through(piece)
        if gate.shut:
            return
    yield from gate.held


class _Gate:
    """Lets pieces through up to a stop string, and holds back those in which one may have begun."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop, self.held, self.shut = stop, list[Piece](), False

    def through(self, piece: Piece) -> Iterator[Piece]:
        """The pieces that are safe to pass on now; once it is ``shut``, the last ones."""
        self.held.append(piece)
        text = "".join(each.text for each in self.held)
        before = len(_before_stop(text, self.stop))
        if before < len(text):
            self.shut = True
            for each in self.held:
                yield replace(each, text=each.text[:before])
                before = max(0, before - len(each.text))
            return
        begun = (size for word in self.stop for size in range(1, len(word)) if text.endswith(word[:size]))
        most = max(begun, default=0)
        while self.held and len(text) - len(self.held[0].text) >= most:
            text = text[len(self.held[0].text) :]
            yield self.held.pop(0)
