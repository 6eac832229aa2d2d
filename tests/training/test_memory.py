"""What a step frees stays with the process while a training lasts, and goes back to the kernel afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curvekit.training import memory
from curvekit.training.memory import kept

resource = pytest.importorskip("resource")
SIZE = 64 << 20  # bytes of a block, as much as the logits of a step of mini


def faults(times: int = 4) -> int:
    """Page faults of so many blocks that are taken, filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(SIZE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(memory._libc() is None, reason="malloc is not glibc's")
def test_memory_is_kept_while_it_lasts_and_given_back_after():
    usual = faults()
    with kept() as done:
        assert done
        torch.ones(SIZE // 4)
        again, held = faults(), resident()
    assert usual > 1_000 and again < usual / 10, f"{again} faults in place of {usual}"
    assert resident() < held - SIZE // 2, "what is free goes back"
    assert faults() > usual / 2, "and comes anew, as before"


def test_where_it_is_not_wanted_or_not_possible_nothing_happens(monkeypatch):
    with kept(False) as done:
        assert done is False
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    with kept() as done:
        assert done is False


@pytest.mark.skipif(memory._libc() is None, reason="malloc is not glibc's")
def test_it_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), kept():
        torch.ones(SIZE // 4)
        raise ZeroDivisionError
    assert faults() > 1_000
