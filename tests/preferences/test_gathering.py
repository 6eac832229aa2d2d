"""Pairs with their provenance, from ratings, from columns and from a rule; and what cannot be learned from."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from curvekit.errors import CurvekitError
from curvekit.preferences.gathering import Answer, Preference, from_ratings, from_scores, read_pairs
from curvekit.preferences.ratings import QUESTIONS, append_rating
from curvekit.preferences.rules import rule

ROW = {"prompt": "The river", "chosen": " was low.", "rejected": " river river."}


def rating(answer="first", left="a", right="b", **more):
    row = {"time": "now", "rater": "ada", "prompt": "The river", "first": "base", "second": "curve", "seed": 1}
    row |= {"first_text": left, "second_text": right}
    return row | dict.fromkeys(QUESTIONS, answer) | more


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_rating_becomes_a_pair_that_knows_who_said_so(tmp_path):
    path = tmp_path / "ratings.jsonl"
    append_rating(path, rating("second"))
    append_rating(path, rating("tie"))
    found = read_pairs(path)
    (pair,) = found.pairs
    assert (pair.chosen, pair.rejected, pair.chosen_ended) == ("b", "a", False)
    assert pair.provenance == {
        "kind": "ratings", "line": 1, "question": "better", "rater": "ada", "chosen": "curve", "rejected": "base",
        "side": "second",
    }  # fmt: skip
    assert found.notes == ["1 of 2 ratings are ties and are left out"]


def test_another_question_may_decide():
    row = rating("first") | {"fluent": "second"}
    assert from_ratings([row], "better").pairs[0].chosen == "a"
    assert from_ratings([row], "fluent").pairs[0].chosen == "b"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([rating("tie")] * 3, "no rating that decides between two texts \\(3 are ties\\)"),
        ([rating(left="same", right="same")], "1 have two answers that are the same"),
        ([{k: v for k, v in rating().items() if not k.endswith("_text")}], "1 have no texts"),
        ([rating("tie"), rating(left="x", right="x")], "1 are ties and 1 have two answers"),
    ],
)
def test_ratings_that_decide_nothing_are_refused(rows, told):
    with pytest.raises(CurvekitError, match=told):
        from_ratings(rows)


def test_a_rater_who_always_chose_the_left_one_is_named():
    rows = [rating("first", left=f"left {i}", right=f"right {i}") for i in range(9)]
    rows += [rating(("first", "second")[i % 2], left=f"l {i}", right=f"r {i}", rater="bob") for i in range(9)]
    (note,) = from_ratings(rows).notes
    assert "rater 'ada' chose the left answer in all of 9 ratings" in note and "bob" not in note


def test_a_few_answers_on_one_side_are_no_reproach():
    assert from_ratings([rating("first", left=f"l {i}") for i in range(4)]).notes == []


def test_opposite_pairs_are_counted_and_kept():
    found = from_ratings([rating("first"), rating("second")])
    assert len(found.pairs) == 2
    assert found.notes == ["1 pairs say the opposite of another; both are kept"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_of_columns_is_read_whatever_its_kind(tmp_path, ending):
    path = tmp_path / f"pairs.{ending}"
    rows = [ROW, ROW | {"chosen": 'a, "b"\nc', "extra": "left alone"}]
    if ending == "jsonl":
        written(path, rows)
    elif ending == "csv":
        path.write_text(
            'prompt,chosen,rejected\nThe river, was low., river river.\nThe river,"a, ""b""\nc", river river.\n'
        )
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{k: r[k] for k in ROW} for r in rows]), path)
    found = read_pairs(path)
    assert [pair.chosen for pair in found.pairs] == [" was low.", 'a, "b"\nc']
    assert [pair.provenance for pair in found.pairs] == [{"kind": "columns", "row": 1}, {"kind": "columns", "row": 2}]
    assert all(pair.chosen_ended for pair in found.pairs)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "has no row"),
        ([{"prompt": "x", "chosen": "y"}], "has no column 'rejected'"),
        ([ROW, {"prompt": "x", "chosen": "y", "rejected": 3}], "rejected is 3"),
        ([ROW | {"rejected": ROW["chosen"]}], "the two answers are the same"),
        ([ROW, {"prompt": "x", "chosen": "y"}], "row 2: rejected is None"),
    ],
)
def test_a_file_that_is_no_preferences_is_told_in_a_sentence(tmp_path, rows, told):
    with pytest.raises(CurvekitError, match=told):
        read_pairs(written(tmp_path / "pairs.jsonl", rows))


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(CurvekitError, match="there is no file"):
        read_pairs(tmp_path / "nothing.jsonl")
    (tmp_path / "pairs.txt").write_text("x")
    with pytest.raises(CurvekitError, match="give a .jsonl, .csv or .parquet file"):
        read_pairs(tmp_path / "pairs.txt")
    (tmp_path / "pairs.parquet").write_text("x")
    with pytest.raises(CurvekitError, match="no Parquet file"):
        read_pairs(tmp_path / "pairs.parquet")


def test_pairs_that_are_the_same_are_left_out_and_counted(tmp_path):
    found = read_pairs(written(tmp_path / "pairs.jsonl", [ROW, ROW | {"rejected": ROW["chosen"]}]))
    assert len(found.pairs) == 1 and found.notes == ["1 of 2 rows have two answers that are the same and are left out"]


def test_a_rule_pairs_the_best_answer_with_the_worst():
    ends, breaks = Answer(" was low in the summer.", True), Answer(" was low in the", False)
    found = from_scores(["The river", "x"], [[breaks, ends], [breaks, breaks]], rule("full_sentence"), "it", cut=False)
    (pair,) = found.pairs
    assert (pair.chosen, pair.rejected, pair.chosen_ended, pair.rejected_ended) == (ends.text, breaks.text, True, False)
    assert pair.provenance["scores"] == [1, 0] and pair.provenance["rule"] == "it"
    assert found.notes == ["it tells no two answers apart at 1 of 2 prompts, which are left out"]


def test_an_answer_cut_at_its_length_also_stands_as_ended_after_its_last_sentence():
    text = " was low in summer. The boats lay on the sand. And the"
    (pair,) = from_scores(["The river"], [[Answer(text, False)] * 2], rule("full_sentence"), "it").pairs
    assert pair.chosen == " was low in summer. The boats lay on the sand." and pair.chosen_ended
    assert pair.rejected == text and not pair.rejected_ended
    assert pair.provenance["chosen"] == "cut after its last sentence"


def test_a_score_that_tells_nothing_apart_is_refused():
    with pytest.raises(CurvekitError, match="scores all answers to each of 1 prompts alike"):
        from_scores(["x"], [[Answer("one", False), Answer("two", False)]], rule("no_numbers"), "no_numbers")


def test_a_pair_survives_its_file():
    pair = Preference("a", "b", "c", False, True, {"kind": "columns", "row": 4})
    assert Preference.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair
