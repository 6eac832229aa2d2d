"""What every request passes first: is it let in, how is it counted, and how a failure looks from outside."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curvekit.serving.answers import error_body

LOG = logging.getLogger("curvekit.serving")
OPEN = ("/", "/health", "/static/", "/docs", "/openapi.json")  # no secret is in them: the page asks for the key itself
SECURE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


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
    """Asks for the key, refuses names of hosts that are not ours, counts, and answers what failed with a sentence.

    Args:
        key: what ``Authorization: Bearer`` must hold; None lets everybody in.
        hosts: the names by which the service may be called, which keeps web pages of other names out (DNS rebinding);
            empty: any.
        routes: the paths that are counted by name.
    """

    def __init__(
        self, app: ASGIApp, counts: Counts, key: str | None, hosts: Sequence[str], routes: Iterable[str]
    ) -> None:
        self.app, self.counts, self.key, self.hosts = app, counts, key, tuple(hosts)
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
            refusal = self._refusal(path, dict(scope["headers"]))
            if refusal is not None:
                await _answer(told, *refusal)
            else:
                await self.app(scope, receive, told)
        except Exception as error:
            LOG.error("%s %s failed: %s: %s", scope["method"], route, type(error).__name__, error, exc_info=error)
            if not status:
                await _answer(told, 500, "the service failed at this request; its log says why", "server_error")
        finally:
            self.counts.requests.labels(route, str(status or 499)).inc()
            self.counts.seconds.labels(route).observe(time.perf_counter() - began)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[1] and host[2].isdigit() else "".join(host)).strip("[]").lower()
        if self.hosts and name not in self.hosts:
            return 421, f"this service answers as {' or '.join(self.hosts)} and not as {name[:100]!r}", "host_error"
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
