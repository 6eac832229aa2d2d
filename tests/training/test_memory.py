"""What a step frees stays with the process while a training lasts, and goes back to the kernel afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from curvekit.training import memory
from curvekit.training.memory import kept

# In a process of its own, whose heap nobody has cut up: page faults of training steps whose logits are large, and the
# bytes that the process holds.
MEASURED = """
import json, resource
from pathlib import Path
import torch
from curvekit.training.memory import kept

head, x, y = torch.nn.Linear(64, 8192), torch.randn(1024, 64), torch.zeros(1024, dtype=torch.long)

def faults(steps=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.nn.functional.cross_entropy(head(x), y).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

faults()
usual = faults()
with kept() as done:
    faults(12)
    again, held = faults(), resident()
after = resident()
try:
    with kept():
        faults()
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
print(json.dumps({"done": done, "usual": usual, "kept": again, "held": held, "after": after, "anew": faults()}))
"""


@pytest.mark.skipif(memory._libc() is None, reason="malloc is not glibc's")
def test_memory_is_kept_while_it_lasts_and_given_back_after():
    run = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["done"]
    if found["usual"] < 10_000:
        pytest.skip("pages are huge here: hardly a fault to be spared")
    assert found["kept"] < found["usual"] / 4
    assert found["after"] < found["held"] - (32 << 20), "what is free goes back"
    assert found["anew"] > found["kept"] + 1_000, "and comes anew, after an error too"


def test_where_it_is_not_wanted_or_not_possible_nothing_happens(monkeypatch):
    with kept(False) as done:
        assert done is False
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    with kept() as done:
        assert done is False
