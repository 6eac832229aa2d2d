"""Scored examples to rows of one length for training: as many as fit into a row, none of which sees another.

Positions begin anew with each example of a row, which is how every model here knows where one ends: neither attention,
nor curve, nor encoder crosses the border. Against padding each example to the longest, a row holds as many more scored
tokens as the longest example is longer than the mean.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from curvekit.errors import CurvekitError
from curvekit.text.prompts import Encoded, Prompter
from curvekit.text.tasks import Example


class PackedExamples(torch.utils.data.Dataset):
    """Rows of examples: item ``i`` is ``{"input_ids", "labels", "position_ids"}``, each LongTensor (block_size,).

    What is left of a row is filled with ``end``, under positions of its own and labels of -100.

    Attributes:
        examples: how many there are.
        cut: how many were shortened or divided to fit.
        lost: how many were left out, as their answer was cut off.
        scored: tokens that count.
    """

    def __init__(self, encoded: Sequence[Encoded], block_size: int, end: int, lost: int = 0) -> None:
        if not encoded or not sum(each.scored for each in encoded):
            raise CurvekitError("there is no answer to train on; give rows with answers that fit into a block")
        self.block_size, self.end, self.lost = block_size, end, lost
        self.encoded = list(encoded)
        self.examples, self.cut = len(encoded), sum(each.cut for each in encoded)
        self.scored = sum(each.scored for each in encoded)
        self.rows = packed([len(each.ids) for each in encoded], block_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        for number in self.rows[index]:
            each = self.encoded[number]
            ids += each.ids
            labels += [-100, *each.labels[1:]]
            positions += range(len(each.ids))
        rest = self.block_size - len(ids)
        return {
            "input_ids": torch.tensor(ids + [self.end] * rest),
            "labels": torch.tensor(labels + [-100] * rest),
            "position_ids": torch.tensor([*positions, *range(rest)]),
        }

    @property
    def density(self) -> float:
        """Scored tokens a place of a row, over those a place if each example were padded to the longest."""
        longest = max(len(each.ids) for each in self.encoded)
        return (self.examples * longest) / (len(self) * self.block_size)

    def __str__(self) -> str:
        told = f"{self.examples:,} examples in {len(self):,} rows of {self.block_size:,} tokens, {self.scored:,} scored"
        told += f", {self.density:.1f} times as many a step as padded to the longest"
        told += f"; {self.cut:,} did not fit and were cut" if self.cut else ""
        return told + (f"; {self.lost:,} lost their answer so and were left out" if self.lost else "")


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which examples share a row: the longest first, each into the fullest row that has room for it (best fit).

    Raises:
        CurvekitError: one is longer than a row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (places left, row), in order
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[number]
        if size > room:
            raise CurvekitError(f"an example has {size:,} tokens, more than a row of {room:,}; raise block_size")
        place = bisect.bisect_left(free, (size, -1))
        if place == len(free):
            rows.append([number])
            left, row = room - size, len(rows) - 1
        else:
            left, row = free.pop(place)
            rows[row].append(number)
            left -= size
        bisect.insort(free, (left, row))
    return rows


def pack_examples(examples: Iterable[Example], prompter: Prompter, block_size: int, end: int) -> PackedExamples:
    """The examples of a split as rows; ``prompter.room`` is at most ``block_size``."""
    encoded: list[Encoded] = []
    lost = 0
    for example in examples:
        pieces: list[Any] = [piece for piece in prompter.encode(example) if piece.scored]
        lost += not pieces
        encoded += pieces
    return PackedExamples(encoded, block_size, end, lost)
