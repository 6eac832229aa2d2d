"""Several processes of one run: which one this is, what only the first does, and how all of them agree.

``torchrun`` and ``accelerate launch`` start the same command several times and tell each process its number. One
process is the case in which all of this does nothing. Processes talk in JSON and wait for each other: what fails in
one fails in all, with its sentence, and a process that is gone ends the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from curvekit.errors import CurvekitError, first_line

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # the first process may tokenise a corpus while the others wait
_GONE = ("gloo", "nccl", "connection", "closed by peer", "socket")  # what a lost process makes torch say
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class LostProcess(CurvekitError):
    """Another process of the run has ended: told by every process that is left."""


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is, in the run and on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def place() -> Place:
    """What the launcher has told this process; without one it is the only one."""
    try:
        rank, world, local, beside = (
            int(os.environ.get(name, default)) for name, default in zip(_NAMES, "0101", strict=True)
        )
    except ValueError:
        return Place()
    return Place(rank, world, local, beside) if world > 1 else Place()


@contextlib.contextmanager
def meeting() -> Iterator[Place]:
    """Meet the other processes, and for all that follows turn the loss of one into a sentence.

    Raises:
        CurvekitError: more processes than devices, or a launcher that would shard by itself.
        LostProcess: another one has ended.
    """
    here = place()
    if here.world == 1:
        yield here
        return
    import torch

    _check(here)
    if not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(here.local_rank)
        kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            torch.distributed.init_process_group(kinds, timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise CurvekitError(
                f"the {here.world} processes cannot meet ({first_line(error)}); start them with torchrun or "
                "accelerate launch, or clear WORLD_SIZE for one"
            ) from error
    with _until_ended(here), warnings.catch_warnings():
        if not here.first:
            warnings.simplefilter("ignore")
        try:
            yield here
        except CurvekitError:
            raise
        except (RuntimeError, OSError) as error:
            if not any(word in str(error).lower() for word in _GONE):
                raise
            raise _lost(here) from error


def _check(here: Place) -> None:
    import torch

    cuda = torch.cuda.is_available()
    devices, kind = (torch.cuda.device_count(), "GPUs") if cuda else (os.cpu_count() or 1, "cores")
    if here.local_world > devices:
        raise CurvekitError(
            f"the launcher started {here.local_world} processes on a machine of {devices} {kind}; "
            f"start at most {devices} there"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true") or "ACCELERATE_USE_DEEPSPEED" in os.environ:
        raise CurvekitError(
            "the launcher is told to shard the model by itself; leave --use_fsdp and --use_deepspeed out and give "
            "curvekit the setting --shard true"
        )


@contextlib.contextmanager
def _until_ended(here: Place) -> Iterator[None]:
    """A launcher that lost one process ends the others by SIGTERM; they shall say why."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ended(*_: Any) -> None:
        raise _lost(here)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lost(here: Place) -> LostProcess:
    return LostProcess(
        f"another of the {here.world} processes of this run has ended, and so it stops; "
        "give the same command again, it goes on from the last checkpoint"
    )


def leave() -> None:
    """Part from the others at the end of a command."""
    if place().world > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """What each process gave, by rank; JSON's kinds of value."""
    here = place()
    if here.world == 1:
        return [value]
    import torch
    import torch.distributed as dist

    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(here.world)]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(content)] = content
    found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(here.world)]
    dist.all_gather(found, padded)
    return [json.loads(bytes(each[: int(size)].tolist())) for each, size in zip(found, sizes, strict=True)]


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """Run a block in every process; what is refused in one is refused in all, with the same sentence."""
    if place().world == 1:
        yield
        return
    refused: CurvekitError | None = None
    try:
        yield
    except CurvekitError as error:
        refused = error
    told = gather(None if refused is None else str(refused))
    if any(told):
        raise refused or CurvekitError(next(each for each in told if each))


def by_first(work: Callable[[], T]) -> T:
    """What the first process makes of it, in all of them: JSON's kinds of value, or its refusal."""
    here = place()
    if here.world == 1:
        return work()
    told: dict[str, Any] = {}
    failure: BaseException | None = None
    if here.first:
        try:
            told["value"] = work()
        except Exception as error:
            failure = error
            told["refused"] = str(error) if isinstance(error, CurvekitError) else first_line(error)
    told = gather(told)[0]
    if failure is not None:
        raise failure
    if "refused" in told:
        raise CurvekitError(told["refused"])
    return told["value"]


def first_then_others(work: Callable[[], T]) -> T:
    """Run something in the first process, then, with what it left on the disk, in the others."""
    here = place()
    if here.world == 1:
        return work()
    made: list[T] = []
    with in_step():
        if here.first:
            made.append(work())
    with in_step():
        if not here.first:
            made.append(work())
    return made[0]


def agree(value: Any, what: str) -> None:
    """Return if every process has the same value.

    Raises:
        CurvekitError: they do not, in all of them.
    """
    values = gather(value)
    if other := next((rank for rank, each in enumerate(values) if each != values[0]), None):
        raise CurvekitError(
            f"the processes see different {what} (process 0 has {_short(values[0])}, process {other} "
            f"{_short(values[other])}); give all machines the same files"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def share_of_batch(batch_size: int, accumulate: int, world: int) -> tuple[int, int]:
    """Blocks in a batch of one process, and how many such batches make a step: together the same step as one process.

    Raises:
        CurvekitError: the blocks of a step cannot be dealt out evenly.
    """
    if batch_size % world == 0:
        return batch_size // world, accumulate
    if accumulate % world == 0:
        return batch_size, accumulate // world
    fitting = [n for n in range(1, 65) if batch_size % n == 0 or accumulate % n == 0]
    raise CurvekitError(
        f"{world} processes cannot share the {accumulate} x {batch_size} blocks of a step evenly; "
        f"start {', '.join(map(str, fitting))}, or give another batch_size or accumulate"
    )
