"""What a model costs to run: milliseconds to read a prompt and to write a token, and memory, each warm and named.

Writing is timed as the difference of two generations of one prompt, one token and ``tokens`` more, so that reading the
prompt is in neither figure; nothing ends early.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvekit.generation.streams import positions_of
from curvekit.modes import evaluating, quiet


def milliseconds(model: Any, prompt: int = 128, tokens: int = 32, repeats: int = 5) -> dict[str, float | int]:
    """Read ``prompt`` tokens, and write ``tokens`` after them with the cache, one text alone.

    Args:
        model: any that generates, on any device; prompt and tokens are cut to its positions.
        repeats: of each, interleaved; the first, cold ones come before and count nothing.

    Returns:
        ``prefill_ms`` and ``decode_ms`` (a token), medians; ``prefill_cpu_ms`` and ``decode_cpu_ms``, the same of the
        processor's time over its threads, which other work on the machine does not lengthen; ``busy``, the share of the
        time in which the process had no processor at all, 0 on a GPU; and the tokens of each, and ``threads``.
    """
    prompt = max(1, min(prompt, positions_of(model) - tokens - 1))
    device, vocabulary = next(model.parameters()).device, int(model.config.vocab_size)
    ids = torch.randint(0, vocabulary, (1, prompt), generator=torch.Generator().manual_seed(0)).to(device)
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "pad_token_id": 0}

    def seconds(new: int) -> np.ndarray:
        _wait(device)
        begun = np.array([time.perf_counter(), time.process_time()])
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, **greedy)
        _wait(device)
        return np.array([time.perf_counter(), time.process_time()]) - begun

    with evaluating(model), torch.inference_mode(), quiet():
        pairs = np.array([(seconds(1), seconds(1 + tokens)) for _ in range(repeats + 1)][1:])  # (repeats, 2, clocks)
    first, rest = np.median(pairs[:, 0], 0), np.median(pairs[:, 1] - pairs[:, 0], 0) / tokens
    wall, processor = pairs.sum((0, 1))
    threads = torch.get_num_threads()
    return {
        "prefill_ms": float(1000 * first[0]),
        "decode_ms": float(1000 * rest[0]),
        "prefill_cpu_ms": float(1000 * first[1] / threads),
        "decode_cpu_ms": float(1000 * rest[1] / threads),
        "busy": 0.0 if device.type == "cuda" else max(0.0, float(1 - processor / wall)),
        "prefill_tokens": prompt,
        "decode_tokens": tokens,
        "threads": threads,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory() -> Callable[[], float | None]:
    """Begin to watch; what it returns tells the largest rise since then, in MB; None where the system does not tell.

    On a CPU it is the process's resident memory, of which the system keeps the largest ever: watch in a process that
    has done nothing else. On a GPU it is what torch holds there.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - held) / 1e6
    begun = _resident()
    return lambda: None if begun is None or (most := _largest()) is None else max(0.0, most - begun)


def _resident() -> float | None:
    """Resident memory now, MB."""
    try:
        found = re.search(r"^VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    except OSError:
        return _largest()
    return int(found[1]) * 1024 / 1e6 if found else None


def _largest() -> float | None:
    """The largest resident memory of this process so far, MB."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def machine() -> str:
    """What was measured on: the GPU, or the processor's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def processor() -> str:
    """The processor's name (Linux), else its kind."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
