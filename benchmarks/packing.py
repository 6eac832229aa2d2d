"""Rows of packing: documents to blocks of tokens, beside `datasets.map` with the usual group_texts."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Different, Goal, Settings, peak_memory
from benchmarks.texts import beginning, tokenizer
from curvekit.text.packing import pack

BLOCK = 512


def usual(texts: list[str], words: Any) -> Any:
    """Tokenise with one map, join and cut a thousand documents at a time with another."""
    import datasets

    def tokenise(batch: dict[str, list]) -> dict[str, list]:
        return words([words.eos_token + text for text in batch["text"]], verbose=False)

    def group_texts(batch: dict[str, list]) -> dict[str, list]:
        joined = {name: list(itertools.chain(*rows)) for name, rows in batch.items()}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        blocks = {name: [row[i : i + BLOCK] for i in range(0, length, BLOCK)] for name, row in joined.items()}
        return blocks | {"labels": [list(block) for block in blocks["input_ids"]]}

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": texts})
    with tempfile.TemporaryDirectory() as folder:  # a file of its own each time, or the second call is a look-up
        rows = rows.map(
            tokenise, batched=True, remove_columns=["text"], cache_file_name=f"{folder}/tokens.arrow",
            load_from_cache_file=False,
        )  # fmt: skip
        return rows.map(group_texts, batched=True, cache_file_name=f"{folder}/blocks.arrow", load_from_cache_file=False)


def documents(settings: Settings, megabytes: float) -> list[str]:
    """So many megabytes of text, in documents of 4,000 characters."""
    text = beginning(settings, "train", int(megabytes * 1e6))
    return [text[i : i + 4000] for i in range(0, len(text), 4000)]


def cases(settings: Settings) -> Iterator[Case]:
    words = tokenizer()
    size = 0.2 if settings.quick else 10.0
    texts = documents(settings, size)
    blocks = pack(texts, words, BLOCK, progress=False)

    def own() -> Any:
        return pack(texts, words, BLOCK, progress=False)

    def check() -> str:
        theirs = usual(texts, words)
        first = theirs[0]["input_ids"]
        if blocks[0]["input_ids"].tolist() != first:
            raise Different("the first blocks differ")
        lost = len(blocks) - len(theirs)
        return f"the first blocks are equal; theirs loses {lost} of {len(blocks)} blocks at the ends of its batches"

    yield Case(
        f"{size:g} MB of text",
        "pack",
        "datasets.map with group_texts",
        own,
        lambda: usual(texts, words),
        check,
        Goal("ratio", 3.0),
        work=blocks.tokens,
        unit="tokens",
        seconds=20.0,
        memory=lambda: (_apart("ours", size, settings), _apart("peer", size, settings)),
        facts=lambda row: _growth(row, settings, size),
    )


def _growth(row: dict[str, Any], settings: Settings, size: float) -> dict[str, Any]:
    """Memory of a corpus twenty times as large, which is to be the same."""
    large = 20 * size
    memory = _apart("ours", large, settings)
    said = f"peak memory of pack is {row['ours_memory'] / 2**20:.0f} MiB at {size:g} MB of text and "
    return {"large_memory": memory, "notes": [f"{said}{(memory or 0) / 2**20:.0f} MiB at {large:g} MB"]}


def _apart(side: str, megabytes: float, settings: Settings) -> int | None:
    """Peak memory of one side in a process of its own: what one leaves behind would hide what the other needs."""
    command = [sys.executable, "-m", "benchmarks.packing", side, str(megabytes), settings.data_dir or ""]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    return int(done.stdout.splitlines()[-1]) or None


if __name__ == "__main__":
    import torch

    here = Settings(data_dir=sys.argv[3] or None, device=torch.device("cpu"))
    words, texts = tokenizer(), documents(here, float(sys.argv[2]))
    pack(texts[:10], words, 2, progress=False)  # what is loaded on first use is not the corpus's
    call = (
        (lambda: pack(texts, words, BLOCK, progress=False)) if sys.argv[1] == "ours" else (lambda: usual(texts, words))
    )
    print(peak_memory(call, here.device) or 0)
