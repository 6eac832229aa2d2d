"""One model of a service: its name, what it is, and its continuations, awaited while others are written beside them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError, first_line, pick
from curvekit.generation.batching import Batcher, Busy, Reader, Row
from curvekit.generation.streams import Completion, Piece, _token_text, complete, positions_of
from curvekit.serving.orders import Limits, Order, Refused
from curvekit.text.tokenization import begun

PING = 15.0  # seconds without a word after which a stream says that it lives


class Voice:
    """A model under a name, with its batch."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> None:
        self.name, self.model, self.tokenizer, self.limits = name, model, tokenizer, limits
        self.batcher = Batcher(model, tokenizer, most=limits.batch, waiting=limits.waiting)
        self.searching = 0
        self._searches = ThreadPoolExecutor(1, thread_name_prefix="curvekit-beams")  # one at a time beside the batch

    @property
    def positions(self) -> int:
        return positions_of(self.model)

    def about(self) -> dict[str, Any]:
        """What the model is, for those who choose among several."""
        from curvekit.reports.pages import described

        config = self.model.config
        recipe = str(getattr(config, "recipe", "plain"))
        parameters = sum(each.numel() for each in self.model.parameters())
        return {
            "architecture": type(self.model).__name__,
            "recipe": recipe,
            "what": described(recipe),
            "leaks": bool(getattr(config, "leaks", False)),
            "parameters": parameters,
            "positions": self.positions,
            "vocabulary": int(config.vocab_size),
            "tokens": self.limits.tokens,
            "chat": bool(self.tokenizer.chat_template),
        }

    def length(self, prompt: str) -> int:
        """The tokens of a text."""
        try:
            return len(begun(self.tokenizer, prompt)) - 1
        except CurvekitError as error:
            raise Refused(str(error), field="prompt") from error

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[tuple[int, ...], int]:
        """The token ids of a conversation, and how many new tokens fit after them."""
        if not self.tokenizer.chat_template:
            raise Refused(
                f"the model {self.name} has no chat template; use /v1/completions, or a model that was tuned for chats",
                field="model",
            )
        try:
            ids = self.tokenizer.apply_chat_template(
                [dict(each) for each in messages], add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # whatever a template finds wrong with a conversation
            raise Refused(f"the chat template refuses these messages: {first_line(error)}", field="messages") from error
        return tuple(ids), self.positions - len(ids)

    def rows(self, order: Order, wake: Callable[[], object]) -> list[Row]:
        """Have an order's continuations written; all of them, or none where the queue is full.

        Raises:
            Refused: 429 where too many wait; 400 where a prompt does not fit.
        """
        rows: list[Row] = []
        try:
            for prompt, sampling in order.rows():
                rows.append(
                    self.batcher.add(
                        prompt,
                        sampling,
                        alternatives=order.alternatives or 0,
                        score=order.score,
                        draws=order.draws,
                        seconds=self.limits.seconds,
                        wake=wake,
                    )
                )
            return rows
        except Busy as error:
            raise Refused(str(error), 429, headers={"Retry-After": "1"}) from error
        except CurvekitError as error:
            raise Refused(str(error)) from error
        finally:
            if len(rows) < len(order.prompts) * order.n:
                for row in rows:
                    row.cancel()

    async def search(self, order: Order) -> list[Completion]:
        """A beam search, which is a batch of its own and waits for its turn."""
        if self.searching >= self.limits.waiting:
            raise Refused(f"{self.searching} searches wait already; ask again later", 429, headers={"Retry-After": "1"})
        cancel = threading.Event()
        timer = threading.Timer(self.limits.seconds, cancel.set)
        timer.daemon = True

        def work() -> list[Completion]:
            prompts = [prompt for prompt in order.prompts if isinstance(prompt, str)]
            return list(complete(self.model, self.tokenizer, prompts, cancel=cancel, **asdict(order.sampling)))

        self.searching += 1
        timer.start()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._searches, work)
        finally:
            cancel.set()
            timer.cancel()
            self.searching -= 1

    def close(self, seconds: float) -> None:
        self._searches.shutdown(wait=False, cancel_futures=True)
        self.batcher.close(seconds)


class Waker:
    """Wakes a coroutine from the batch's thread; many calls between two turns of the loop count as one."""

    def __init__(self) -> None:
        self._loop, self._event, self._set = asyncio.get_running_loop(), asyncio.Event(), False

    def __call__(self) -> None:
        if not self._set:
            self._set = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether it was woken, rather than ``seconds`` passed."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        self._set = False
        self._event.clear()
        return True


async def finished(rows: Sequence[Row], waker: Waker) -> None:
    """Return when all rows are over; leave the batch with them if nobody waits for that any more.

    Raises:
        BaseException: what the model raised.
    """
    try:
        while not all(row.over for row in rows):
            await waker.wait()
    finally:
        for row in rows:
            row.cancel()
    for row in rows:
        if row.failure is not None:
            raise row.failure


async def followed(
    rows: Sequence[Row], waker: Waker, tokenizer: PreTrainedTokenizerBase
) -> AsyncIterator[tuple[int, list[Piece], bool] | None]:
    """Each row's new pieces as they come, and whether it is over; None where nothing came for a while.

    Raises:
        BaseException: what the model raised.
    """
    readers = [Reader(row, tokenizer) for row in rows]
    open_ = set(range(len(rows)))
    try:
        while open_:
            if not await waker.wait(PING):
                yield None
                continue
            for place in sorted(open_):
                over = rows[place].over
                pieces = list(readers[place].pieces())
                if over:
                    open_.discard(place)
                if pieces or over:
                    yield place, pieces, over
    finally:
        for row in rows:
            row.cancel()


def spelt(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token by itself, bytes that are no text as ``\\xe2``."""
    return _token_text(tokenizer, token_id)


def log(probability: float) -> float:
    """A log-probability that JSON can hold."""
    return math.log(max(probability, 1e-45))


class Choir(Mapping[str, Voice]):
    """The models of a service by name; the first is the one that a request without a name means."""

    def __init__(self, voices: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]], limits: Limits) -> None:
        self.limits = limits
        self._voices = {name: Voice(name, *each, limits) for name, each in voices.items()}

    def __getitem__(self, name: str) -> Voice:
        return self._voices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._voices)

    def __len__(self) -> int:
        return len(self._voices)

    def named(self, name: str) -> Voice:
        """The model of a name, or the first.

        Raises:
            Refused: 404, with the nearest names.
        """
        if not name:
            return next(iter(self._voices.values()))
        try:
            return self._voices[pick(name[:200], self._voices, "model")]
        except CurvekitError as error:
            raise Refused(str(error), 404, "model") from error

    def close(self, seconds: float) -> None:
        for voice in self._voices.values():
            voice.close(seconds)
