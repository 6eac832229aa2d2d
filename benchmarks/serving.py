"""Rows of serving: requests a second and the wait for the first token, beside ``transformers serve`` on loopback.

Both services run as processes of their own on the same model; the clients are coroutines in this one, all of them
streaming, every one with settings and a seed of its own. A call is a round: each client asks once, 64 new tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np

import curvekit
from benchmarks.harness import Case, Different, Goal, Settings

TOKENS = 64
PROMPTS = ("The river", "A bank is a place for", "In the spring of", "She read the letter twice before she")


class Client:
    """Rounds of requests to one service, and how long each client waited for its first token."""

    def __init__(self, url: str, model: str, tokens: int) -> None:
        self.url, self.model, self.tokens = url, model, tokens
        self.waits: dict[int, list[float]] = {}

    def round(self, clients: int) -> list[int]:
        """Let every client ask once; how many tokens each got."""
        return asyncio.run(self._round(clients))

    async def _round(self, clients: int) -> list[int]:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(timeout=300, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(self._ask(client, clients, number) for number in range(clients)))

    async def _ask(self, client: httpx.AsyncClient, clients: int, number: int) -> int:
        body = {
            "model": self.model, "prompt": PROMPTS[number % 4], "max_tokens": self.tokens, "stream": True, "top_p": 0.9,
            "temperature": 0.7 + number / 100, "seed": number, "stream_options": {"include_usage": True},
        }  # fmt: skip
        began, first, tokens = time.perf_counter(), None, 0
        async with client.stream("POST", f"{self.url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise Different(f"{self.url} answered {response.status_code}: {(await response.aread())[:300]!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                if first is None and any(choice.get("text") for choice in told.get("choices", ())):
                    first = time.perf_counter() - began
                tokens = (told.get("usage") or {}).get("completion_tokens", tokens)
        self.waits.setdefault(clients, []).append(time.perf_counter() - began if first is None else first)
        return tokens

    def waited(self, clients: int, percent: float) -> float:
        return float(np.percentile(self.waits[clients], percent))


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """A service in a process of its own, from its first answer on."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Different(f"{' '.join(command[:4])} did not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def cases(settings: Settings) -> Iterator[Case]:
    if importlib.util.find_spec("fastapi") is None:
        return
    folder = str(importlib.resources.files(curvekit) / "assets" / "mini")
    tokens = 8 if settings.quick else TOKENS
    ports = free_port(), free_port()
    ours = [sys.executable, "-m", "curvekit.cli", "serve", "mini", "--port", str(ports[0])]
    serve = "from transformers.cli.transformers import main; main()"
    peer = [sys.executable, "-c", serve, "serve", folder, "--port", str(ports[1]), "--device",
            "cuda" if settings.cuda else "cpu"]  # fmt: skip
    with running(ours, ports[0]) as here, running(peer, ports[1]) as there:
        mine, other = Client(here, "mini", tokens), Client(there, folder, tokens)
        for clients in (1, 8) if settings.quick else (1, 8, 32):
            yield _beside(mine, other, clients, tokens)
        yield _alone(mine, tokens)


def _beside(mine: Client, other: Client, clients: int, tokens: int) -> Case:
    def check() -> str:
        for side in (mine, other):
            got = side.round(clients)
            if got != [tokens] * clients:
                raise Different(f"{side.url} wrote {got} tokens, not {tokens} to each of {clients} clients")
        mine.waits.clear(), other.waits.clear()
        return f"each client got {tokens} tokens from both"

    def facts(row: dict[str, Any]) -> dict[str, Any]:
        told = {}
        for percent in (50, 99):
            told[f"ours_first_token_p{percent}"] = mine.waited(clients, percent)
            told[f"peer_first_token_p{percent}"] = other.waited(clients, percent)
        return told

    return Case(
        f"mini, {clients} client{'s' * (clients > 1)}, {tokens} new tokens",
        "`curvekit serve`",
        "`transformers serve`",
        lambda: mine.round(clients),
        lambda: other.round(clients),
        check,
        Goal("ratio", 1.5) if clients > 1 else None,
        work=clients,
        unit="requests",
        seconds=20.0,
        memory=lambda: (None, None),
        facts=facts,
    )


def _alone(mine: Client, tokens: int) -> Case:
    from curvekit.bases.opening import open_model
    from curvekit.generation.streams import generate

    model, tokenizer = open_model("mini")
    drawn = {"max_new_tokens": tokens, "temperature": 0.7, "top_p": 0.9, "seed": 0}

    def check() -> str:
        (text,) = generate(model, tokenizer, [PROMPTS[0]], **drawn)
        body = {"prompt": PROMPTS[0], **drawn}
        told = httpx.post(f"{mine.url}/generate", json=body, timeout=300, trust_env=False).json()["continuation"]
        if told != text:
            raise Different(f"over HTTP {told[:60]!r}, in process {text[:60]!r}")
        return "the same text over HTTP and in process"

    return Case(
        f"mini, one client beside generate in process, {tokens} new tokens",
        "`curvekit serve`",
        "`generate`",
        lambda: mine.round(1),
        lambda: generate(model, tokenizer, [PROMPTS[0]], **drawn),
        check,
        Goal("ratio", 0.9),
        work=tokens,
        unit="tokens",
        seconds=15.0,
        memory=lambda: (None, None),
    )
