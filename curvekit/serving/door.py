"""What every request passes first: is it let in, how is it counted, and how a failure looks from outside."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curvekit.serving.answers import error_body

LOG = logging.getLogger("curvekit.serving")
REQUESTS = logging.getLogger("curvekit.requests")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
HEAD = 16_384  # bytes of a request's path and headers
OPEN = ("/", "/health", "/static/", "/docs", "/openapi.json")  # no secret is in them: the page asks for the key itself
SECURE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def called(headers: Mapping[bytes, bytes]) -> str:
    """The host by whose name a request calls."""
    host, colon, port = headers.get(b"host", b"").decode("latin-1").rpartition(":")
    return (host if colon and port.isdigit() else f"{host}{colon}{port}").strip("[]").lower()


class Names:
    """Lets through what calls by one of these names; no names: everything.

    A web page of another name, which its owner points at this machine, is kept out (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.hosts and (name := called(dict(scope["headers"]))) not in self.hosts:
            told = f"this service answers as {' or '.join(self.hosts)} and not as {name[:100]!r}"
            await _answer(send, 421, told, "host_error")
            return
        await self.app(scope, receive, send)


class Bounded:
    """Lets through bodies of at most so many bytes, for applications that read a body whatever its size."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            told = headers.get(b"content-length", b"0")
            if b"transfer-encoding" in headers:
                await _answer(send, 411, "say in a header how long the body is: Content-Length", "head_error")
                return
            if not told.isdigit() or int(told[:20]) > self.most:
                await _answer(send, 413, f"the body is larger than {self.most} bytes; send less", "body_error")
                return
        await self.app(scope, receive, send)


class Counts:
    """The service's figures for Prometheus, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("curvekit_requests", "Requests answered", ["route", "status"], **own)
        self.seconds = Histogram("curvekit_request_seconds", "Until the answer's last byte", ["route"], **own)
        self.first = Histogram("curvekit_first_token_seconds", "Until a continuation's first token", ["model"], **own)
        self.prompt = Counter("curvekit_prompt_tokens", "Tokens of prompts read", ["model"], **own)
        self.written = Counter("curvekit_generated_tokens", "Tokens written", ["model"], **own)
        self.left = Counter("curvekit_clients_left", "Clients that left before their answer", **own)
        self.running = Gauge("curvekit_running", "Continuations being written", ["model"], **own)
        self.waiting = Gauge("curvekit_waiting", "Continuations that wait", ["model"], **own)


class Door:
    """Asks for the key, counts, and answers what failed with a sentence.

    Args:
        key: what ``Authorization: Bearer`` must hold; None lets everybody in.
        routes: the paths that are counted by name.
        log: log a line for each request, which holds nothing that the client wrote: no other path, no query, no body.
    """

    def __init__(self, app: ASGIApp, counts: Counts, key: str | None, routes: Iterable[str], log: bool) -> None:
        self.app, self.counts, self.key, self.log = app, counts, key, log
        self.routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        route = path if path in self.routes else "other"
        began, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _answer(told, *refusal)
            else:
                await self.app(scope, receive, told)
        except Exception as error:
            LOG.error("%s %s failed: %s: %s", scope["method"], route, type(error).__name__, error, exc_info=error)
            if not status:
                await _answer(told, 500, "the service failed at this request; its log says why", "server_error")
        finally:
            seconds, told_status = time.perf_counter() - began, status or 499
            self.counts.requests.labels(route, str(told_status)).inc()
            self.counts.seconds.labels(route).observe(seconds)
            if self.log:
                method = scope["method"] if scope["method"] in METHODS else "?"
                stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
                REQUESTS.info("%s %s %s %d %.3f s", stamp, method, route, told_status, seconds)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        path, headers = scope["path"], dict(scope["headers"])
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(path) > HEAD:
            return 431, f"the request's head is larger than {HEAD} bytes; send fewer or shorter headers", "head_error"
        opens = any(path == each or (each.endswith("/") and each != "/" and path.startswith(each)) for each in OPEN)
        if self.key is None or opens:
            return None
        given = headers.get(b"authorization", b"").decode("latin-1")
        kind, _, key = given.partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.key.encode()):
            return None
        return 401, "give the service's key in a header: Authorization: Bearer KEY", "authentication_error"


async def _answer(send: Callable[[Message], Any], status: int, message: str, kind: str) -> None:
    body = json.dumps(error_body(message, kind)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
