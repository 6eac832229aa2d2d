"""Rules that score a text: what each keeps and breaks, and what a misspelt one is told."""

from __future__ import annotations

import pytest

from curvekit.errors import CurvekitError
from curvekit.preferences.rules import RULES, rule, sentence_ends


@pytest.mark.parametrize(
    ("name", "kept", "broken"),
    [
        ("full_sentence", "The boats lay on the sand.", "The boats lay on the"),
        ("full_sentence", 'She said: "The river is low."', "Yes."),  # four words make a sentence
        ("full_sentence", "The boats lay on the sand.\n", "He wrote to his old friend Dr."),
        ("full_sentence", "Was the river low in summer?", "The paper was signed by J."),
        ("whole_sentences", "The river was low. The boats lay on the sand.", "The river was low. The boats lay"),
        ("no_second_person", "The youth saw thousands.", "I would tell you so."),
        ("no_second_person", "A yew tree.", "You'll see."),
        ("no_numbers", "In the year of the flood.", "In 1910 the river rose."),
        ("no_repetition", "One word and another word.", "on the sand and on the sand"),
        ("kind_words", "The shutters of the old house.", "You are a fool."),
        ("at_most_words:3", "One, two, three.", "One, two, three, four."),
        ("at_least_words:3", "It's three words.", "Two words."),
        ("no_numbers+at_most_words:3", "Three small words.", "Three words and more."),
    ],
)
def test_a_rule_is_kept_or_broken(name, kept, broken):
    found = rule(name)
    assert found.kept(kept) and not found.kept(broken)
    assert found(kept) == 1 and found(broken) < 1
    assert found.asks


def test_the_length_reward_grows_without_end():
    assert rule("length")("word " * 500) == 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("full_sentense", "did you mean 'full_sentence'"),
        ("at_most_words", "needs a number of words"),
        ("at_most_words:0", "needs a number of words"),
        ("no_numbers:4", "takes no number"),
        ("no_numbers+nonsense", "unknown rule 'nonsense'"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_a_sentence(name, told):
    with pytest.raises(CurvekitError, match=told):
        rule(name)


def test_a_text_could_stop_after_each_of_its_full_sentences():
    text = "The river was low. Yes. The boats lay on the sand! And the"
    assert [text[:end] for end in sentence_ends(text)] == [
        "The river was low.", "The river was low. Yes. The boats lay on the sand!"]  # fmt: skip


def test_every_rule_scores_an_empty_text():
    assert all(0 <= rule(name)("") <= 1 for name in RULES)
