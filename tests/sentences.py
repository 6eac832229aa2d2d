"""The words of the tiny corpora."""

from __future__ import annotations

SENTENCES = (
    "The curve runs through the points of a word and of the words before it.",
    "A bank is a place for money, and a bank is also the side of a river.",
    "Every weight lies between zero and one, and the sum of a row stays below one.",
    "She read the letter twice before she put it back into the drawer.",
    "The river was low in summer, and the boats lay on the sand.",
)
