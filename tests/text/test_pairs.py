"""Sources and targets: rows by their keys, halves of plain text, and what becomes of what does not fit."""

from __future__ import annotations

import json

import pytest

from curvekit.errors import CurvekitError
from curvekit.text.corpora import SPLITS, corpus_revision
from curvekit.text.pairs import PairExamples, batched, halved, load_pairs, passages, source_ids

ROWS = [{"question": f"How far is it to {name}?", "answer": f"{len(name)} miles", "n": 1} for name in
        ("Ely", "York", "Derby", "Oxford", "Bristol", "Plymouth", "Cambridge", "Winchester", "Southampton",
         "Shrewsbury upon Severn", "Stoke", "Bath")]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path, **settings):
    said: list[str] = []
    given = {"source": "question", "target": "answer"} | settings
    return load_pairs(path, announce=said.append, **given), "\n".join(said)


def test_rows_of_a_folder_keep_their_splits(tmp_path):
    for name, part in (("train", ROWS[:6]), ("dev", ROWS[6:9]), ("test", ROWS[9:])):
        write(tmp_path / f"{name}.jsonl", part)
    corpus, said = load(tmp_path)
    assert corpus["train"]["source"] == [row["question"] for row in ROWS[:6]]
    assert corpus["validation"]["target"] == [row["answer"] for row in ROWS[6:9]]
    assert "6 train, 3 validation, 3 test rows of question and answer" in said
    before = corpus_revision(corpus)
    write(tmp_path / "train.jsonl", [ROWS[0] | {"question": "Where?"}, *ROWS[1:6]])
    after = corpus_revision(load(tmp_path)[0])
    assert before["train"] != after["train"] and before["test"] == after["test"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_one_table_is_split_by_its_rows(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        write(path, ROWS)
    elif kind == "csv":
        path.write_text("n,answer,question\n" + "".join(f'1,{r["answer"]},"{r["question"]}"\n' for r in ROWS))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    corpus, _ = load(path)
    found = {pair for split in SPLITS for pair in zip(corpus[split]["source"], corpus[split]["target"], strict=True)}
    assert found == {(row["question"], row["answer"]) for row in ROWS}
    assert min(corpus[split].num_rows for split in SPLITS) >= 1 and corpus["train"].column_names == ["source", "target"]


def test_rows_without_a_target_are_left_out_and_told(tmp_path):
    rows = [*ROWS, {"question": "Why?"}, {"question": "Who?", "answer": None}, {"question": "When?", "answer": " "}]
    corpus, said = load(write(tmp_path / "rows.jsonl", rows))
    assert sum(part.num_rows for part in corpus.values()) == len(ROWS)
    assert "3 of 15 rows lack question or answer and were left out" in said


@pytest.mark.parametrize(("rows", "settings", "said"), [
    ([{"question": "Why?", "answer": None}], {}, "no row has both question and answer"),
    (ROWS, {"target": "anser"}, "has no column 'anser' .columns: 'question', 'answer', 'n'.; name one that is there"),
    (ROWS, {"target": "question"}, "source and target are both 'question'"),
    ([{"question": 3, "answer": "x"}], {}, "column 'question' of .* holds int64, expected strings"),
    (["a text"], {}, "holds str.*, expected an object with 'question'"),
])  # fmt: skip
def test_rows_that_are_none_are_refused_in_a_sentence(tmp_path, rows, settings, said):
    with pytest.raises(CurvekitError, match=said):
        load(write(tmp_path / "rows.jsonl", rows), **settings)


def test_keys_are_of_tables(tmp_path):
    (tmp_path / "story.txt").write_text("Once.\n" * 20)
    with pytest.raises(CurvekitError, match="is text without keys; name a table"):
        load(tmp_path / "story.txt")


@pytest.mark.parametrize("text", [
    "one two three four", "one", "a" * 30, "a" * 20 + " b", "船在雾里等着潮水", "x\n\ny z", " a", "",
])  # fmt: skip
def test_halves_joined_are_the_text(text):
    first, rest = halved(text)
    assert first + rest == text
    assert abs(len(first) - len(rest)) <= len(text) / 2 + 1
    if text == "one two three four":
        assert (first, rest) == ("one two", " three four")


def test_passages_fit_and_joined_are_the_document(tiny_tokenizer, tiny_texts):
    document = "\n".join(tiny_texts) + "船" * 300
    found = list(passages([document], tiny_tokenizer, 24))
    assert "".join(first + rest for first, rest in found) == document and len(found) > 20
    assert max(len(tiny_tokenizer(part)["input_ids"]) for pair in found for part in pair) < 24


def test_a_source_loses_its_end_and_is_counted_and_a_target_is_refused(tiny_tokenizer, tiny_texts):
    end = tiny_tokenizer.eos_token_id
    whole = tiny_tokenizer(tiny_texts[0])["input_ids"]
    assert source_ids(tiny_tokenizer, tiny_texts[0], 1000) == ([*whole, end], 0)
    assert source_ids(tiny_tokenizer, tiny_texts[0], 10) == ([*whole[:9], end], len(whole) - 9)
    made = PairExamples(tiny_texts[:3], ["a river", "b", "c"], tiny_tokenizer, 10)
    assert made.cut == 3 and "3 of 3 sources are longer than 10 tokens and were cut" in str(made)
    with pytest.raises(
        CurvekitError, match=f"row 2 of the test split has {len(whole) + 1} tokens with its end-of-text"
    ):
        PairExamples(["a", "b"], ["a", tiny_texts[0]], tiny_tokenizer, 10, "the test split")


def test_a_batch_scores_targets_and_their_ends_and_no_padding(tiny_tokenizer):
    made = PairExamples(["The river was low", "A"], ["b", "in summer"], tiny_tokenizer, 20)
    batch, end = batched([made[0], made[1]], pad=7), tiny_tokenizer.eos_token_id
    for row in range(2):
        real = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][real].tolist() == made[row]["input_ids"]
        assert (batch["input_ids"][row][~real] == 7).all()
        scored = batch["labels"][row][batch["labels"][row] != -100].tolist()
        assert scored == made[row]["labels"] and scored[-1] == end
