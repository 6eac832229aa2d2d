"""What a client asks for, read and bounded before any model sees it: three dialects, one order.

Every wrong value is a :class:`Refused` with its status and one sentence that names the field; what a dialect has and
this service cannot honour is refused by name and never left out silently.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.steering.control import Control


@dataclass(frozen=True)
class Limits:
    """The bounds of a service.

    Attributes:
        body: bytes of a request's body.
        body_seconds: until the body must be there.
        prompt: characters, or token ids, of all prompts or messages of a request.
        tokens: new tokens of one continuation.
        rows: continuations of one request: prompts times ``n``.
        batch: continuations that a model writes at once.
        waiting: continuations that may wait for a model.
        seconds: after which a continuation ends as it is.
    """

    body: int = 1_000_000
    body_seconds: float = 10.0
    prompt: int = 100_000
    tokens: int = 1024
    rows: int = 64
    batch: int = 32
    waiting: int = 256
    seconds: float = 120.0


class Refused(CurvekitError):
    """A request that is not honoured: its HTTP status, one sentence, and the field that is to blame."""

    def __init__(self, message: str, status: int = 400, field: str | None = None, headers: Mapping[str, str] = {}):
        super().__init__(message)
        self.status, self.field, self.headers = status, field, dict(headers)


@dataclass(frozen=True)
class Order:
    """A request that can be carried out.

    Attributes:
        prompts: texts, or token ids, which are taken as they are.
        sampling: with its seed; ``n`` continuations of each prompt are drawn with ``row_seed(seed, row)``.
        alternatives: how many of the likeliest tokens each token is told with; None: no probabilities at all.
        score: tell the log-probabilities of the prompt's tokens too (``echo`` with ``logprobs``).
        draws: False where nothing but those is asked for.
        echo: the prompt stands before its continuation.
        usage: a stream ends with the numbers of tokens.
    """

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    sampling: Sampling
    n: int = 1
    stream: bool = False
    alternatives: int | None = None
    score: bool = False
    draws: bool = True
    echo: bool = False
    usage: bool = False

    def rows(self) -> list[tuple[str | tuple[int, ...], Sampling]]:
        """Each continuation's prompt and settings, as :func:`curvekit.generation.streams.complete` numbers them."""
        each = [prompt for prompt in self.prompts for _ in range(self.n)]
        one = replace(self.sampling, num_return_sequences=1)
        return [(prompt, replace(one, seed=row_seed(self.sampling.seed, row))) for row, prompt in enumerate(each)]


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Refused: it is none, or holds what no answer can hold.
    """

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON number")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_number)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except UnicodeDecodeError as error:
        raise Refused(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise Refused("the body holds half of a character (a lone surrogate); send whole ones") from error
    except RecursionError as error:
        raise Refused("the body is nested too deeply") from error
    except ValueError as error:
        raise Refused(f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise Refused(f'the body is a JSON {_kind(value)}; send an object such as {{"prompt": "The river"}}')
    return {name: each for name, each in value.items() if each is not None}


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def wrong(field: str, value: Any, expected: str) -> Refused:
    return Refused(f"{field} is {_short(value)}; give {expected}", field=field)


def taken(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of one kind, or its default."""
    if name not in body:
        return default
    value = body[name]
    words = {bool: "true or false", int: "a whole number", str: "a text", list: "a list", dict: "an object"}
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(name, value, words[kind])
    return value


def counted(body: Mapping[str, Any], name: str, default: Any, least: int, most: int) -> Any:
    """A whole number between bounds, or its default."""
    value = taken(body, name, int, default)
    if name in body and not least <= value <= most:
        raise wrong(name, value, f"a whole number from {least} to {most}")
    return value


def _known(body: Mapping[str, Any], names: Iterable[str], refused: Mapping[str, Sequence[Any]] = {}) -> None:
    """Refuse a field that is unknown, or whose value asks for what there is not; ``refused`` tells what is nothing."""
    names = set(names)
    for name, value in body.items():
        if name in refused:
            if value not in refused[name]:
                raise Refused(f"{name} is not supported here; leave it out", field=name)
        elif name not in names:
            raise Refused(f"the field {_short(name)} is unknown here; known are {', '.join(sorted(names))}", field=name)


SETTINGS = tuple(each.name for each in fields(Sampling))
_COMMON = {"model", "stream", "stop", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
           "no_repeat_ngram_size", "n"}  # fmt: skip


def _bound_control(control: Any) -> None:
    """Refuse what a control may not ask of a service: files of its machine, and work without bounds."""
    if not isinstance(control, dict):
        return  # which Sampling refuses
    for each in fields(Control):
        if each.metadata["file"] and control.get(each.name) is not None:
            raise Refused(f"control.{each.name} names a file, which a service opens for nobody; leave it out",
                          field="control")  # fmt: skip
    for name, most in (("codes", 16), ("bag", 1000)):
        value = control.get(name, [])
        if not isinstance(value, list) or len(value) > most or any(len(str(word)) > 200 for word in value):
            raise Refused(f"control.{name} should be a list of at most {most} short words", field="control")
    for name in ("preface", "negative"):
        if len(str(control.get(name, ""))) > 4000:
            raise Refused(f"control.{name} is longer than 4000 characters; shorten it", field="control")
    iterations = control.get("iterations", 1)
    if isinstance(iterations, int) and iterations > 10:
        raise Refused(f"control.iterations is {iterations}; a service takes 1 to 10", field="control")


def _sampling(body: Mapping[str, Any], defaults: Mapping[str, Any], tokens: int) -> Sampling:
    """The settings of a body over a dialect's own defaults, each within what a service draws with."""
    values: dict[str, Any] = dict(defaults)
    for name in SETTINGS:
        if name in body:
            values[name] = body[name]
    values["max_new_tokens"] = tokens
    stop = body.get("stop", ())
    stop = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stop, list | tuple)
        or len(stop) > 16
        or not all(isinstance(t, str) and 0 < len(t) <= 200 for t in stop)
    ):
        raise wrong("stop", stop, "a text, or up to 16 texts, of 1 to 200 characters")
    values["stop"] = tuple(stop)
    values.setdefault("seed", random.SystemRandom().getrandbits(32))
    for name, least, most in (("temperature", 0.01, 100), ("repetition_penalty", 0.01, 100)):
        value = values.get(name)
        number = isinstance(value, float | int) and not isinstance(value, bool)
        if number and value and not least <= value <= most:
            either = "0 (greedy), or " if name == "temperature" else ""
            raise wrong(name, value, f"{either}a number from {least} to {most}")
    for name in ("top_k", "no_repeat_ngram_size"):
        if isinstance(values.get(name), int) and abs(values[name]) > 10**6:
            raise wrong(name, values[name], "a whole number from 0 to 1000000")
    _bound_control(values.get("control"))
    try:
        return Sampling(**values)
    except CurvekitError as error:
        message = str(error)
        named = next((name for name in SETTINGS if message.startswith(name)), None)
        raise Refused(message if len(message) < 300 else message[:297] + "...", field=named) from error


def bounded(prompts: Iterable[str | Sequence[int]], limits: Limits, field: str) -> None:
    """Refuse more than a tokeniser reads in a moment."""
    if (length := sum(map(len, prompts))) > limits.prompt:
        raise Refused(f"{field} has a length of {length}; a request may have {limits.prompt}; send less", field=field)


def _rows(count: int, n: int, limits: Limits) -> None:
    if count * n > limits.rows:
        raise Refused(
            f"{count} prompts with {n} continuations each are {count * n}; a request may have {limits.rows}", field="n"
        )


def generate_order(body: Mapping[str, Any], limits: Limits, length: Any, positions: Any) -> Order:
    """``POST /generate``: the names that the kit's own users know.

    Args:
        length: (model's name, prompt) -> its tokens, to tell ``max_length``, the total, from the new ones.
        positions: (model's name) -> what the model can read at once.
    """
    _known(body, {"prompt", "max_length", "alternatives", "probabilities", *SETTINGS, *_COMMON})
    prompt = taken(body, "prompt", str, "")
    bounded([prompt], limits, "prompt")
    model = taken(body, "model", str, "")
    most = min(limits.tokens, positions(model) - 1)
    if "max_new_tokens" in body:
        if "max_length" in body:
            raise Refused("give max_length (the total) or max_new_tokens, not both", field="max_length")
        tokens = counted(body, "max_new_tokens", 1, 1, most)
    else:
        whole = counted(body, "max_length", min(100, positions(model)), 1, positions(model))
        tokens = min(whole - length(model, prompt), most)
        if tokens < 1:
            raise Refused(
                f"max_length is {whole}, and the prompt alone has {whole - tokens} tokens; give a larger max_length, "
                "or max_new_tokens",
                field="max_length",
            )
    if "n" in body and "num_return_sequences" in body:
        raise Refused("n and num_return_sequences are the same; give one", field="n")
    n = counted(body, "n" if "n" in body else "num_return_sequences", 1, 1, limits.rows)
    counted(body, "num_beams", 1, 1, 16)
    values = {name: value for name, value in body.items() if name != "n"} | {"num_return_sequences": n}
    sampling = _sampling(values, {"temperature": 0.8, "top_p": 0.9}, tokens)
    stream = taken(body, "stream", bool, False)
    if stream and sampling.num_beams > 1:
        raise Refused("a beam search ends before its text is known; leave stream out", field="stream")
    alternatives = counted(body, "alternatives", 0, 0, 20)
    told = taken(body, "probabilities", bool, "alternatives" in body)
    return Order(model, (prompt,), sampling, n, stream, alternatives if told else None)


_UNSUPPORTED: dict[str, Sequence[Any]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "service_tier": ("auto", "default"),
    "store": (False,), "user": (), "metadata": (),
}  # fmt: skip


def _usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = taken(body, "stream_options", dict, {})
    if "stream_options" in body and not stream:
        raise Refused("stream_options is for streams; set stream, or leave it out", field="stream_options")
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(value, bool):
            raise wrong("stream_options", options, '{"include_usage": true} or {"include_usage": false}')
    return bool(options.get("include_usage", False))


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One text or list of token ids, or a list of them."""
    whole = lambda each: isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**31  # noqa: E731
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(map(whole, value)):
            return (tuple(value),)
        if all(isinstance(each, str) for each in value):
            return tuple(value)
        if all(isinstance(each, list) and each and all(map(whole, each)) for each in value):
            return tuple(map(tuple, value))
    raise wrong("prompt", value, "a text, a list of texts, a list of token ids, or a list of such lists")


def completion_order(body: Mapping[str, Any], limits: Limits, positions: Any) -> Order:
    """``POST /v1/completions``, as OpenAI's legacy completions."""
    body = {name: value for name, value in body.items() if name not in ("user", "metadata")}
    own = {"prompt", "max_tokens", "logprobs", "echo", "best_of", "stream_options", *_COMMON}
    _known(body, own, _UNSUPPORTED | {"suffix": ("",)})
    model = taken(body, "model", str, "")
    prompts = _prompts(body.get("prompt", ""))
    bounded(prompts, limits, "prompt")
    n = counted(body, "n", 1, 1, limits.rows)
    if counted(body, "best_of", n, 1, limits.rows) != n:
        raise Refused("best_of other than n is not supported; leave it out", field="best_of")
    _rows(len(prompts), n, limits)
    echo, stream = taken(body, "echo", bool, False), taken(body, "stream", bool, False)
    logprobs = counted(body, "logprobs", None, 0, 20)
    tokens = counted(body, "max_tokens", 16, 0, min(limits.tokens, positions(model) - 1))
    if tokens == 0 and not echo:
        raise Refused("max_tokens is 0, so nothing is left to say; give 1 or more, or echo", field="max_tokens")
    values = {name: value for name, value in body.items() if name in _COMMON}
    sampling = _sampling(values, {}, max(tokens, 1))
    _greedy(sampling, n)
    return Order(
        model, prompts, sampling, n, stream, logprobs, echo and logprobs is not None, tokens > 0, echo,
        _usage(body, stream),
    )  # fmt: skip


def _greedy(sampling: Sampling, n: int) -> None:
    if sampling.temperature == 0 and n > 1:
        raise Refused(f"n is {n}, but at temperature 0 all continuations are the same; raise temperature", field="n")


ROLES = ("system", "developer", "user", "assistant")


def chat_order(body: Mapping[str, Any], limits: Limits, room: Any) -> Order:
    """``POST /v1/chat/completions``, for models with a chat template.

    Args:
        room: (model's name, messages) -> the prompt's token ids, and how many new tokens fit after them.
    """
    body = {name: value for name, value in body.items() if name not in ("user", "metadata")}
    own = {"messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "stream_options", *_COMMON}
    _known(body, own, _UNSUPPORTED | {"response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none",),
                                      "modalities": (["text"],), "parallel_tool_calls": (True, False)})  # fmt: skip
    model = taken(body, "model", str, "")
    messages = _messages(body)
    bounded([each["content"] for each in messages], limits, "messages")
    ids, fits = room(model, messages)
    n = counted(body, "n", 1, 1, limits.rows)
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise Refused("max_tokens and max_completion_tokens are the same; give one", field="max_tokens")
    name = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
    most = min(limits.tokens, fits)
    if most < 1:
        raise Refused("the messages fill the model's positions; send less", field="messages")
    tokens = counted(body, name, most, 1, most)
    stream = taken(body, "stream", bool, False)
    logprobs = taken(body, "logprobs", bool, False)
    top = counted(body, "top_logprobs", 0, 0, 20)
    if "top_logprobs" in body and not logprobs:
        raise Refused("top_logprobs needs logprobs; set it to true", field="top_logprobs")
    values = {name: value for name, value in body.items() if name in _COMMON}
    sampling = _sampling(values, {}, tokens)
    _greedy(sampling, n)
    return Order(model, (ids,), sampling, n, stream, top if logprobs else None, usage=_usage(body, stream))


def _messages(body: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = taken(body, "messages", list, [])
    if not messages:
        raise wrong("messages", messages, 'a list such as [{"role": "user", "content": "Hello"}]')
    read = []
    for each in messages:
        if not isinstance(each, dict) or each.get("role") not in ROLES:
            raise wrong("messages", each, f"messages with a role among {', '.join(ROLES)}")
        if extra := {name for name, value in each.items() if value is not None} - {
            "role",
            "content",
            "name",
            "refusal",
        }:
            raise Refused(f"{min(extra)} in a message is not supported", field="messages")
        content = each.get("content")
        if isinstance(content, list):
            if not all(
                isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content
            ):
                raise Refused("a message may hold text alone; send parts of the type text", field="messages")
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise wrong("messages", each, "a text as the content of every message")
        read.append({"role": "system" if each["role"] == "developer" else each["role"], "content": content})
    return read
