"""``python -m benchmarks.soak``: a service under load for a while, whose memory may not grow and which may not err.

Its memory is the median of each minute, so that one long prompt is no growth and a leak is.

The service runs in a process of its own; the clients, coroutines in this one, ask in every dialect, whole and as
streams, some leave in the middle, and some ask for what is refused. It ends by itself: exit status 0 if there was no
error and the service's memory grew by less than :data:`GROWTH` after its first minute, 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import PROMPTS, curvekit_serve, free_port, running

GROWTH = 50e6  # bytes
WARM = 60.0  # seconds after which memory may not grow
EVERY = 1.0  # seconds between two looks at it


class Load:
    """Clients that ask until a moment; what became of their requests, and the errors among it."""

    def __init__(self, url: str, model: str, until: float) -> None:
        self.url, self.model, self.until = url, model, until
        self.told: Counter[str] = Counter()
        self.errors: list[str] = []
        self.tokens = 0

    async def clients(self, count: int) -> None:
        limits = httpx.Limits(max_connections=2 * count)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._client(client, number) for number in range(count)))

    async def _client(self, client: httpx.AsyncClient, number: int) -> None:
        dice = random.Random(number)
        ways = (self._whole, self._whole, self._stream, self._stream, self._several, self._leave, self._refused)
        for turn in itertools.count():
            if time.monotonic() > self.until:
                return
            body = {
                "prompt": dice.choice(PROMPTS) * dice.randint(1, 8), "seed": turn, "stop": ["\n\n"] * (turn % 2),
                "temperature": round(dice.uniform(0.2, 1.5), 3), "top_p": round(dice.uniform(0.5, 1), 3),
            }  # fmt: skip
            way = dice.choice(ways)
            try:
                await way(client, body, dice)
                self.told[way.__name__.strip("_")] += 1
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                self.errors.append(f"{way.__name__.strip('_')}: {type(error).__name__}: {error}"[:300])

    async def _whole(self, client: httpx.AsyncClient, body: dict[str, Any], dice: random.Random) -> None:
        answer = await client.post("/generate", json=body | {"max_new_tokens": dice.randint(1, 64)})
        assert answer.status_code == 200, answer.text
        self.tokens += answer.json()["tokens"]

    async def _stream(self, client: httpx.AsyncClient, body: dict[str, Any], dice: random.Random) -> None:
        body |= {"max_tokens": dice.randint(1, 64), "stream": True, "logprobs": 2}
        body["stream_options"] = {"include_usage": True}
        last = ""
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                assert not line.startswith("event: error"), line
                if line.startswith("data: {"):
                    last = line
        self.tokens += json.loads(last[6:])["usage"]["completion_tokens"]

    async def _several(self, client: httpx.AsyncClient, body: dict[str, Any], dice: random.Random) -> None:
        answer = await client.post("/generate", json=body | {"n": 3, "max_new_tokens": 16, "alternatives": 3})
        assert answer.status_code == 200, answer.text
        self.tokens += sum(each["tokens"] for each in answer.json()["continuations"])

    async def _leave(self, client: httpx.AsyncClient, body: dict[str, Any], dice: random.Random) -> None:
        async with client.stream("POST", "/generate", json=body | {"max_new_tokens": 200, "stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith("data: ") and dice.random() < 0.2:
                    return

    async def _refused(self, client: httpx.AsyncClient, body: dict[str, Any], dice: random.Random) -> None:
        wrong = dice.choice([{"temperature": -1}, {"prompt": 5}, {"model": "none"}, {"unknown": 1}])
        answer = await client.post("/generate", json=body | wrong)
        assert 400 <= answer.status_code < 500, answer.text


def resident(process: int) -> int:
    """Bytes of memory of a process (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def levels_of(sizes: Sequence[tuple[float, int]], warm: float) -> list[float]:
    """The median of each stretch of ``warm`` seconds; one that lasted less than half of it is left out."""
    stretches: dict[int, list[int]] = {}
    for when, size in sizes:
        stretches.setdefault(int(when // warm), []).append(size)
    whole = [each for each in stretches.values() if len(each) > len(stretches[0]) / 2]
    return [float(np.median(each)) for each in whole]


def soak(model: str, seconds: float, clients: int, warm: float = WARM) -> dict[str, Any]:
    """Load a service for so long; what happened, and how far its memory grew after ``warm`` seconds."""
    warm = min(warm, seconds / 2)
    port = free_port()
    with running(curvekit_serve(model, port), port) as (url, process):
        began = time.monotonic()
        load = Load(url, model, began + seconds)
        sizes: list[tuple[float, int]] = []

        async def watch() -> None:
            while time.monotonic() < load.until:
                sizes.append((time.monotonic() - began, resident(process.pid)))
                await asyncio.sleep(EVERY)

        async def both() -> None:
            async with asyncio.timeout(seconds + 120):  # the last requests end within their own bounds
                await asyncio.gather(load.clients(clients), watch())

        asyncio.run(both())
        after = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
        sizes.append((time.monotonic() - began, resident(process.pid)))
    failed = [
        line for line in after.splitlines() if line.startswith("curvekit_requests_total{") and 'status="5' in line
    ]
    levels = levels_of(sizes, warm)
    growth = max(levels[1:]) - levels[1]
    return {
        "model": model, "seconds": round(sizes[-1][0], 1), "clients": clients, "requests": sum(load.told.values()),
        "told": dict(load.told), "tokens": load.tokens, "tokens_a_second": round(load.tokens / sizes[-1][0], 1),
        "warm_seconds": warm, "growth_megabytes": round(growth / 1e6, 1),
        "megabytes": [round(level / 1e6, 1) for level in levels],
        "highest_megabytes": round(max(size for _, size in sizes) / 1e6, 1),
        "errors": len(load.errors), "first_errors": load.errors[:5],
        "status_5xx": failed, "passed": not load.errors and not failed and growth < GROWTH,
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=16)
    given = parser.parse_args(words)
    told = soak(given.model, given.seconds, given.clients)
    print(json.dumps(told, indent=1))
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
