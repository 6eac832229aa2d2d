"""Continuations that share a model: each joins the batch when it comes and leaves it when it ends.

One thread reads the model. At every turn it takes in who waits, reads their prompts together, puts their past beside
that of the others, and draws one token for every row. What a row is drawn with is its own: transformers' ``generate``
prepares its filters, as for a single text, and its dice have its own seed. So a row writes what :func:`generate
<curvekit.generation.streams.generate>` writes from its prompt, settings and seed, whoever is beside it.

transformers' continuous batching was not used: it keeps no past for a curve, knows no SoftEMax, and draws every row
with the temperature and the dice of the first.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.generation import logits_process

from curvekit.bases.building import is_seq2seq
from curvekit.caches import GrowingLayer
from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.generation.streams import (
    Completion,
    Piece,
    _cut,
    _fitted,
    _Gate,
    _Odds,
    _pad,
    _padded,
    _read,
    _room,
    _run,
    _Speller,
    _Step,
    _StopStrings,
    before_of,
)
from curvekit.modes import evaluating
from curvekit.steering.control import Control
from curvekit.steering.reading import forward, trims
from curvekit.steering.steered import Logits, Steered, require_codes
from curvekit.text.tokenization import begun, encodable

# What looks at a row's scores alone and not at its words: rows with the same settings pass through it together.
_FORGETFUL = (
    _Odds,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.MinPLogitsWarper,
)
_READ_AT_ONCE = 4096  # tokens of prompts, padding included, that are read together
_PLACES = 65_536  # of the past of all rows at most, padding included: rows times the longest that one may become
_SCORED_AT_ONCE = 256  # places of a prompt, each with the odds of a whole vocabulary
_NEVER = math.inf


class Busy(CurvekitError):
    """Too many continuations wait already."""


def write_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
    **settings: Any,
) -> Iterator[Completion]:
    """One continuation of every prompt, in their order: the texts of :func:`curvekit.generation.streams.generate`.

    Where a text ends, the next prompt takes its place, so that no row waits for the longest of its batch. Prompts of
    about one length are best neighbours, the longest first.

    Args:
        prompts: texts, or token ids, which are taken as they are.
        batch_size: texts that are written at once; changes none of them.
        settings: fields of :class:`curvekit.generation.sampling.Sampling`; one continuation, no beams.

    Raises:
        CurvekitError: as :meth:`Batcher.add`; a model that writes targets for sources.
    """
    sampling = Sampling(**settings)
    batcher = Batcher(model, tokenizer, most=batch_size, waiting=len(prompts))
    grown = threading.Event()
    try:
        rows = [
            batcher.add(prompt, replace(sampling, seed=row_seed(sampling.seed, number)), wake=grown.set)
            for number, prompt in enumerate(prompts)
        ]
        for row in rows:
            while not row.over:
                grown.wait()
                grown.clear()
            if row.failure is not None:
                raise row.failure
            yield row.completion(tokenizer)
    finally:
        batcher.close(0)


class Row:
    """One continuation in a batch, as it grows.

    ``steps`` is its tokens so far; ``over`` once it has ended, by itself, by ``cancel()`` or by its time; ``failure``
    what the model raised. ``scored`` ``[prompt]`` tells of every token of the prompt the log-probability and the
    likeliest tokens in its place, where that was asked for; the first one's is None where nothing precedes it.
    """

    def __init__(
        self,
        prompt: str,
        ids: list[int],
        truncated: int,
        sampling: Sampling,
        alternatives: int,
        score: bool,
        draws: bool,
        deadline: float,
        wake: Callable[[], object],
        begun: bool,
    ) -> None:
        self.begun = begun  # its first token is an end-of-text that was put before the prompt
        self.prompt, self.ids, self.truncated, self.sampling = prompt, ids, truncated, sampling
        self.alternatives, self.score, self.draws, self.deadline, self.wake = alternatives, score, draws, deadline, wake
        self.steps: list[_Step] = []
        self.new: list[int] = []
        self.scored: list[tuple[int, float | None, list[tuple[int, float]]]] = []
        self.over, self.failure = False, None  # type: bool, BaseException | None
        self.stopped = False
        self.start = time.perf_counter()
        self.first = self.last = 0.0
        self._cancelled = False
        self.filters: LogitsProcessorList
        self.odds: _Odds
        self.kind: Sampling | int
        self.dice: torch.Generator
        self.stops: _StopStrings | None = None
        self.pages: Logits | None = None  # of one that is steered, and so reads by itself

    @property
    def longest(self) -> int:
        """How many tokens it may become."""
        return len(self.ids) + self.sampling.max_new_tokens

    def cancel(self) -> None:
        """Leave the batch; the token in progress is not drawn."""
        self._cancelled = True

    def unwanted(self) -> bool:
        return self._cancelled or time.perf_counter() > self.deadline

    def end(self, failure: BaseException | None = None, stopped: bool = False) -> None:
        self.failure, self.stopped, self.over = failure, stopped, True
        self.wake()

    def completion(self, tokenizer: PreTrainedTokenizerBase) -> Completion:
        """How it came about, once it is over."""
        read = _read(tokenizer, self.new, self.sampling, self.stopped)
        return Completion(self.prompt, read[0], self.sampling.seed, *read[1:], self.truncated, self.last, self.first)


class Reader:
    """The pieces of a row, read as they come: what :func:`curvekit.generation.streams.stream` yields."""

    def __init__(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> None:
        self.row, self.seen = row, 0
        self._speller, self._gate = _Speller(tokenizer, []), _Gate(row.sampling.stop)
        self._rest = True

    def pieces(self) -> Iterator[Piece]:
        """Those that have come since the last call.

        Raises:
            BaseException: what the model raised.
        """
        over = self.row.over  # before the steps, to which the last one may be added meanwhile
        while self.seen < len(self.row.steps) and not self._gate.shut:
            self.seen += 1
            yield from self._gate.through(self._speller.piece(self.row.steps[self.seen - 1]))
        if over and self.row.failure is not None:
            raise self.row.failure
        if over and not self._gate.shut and self._rest:
            self._rest = False
            yield from self._gate.held


class Batcher:
    """A model that writes many continuations at once, in a thread of its own.

    Args:
        most: rows in the batch at most.
        waiting: rows that may wait to join it.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, most: int = 32, waiting: int = 256
    ) -> None:
        if is_seq2seq(model.config):
            raise CurvekitError("a batch continues texts, and a T5 writes targets for sources; use generate for it")
        self.model, self.tokenizer, self.most, self.room = model, tokenizer, most, waiting
        self.rows: list[Row] = []
        self.apart: list[Row] = []  # those that are steered
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._filters: dict[Sampling, tuple[LogitsProcessorList, _Odds]] = {}
        self._cache: DynamicCache | None = None
        self._mask = torch.empty(0, 0)  # [rows, time] of what the cache holds
        self._cached = not getattr(model.config, "leaks", False)  # what looks ahead keeps no past
        self._trims = trims(model)
        self._thread = threading.Thread(target=self._work, name="curvekit-batch", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows wait to join."""
        return len(self._waiting)

    def add(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling,
        *,
        alternatives: int = 0,
        score: bool = False,
        draws: bool = True,
        seconds: float = _NEVER,
        wake: Callable[[], object] = lambda: None,
    ) -> Row:
        """Have one prompt continued.

        Args:
            prompt: a text, or token ids, which are taken as they are, with no end-of-text before them.
            alternatives: how many of the likeliest tokens each step tells.
            score: tell the log-probabilities of the prompt's tokens too; ``draws=False``: nothing but those.
            seconds: after which it ends as it is.
            wake: called in the batch's thread after each of its tokens and at its end.

        Raises:
            Busy: the queue is full.
            CurvekitError: beams or several continuations, which are several rows; new tokens that do not fit.
        """
        if sampling.num_beams > 1 or sampling.num_return_sequences > 1:
            raise CurvekitError("a row of a batch is one continuation; leave num_beams and num_return_sequences at 1")
        room, before = _room(self.model, sampling), before_of(sampling)
        if isinstance(prompt, str):
            text = next(iter(encodable([prompt])))
            ids, cut = _fitted(self.tokenizer, text, room, before)
            whole_text = bool(before) or len(ids) < room or ids == begun(self.tokenizer, text)
        else:
            if before:
                raise CurvekitError("codes and a preface stand before a text, and the prompt is token ids; give a text")
            whole = list(prompt) or begun(self.tokenizer, "")
            wrong = next((each for each in whole if not 0 <= each < self.model.config.vocab_size), None)
            if wrong is not None:
                raise CurvekitError(f"the prompt holds the token id {wrong}; the model knows 0 to "
                                    f"{self.model.config.vocab_size - 1}")  # fmt: skip
            text, ids, cut, whole_text = str(self.tokenizer.decode(whole)), whole[-room:], _cut(whole, room), False
        pages = None
        if sampling.control is not None:
            pages = self._pages(sampling.control, text, ids, room)
        deadline = time.perf_counter() + seconds
        row = Row(
            prompt if isinstance(prompt, str) else text,
            ids,
            cut,
            sampling,
            alternatives,
            score,
            draws,
            deadline,
            wake,
            whole_text,
        )
        row.pages = pages
        with self._changed:
            if self._closed:
                raise Busy("the service is ending; ask again later")
            if len(self._waiting) >= self.room:
                raise Busy(f"{len(self._waiting)} continuations wait already; ask again later")
            self._waiting.append(row)
            self._changed.notify()
        return row

    def close(self, seconds: float = 10.0) -> None:
        """Take nothing new, write what was begun to its end, or stop it after so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        for row in [*self._waiting, *self.rows, *self.apart]:
            row.cancel()
        self._thread.join(seconds)

    # The thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self.rows or self.apart or self._closed):
                    self._changed.wait()
                if self._closed and not (self._waiting or self.rows or self.apart):
                    return
                joining = self._admitted()
            try:
                with evaluating(self.model):
                    with torch.inference_mode():
                        self._turn([row for row in joining if row.pages is None])
                    self._aside([row for row in joining if row.pages is not None])
            except BaseException as failure:  # every row's reader is told; the next ones begin anew
                for row in {*self.rows, *self.apart, *joining}:
                    if not row.over:
                        row.end(failure)
                self.rows, self.apart, self._cache = [], [], None

    def _pages(self, control: Control, text: str, ids: list[int], room: int) -> Logits | None:
        """The logits of a row that is steered, which come from what its control opens."""
        if not control.steps:
            require_codes(self.model, control)
            return None
        device, bare = self.model.device, None
        if control.guided:
            bare = _padded([_fitted(self.tokenizer, text, room, control.negative)[0]], _pad(self.tokenizer), device)
        own = _padded([ids], _pad(self.tokenizer), device)
        return Steered(control, self.model, self.tokenizer).logits(*own, bare)

    @torch.no_grad()
    def _aside(self, joining: Sequence[Row]) -> None:
        """A token for each row that is steered; each reads by itself, for what steers it is its own."""
        for row in joining:
            self._prepare(row)
            if row.score:
                with torch.inference_mode():
                    self._read([row], score=True)
        self.apart += joining
        for row in self.apart:
            if row.unwanted():
                row.end(stopped=True)
                continue
            try:
                assert row.pages is not None
                drawn = torch.tensor(row.new[-1:], device=self.model.device)
                self._draw([row], row.pages.send(drawn) if row.new else next(row.pages))
            except (RuntimeError, CurvekitError) as failure:  # no other row's fault
                row.end(failure)
        self.apart = [row for row in self.apart if not row.over]

    def _admitted(self) -> list[Row]:
        """Who joins now: as many as there is room for, as can be read at once, and as a past is kept for.

        A row that is alone is always taken. The first who waits is the next to join, however long it is.
        """
        joining: list[Row] = []
        widest = 0
        there = [row for row in [*self.rows, *self.apart] if not row.unwanted()]
        longest = max((row.longest for row in there), default=0)
        while self._waiting and len(there) + len(joining) < self.most:
            row = self._waiting[0]
            widest, longest = max(widest, len(row.ids)), max(longest, row.longest)
            places = longest * (len(there) + len(joining) + 1)
            if joining and widest * (len(joining) + 1) > _READ_AT_ONCE:
                break
            if (there or joining) and places > _PLACES:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _turn(self, joining: list[Row]) -> None:
        """Take in who joins, let go of who has left, and draw a token for every row that was there before."""
        for row in joining:
            if row.unwanted():
                row.end(stopped=True)
            else:
                self._prepare(row)
        joining = [row for row in joining if not row.over]
        for row in self.rows:
            if row.unwanted() and not row.over:
                row.end(stopped=True)
        if not self._cached:
            self.rows = [row for row in self.rows if not row.over] + joining
            for row in joining:
                if row.score:
                    self._read([row], score=True)
            if self.rows:
                self._draw(self.rows, self._read(self.rows)[0])
                self.rows = [row for row in self.rows if not row.over]
            return
        read: list[tuple[list[Row], DynamicCache, Tensor]] = []
        for group in _alike(joining, lambda row: row.score):
            for some in [[row] for row in group] if group[0].score else [group]:
                logits, cache, mask = self._read(some, score=some[0].score)
                self._draw(some, logits)
                read.append((some, cache, mask))
        parts = [(self.rows, self._cache, self._mask)] if self._cache is not None else []
        self._arrange([*parts, *read])
        if self.rows:
            self._step()

    def _prepare(self, row: Row) -> None:
        """What the row is drawn with, as ``generate`` prepares it for this prompt and these settings."""
        sampling = row.sampling
        row.dice = torch.Generator(self.model.device).manual_seed(sampling.seed)
        if sampling.stop:
            row.stops = _StopStrings(self.tokenizer, sampling.stop, len(row.ids))
        row.kind = replace(sampling, seed=0, stop=(), max_new_tokens=1)
        if row.kind in self._filters:
            row.filters, row.odds = self._filters[row.kind]
            return
        odds, found = _Odds(), list[LogitsProcessorList]()

        def prepared(model: Any, input_ids: Tensor, logits_processor: LogitsProcessorList, **_: Any) -> Tensor:
            found.append(logits_processor)
            return input_ids

        inputs = {"input_ids": torch.tensor([row.ids], device=self.model.device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        never: Any = lambda *_, **__: False  # noqa: E731
        _run(
            self.model, self.tokenizer, inputs, sampling, [], never, [odds], custom_generate=prepared,
        )  # fmt: skip
        row.filters, row.odds = found[0], odds
        if all(type(each) in _FORGETFUL for each in found[0]):
            if len(self._filters) >= 256:
                self._filters.clear()
            self._filters[row.kind] = found[0], odds
        else:
            row.kind = id(row)

    def _read(self, rows: list[Row], score: bool = False) -> tuple[Tensor, DynamicCache, Tensor]:
        """Read all that the rows hold: the logits ``[rows, vocabulary]`` of their next tokens, their past, its mask."""
        whole = [row.ids + row.new for row in rows]
        ids, mask = _padded(whole, _pad(self.tokenizer), self.model.device)
        cache = DynamicCache(config=self.model.config) if self._cached else None
        options = {} if score else self._trims
        logits = self._forward(ids, mask, cache, is_first_iteration=True, **options)
        if score:
            self._score(rows[0], logits[0])
        return logits[:, -1], cache, mask  # type: ignore[return-value]

    def _forward(self, ids: Tensor, mask: Tensor, cache: DynamicCache | None, **options: Any) -> Tensor:
        return forward(self.model, ids, mask, cache, **options).logits

    def _score(self, row: Row, logits: Tensor) -> None:
        """Tell of the tokens of the prompt what the model thought of them; ``logits`` ``[prompt, vocabulary]``."""
        row.scored = [(row.ids[0], None, [])]
        own = torch.tensor(row.ids[1:], device=logits.device, dtype=torch.long)[:, None]
        for some, ids in zip(logits[:-1].split(_SCORED_AT_ONCE), own.split(_SCORED_AT_ONCE), strict=True):
            odds = some.float().log_softmax(-1)
            best = odds.topk(min(row.alternatives, odds.shape[-1]), dim=-1)
            likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            told = [list(zip(*each, strict=True)) for each in likeliest]
            row.scored += zip(ids[:, 0].tolist(), odds.gather(-1, ids)[:, 0].tolist(), told, strict=True)

    def _step(self) -> None:
        """One more token of every row in the cache."""
        ids = torch.tensor([[row.new[-1]] for row in self.rows], device=self.model.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        logits = self._forward(ids, self._mask, self._cache)
        self._draw(self.rows, logits[:, -1])

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Draw a token for each row from its logits ``[rows, vocabulary]``, and tell it."""
        places = {id(row): place for place, row in enumerate(rows)}
        for group in _alike(rows, lambda row: row.kind):
            scores = logits[[places[id(row)] for row in group]].to(torch.float32)
            try:
                self._draw_alike(group, scores)
            except RuntimeError as failure:  # such as scores that are no numbers: no other row's fault
                for row in group:
                    if not row.over:
                        row.end(failure)

    def _draw_alike(self, group: Sequence[Row], scores: Tensor) -> None:
        first = group[0]
        ids = torch.tensor([first.ids + first.new], device=scores.device)  # read by filters of one row alone
        scores = first.filters(ids, scores)  # type: ignore[arg-type]
        if first.sampling.temperature > 0:
            odds = scores.softmax(-1)
            drawn = [torch.multinomial(odds[place], 1, generator=row.dice) for place, row in enumerate(group)]
            tokens = torch.cat(drawn).tolist()
        else:
            tokens = scores.argmax(-1).tolist()
        for row, token, probabilities in zip(group, tokens, first.odds.taken(), strict=True):
            self._tell(row, token, probabilities)

    def _tell(self, row: Row, token: int, probabilities: Tensor) -> None:
        if not row.draws:
            row.end()
            return
        row.last = time.perf_counter() - row.start
        row.first = row.first or row.last
        row.new.append(token)
        row.steps.append(_Step.of(token, probabilities, row.alternatives))
        ended = len(row.new) >= row.sampling.max_new_tokens or token == self.tokenizer.eos_token_id
        if not ended and row.stops is not None:
            ended = bool(row.stops(torch.tensor([row.ids + row.new]), None))  # type: ignore[arg-type]
        if ended:
            row.end()
        else:
            row.wake()

    # Who is in the cache

    def _arrange(self, parts: Iterable[tuple[list[Row], DynamicCache | None, Tensor]]) -> None:
        """Put the past of the rows that go on into one cache, right-aligned; if nobody comes or goes, nothing moves."""
        chosen = []
        for rows, cache, mask in parts:
            kept = [place for place, row in enumerate(rows) if not row.over]
            if kept:
                assert cache is not None
                chosen.append((rows, kept, cache, mask))
        if len(chosen) == 1 and len(chosen[0][1]) == len(chosen[0][0]):
            self.rows, _, self._cache, self._mask = chosen[0]
            return
        if not chosen:
            self.rows, self._cache = [], None
            return
        width = max(int(mask[kept].sum(-1).max()) for _, kept, _, mask in chosen)
        self.rows = [rows[place] for rows, kept, _, _ in chosen for place in kept]
        self._mask = torch.cat([_aligned(mask[kept], width, -1) for _, kept, _, mask in chosen])
        layers: list[Any] = []
        for same in zip(*(cache.layers for _, _, cache, _ in chosen), strict=True):
            if not all(type(layer) in (DynamicLayer, GrowingLayer) for layer in same):
                self._cached = False  # a past of another kind is read anew at every turn
                self._cache = None
                return
            states = []
            for name in ("keys", "values"):
                rows_of = [getattr(layer, name)[kept] for layer, (_, kept, _, _) in zip(same, chosen, strict=True)]
                states.append(torch.cat([_aligned(each, width, -2) for each in rows_of]))
            layers.append(_layer(*states))
        self._cache = DynamicCache()
        self._cache.layers = layers


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    layer = GrowingLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def _aligned(states: Tensor, width: int, dim: int) -> Tensor:
    """The last ``width`` places along ``dim``, with zeros before them where there are fewer."""
    have = states.shape[dim]
    if have >= width:
        return states.narrow(dim, have - width, width)
    shape = list(states.shape)
    shape[dim] = width - have
    return torch.cat([states.new_zeros(shape), states], dim=dim)


def _alike(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[list[Row]]:
    """The rows in groups of equal keys, in the order in which they first appear."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())
