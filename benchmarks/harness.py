"""How a row is measured: interleaved pairs, the ratio of their medians, peak memory, and where rows are kept.

Both sides of a pair run one after the other, in turns ours first and the peer first, so that whatever slows the
machine down meets both. A call shorter than :data:`LEAST_SECONDS` is repeated within its turn. The spread is a
bootstrap over pairs. A row's repetitions end with its time budget, but never before :data:`LEAST_PAIRS` pairs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import curvekit
from benchmarks import GROUPS
from curvekit.errors import CurvekitError, pick
from curvekit.evaluation.timing import processor
from curvekit.files import read_json, write_json
from curvekit.ownership import require_files, text_with

LEAST_PAIRS = 5
MOST_PAIRS = 60
LEAST_SECONDS = 0.05  # of a turn: shorter ones measure the clock and the scheduler
PACKAGES = ("torch", "transformers", "datasets", "tokenizers")


class Goal(NamedTuple):
    """``ratio``: of throughputs, at least; ``extra``: seconds more than the peer, at most; ``seconds``: at most."""

    kind: str
    value: float


@dataclass(frozen=True)
class Settings:
    """What a suite runs on. ``quick`` makes everything small: it shows that the suite runs, not how fast."""

    quick: bool = False
    data_dir: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What attention is measured in: the type it is trained in there."""
        return torch.bfloat16 if self.cuda else torch.float32


@dataclass
class Case:
    """A row before it is measured.

    Attributes:
        name: of the row, within its group.
        ours_is, peer_is: what the two sides are, in words.
        ours, peer: one call of each.
        check: compares what both sides compute, raises :class:`Different` or says what it found.
        work, peer_work: how many of ``unit`` one call deals with; a peer's own where it differs.
        goal: None where a row only informs.
        seconds: time budget of the pairs.
        memory: (ours, peer) in bytes, where one call in this process does not tell it.
        facts: further figures from the row, such as {"flops": floating-point operations of a call}.
        at_most: further goals, bounds of such figures by their names.
        least_pairs: however long they take.
    """

    name: str
    ours_is: str
    peer_is: str
    ours: Callable[[], Any]
    peer: Callable[[], Any]
    check: Callable[[], str]
    goal: Goal | None = None
    work: float = 1.0
    peer_work: float | None = None
    unit: str = "calls"
    seconds: float = 10.0
    memory: Callable[[], tuple[int | None, int | None]] | None = None
    facts: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {}
    at_most: Mapping[str, float] = field(default_factory=dict)
    least_pairs: int = LEAST_PAIRS


class Different(CurvekitError):
    """The two sides of a row computed different things."""


def same(ours: torch.Tensor, peer: torch.Tensor, tolerance: float, what: str) -> str:
    """Say how far apart two results are, relative to the peer's largest entry; raise if it is too far."""
    ours, peer = ours.detach(), peer.detach()
    scale = float(peer.abs().max()) or 1.0
    distance = float((ours.double() - peer.double()).abs().max()) / scale
    if not distance <= tolerance:
        raise Different(f"{what} differ by {distance:.1e} of the largest, more than {tolerance:.0e}")
    return f"{what} agree to {distance:.0e}"


def alternate(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    least_pairs: int = LEAST_PAIRS,
) -> tuple[list[float], list[float]]:
    """Seconds a call of both sides in interleaved pairs, after one call of each to warm up."""
    sides = (ours, peer)
    once = [_seconds(side, 1, clock) for side in sides]
    repeats = [1, 1]
    if min(once) < 20 * LEAST_SECONDS:  # what takes longer was called before, by the check and for its memory
        repeats = [max(1, math.ceil(LEAST_SECONDS / max(_seconds(side, 1, clock), 1e-9))) for side in sides]
    taken: tuple[list[float], list[float]] = ([], [])
    began = clock()
    while len(taken[0]) < MOST_PAIRS and (len(taken[0]) < least_pairs or clock() - began < seconds):
        for side in (0, 1) if len(taken[0]) % 2 == 0 else (1, 0):
            taken[side].append(_seconds(sides[side], repeats[side], clock))
    return taken


def _seconds(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    _wait()
    began = clock()
    for _ in range(repeats):
        call()
    _wait()
    return (clock() - began) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(ours: Sequence[float], peer: Sequence[float], work: float = 1.0) -> tuple[float, float, float]:
    """Throughput of ours over the peer's, medians of pairs, with a 95 % bootstrap interval; ``work`` ours / theirs."""
    pairs = np.array([ours, peer])  # (2, pairs)
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
    medians = np.median(pairs[:, drawn], axis=-1)  # (2, 2000)
    low, high = np.quantile(work * medians[1] / medians[0], (0.025, 0.975))
    return float(work * np.median(pairs[1]) / np.median(pairs[0])), float(low), float(high)


# -- memory --------------------------------------------------------------------------------------------------------


def peak_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that a call needs at its peak beyond what is held before it; None where the system does not tell.

    On a GPU the allocator counts them. On Linux it is the process's resident memory: free memory is given back to
    the system and the high-water mark reset before the call.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = resident()
    call()
    return resident("VmHWM") - before


def resident(field: str = "VmRSS") -> int:
    """Bytes of memory of this process (Linux): ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# -- rows ----------------------------------------------------------------------------------------------------------


def measure(case: Case, group: str, settings: Settings) -> dict[str, Any]:
    """The row of a case, ready for JSON."""
    row: dict[str, Any] = {
        "group": group,
        "name": case.name,
        "ours": case.ours_is,
        "peer": case.peer_is,
        "unit": case.unit,
        "goal": case.goal._asdict() if case.goal else None,
    }
    try:
        row |= {"agrees": True, "check": case.check()}
    except Different as error:
        row |= {"agrees": False, "check": str(error)}
    # Memory before time, but after a call of each: what is loaded on first use, and kept, is no side's own.
    if case.memory is None:
        case.ours(), case.peer()
        ours_memory, peer_memory = (peak_memory(side, settings.device) for side in (case.ours, case.peer))
    else:
        ours_memory, peer_memory = case.memory()
    ours, peer = alternate(case.ours, case.peer, 1.0 if settings.quick else case.seconds, least_pairs=case.least_pairs)
    peer_work = case.work if case.peer_work is None else case.peer_work
    value, low, high = ratio(ours, peer, case.work / peer_work)
    middle = {"ours_seconds": float(np.median(ours)), "peer_seconds": float(np.median(peer))}
    row |= middle | {
        "ratio": value,
        "low": low,
        "high": high,
        "pairs": len(ours),
        "ours_rate": case.work / middle["ours_seconds"],
        "peer_rate": peer_work / middle["peer_seconds"],
        "ours_memory": ours_memory,
        "peer_memory": peer_memory,
        "met": None,
        "quick": settings.quick,
        **described(settings),
    }
    row |= case.facts(row)
    if case.goal:
        row["met"] = {
            "ratio": row["ratio"] >= case.goal.value,
            "extra": row["ours_seconds"] - row["peer_seconds"] <= case.goal.value,
            "seconds": row["ours_seconds"] <= case.goal.value,
        }[case.goal.kind] and all(row[name] <= bound for name, bound in case.at_most.items())
    return row


def described(settings: Settings) -> dict[str, Any]:
    """Where a row was measured, and with what."""
    threads = f"{torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if settings.cuda else f"{processor()}, {threads}"
    return {
        "device": name,
        "versions": {"curvekit": curvekit.__version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
    }


def file_name(settings: Settings) -> str:
    """``cpu.json``, ``h100.json``; quick rows stand apart, so that they never take the place of full ones."""
    name = "cpu"
    if settings.cuda:
        device = torch.cuda.get_device_name().lower()
        model = re.search(r"\b[a-z]+\d+[a-z]*\b", device)  # the h100 of "nvidia h100 80gb hbm3"
        name = model[0] if model else re.sub(r"[^a-z0-9]+", "-", device).strip("-")
    return f"{name}-quick.json" if settings.quick else f"{name}.json"


def merge(path: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Put a row in the place of the one of its name, or at its group's end; the file changes whole or not at all."""
    rows = read_json(path)["rows"] if path.exists() else []
    names = [(each["group"], each["name"]) for each in rows]
    key = (row["group"], row["name"])
    if key in names:
        rows[names.index(key)] = row
    else:
        rows.append(row)
    rows.sort(key=lambda each: GROUPS.index(each["group"]))  # stable: rows keep their order within a group
    write_json(path, {"rows": rows})
    return rows


def require_rows(path: Path) -> None:
    """Return where a device's file, its page and its figures may be written.

    Raises:
        CurvekitError: one of them is another's.
    """
    from curvekit.figures.drawing import is_figure

    require_files(
        path.parent,
        {
            path.name: lambda file: all({"group", "name", "ratio"} <= row.keys() for row in read_json(file)["rows"]),
            f"{path.stem}.md": text_with(f"# Benchmarks: {path.stem}"),
            **{f"figures/{path.stem}.{kind}": is_figure for kind in ("svg", "png")},
        },
    )


def cases(group: str, settings: Settings) -> Iterator[Case]:
    """The cases of a group, one at a time: what one holds is free before the next is built."""
    return importlib.import_module(f"benchmarks.{pick(group, GROUPS, 'benchmark')}").cases(settings)


def run(groups: Sequence[str], out: Path, settings: Settings, announce: Callable[[str], object]) -> Path:
    """Measure groups row by row, and leave each in the device's file, the table and the figure as soon as it is there.

    Raises:
        CurvekitError: an unknown group; or, at the end, rows whose sides did not compute the same thing.
    """
    from benchmarks.table import line, write

    for group in groups:
        pick(group, GROUPS, "benchmark")
    path, apart = out / file_name(settings), []
    require_rows(path)
    for group in groups:
        for case in cases(group, settings):
            row = measure(case, group, settings)
            merge(path, row)
            announce(line(row))
            if not row["agrees"]:
                apart.append(f"{group}, {row['name']}: {row['check']}")
            del case
    write(path)
    if apart:
        raise CurvekitError(f"not the same was computed in {len(apart)} rows: {'; '.join(apart)}")
    return path
