"""Rows of tasks that the tests make themselves: questions on small paragraphs, yes or no, summaries, dialogues."""

from __future__ import annotations

import json
import random
from pathlib import Path

PLACES = ("the river", "the house", "the drawer", "the boat", "the bank", "the letter", "the sand", "the summer")
COLOURS = ("red", "blue", "green", "white", "black", "grey")


def questions(count: int, seed: int = 0) -> list[dict]:
    """Rows as squad_qa's: the answer stands in the context."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        place, colour = draw.choice(PLACES), draw.choice(COLOURS)
        rest = " ".join(
            draw.choice(("It was low.", "She read it twice.", "The boats lay there.")) for _ in range(number % 7)
        )
        context = f"Story {seed}-{number}. The colour of {place} is {colour}. {rest}".strip()
        rows.append({"context": context, "question": f"What colour is {place}?", "answers": [colour]})
    return rows


def dialogues(count: int, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        place, colour = draw.choice(PLACES), draw.choice(COLOURS)
        said = [f"Hello, this is number {seed}-{number}.", "Hello.", f"What colour is {place}?", f"It is {colour}."]
        rows.append({"turns": [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(said)]})
    return rows


def write(folder: Path, **splits: list[dict]) -> Path:
    """A task's folder with a file of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def short(count: int, seed: int = 0) -> list[dict]:
    """Rows of few tokens, no two alike, for models of few positions."""
    draw = random.Random(seed)
    return [{"ask": f"{seed} {number} {draw.choice(PLACES)}:", "say": draw.choice(COLOURS)} for number in range(count)]
