"""Differences by groups of tokens: the formula with loops, and what is too small to be shown."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from curvekit.experiments.differences import by_group, frequencies, token_losses

RANDOM = np.random.default_rng(0)


def test_intervals_are_those_of_the_formula_with_loops():
    lengths = (40, 60, 80, 50, 70)
    values = [RANDOM.normal(size=n) + n / 30 for n in lengths]
    keys = [RANDOM.integers(0, 20, n) for n in lengths]
    (row,) = by_group(values, keys, [5, 15], ["middle"])
    inside = [[v for v, k in zip(vs, ks, strict=True) if 5 <= k < 15] for vs, ks in zip(values, keys, strict=True)]
    count = sum(len(vs) for vs in inside)
    mean = sum(v for vs in inside for v in vs) / count
    residuals = [sum(v - mean for v in vs) for vs in inside]
    error = (sum(r**2 for r in residuals) * 5 / 4) ** 0.5 / count
    assert row["tokens"] == count
    assert row["difference"] == pytest.approx(mean)
    assert row["high"] - mean == pytest.approx(2.7764451052 * error)  # Student's t, 4 degrees of freedom
    assert mean - row["low"] == pytest.approx(2.7764451052 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Documents differ by far more than their tokens: an interval over tokens alone would hold it one time in four."""
    held = 0
    for _ in range(400):
        values = [RANDOM.normal(size=40) + RANDOM.normal() for _ in range(12)]
        (row,) = by_group(values, [np.zeros(40)] * 12, [0, 1], ["all"])
        held += row["low"] <= 0 <= row["high"]
    assert 0.92 <= held / 400 <= 0.98, held / 400


def test_groups_too_small_for_an_interval_are_left_out():
    keys = [np.repeat([0, 1], [45, 5])] * 2
    assert [row["label"] for row in by_group([np.ones(50)] * 2, keys, [0, 1, 2], ["many", "few"])] == ["many"]
    assert by_group([np.ones(100)], [np.zeros(100)], [0, 1], ["one document"]) == []


def test_losses_are_the_mean_over_seeds_for_each_token():
    def run(*losses):
        kept = [{"tokens": ["a", "b"], "nll": [losses[0], losses[1]]}, {"tokens": ["c"], "nll": [losses[2]]}]
        return SimpleNamespace(scores=lambda split: SimpleNamespace(token_nll=kept))

    strings, losses = token_losses([run(1.0, 2.0, 3.0), run(3.0, 4.0, 9.0)])
    assert strings == [["a", "b"], ["c"]]
    assert [each.tolist() for each in losses] == [[2.0, 3.0], [6.0]]


def test_frequencies_count_the_strings_of_the_first_documents(tiny_tokenizer):
    found = frequencies(tiny_tokenizer, [" the the", " the", "never read"], documents=2)
    assert found[" the"] == 3
    assert not any("read" in token for token in found)
