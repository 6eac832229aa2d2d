"""Judges: the official normalisation, the best of several references, ROUGE in any script, what copies say."""

from __future__ import annotations

import pytest

from curvekit.errors import CurvekitError
from curvekit.evaluation.answers import baselines, exact_match, f1, judge, normalised
from curvekit.text.tasks import TASKS, Example, Turn

QA, TLDR = TASKS["squad_qa"], TASKS["scitldr"]


def example(*references, **fields):
    return Example((Turn("user", "?"), Turn("assistant", references[0])), references, fields)


def test_the_normal_form_is_squads():
    assert normalised("  The  Quick, brown-fox's AN end. ") == "quick brownfoxs end"
    assert exact_match("The cat!", "cat") == 1 and exact_match("cats", "cat") == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("in the year 1999", "1999", 2 / 4),  # precision 1/3, recall 1
        ("a red red house", "red house", 4 / 5),
        ("", "the", 1.0),  # both have no words
        ("", "cat", 0.0),
        ("dog", "cat", 0.0),
    ],
)
def test_f1_counts_words_as_often_as_they_stand(prediction, reference, expected):
    assert f1(prediction, reference) == pytest.approx(expected)


def test_the_best_of_several_references_counts():
    figures, items = judge(QA, ["Denver Broncos", "no"], [example("Broncos", "The Denver Broncos"), example("yes")])
    assert items[0] == {"exact_match": 1.0, "f1": 1.0} and figures["exact_match"] == 50 and figures["f1"] == 50
    figures, items = judge(TLDR, ["we read rivers"], [example("nothing alike", "we read rivers")])
    assert items[0]["rougeL"] == 1 and figures["rouge2"] == 100 and figures["chrf"] == pytest.approx(100)


def test_rouge_is_that_of_the_library_and_knows_every_script():
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    text, reference = "the river was low in summer", "in summer the river was very low"
    theirs = RougeScorer(names).score(reference, text)
    _, ((ours),) = judge(TLDR, [text], [example(reference)])
    assert [ours[name] for name in names] == pytest.approx([theirs[name].fmeasure for name in names])
    for same in ("Река была низкой летом", "ฤดูร้อนแม่น้ำ", "夏天河水很低"):
        _, ((ours),) = judge(TLDR, [same], [example(same)])
        assert ours["rouge1"] == ours["rougeLsum"] == 1


def test_rouge_lsum_takes_sentences_in_any_order():
    _, ((item),) = judge(TLDR, ["Boats lay low. Rivers ran."], [example("Rivers ran. Boats lay low.")])
    assert item["rougeLsum"] > item["rougeL"]


def test_what_answers_without_a_model_is_judged_alike():
    train = [example("yes"), example("no"), example("no")]
    row = example("x", document="First sentence. And a second.", context="c")
    found = baselines(TLDR, train)
    assert found["majority"](row) == "no" and found["lead"](row) == "First sentence."
    talk = Example((Turn("user", "Hi there"), Turn("assistant", "x")), ("x",))
    assert baselines(TASKS["topical_chat"], train)["echo"](talk) == "Hi there"


def test_answers_that_belong_to_no_item_are_refused():
    with pytest.raises(CurvekitError, match="2 answers do not belong to 1 examples"):
        judge(QA, ["a", "b"], [example("a")])
