"""Several processes against one: preparing a corpus with two workers, and training in two processes of one thread each.

    python -m benchmarks.several prepare TEXT 1000     a gigabyte, made by repeating TEXT with edits
    python -m benchmarks.several train

Pairs are interleaved, and what counts is the ratio of medians; on a machine with other work it compares little. It is
printed, kept in ``reports/benchmarks/several``, and ``python -m benchmarks.scale docs/scale.md`` shows it there.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curvekit.evaluation.results import markdown_table
from curvekit.files import read_json, write_json

PAIRS = 3
KEPT = Path(__file__).parents[1] / "reports" / "benchmarks" / "several" / "results.json"


def repeated(text: str, megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of some 4,000 characters: the text again and again, a twentieth of the words of each swapped."""
    draw, left = random.Random(seed), megabytes * 1e6
    pieces = [text[i : i + 4000].split() for i in range(0, len(text), 4000)]
    while left > 0:
        for piece in pieces:
            words = list(piece)
            for _ in range(len(words) // 20):
                words[draw.randrange(len(words))] = draw.choice(words)
            line = " ".join(words)
            yield line
            left -= len(line.encode()) + 1
            if left <= 0:
                return


class Watched:
    """The largest anonymous memory that this process and each of its children had, sampled."""

    def __enter__(self) -> Watched:
        self.largest: dict[int, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _sample(self) -> None:
        own = os.getpid()
        while not self.over.wait(0.05):
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            for pid in (own, *map(int, children)):
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except OSError:
                    continue
                size = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
                self.largest[pid] = max(self.largest.get(pid, 0), size * 1024)


def prepare_rows(text: Path, megabytes: float) -> dict[str, Any]:
    """Seconds and memory of one worker and of two."""
    from curvekit.bases.tokenizer import base_tokenizer
    from curvekit.text.corpora import load_corpus
    from curvekit.text.shards import prepare

    source = text.read_text(encoding="utf-8")
    tokenizer = base_tokenizer("mini")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        with (folder / "train.txt").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in repeated(source, megabytes))
        for split in ("validation", "test"):
            (folder / f"{split}.txt").write_text("\n".join(repeated(source, 0.05, seed=1)) + "\n", encoding="utf-8")
        corpus = load_corpus(folder, document="line", announce=lambda _: None)
        times: dict[int, list[float]] = {1: [], 2: []}
        largest = 0.0
        for pair in range(PAIRS):
            for workers in ((1, 2), (2, 1))[pair % 2]:
                before = _anonymous()
                with Watched() as memory:
                    began = time.perf_counter()
                    index = prepare(
                        corpus, "repeated", tokenizer, folder / f"{pair}-{workers}", workers, announce=lambda _: None
                    )
                    times[workers].append(time.perf_counter() - began)
                peak = max(memory.largest.values()) / 2**20
                largest = max(largest, peak - before / 2**20)
                print(
                    f"{workers} workers: {times[workers][-1]:.1f} s, {index['tokens']:,} tokens, at most {peak:.0f} "
                    f"MiB a process, {peak - before / 2**20:.0f} beyond imports",
                    flush=True,
                )
        one, two = (statistics.median(times[workers]) for workers in (1, 2))
        return {
            "what": f"`curvekit prepare` of {megabytes:,.0f} MB, two workers against one",
            "one": f"{one:.1f} s",
            "two": f"{two:.1f} s",
            "ratio": one / two,
            "goal": 1.8,
            "memory": f"at most {largest:.0f} MiB a process beyond imports",
        }


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def train_rows() -> dict[str, Any]:
    """Tokens a second of one process with two threads and of two with one."""
    from curvekit.training.runs import load_run

    words: list[str] = ["-m", "curvekit", "train", "--recipe", "curve", "--steps", "30", "--eval-every", "30"]
    words += ["--sample-prompts", "0", "--eval-documents", "1", "--validation-documents", "1", "--precision", "float32"]
    ways: dict[str, tuple[list[str], str]] = {
        "one process, two threads": ([sys.executable], "2"),
        "two processes, one thread": (
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
            "1",
        ),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        for pair in range(PAIRS):
            for way in (list(ways), list(ways)[::-1])[pair % 2]:
                program, threads = ways[way]
                out = Path(name) / f"{pair}-{threads}"
                environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": threads}
                subprocess.run(
                    [*program, *words, "--out", str(out)], check=True, env=environment, capture_output=True, text=True
                )
                speeds[way].append(load_run(out).metrics["tokens_per_second"])
                print(f"{way}: {speeds[way][-1]:,.0f} tokens/s", flush=True)
    one, two = (statistics.median(each) for each in speeds.values())
    return {
        "what": "training `mini` with a curve, two processes of one thread against one of two",
        "one": f"{one:,.0f} tokens/s",
        "two": f"{two:,.0f} tokens/s",
        "ratio": two / one,
        "goal": 1.0,
        "memory": "",
    }


def measured(path: Path = KEPT) -> str:
    """What was measured, as a table."""
    rows = [
        {
            "measured": row["what"],
            "one": row["one"],
            "two": row["two"],
            "ratio": f"{row['ratio']:.2f}",
            "goal": f"≥ {row['goal']:g}",
            "memory": row["memory"],
        }
        for row in read_json(path).values()
    ]
    return markdown_table(rows)


def main(words: list[str]) -> None:
    row = prepare_rows(Path(words[1]), float(words[2])) if words[0] == "prepare" else train_rows()
    print(f"{row['what']}: {row['ratio']:.2f} times")
    write_json(KEPT, (read_json(KEPT) if KEPT.exists() else {}) | {words[0]: row})


if __name__ == "__main__":
    main(sys.argv[1:])
