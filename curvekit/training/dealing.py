"""The blocks of a run dealt out to several processes, so that together they compute what one would.

One process takes its batches from a shuffled list, and the last of a pass may be short. Several take turns, so the
list is filled up with blank rows to whole turns: rows whose labels count nowhere. Losses are sums over the counted
tokens of all processes, divided once, and blanks change none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler


class Filled(Dataset):
    """Examples, and behind them blank ones up to a multiple of ``turn``."""

    def __init__(self, examples: Any, turn: int) -> None:
        self.examples, self.turn = examples, turn

    def __len__(self) -> int:
        return -(-len(self.examples) // self.turn) * self.turn

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index < len(self.examples):
            return self.examples[index]
        example = {name: each.clone() for name, each in self.examples[0].items()}
        example["labels"].fill_(-100)
        return example


class Dealt(Sampler):
    """The order in which one process would see the examples, a new one each pass, with the blanks at its end."""

    def __init__(self, examples: Filled, seed: int) -> None:
        self.examples, self.seed, self.epoch = examples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[int]:
        real = len(self.examples.examples)
        yield from torch.randperm(real, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        yield from range(real, len(self))
