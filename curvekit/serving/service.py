"""The service as an ASGI application: its routes over the models' batches, on one machine or under Ray."""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import swagger_ui_bundle
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import curvekit
from curvekit.generation.batching import Row
from curvekit.generation.sampling import Sampling
from curvekit.serving.answers import Chatted, Completed, Dialect, Generated, error_body, prompt_tokens, streamed
from curvekit.serving.door import LOG, SECURE, Counts, Door, Names
from curvekit.serving.orders import (
    Limits,
    Order,
    Refused,
    chat_order,
    completion_order,
    generate_order,
    parse,
)
from curvekit.serving.voices import Choir, Voice, Waker, finished, followed

ASSETS = importlib.resources.files(curvekit) / "assets" / "serving"
SWAGGER = Path(swagger_ui_bundle.swagger_ui_path)
SERVED = {  # the interactive documentation's own parts, from the installed package and never from a CDN
    "swagger-ui.css": SWAGGER / "swagger-ui.css",
    "swagger-ui-bundle.js": SWAGGER / "swagger-ui-bundle.js",
    "swagger-start.js": Path(str(ASSETS / "swagger-start.js")),
}
PAGES = ("index.html", "docs.html")


class Service:
    """The models, their bounds and their figures, and how an order becomes an answer."""

    def __init__(self, voices: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]], limits: Limits) -> None:
        self.choir, self.limits, self.counts = Choir(voices, limits), limits, Counts()
        self.draining = False

    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request, within its bounds of size and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(f"the content type is {kind[:60]!r}; send application/json", 415)
        told = request.headers.get("content-length", "0")
        most = self.limits.body
        too_large = Refused(f"the body is larger than {most} bytes; send less", 413)
        if not (told.isascii() and told.isdigit()):
            raise Refused("the content length is no number")
        if int(told[:20]) > most:
            raise too_large

        async def read() -> bytes:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
            return bytes(body)

        try:
            return parse(await asyncio.wait_for(read(), self.limits.body_seconds))
        except TimeoutError as error:
            raise Refused(f"the body did not come within {self.limits.body_seconds:g} s", 408) from error

    async def answer(self, request: Request, dialect: type, ordered: Callable[[Mapping[str, Any]], Order]) -> Response:
        """Carry a request out, as a stream or whole; a client that leaves takes its continuations along.

        Prompts are cut into tokens in a thread: no stream waits for a long one.
        """
        order = await asyncio.to_thread(ordered, await self.body(request))
        voice = self.choir.named(order.model)
        told: Dialect = dialect(order, voice)
        if order.sampling.num_beams > 1:
            found = await self._unless_gone(request, voice.search(order))
            return Response(status_code=499) if found is None else JSONResponse(told.told(found))  # type: ignore[union-attr]
        waker = Waker()
        rows = await asyncio.to_thread(voice.rows, order, waker)
        if isinstance(told, Completed | Chatted) and (long := next((row for row in rows if row.truncated), None)):
            for row in rows:
                row.cancel()
            have, new = long.truncated + len(prompt_tokens(long)), order.sampling.max_new_tokens
            raise Refused(
                f"the prompt has {have} tokens, and with {new} new ones they exceed the {voice.positions} positions of "
                f"{voice.name}; shorten it or lower max_tokens",
                field="prompt",
            )
        if order.stream:
            events = streamed(told, rows, followed(rows, waker, voice.tokenizer), self._failure)
            return EventSourceResponse(
                self._counted(voice, rows, events), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
        try:
            over = await self._unless_gone(request, finished(rows, waker), True)
        finally:
            self._count(voice, rows)
        return JSONResponse(told.whole(rows)) if over else Response(status_code=499)

    async def _unless_gone(self, request: Request, work: Awaitable[Any], result: Any = None) -> Any:
        """What the work returns, or ``result`` if that is None; None if the client left first."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
        try:
            await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result() or result
            self.counts.left.inc()
            return None
        finally:
            for task in (doing, leaving):
                task.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    async def _counted(self, voice: Voice, rows: Sequence[Row], events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for each in events:
                yield each
        except asyncio.CancelledError:
            self.counts.left.inc()
            raise
        finally:
            for row in rows:
                row.cancel()
            self._count(voice, rows)

    def _count(self, voice: Voice, rows: Sequence[Row]) -> None:
        for row in rows:
            self.counts.prompt.labels(voice.name).inc(len(row.ids))
            self.counts.written.labels(voice.name).inc(len(row.new))
            if row.new:
                self.counts.first.labels(voice.name).observe(row.first)

    def _failure(self, error: BaseException) -> dict[str, Any]:
        LOG.error("a continuation failed: %s: %s", type(error).__name__, error, exc_info=error)
        return error_body("the model failed at this continuation; the service's log says why", "server_error")

    def metrics(self) -> bytes:
        for name, voice in self.choir.items():
            self.counts.running.labels(name).set(len(voice.batcher.rows))
            self.counts.waiting.labels(name).set(voice.batcher.waiting + voice.searching)
        return generate_latest(self.counts.registry)


def application(
    voices: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    *,
    limits: Limits | None = None,
    key: str | None = None,
    hosts: Sequence[str] = (),
    log: bool = False,
) -> FastAPI:
    """The service of these models, as an application for any ASGI server.

    Args:
        voices: models and their tokenisers by name; the first is meant where a request names none.
        limits: its bounds.
        key: what ``Authorization: Bearer`` must hold; None: nothing.
        hosts: the names by which it may be called; see :class:`curvekit.serving.door.Names`.
        log: see :class:`curvekit.serving.door.Door`.
    """
    limits = limits or Limits()
    service = Service(voices, limits)
    choir = service.choir

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        await asyncio.get_running_loop().run_in_executor(None, choir.close, service.limits.seconds)

    app = FastAPI(
        title="curvekit",
        version=curvekit.__version__,
        description="Text from curvekit's models.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.openapi_version = "3.0.3"  # the newest that the bundled documentation page reads
    app.state.service = service

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        kinds = {404: "not_found_error", 429: "rate_limit_error"}
        body = error_body(str(error), kinds.get(error.status, "invalid_request_error"), error.field)
        return JSONResponse(body, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        sentences = {404: "there is nothing at this address; / tells what there is",
                     405: "this address does not take this method"}  # fmt: skip
        message = sentences.get(error.status_code, str(error.detail))
        return JSONResponse(error_body(message), error.status_code, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        service.counts.left.inc()
        return Response(status_code=499)

    def documented(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
        schema = {"type": "object", "properties": dict(properties)} | ({"required": list(required)} if required else {})
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    positions = lambda name: choir.named(name).positions  # noqa: E731
    length = lambda name, prompt: choir.named(name).length(prompt)  # noqa: E731
    room = lambda name, messages: choir.named(name).chat(messages)  # noqa: E731

    @app.post("/generate", openapi_extra=documented(GENERATE, ["prompt"]), summary="Continue a prompt")
    async def generate(request: Request) -> Response:
        return await service.answer(request, Generated, lambda body: generate_order(body, limits, length, positions))

    @app.post("/v1/completions", openapi_extra=documented(COMPLETION, ["prompt"]), summary="OpenAI's completions")
    async def completions(request: Request) -> Response:
        return await service.answer(request, Completed, lambda body: completion_order(body, limits, positions))

    @app.post("/v1/chat/completions", openapi_extra=documented(CHAT, ["messages"]), summary="OpenAI's chat completions")
    async def chat(request: Request) -> Response:
        return await service.answer(request, Chatted, lambda body: chat_order(body, limits, room))

    cards = {
        name: {"id": name, "object": "model", "created": 0, "owned_by": "curvekit", "curvekit": voice.about()}
        for name, voice in choir.items()
    }

    @app.get("/v1/models", summary="The models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(cards.values())}

    @app.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        return cards[choir.named(name).name]

    @app.get("/health", summary="Whether the service lives, and takes requests")
    async def health() -> JSONResponse:
        return JSONResponse(
            {"live": True, "ready": not service.draining, "models": list(choir)}, 503 if service.draining else 200
        )

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics(), media_type=CONTENT_TYPE_LATEST)

    pages = {name: (ASSETS / name).read_text(encoding="utf-8") for name in PAGES}

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(pages["index.html"], headers=SECURE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        loose = SECURE["content-security-policy"].replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
        return HTMLResponse(pages["docs.html"], headers=SECURE | {"content-security-policy": loose})

    @app.get("/static/docs/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in SERVED:
            raise HTTPException(404)
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(SERVED[name].read_bytes(), media_type=kind, headers={"Cache-Control": "max-age=3600"})

    app.mount("/static", StaticFiles(directory=str(ASSETS)), name="static")
    routes = [getattr(route, "path", "") for route in app.routes]
    app.add_middleware(Names, hosts=hosts)
    app.add_middleware(Door, counts=service.counts, key=key, routes=routes, log=log)
    return app


_KINDS = {"int": {"type": "integer"}, "float": {"type": "number"}, "Control | None": {"type": "object"}}
_STOP = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SETTINGS: dict[str, Any] = {
    each.name: _KINDS.get(str(each.type), _STOP) | {"description": each.metadata["help"]} for each in fields(Sampling)
}
_STREAM = {"type": "boolean", "description": "server-sent events, token by token"}
_MODEL = {"type": "string", "description": "its name; the first of the service where it is left out"}
GENERATE: dict[str, Any] = {
    "prompt": {"type": "string", "example": "The river"},
    "model": _MODEL,
    "max_length": {"type": "integer", "description": "tokens in total, the prompt's included (100)"},
    **_SETTINGS,
    "stream": _STREAM,
    "alternatives": {"type": "integer", "description": "tell so many of the likeliest tokens for each, up to 20"},
    "probabilities": {"type": "boolean", "description": "tell each token's probability"},
}
_SHARED: dict[str, Any] = {
    "model": _MODEL,
    "max_tokens": {"type": "integer", "description": _SETTINGS["max_new_tokens"]["description"]},
    "n": {"type": "integer", "description": _SETTINGS["num_return_sequences"]["description"]},
    "stream": _STREAM,
    **{name: _SETTINGS[name] for name in (
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size", "seed", "stop"
    )},
}  # fmt: skip
COMPLETION: dict[str, Any] = {
    "prompt": {"description": "a text, token ids, or a list of either", "example": "The river"},
    **_SHARED,
    "logprobs": {"type": "integer", "description": "log-probabilities of so many of the likeliest tokens, up to 20"},
    "echo": {"type": "boolean", "description": "the prompt stands before its continuation"},
}
CHAT: dict[str, Any] = {
    "messages": {
        "type": "array",
        "items": {"type": "object", "properties": {"role": {"type": "string"}, "content": {"type": "string"}}},
        "example": [{"role": "user", "content": "Hello"}],
    },
    **_SHARED,
    "logprobs": {"type": "boolean"},
    "top_logprobs": {"type": "integer"},
}
