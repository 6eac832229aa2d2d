"""The words of the tiny corpora."""

from __future__ import annotations

import random
from pathlib import Path

SENTENCES = (
    "The curve runs through the points of a word and of the words before it.",
    "A bank is a place for money, and a bank is also the side of a river.",
    "Every weight lies between zero and one, and the sum of a row stays below one.",
    "She read the letter twice before she put it back into the drawer.",
    "The river was low in summer, and the boats lay on the sand.",
)


def words_in_disorder(folder: Path) -> Path:
    """A corpus of the words in random order, of which no document repeats another."""
    draw, words = random.Random(0), " ".join(SENTENCES).split()
    for name, count in {"train": 16, "validation": 4, "test": 4}.items():
        lines = (" ".join(draw.choice(words) for _ in range(40)) for _ in range(count))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder
