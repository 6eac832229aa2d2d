"""What the tests of the commands share: flags of a tiny run, and two runs that the command made."""

from __future__ import annotations

from pathlib import Path

import pytest

from curvekit.cli import main

SHORT = ("--block-size", "32", "--batch-size", "2", "--eval-every", "2", "--save-every", "2", "--sample-prompts", "2",
         "--prompt-tokens", "4", "--sample-tokens", "4", "--keep-tokens", "1", "--precision", "float32")  # fmt: skip


@pytest.fixture(scope="session")
def run_flags(tiny_base, tiny_corpus):
    """The flags of a short run on the tiny base and corpus."""

    def flags(steps: int = 2) -> list[str]:
        return ["--base", str(tiny_base), "--corpus", str(tiny_corpus), "--steps", str(steps), *SHORT]

    return flags


@pytest.fixture(scope="session")
def trained(run_flags, tmp_path_factory) -> dict[str, Path]:
    """Two finished runs, made by the command itself; read them, do not write there."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("gpt2", "softemax"):
        assert main(["train", "--recipe", recipe, "--out", str(folder / recipe), *run_flags()]) == 0
    return {recipe: folder / recipe for recipe in ("gpt2", "softemax")}
