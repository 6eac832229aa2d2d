"""Duplicates across splits: planted ones are found, honest neighbours are not, and the held-out copy stays."""

from __future__ import annotations

import random
import time

import pytest
from datasets import DatasetDict

from curvekit.text import duplicates
from curvekit.text.documents import as_dataset
from curvekit.text.duplicates import LEAST, OVERLAP, find_duplicates, overlap, remove_duplicates

VOCABULARY = ["".join(random.Random(i).choices("abcdefghij", k=6)) for i in range(3000)]


def document(seed: int, words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def changed(text: str, share: float, seed: int = 0) -> str:
    """The text with every word replaced with this probability."""
    dice = random.Random(seed)
    return " ".join("other" if dice.random() < share else word for word in text.split())


HELD_OUT = [document(seed) for seed in range(20)]


# What is found


@pytest.mark.parametrize(("copy", "exact"), [
    (HELD_OUT[3], True),
    (HELD_OUT[3].upper().replace(" ", " ,\n"), True),  # case, punctuation and space
    (changed(HELD_OUT[3], 0.03), False),
    (f"{document(100)} {HELD_OUT[3]} {document(101)}", False),  # inside a longer one
    (" ".join(HELD_OUT[3].split()[20:120]), False),  # a part
    (f"{HELD_OUT[3]} And one more.", False),
])  # fmt: skip
def test_planted_copies_are_found(copy, exact):
    (found,) = find_duplicates([document(50), copy, document(51)], HELD_OUT)
    assert (found.text, found.held_out, found.exact) == (1, 3, exact)
    assert found.overlap == pytest.approx(1.0 if exact else overlap(copy, HELD_OUT[3]))


def test_wikitext_s_typography_hides_no_copy():
    plain = 'The well-known song, "In Safe Hands", wasn\'t sold 1,000 times; it fell to 3.5 per cent. ' * 3
    published = (
        ' The well @-@ known song , " In Safe Hands " , wasn \'t sold 1 @,@ 000 times ; it fell to 3 @.@ 5 per cent . '
    ) * 3
    assert find_duplicates([plain], [published])[0].exact


@pytest.mark.parametrize("text", [
    document(60),
    " ".join(sorted(HELD_OUT[3].split())),  # the same words in another order
    changed(HELD_OUT[3], 0.3),
    f"{document(61)} {' '.join(HELD_OUT[3].split()[:80])}",  # a long quotation, less than half
    " ".join(HELD_OUT[3].split()[: LEAST + 3]),  # too short to say
    "", "...", "Yes.",
])  # fmt: skip
def test_honest_neighbours_are_not(text):
    assert find_duplicates([text], [*HELD_OUT, "---", "No."]) == []


def test_short_documents_count_when_they_are_the_same():
    found = find_duplicates(["yes!", "***", "No. No."], ["No.", "“Yes.”", " *** "])
    assert [(each.text, each.held_out, each.exact) for each in found] == [(0, 1, True), (1, 2, True)]


def test_it_agrees_with_the_formula():
    held_out = [document(seed, 60) for seed in range(8)]
    texts = [changed(held_out[i % 8], i / 100, i) for i in range(60)]
    texts += [f"{held_out[0]} {held_out[5]}", f"{changed(held_out[1], 0.12)} {held_out[2]}"]
    found = {each.text: each for each in find_duplicates(texts, held_out)}
    for number, text in enumerate(texts):
        best = max(overlap(text, each) for each in held_out)
        assert (number in found) == (best >= OVERLAP), (number, best)
        assert number not in found or found[number].overlap == pytest.approx(best)
    assert 10 < len(found) < 50


def test_a_formula_that_all_share_is_no_copy_and_costs_little():
    formula = document(70, 150)
    held_out = [f"{formula} {document(seed, 400)}" for seed in range(200)]
    texts = [f"{formula} {document(seed, 400)}" for seed in range(300, 400)]
    began = time.process_time()
    assert find_duplicates(texts, held_out) == []
    assert time.process_time() - began < 5


def test_copies_of_copies_are_found_although_many_hold_them_out():
    held_out = [changed(HELD_OUT[0], 0.01, seed) for seed in range(100)]
    assert len(find_duplicates([changed(HELD_OUT[0], 0.01, 999)], held_out)) == 1


def test_a_copy_is_found_although_others_hold_pieces_of_it_too():
    words = document(90).split()
    pieces = [f"{' '.join(words[i : i + 50])} {document(91 + i, 400)}" for i in range(0, 200, 50)]
    assert find_duplicates([" ".join(words) + " and more"], [*pieces, " ".join(words)])[0].held_out == 4


# What is removed


def test_the_held_out_copy_stays_and_the_training_one_goes():
    corpus = DatasetDict({
        "train": as_dataset([document(80), HELD_OUT[0], changed(HELD_OUT[1], 0.02), document(81), document(81)]),
        "validation": as_dataset([HELD_OUT[1], changed(HELD_OUT[2], 0.02), HELD_OUT[3]]),
        "test": as_dataset([HELD_OUT[2], HELD_OUT[0]]),
    })  # fmt: skip
    kept, report = remove_duplicates(corpus)
    assert list(kept) == list(corpus)
    assert kept["train"]["text"] == [document(80), document(81), document(81)]  # within a split they stay
    assert kept["validation"]["text"] == [HELD_OUT[1], HELD_OUT[3]]
    assert kept["test"]["text"] == corpus["test"]["text"]
    assert [each[:4] for each in report.removed] == [
        ("validation", 1, "test", 0), ("train", 1, "test", 1), ("train", 2, "validation", 0)
    ]  # fmt: skip
    size = len(corpus["train"]["text"][1]) + len(corpus["train"]["text"][2])
    assert f"2 train documents (1 exact, {size:,} characters) left out" in str(report)
    assert corpus["train"].num_rows == 5


def test_nothing_to_remove_is_said_and_changes_nothing():
    corpus = DatasetDict({split: as_dataset([document(seed)]) for seed, split in enumerate(("train", "test"))})
    kept, report = remove_duplicates(corpus)
    assert str(report) == "no duplicates" and {split: kept[split]["text"] for split in kept} == {
        split: corpus[split]["text"] for split in corpus
    }


def test_hashes_do_not_depend_on_the_process():
    assert duplicates._number("river") == 11485444849268923030


@pytest.mark.slow
def test_25_megabytes_take_less_than_half_a_minute():
    texts = [document(seed, 1000) for seed in range(3600)]  # 25 MB
    began = time.process_time()
    assert find_duplicates([*texts[360:], texts[5]], texts[:360])[0].held_out == 5
    assert time.process_time() - began < 30
