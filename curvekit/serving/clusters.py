"""The same application on many machines with Ray Serve: replicas that write, and a front that tries again.

A continuation follows from its prompt, settings and seed alone. So the front gives every request a seed, and where a
replica dies under one, asks another replica for the same text. A stream of which a part has been sent already is not
begun anew: it ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.serving.answers import error_body, event
from curvekit.serving.orders import Limits, Refused, parse
from curvekit.serving.running import address, extra, gathered, listening, names_of

with extra("ray"):
    import ray
    from ray import serve
    from ray.exceptions import RayError

ATTEMPTS = 5
KEPT = (b"content-type", b"authorization", b"host", b"content-length")


class Writer:
    """A replica: the models, and the whole application over them, called without a network."""

    def __init__(self, models: Sequence[str], limits: Limits, key: str | None, hosts: Sequence[str]) -> None:
        from curvekit.serving.service import application

        self.app = application(gathered(models), limits=limits, key=key, hosts=hosts)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[tuple[int, list, bytes]]:
        """The status and headers of the answer, then its body as it comes."""
        told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        gone = asyncio.Event()
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def work() -> None:
            try:
                whole = scope | {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
                await self.app(whole, receive, told.put)  # type: ignore[arg-type]
            finally:
                await told.put(None)

        doing = asyncio.create_task(work())
        try:
            while (message := await told.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], list(message.get("headers", [])), b""
                elif message.get("body"):
                    yield 0, [], message["body"]
            await doing
        finally:
            gone.set()
            doing.cancel()


class Front:
    """An ASGI application that hands each request to a replica, and to another one if that dies."""

    def __init__(self, writers: Any, limits: Limits) -> None:
        self.writers, self.limits = writers, limits

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await asyncio.wait_for(self._body(receive), self.limits.body_seconds)
        except (Refused, TimeoutError) as error:
            refused = error if isinstance(error, Refused) else Refused("the body did not come in time", 408)
            await self._say(send, refused.status, str(refused))
            return
        body, streams = seeded(body) if scope["method"] == "POST" else (body, False)
        kept = [(name, value) for name, value in scope["headers"] if name in KEPT and name != b"content-length"]
        kept.append((b"content-length", str(len(body)).encode()))
        asked = {name: scope[name] for name in ("method", "path", "raw_path", "query_string", "http_version", "scheme")}
        asked |= {"headers": kept, "root_path": "", "client": None, "server": None}
        for attempt in range(ATTEMPTS):
            started = False
            whole: list[bytes] = []
            try:
                head: tuple[int, list] | None = None
                async for status, headers, chunk in self.writers.answer.remote(asked, body):
                    if status:
                        head = status, headers
                        continue
                    if streams and head is not None:
                        if not started:
                            await send({"type": "http.response.start", "status": head[0], "headers": head[1]})
                            started = True
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    else:
                        whole.append(chunk)
                if not started and head is not None:
                    await send({"type": "http.response.start", "status": head[0], "headers": head[1]})
                await send({"type": "http.response.body", "body": b"".join(whole)})
                return
            except RayError:
                if started:  # another replica would cut the stream elsewhere
                    told = event(
                        error_body("the replica that wrote this died; ask again with the same seed", "server_error"),
                        "error",
                    )
                    await send({"type": "http.response.body", "body": told})
                    return
                await asyncio.sleep(0.2 * (attempt + 1))
        await self._say(send, 503, "no replica answered; ask again later")

    async def _body(self, receive: Callable) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("the client left")
            body += message.get("body", b"")
            if len(body) > self.limits.body:
                raise Refused(f"the body is larger than {self.limits.body} bytes; send less", 413)
            if not message.get("more_body"):
                return bytes(body)

    async def _say(self, send: Callable, status: int, message: str) -> None:
        body = json.dumps(error_body(message)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Gate:
    """What Ray Serve's proxy calls: the front, with its handle of the replicas."""

    def __init__(self, writers: Any, limits: Limits) -> None:
        self._front = Front(writers.options(stream=True), limits)

    def __serve_build_asgi_app__(self) -> Any:
        return self._front


def seeded(body: bytes) -> tuple[bytes, bool]:
    """The body with a seed, so that a second attempt writes the same text; and whether it asks for a stream.

    What is no proper request is left as it is, for the application to refuse.
    """
    try:
        asked = parse(body)
    except Refused:
        return body, False
    if not {"prompt", "messages"} & asked.keys():
        return body, False
    asked.setdefault("seed", random.SystemRandom().getrandbits(32))
    return json.dumps(asked).encode(), asked.get("stream") is True


def deployed(
    models: Sequence[str],
    limits: Limits | None = None,
    key: str | None = None,
    *,
    replicas: int = 1,
    most_replicas: int | None = None,
    options: Mapping[str, Any] | None = None,
    hosts: Sequence[str] = (),
) -> Any:
    """The service as a Ray Serve application, for ``serve.run`` or ``serve deploy``.

    Args:
        models: names or folders, which every machine of the cluster must know.
        replicas, most_replicas: copies of the models at least and at most; between them the load decides.
        options: Ray's for a replica, such as ``{"num_gpus": 1}``.
        hosts: see :class:`curvekit.serving.door.Names`.
    """
    limits = limits or Limits()
    rows = limits.batch
    scale: dict[str, Any] = {"num_replicas": replicas}
    if most_replicas and most_replicas > replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": replicas, "max_replicas": most_replicas, "target_ongoing_requests": rows,
            }
        }  # fmt: skip
    writer = serve.deployment(
        name="writer", max_ongoing_requests=rows + limits.waiting, ray_actor_options=dict(options or {}),
        graceful_shutdown_timeout_s=limits.seconds, **scale,
    )(Writer)  # fmt: skip
    front = serve.deployment(
        name="front", num_replicas=1, max_ongoing_requests=4 * rows + limits.waiting, ray_actor_options={"num_cpus": 0}
    )(serve.ingress()(Gate))
    return front.bind(writer.bind(list(models), limits, key, hosts), limits)


def deploy(
    models: Sequence[str],
    host: str,
    port: int,
    announce: Callable[[str, Iterable[str]], object],
    *,
    limits: Limits,
    key: str | None = None,
    replicas: int = 1,
    most_replicas: int | None = None,
) -> None:
    """Deploy on the cluster that ``RAY_ADDRESS`` names, or on a Ray of this machine, until SIGTERM or Ctrl-C.

    Raises:
        CurvekitError: a model cannot be had, the port is taken, or Ray does not start.
    """
    names = list(gathered(models))  # here and at once, rather than again and again in replicas that cannot start
    bound = listening(host, port)
    url, port = address(bound), bound.getsockname()[1]
    bound.close()  # Ray's proxies bind by number
    cluster = os.environ.get("RAY_ADDRESS")
    cpus = max(os.cpu_count() or 1, most_replicas or replicas)
    own: dict[str, Any] = {} if cluster else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
        app = deployed(models, limits, key, replicas=replicas, most_replicas=most_replicas, hosts=names_of(host))
        serve.run(app, name="curvekit", blocking=False)
    except Exception as error:  # Ray raises many kinds, a bare Exception among them
        ray.shutdown()
        raise CurvekitError(f"Ray does not serve this ({first_line(error)}); look at `ray status`") from error
    announce(url, names)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()  # what was begun is written to its end
        ray.shutdown()
