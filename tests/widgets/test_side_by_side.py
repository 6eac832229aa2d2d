"""Models side by side: one prompt and one seed for all, and a failure that stays in its column."""

from __future__ import annotations

from screen import PROMPT, plain, pressed

from curvekit.generation.streams import generate
from curvekit.widgets import SideBySide


def test_columns_write_the_same_prompt_and_seed_through_each_model(two, tokenizer):
    panel = pressed(SideBySide(two, PROMPT, max_new_tokens=10, seed=3))
    for box, (name, (model, _)) in zip(panel.results.children, two.items(), strict=True):
        (text,) = generate(model, tokenizer, [PROMPT], max_new_tokens=10, seed=3)
        assert plain(box).startswith(name + PROMPT + text)
        assert "seed 3" in plain(box)


def test_a_column_that_fails_leaves_the_others_whole(two):
    two["gpt2"][0].fails_at = 2
    panel = pressed(SideBySide(two, PROMPT, max_new_tokens=10))
    first, second = map(plain, panel.results.children)
    assert "RuntimeError" in first and "10 tokens" in second
    assert "RuntimeError" in plain(panel.message)
