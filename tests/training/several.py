"""Several processes of one command over gloo, as a launcher would start them, forked from one that has torch loaded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["curvekit.training.trainer", "curvekit.cli.frame"])


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _one(environ: dict[str, str], arguments: list[str], out: Path) -> None:
    os.environ.update(environ)
    with out.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        import torch

        from curvekit.cli import main

        torch.set_num_threads(1)
        sys.exit(main(arguments))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder: Path, arguments: list[list[str]]) -> list:
    """A process for each list of arguments; what it says goes to ``rank0.txt`` and so on in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    port, started = free_port(), []
    for rank, each in enumerate(arguments):
        given = (environment(rank, len(arguments), port), each, folder / f"rank{rank}.txt")
        started.append(CONTEXT.Process(target=_one, args=given))
        started[-1].start()
    return started


def launch(folder: Path, arguments: list[list[str]], seconds: float = 300) -> tuple[list[int | None], list[str]]:
    """Run to the end; exit codes and what each process said."""
    started = start(folder, arguments)
    until = time.monotonic() + seconds
    for each in started:
        each.join(max(0.1, until - time.monotonic()))
        if each.is_alive():
            each.kill()
            each.join()
    return [each.exitcode for each in started], [(folder / f"rank{i}.txt").read_text() for i in range(len(started))]
