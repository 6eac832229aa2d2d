"""Rows of the start: what importing curvekit and asking its command for help cost beside `import torch`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import Case, Different, Goal, Settings


def cases(settings: Settings) -> Iterator[Case]:
    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)

    def check() -> str:
        shown = python("-c", "import curvekit, sys; print('torch' in sys.modules, curvekit.SoftEMax.__name__)").stdout
        if shown.split() != ["False", "SoftEMax"]:
            raise Different(f"import curvekit printed {shown.strip()!r}, not 'False SoftEMax'")
        return "the names are there; torch loads with the first that needs it"

    def helps() -> str:
        if "COMMAND" not in python("-m", "curvekit.cli", "--help").stdout:
            raise Different("curvekit --help does not explain itself")
        return "the help is printed; the peer only shows the scale"

    # The memory of another process is not this one's to tell.
    def unknown() -> tuple[None, None]:
        return None, None

    yield Case(
        "import curvekit",
        "`import curvekit`, which loads torch on first use",
        "`import torch`",
        lambda: python("-c", "import curvekit"),
        lambda: python("-c", "import torch"),
        check,
        Goal("extra", 0.3),
        memory=unknown,
    )
    yield Case(
        "import torch, curvekit.attention",
        "`import torch, curvekit.attention`: SoftEMax ready for transformers",
        "`import torch, transformers`, with its attention interface loaded",
        lambda: python("-c", "import torch, curvekit.attention"),
        lambda: python("-c", "import torch; from transformers import AttentionInterface, AttentionMaskInterface"),
        check,
        Goal("extra", 0.3),
        memory=unknown,
    )
    yield Case(
        "curvekit --help",
        "`curvekit --help`",
        "`import torch`",
        lambda: python("-m", "curvekit.cli", "--help"),
        lambda: python("-c", "import torch"),
        helps,
        Goal("seconds", 1.0),
        memory=unknown,
    )
