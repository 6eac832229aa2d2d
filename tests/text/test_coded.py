"""Control codes before documents: from columns, folders and file names, and what cannot be a code."""

from __future__ import annotations

import json

import pytest

from curvekit.errors import CurvekitError
from curvekit.text.coded import codes_of, dropped, most_codes, parted, read_coded
from curvekit.text.codes import coded, header
from curvekit.text.corpora import load_corpus
from curvekit.text.labelled import first_of_each, halves, read_labelled

ROWS = [
    {"text": f"Row number {i} is a text of its own.", "label": "ab"[i % 2], "topic": f"t{i % 3}"} for i in range(40)
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_codes_stand_in_brackets_before_the_text():
    assert coded("It is.", ["a b", "c"]) == "[a b] [c] It is." and header([]) == ""
    assert parted(coded("It is.", ["a b", "c"]), 2) == (["a b", "c"], "It is.")
    assert parted("[a] [sic] x", 1) == (["a"], "[sic] x"), "what the document itself begins with is no code"
    assert codes_of(["[a] [b] x", "[c] y", "z [d]"], 2) == ["a", "b", "c"]
    with pytest.raises(CurvekitError, match="no document has a code"):
        codes_of(["x"], 1)


def test_codes_come_from_columns_of_a_table(table):
    corpus = load_corpus(table, codes="column:label,topic")
    texts = [text for split in corpus.values() for text in split["text"]]
    assert sorted(texts) == sorted(f"[{row['label']}] [{row['topic']}] {row['text']}" for row in ROWS)
    assert codes_of(texts, most_codes("column:label,topic")) == ["a", "b", "t0", "t1", "t2"]


def test_codes_come_from_folders_and_from_names_of_files(tmp_path):
    for author, book in (("jane-austen", "emma"), ("jane-austen", "persuasion"), ("mark-twain", "finn")):
        (tmp_path / author).mkdir(exist_ok=True)
        lines = [f"Line {i} of {book} is here, and it is long enough for a test of passages." for i in range(60)]
        (tmp_path / author / f"{author}_{book}.txt").write_text("\n".join(lines))
    files = sorted(tmp_path.rglob("*.txt"))
    for source, expected in (
        ("folder", ["jane-austen", "mark-twain"]),
        ("file:_", ["jane-austen", "mark-twain"]),
        ("file", ["jane-austen_emma", "jane-austen_persuasion", "mark-twain_finn"]),
    ):
        texts = list(read_coded(files, source))
        assert codes_of(texts, 1) == expected and len(texts) > 10
        assert all(len(text) >= 800 or "59" in text for text in texts)
    assert "[mark-twain]" in " ".join(load_corpus(tmp_path, codes="folder")["train"]["text"])


def test_a_share_of_the_texts_stands_without_its_code_the_same_each_time():
    texts = [f"[a] text {i}" for i in range(400)]
    found = dropped(texts, 0.25, 1)
    assert found == dropped(texts, 0.25, 1) and 60 < sum(not text.startswith("[") for text in found) < 140
    assert dropped(texts, 0, 1) == texts


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("column", "codes is 'column'; give column:NAME"),
        ("colum:label", "codes is 'colum:label'"),
        ("folder:x", "give 'folder'"),
        ("column:labl", "has no column 'labl'"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(table, source, message):
    with pytest.raises(CurvekitError, match=message):
        load_corpus(table, codes=source)


def test_a_named_corpus_has_no_codes_and_a_code_has_no_brackets(tmp_path):
    with pytest.raises(CurvekitError, match="'pydocs' has none"):
        load_corpus("pydocs", codes="folder")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x", "label": "a]b"}\n')
    with pytest.raises(CurvekitError, match="the code of row 1 of .* without brackets"):
        list(read_coded([path], "column:label"))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_labelled_rows_of_every_kind_of_table(tmp_path, ending):
    import datasets

    path = tmp_path / f"rows.{ending}"
    rows = datasets.Dataset.from_list(ROWS)
    {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[ending](str(path))
    found = read_labelled(path)
    assert [tuple(row) for row in found] == [(row["text"], row["label"]) for row in ROWS]
    one, two = halves(found)
    assert len(one) + len(two) == 40 and min(len(one), len(two)) > 8 and not {*one} & {*two}
    assert [row.label for row in first_of_each(found, 2)] == ["a", "b", "a", "b"]
