"""Rows of serving: requests a second and the wait for the first token, beside ``transformers serve`` on loopback.

Both services run as processes of their own on the same folder of weights; the clients are coroutines in this one, all
of them streaming, every one with settings and a seed of its own. A call is a round: each client asks once, 64 new
tokens, which the folder's generation config keeps from ending early for both. Every wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from transformers import AutoConfig, GenerationConfig

from benchmarks.harness import LEAST_PAIRS, Case, Different, Goal, Settings
from curvekit.bases.hub import located
from curvekit.errors import CurvekitError

TOKENS = 64
START = 180.0  # seconds that a service may take to start
ROUND = 600.0  # and a round of its clients
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
        try:
            async with (
                asyncio.timeout(ROUND),
                httpx.AsyncClient(timeout=ROUND, limits=limits, trust_env=False) as client,
            ):
                return await asyncio.gather(*(self._ask(client, clients, number) for number in range(clients)))
        except (TimeoutError, httpx.HTTPError) as error:
            raise Different(f"{self.url} did not answer {clients} clients: {type(error).__name__} {error}") from error

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
def running(command: list[str], port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A service in a process of its own, from its first answer on: its address, and the process."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Different(f"{' '.join(command[:5])} did not start")
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def curvekit_serve(model: str, port: int) -> list[str]:
    return [sys.executable, "-m", "curvekit.cli", "serve", model, "--port", str(port)]


def transformers_serve(model: str, port: int, device: str) -> list[str]:
    start = "from transformers.cli.transformers import main; main()"
    return [sys.executable, "-c", start, "serve", model, "--port", str(port), "--device", device]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def endless(base: Path, folder: Path) -> Path:
    """The weights of a base in a folder whose generation config keeps it from ending: all write as much."""
    folder.mkdir()
    for file in base.iterdir():
        if file.is_file() and file.name != "generation_config.json":
            (folder / file.name).symlink_to(file.resolve())
    end = AutoConfig.from_pretrained(folder).eos_token_id
    ends = end if isinstance(end, list) else [end]
    GenerationConfig(eos_token_id=ends, suppress_tokens=ends).save_pretrained(folder)
    return folder


def cases(settings: Settings) -> Iterator[Case]:
    if importlib.util.find_spec("fastapi") is None:
        return
    for base in ("mini", "smollm2"):
        try:
            where = located(base)
        except CurvekitError:  # smollm2 is a package that is not installed
            continue
        with tempfile.TemporaryDirectory() as made:
            yield from _of(base, endless(Path(where), Path(made) / base), settings)


def _of(base: str, folder: Path, settings: Settings) -> Iterator[Case]:
    tokens = 8 if settings.quick else TOKENS
    ports = free_port(), free_port()
    peer = transformers_serve(str(folder), ports[1], "cuda" if settings.cuda else "cpu")
    with running(curvekit_serve(str(folder), ports[0]), ports[0]) as (here, _), running(peer, ports[1]) as (there, _):
        mine, other = Client(here, base, tokens), Client(there, str(folder), tokens)
        for clients in (1, 8) if settings.quick else (1, 8, 32):
            yield _beside(base, mine, other, clients, tokens)
        yield _alone(base, folder, mine, tokens)


def _beside(base: str, mine: Client, other: Client, clients: int, tokens: int) -> Case:
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
            ours, peer = told[f"ours_first_token_p{percent}"], told[f"peer_first_token_p{percent}"]
            told[f"first_token_p{percent}"] = ours / peer
        return told

    return Case(
        f"{base}, {clients} client{'s' * (clients > 1)}, {tokens} new tokens",
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
        at_most={"first_token_p50": 1.0, "first_token_p99": 0.8} if clients > 1 else {},
        least_pairs=LEAST_PAIRS if base == "mini" else 3,
    )


def _alone(base: str, folder: Path, mine: Client, tokens: int) -> Case:
    from curvekit.bases.opening import open_model
    from curvekit.generation.streams import generate

    model, tokenizer = open_model(folder)
    drawn = {"max_new_tokens": tokens, "temperature": 0.7, "top_p": 0.9, "seed": 0}

    def check() -> str:
        (text,) = generate(model, tokenizer, [PROMPTS[0]], **drawn)
        body = {"prompt": PROMPTS[0], **drawn}
        told = httpx.post(f"{mine.url}/generate", json=body, timeout=300, trust_env=False).json()["continuation"]
        if told != text:
            raise Different(f"over HTTP {told[:60]!r}, in process {text[:60]!r}")
        return "the same text over HTTP and in process"

    return Case(
        f"{base}, one client beside generate in process, {tokens} new tokens",
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
