"""What a client gets: the JSON of each dialect, whole and as a stream of events, and errors in OpenAI's shape."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi.sse import format_sse_event

from curvekit.generation.batching import Reader, Row
from curvekit.generation.streams import Completion, Piece
from curvekit.serving.orders import Order
from curvekit.serving.voices import Voice, log, spelt

FINISHES = {"eos": "stop", "stop string": "stop", "length": "length", "stopped": "length"}


def error_body(message: str, kind: str = "invalid_request_error", field: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


def event(value: Any, name: str | None = None) -> bytes:
    """A server-sent event that holds JSON, or text as it is."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=data, event=name)


def prompt_tokens(row: Row) -> list[int]:
    """The tokens of a row's prompt without the end-of-text that was put before a text."""
    return row.ids[1:] if row.begun else row.ids


def usage(rows: Sequence[Row], order: Order) -> dict[str, int]:
    read = sum(len(prompt_tokens(row)) for row in rows[:: order.n])
    written = sum(len(row.new) for row in rows)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Generated:
    """The dialect of ``POST /generate``."""

    def __init__(self, order: Order, voice: Voice) -> None:
        self.order, self.voice = order, voice

    def whole(self, rows: Sequence[Row]) -> dict[str, Any]:
        done = [row.completion(self.voice.tokenizer) for row in rows]
        pieces = [self._pieces(row) for row in rows] if self.order.alternatives is not None else None
        return self.told(done, pieces)

    def told(self, done: Sequence[Completion], pieces: Sequence[list[dict]] | None = None) -> dict[str, Any]:
        """The answer of continuations: the first one's fields, and all of them in a list where there are several."""
        each = [
            {
                "generated_text": one.prompt + one.text,
                "continuation": one.text,
                "seed": one.seed,
                "tokens": one.tokens,
                "reason": one.reason,
                "truncated": one.truncated,
                "seconds": round(one.seconds, 4),
            }
            for one in done
        ]
        for one, own in zip(each, pieces or [], strict=False):
            one["pieces"] = own
        answer = {"model": self.voice.name, **each[0]}
        return answer | ({"continuations": each} if len(each) > 1 else {})

    def _pieces(self, row: Row) -> list[dict[str, Any]]:
        return [self._piece(piece) for piece in Reader(row, self.voice.tokenizer).pieces()]

    def _piece(self, piece: Piece) -> dict[str, Any]:
        told: dict[str, Any] = {"text": piece.text}
        if self.order.alternatives is not None:
            told |= {"token_id": piece.token_id, "probability": round(piece.probability, 6)}
            if self.order.alternatives:
                told["alternatives"] = [[each.text, round(each.probability, 6)] for each in piece.alternatives]
        return told

    def begin(self, rows: Sequence[Row]) -> list[bytes]:
        return []

    def pieces(self, place: int, row: Row, pieces: Sequence[Piece], over: bool) -> list[bytes]:
        index = {"index": place} if self.order.n > 1 else {}
        return [
            event(index | self._piece(piece)) for piece in pieces if piece.text or self.order.alternatives is not None
        ]

    def end(self, rows: Sequence[Row]) -> list[bytes]:
        return [event(self.told([row.completion(self.voice.tokenizer) for row in rows]), "done")]


class Completed:
    """OpenAI's legacy completions."""

    def __init__(self, order: Order, voice: Voice) -> None:
        self.order, self.voice = order, voice
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.offsets: dict[int, int] = {}  # of each row, where its next token begins in its text
        self.seen: dict[int, int] = {}  # of each row, how many tokens the stream has told
        self.echoed: set[int] = set()

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.voice.name,
            "choices": choices,
        }  # fmt: skip

    def whole(self, rows: Sequence[Row]) -> dict[str, Any]:
        choices = []
        for place, row in enumerate(rows):
            done = row.completion(self.voice.tokenizer)
            text = (row.prompt if self.order.echo else "") + (done.text if self.order.draws else "")
            finish = FINISHES[done.reason] if self.order.draws else "length"
            logprobs = self._logprobs(row, 0, len(row.steps), self.order.echo) if self._scored else None
            choices.append({"text": text, "index": place, "logprobs": logprobs, "finish_reason": finish})
        return self._frame(choices) | {"usage": usage(rows, self.order)}

    @property
    def _scored(self) -> bool:
        return self.order.alternatives is not None

    def _logprobs(self, row: Row, first: int, last: int, echo: bool) -> dict[str, list[Any]]:
        """Of the prompt's tokens, if it is echoed, and of the new ones from ``first`` to ``last``."""
        name = lambda token: spelt(self.voice.tokenizer, token)  # noqa: E731
        told: list[tuple[int, float | None, list[tuple[int, float]]]] = []
        if echo:
            told += row.scored[1:] if row.begun else row.scored
        for step in row.steps[first:last]:
            told.append((step.token_id, log(step.probability), [(token, log(p)) for token, p in step.likeliest]))
        texts = [name(token) for token, _, _ in told]
        offset = self.offsets.get(id(row), 0)
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self.offsets[id(row)] = offset
        top: list[dict[str, float] | None] = []
        for token, value, likeliest in told:
            if value is None:
                top.append(None)
                continue
            best: dict[str, float] = {}
            for other, odds in [*likeliest, (token, value)]:
                best.setdefault(name(other), odds)  # two tokens may have one text: the likelier one counts
            top.append(best)
        return {
            "tokens": texts,
            "token_logprobs": [value for _, value, _ in told],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def begin(self, rows: Sequence[Row]) -> list[bytes]:
        return []

    def pieces(self, place: int, row: Row, pieces: Sequence[Piece], over: bool) -> list[bytes]:
        seen = self.seen.get(place, 0)
        self.seen[place] = seen + len(pieces)
        echo = self.order.echo and place not in self.echoed and bool(pieces or over)
        if echo:
            self.echoed.add(place)
        drawn = "".join(piece.text for piece in pieces) if self.order.draws else ""
        text = (row.prompt if echo else "") + drawn
        logprobs = self._logprobs(row, seen, seen + len(pieces), echo) if self._scored else None
        chunks = []
        if text or (self._scored and pieces) or echo:
            choice = {"text": text, "index": place, "logprobs": logprobs, "finish_reason": None}
            chunks.append(event(self._chunk([choice])))
        if over:
            finish = FINISHES[row.completion(self.voice.tokenizer).reason] if self.order.draws else "length"
            choice = {"text": "", "index": place, "logprobs": None, "finish_reason": finish}
            chunks.append(event(self._chunk([choice])))
        return chunks

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._frame(choices) | ({"usage": None} if self.order.usage else {})

    def end(self, rows: Sequence[Row]) -> list[bytes]:
        told = [event(self._frame([]) | {"usage": usage(rows, self.order)})] if self.order.usage else []
        return [*told, event("[DONE]")]


class Chatted:
    """OpenAI's chat completions."""

    def __init__(self, order: Order, voice: Voice) -> None:
        self.order, self.voice = order, voice
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.voice.name, "choices": choices}

    def _logprobs(self, tokens: Sequence[Any]) -> dict[str, Any] | None:
        """Of steps or pieces: both have a token and its probability."""
        if self.order.alternatives is None:
            return None
        name = lambda token: spelt(self.voice.tokenizer, token)  # noqa: E731

        def told(token: int, probability: float) -> dict[str, Any]:
            text = name(token)
            return {"token": text, "logprob": log(probability), "bytes": list(text.encode("utf-8"))}

        content = []
        for each in tokens:
            best = getattr(each, "likeliest", None)
            if best is None:
                best = [(other.token_id, other.probability) for other in each.alternatives]
            content.append(told(each.token_id, each.probability) | {"top_logprobs": [told(*other) for other in best]})
        return {"content": content, "refusal": None}

    def whole(self, rows: Sequence[Row]) -> dict[str, Any]:
        choices = []
        for place, row in enumerate(rows):
            done = row.completion(self.voice.tokenizer)
            choices.append(
                {
                    "index": place,
                    "message": {"role": "assistant", "content": done.text, "refusal": None},
                    "logprobs": self._logprobs(row.steps),
                    "finish_reason": FINISHES[done.reason],
                }
            )
        return self._frame("chat.completion", choices) | {"usage": usage(rows, self.order)}

    def _chunk(self, place: int, delta: Mapping[str, Any], logprobs: Any = None, finish: str | None = None) -> bytes:
        choice = {"index": place, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish}
        frame = self._frame("chat.completion.chunk", [choice])
        return event(frame | ({"usage": None} if self.order.usage else {}))

    def begin(self, rows: Sequence[Row]) -> list[bytes]:
        return [self._chunk(place, {"role": "assistant", "content": ""}) for place in range(len(rows))]

    def pieces(self, place: int, row: Row, pieces: Sequence[Piece], over: bool) -> list[bytes]:
        text = "".join(piece.text for piece in pieces)
        chunks = []
        if text or (pieces and self.order.alternatives is not None):
            chunks.append(self._chunk(place, {"content": text}, self._logprobs(pieces)))
        if over:
            chunks.append(self._chunk(place, {}, None, FINISHES[row.completion(self.voice.tokenizer).reason]))
        return chunks

    def end(self, rows: Sequence[Row]) -> list[bytes]:
        told = self._frame("chat.completion.chunk", []) | {"usage": usage(rows, self.order)}
        return [*([event(told)] if self.order.usage else []), event("[DONE]")]


Dialect = Generated | Completed | Chatted


async def streamed(
    dialect: Dialect,
    rows: Sequence[Row],
    told: AsyncIterator[tuple[int, list[Piece], bool] | None],
    failed: Callable[[BaseException], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """The events of a stream. One that fails says so in its last event, and ends."""
    try:
        for chunk in dialect.begin(rows):
            yield chunk
        async for each in told:
            chunks = [b": still here\n\n"] if each is None else dialect.pieces(each[0], rows[each[0]], *each[1:])
            if chunks:
                yield b"".join(chunks)
        yield b"".join(dialect.end(rows))
    except Exception as error:
        yield event(failed(error), "error")
    finally:
        for row in rows:
            row.cancel()
