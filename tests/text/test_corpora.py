"""Corpora: what a document is, where splits come from, the documentation corpus, the hub, and every complaint."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from curvekit.bases import hub
from curvekit.errors import CurvekitError
from curvekit.files import write_jsonl
from curvekit.text import corpora, documents, pydocs
from curvekit.text.corpora import CORPORA, SPLITS, corpus_revision, further_splits, load_corpus, text_revision
from curvekit.text.stories import StoryReport, parse_story, read_stories
from curvekit.training.settings import RunConfig

ARTICLES = [
    " = Curve = \n \n A curve is a line , not always straight . \n \n = = In words = = \n \n It bends = 1 . \n",
    " = Softmax ( function ) = \n \n It divides . \" Key : \n = Played , W = \n Won . \" \n = = = Limits = = = \n \n",
    " = 2 + 2 = 4 = \n \n A book of sums . \n \n",
]  # fmt: skip
WIKITEXT = " \n" + "".join(ARTICLES)


def texts(corpus) -> list[str]:
    return [text for split in SPLITS for text in corpus[split]["text"]]


@pytest.fixture(scope="module")
def distinct_texts() -> list[str]:
    """Four hundred documents that share no run of words."""
    dice = random.Random(0)
    return [" ".join("".join(dice.choices("abcdefgh", k=5)) for _ in range(30)) for _ in range(400)]


@pytest.fixture
def wikitext(tmp_path) -> Path:
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text(WIKITEXT.replace("Curve", f"Curve {name}"), encoding="utf-8")
    return folder


@pytest.fixture
def online(monkeypatch):
    """A hub that can be asked, whatever the environment says."""
    hub._asked.cache_clear()
    monkeypatch.setattr(hub, "_last_failure", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    hub._asked.cache_clear()


# What one document is


def test_a_wikitext_article_runs_from_one_title_to_the_next(wikitext):
    corpus = load_corpus("wikitext-2", wikitext)
    assert corpus["train"].column_names == ["text"]
    found = corpus["train"]["text"]
    assert found[0] == " \n" + ARTICLES[0].replace("Curve", "Curve train")  # sections do not cut
    assert found[1:] == ARTICLES[1:]  # nor does a broken line that looks like a title
    assert "".join(found) == (wikitext / "train.txt").read_text(encoding="utf-8")


def test_data_dir_is_the_corpus_folder_or_the_folder_above_it_or_the_environment(wikitext, monkeypatch):
    expected = corpus_revision(load_corpus("wikitext-2", wikitext))
    assert corpus_revision(load_corpus("wikitext-2", wikitext.parent)) == expected
    assert corpus_revision(load_corpus(wikitext)) == expected
    monkeypatch.setenv("CURVEKIT_DATA", str(wikitext.parent))
    assert corpus_revision(load_corpus("wikitext-2")) == expected


@pytest.mark.parametrize("names", [
    ["wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"],
    ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"],
    ["train.txt", "validation.txt", "test.txt"],
    ["train/0000.txt", "dev/0000.txt", "test/0000.txt"],
])  # fmt: skip
def test_split_files_are_found_by_their_usual_names(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(WIKITEXT + name + "\n", encoding="utf-8")
    corpus = load_corpus("wikitext-103", tmp_path)
    assert [corpus[split]["text"][-1].splitlines()[-1] for split in SPLITS] == names


def test_rows_of_the_hub_and_lines_of_the_files_give_the_same_documents(wikitext):
    lines = (wikitext / "train.txt").read_text(encoding="utf-8").splitlines()
    rows = documents.as_dataset("" if line == " " else line + "\n" for line in lines)
    rows.to_parquet(wikitext / "rows.parquet")
    assert documents.read_table(wikitext / "rows.parquet", "article")["text"] == load_corpus(wikitext)["train"]["text"]


def test_units_of_a_text_file(tmp_path):
    path = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {i}.\n" + "It goes on for a while.\n" * 60 for i in range(20)]
    path.write_text("\n".join(paragraphs), encoding="utf-8")
    whole = path.read_text(encoding="utf-8")

    passages = texts(load_corpus(path))
    assert "".join(passages) == whole
    assert all(len(text) >= 4000 and text.endswith("\n\n") for text in passages[:-1])
    assert sorted(texts(load_corpus(path, document="paragraph"))) == sorted(text.strip() for text in paragraphs)
    assert "".join(texts(load_corpus(path, document="file"))) == whole
    assert len(texts(load_corpus(path, document="file"))) == 3


def test_a_text_without_blank_lines_has_a_document_a_line(tmp_path, distinct_texts):
    (tmp_path / "lines.txt").write_text(
        "\r\n".join(["\ufeff" + distinct_texts[0], *distinct_texts[1:]]), encoding="utf-8"
    )
    assert sorted(texts(load_corpus(tmp_path / "lines.txt"))) == sorted(distinct_texts)


def test_a_text_of_one_line_is_cut_at_white_space(tmp_path, tiny_texts):
    (tmp_path / "text8.txt").write_text(" ".join(tiny_texts), encoding="utf-8")
    assert "".join(texts(load_corpus(tmp_path / "text8.txt"))) == " ".join(tiny_texts)


def test_a_large_file_is_read_the_same_way_and_not_into_memory(tmp_path, distinct_texts, monkeypatch):
    (tmp_path / "lines.txt").write_text("\n".join(distinct_texts), encoding="utf-8")
    (tmp_path / "tales.txt").write_text("".join(map(STORY.format, distinct_texts)), encoding="utf-8")
    (tmp_path / "book.txt").write_text("\n\n".join(distinct_texts), encoding="utf-8")
    small, said = {}, {}
    for path in tmp_path.iterdir():
        small[path] = corpus_revision(load_corpus(path, announce=said.setdefault(path, []).append))
    monkeypatch.setattr(documents, "_LARGE", 100)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for path, revision in [*small.items()] * 2:  # written to the cache, then read from it
        again = []
        corpus = load_corpus(path, announce=again.append)
        assert corpus_revision(corpus) == revision
        assert corpus["train"].cache_files and again == said[path]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_tables_have_a_document_a_row(tmp_path, distinct_texts, suffix):
    rows = [*distinct_texts, "NA", "12", 'a "quoted", text\nof two lines']
    path = tmp_path / f"rows.{suffix}"
    table = datasets.Dataset.from_dict({"id": list(range(len(rows) + 1)), "text": [*rows, ""]})
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[suffix](path)
    corpus = load_corpus(path)
    assert corpus["train"].column_names == ["text"]
    assert sorted(texts(corpus)) == sorted(rows)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no cache beside the data


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", "\r\r\n"])
def test_lines_may_end_in_every_way(tmp_path, distinct_texts, ends):
    (tmp_path / "a.txt").write_text("".join(f"{text}{ends}" for text in distinct_texts), encoding="utf-8", newline="")
    assert sorted(texts(load_corpus(tmp_path / "a.txt"))) == sorted(distinct_texts)


def test_a_file_s_name_is_no_pattern(tmp_path, distinct_texts):
    for name, part in (("a[1].jsonl", distinct_texts[:20]), ("a1.jsonl", distinct_texts[20:40])):
        write_jsonl(tmp_path / name, ({"text": text} for text in part))
    assert sorted(texts(load_corpus(tmp_path / "a[1].jsonl"))) == sorted(distinct_texts[:20])
    assert sorted(texts(load_corpus(tmp_path))) == sorted(distinct_texts[:40])


def test_what_a_folder_holds_beside_texts_is_said(tmp_path, distinct_texts):
    for number in range(9):
        (tmp_path / f"{number}.{'TXT' if number % 2 else 'txt'}").write_text(distinct_texts[number], encoding="utf-8")
    for name in ("a.md", "b.jsonl.gz", ".hidden"):
        (tmp_path / name).write_text("no")
    said = []
    assert sorted(texts(load_corpus(tmp_path, announce=said.append))) == sorted(distinct_texts[:9])
    assert "2 files that are none of .txt" in said[0] and "(a.md, b.jsonl.gz)" in said[0]


def test_rows_of_articles_may_be_null_and_go_on_in_the_next_shard(tmp_path):
    lines = WIKITEXT.splitlines(keepends=True)
    cut = lines.index(" = = In words = = \n")
    for split, shards in {"train": [lines[:cut], [None, *lines[cut:]]], "validation": [lines], "test": [lines]}.items():
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05}-of-{len(shards):05}.parquet"
            documents.as_dataset(shard).to_parquet(tmp_path / name)
    corpus = load_corpus("wikitext-103", tmp_path)
    assert [corpus[split].num_rows for split in SPLITS] == [3, 3, 3]
    for split in SPLITS:
        documents.as_dataset([None, ""]).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(CurvekitError, match="is empty: no row has text"):
        load_corpus("wikitext-103", tmp_path)


def test_a_folder_of_texts_has_a_document_a_file(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"Book {i}.\n\nIts second line.\n", encoding="utf-8")
    corpus = load_corpus(tmp_path)
    assert {split: corpus[split].num_rows for split in SPLITS} == {"train": 8, "validation": 1, "test": 1}
    assert "Book 3.\n\nIts second line.\n" in texts(corpus)


def test_data_dir_goes_before_the_folder_where_one_stands(tmp_path, distinct_texts, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "tales.txt").write_text("\n".join(distinct_texts[:9]), encoding="utf-8")
    (tmp_path / "data" / "tales.txt").write_text("\n".join(distinct_texts[9:20]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert sorted(texts(load_corpus("tales.txt", "data"))) == sorted(distinct_texts[9:20])
    monkeypatch.setenv("CURVEKIT_DATA", str(tmp_path / "data"))
    assert sorted(texts(load_corpus("tales.txt"))) == sorted(distinct_texts[:9])
    (tmp_path / "tales.txt").unlink()
    assert sorted(texts(load_corpus("tales.txt"))) == sorted(distinct_texts[9:20])
    assert RunConfig(corpus="tales.txt").validate(), "the same places are looked in before a run begins"


def test_the_environment_s_folder_is_no_corpus_of_every_name(tiny_corpus, monkeypatch):
    monkeypatch.setenv("CURVEKIT_DATA", str(tiny_corpus))
    with pytest.raises(CurvekitError, match="HF_HUB_OFFLINE is set"):
        load_corpus("openwebtext")


def test_openwebtext_can_lie_in_a_folder_too(tiny_corpus):
    assert corpus_revision(load_corpus("openwebtext", tiny_corpus)) == corpus_revision(load_corpus(tiny_corpus))


def test_a_folder_in_data_dir_can_be_named(tiny_corpus):
    assert corpus_revision(load_corpus(tiny_corpus.name, tiny_corpus.parent)) == corpus_revision(
        load_corpus(tiny_corpus)
    )


# Splits


def test_splits_by_hash_are_disjoint_and_do_not_depend_on_order_or_chance(tmp_path, distinct_texts):
    rows = [*distinct_texts, *distinct_texts[:80]]  # copies must not end up on two sides
    for name, order in {"a": rows, "b": rows[::-1]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(order), encoding="utf-8")
    a, b = load_corpus(tmp_path / "a.txt"), load_corpus(tmp_path / "b.txt")
    sets = [set(a[split]["text"]) for split in SPLITS]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 400
    assert sorted(texts(a)) == sorted(rows)
    assert sets == [set(b[split]["text"]) for split in SPLITS]


def test_a_document_s_place_is_the_hash_of_its_own_words(tmp_path, distinct_texts):
    def place(text: str) -> str:
        share = int(hashlib.sha256(text.encode()).hexdigest(), 16) / 2**256
        return "validation" if share < 0.05 else "test" if share < 0.1 else "train"

    for count in (300, 400):  # a hundred more move none
        (tmp_path / "a.txt").write_text("\n".join(distinct_texts[:count]), encoding="utf-8")
        corpus = load_corpus(tmp_path / "a.txt")
        assert {split: set(corpus[split]["text"]) for split in SPLITS} == {
            split: {text for text in distinct_texts[:count] if place(text) == split} for split in SPLITS
        }
    assert abs(corpus["train"].num_rows - 360) < 20


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_few_documents_fill_three_splits_all_the_same(tmp_path, distinct_texts, count):
    for begin in range(0, 100, count):
        (tmp_path / "a.txt").write_text("\n".join(distinct_texts[begin : begin + count]), encoding="utf-8")
        corpus = load_corpus(tmp_path / "a.txt", document="line")
        assert min(corpus[split].num_rows for split in SPLITS) >= 1


# Duplicates across splits


def test_copies_across_our_own_splits_are_left_out_of_training_and_said(tmp_path, distinct_texts):
    nearly = [text.upper().replace(" ", ", ", 3) + " and no more." for text in distinct_texts[:100]]
    (tmp_path / "a.txt").write_text("\n".join([*distinct_texts, *nearly]), encoding="utf-8")
    said = []
    corpus = load_corpus(tmp_path / "a.txt", announce=said.append)
    words = {split: {text.lower().split()[4] for text in corpus[split]["text"]} for split in SPLITS}
    assert not words["train"] & (words["validation"] | words["test"]) and not words["validation"] & words["test"]
    missing = 500 - len(texts(corpus))
    assert missing > 5 and corpus["validation"].num_rows > 15
    assert "train documents (0 exact" in said[0] and "left out as duplicates of held-out ones" in said[0]


def test_published_splits_stay_as_they_are(tmp_path, distinct_texts):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("\n".join(distinct_texts[:9]), encoding="utf-8")
    assert len(texts(load_corpus(tmp_path))) == 27


def test_documents_that_all_repeat_each_other_are_kept_and_said(tmp_path, distinct_texts):
    rows = [f"{distinct_texts[0]} Number {i}." for i in range(30)]
    (tmp_path / "a.txt").write_text("\n".join(rows), encoding="utf-8")
    said = []
    assert len(texts(load_corpus(tmp_path / "a.txt", announce=said.append))) == 30
    assert "every train document repeats a held-out one; they were kept" in " ".join(said)


def test_a_split_that_would_be_empty_leaves_the_others_clean(tmp_path, distinct_texts):
    rows = documents.as_dataset(distinct_texts[:40])
    divided = {split: texts for split, texts in corpora._split_by_hash(rows, "").items()}
    copies = [*divided["validation"]["text"], *divided["test"]["text"]]
    held_out = datasets.DatasetDict(
        train=documents.as_dataset([*divided["train"]["text"], *(f"{text} again" for text in copies)]),
        validation=documents.as_dataset([f"{text} too" for text in divided["test"]["text"]]),
        test=divided["test"],
    )
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_split_by_hash", lambda rows, source: held_out)
        corpus = corpora._divide(rows, "a source", said.append)
    assert corpus["validation"].num_rows == divided["test"].num_rows, "kept, or there would be none"
    assert not any(text.endswith("again") and text[:-6] in divided["test"]["text"] for text in corpus["train"]["text"])
    assert len(said) == 2 and "every validation document" in said[0] and "train documents" in said[1]


# Stories


STORY = "<sos> The River <nl> It was {0} summer. <nl> It was low in {0}. <eos>\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_stories_are_found_by_name_and_by_their_form(tmp_path, distinct_texts, monkeypatch, ends):
    (tmp_path / "stories").mkdir()
    file = tmp_path / "stories" / "stories.txt"
    file.write_text("".join(map(STORY.format, distinct_texts[:40])).replace("\n", ends), encoding="utf-8", newline="")
    expected = sorted(f"The River\nIt was {text} summer.\nIt was low in {text}." for text in distinct_texts[:40])
    named = load_corpus("stories", tmp_path)
    assert sorted(texts(named)) == expected
    for other in (load_corpus("stories", tmp_path / "stories"), load_corpus(file), load_corpus(tmp_path / "stories")):
        assert corpus_revision(other) == corpus_revision(named)
    monkeypatch.setenv("CURVEKIT_DATA", str(tmp_path))
    assert corpus_revision(load_corpus("stories")) == corpus_revision(named)


def test_stories_may_stand_in_the_rows_of_a_table(tmp_path, distinct_texts):
    lines = [f"<sos> {number} <nl> {text} <eos>" for number, text in enumerate(distinct_texts[:20])]
    (tmp_path / "stories.txt").write_text("\n".join(lines))
    told = corpus_revision(load_corpus(tmp_path / "stories.txt"))
    (tmp_path / "tales").mkdir()
    table, said = datasets.Dataset.from_dict({"text": [lines[0], None, *lines[1:]]}), []
    for file in (tmp_path / "rows.parquet", tmp_path / "rows.csv", tmp_path / "tales" / "rows.jsonl"):
        getattr(table, f"to_{file.suffix[1:].replace('jsonl', 'json')}")(file)
        assert corpus_revision(load_corpus(file, announce=said.append)) == told, file
    assert corpus_revision(load_corpus(tmp_path / "tales")) == told
    assert sum("20 stories, the ends of 0 cut" in text for text in said) == 3


def test_a_large_corpus_is_searched_for_duplicates_once(tmp_path, distinct_texts, monkeypatch):
    rows = [{"text": text} for text in [*distinct_texts, *distinct_texts[:40]]]
    write_jsonl(tmp_path / "rows.jsonl", [row | {"text": row["text"] + " again"} for row in rows] + rows)
    monkeypatch.setattr(corpora, "_LARGE", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    first = corpus_revision(load_corpus(tmp_path / "rows.jsonl"))
    (kept,) = (tmp_path / "cache").glob("curvekit-duplicates-*.json")
    whole = kept.read_text()
    assert json.loads(whole)
    for broken in (whole[:20], "null", '{"a": 1}', "[1]"):
        kept.write_text(broken)  # it is made again
        assert corpus_revision(load_corpus(tmp_path / "rows.jsonl")) == first
        assert kept.read_text() == whole
    monkeypatch.setattr(corpora, "search_splits", None)
    assert corpus_revision(load_corpus(tmp_path / "rows.jsonl")) == first


def test_what_was_cut_from_stories_is_said(tmp_path, distinct_texts):
    lines = [STORY.format(text).replace("<eos>", "<nl> More at /r/rivers! <eos>") for text in distinct_texts[:20]]
    (tmp_path / "tales.txt").write_text("".join([*lines, "<sos> Only a title <eos>\n"]), encoding="utf-8")
    said = []
    assert "/r/" not in "".join(texts(load_corpus(tmp_path / "tales.txt", announce=said.append)))
    assert "20 stories, the ends of 20 cut: subreddit 20 (360 characters)" in said[0]
    assert "1 without a paragraph left out" in said[0]


def test_stories_are_on_no_hub_and_where_to_get_them_is_said(monkeypatch):
    monkeypatch.setattr(hub, "require", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(CurvekitError, match=r"on no hub; put a file stories\.txt, one story a line .* Standard Ebooks"):
        load_corpus("stories")


def test_the_public_domain_stories_come_through_uncut():
    folder = os.environ.get("CURVEKIT_TEST_DATA")
    if not folder:
        pytest.skip("needs the stories: set CURVEKIT_TEST_DATA to a folder that holds stories/stories.txt")
    lines = (Path(folder) / "stories" / "stories.txt").read_text(encoding="utf-8").splitlines()
    report = StoryReport()
    assert list(read_stories(lines, report)) == [parse_story(line) for line in lines]
    assert report.touched == 0
    copied = re.compile(r"<nl>.*?(\[.*?\]\(http[s]?://\S+\)|subscribe|/r/|PART \d+).*?<eos>")
    assert sum(len(line) - len(copied.sub("<eos>", line)) for line in lines) > 900_000  # of 27 stories


def test_shakespeare_is_split_front_to_back_and_alike_from_both_sources(tmp_path):
    speeches = [f"Speaker {i}:\n" + "To be or not to be, that is it.\n" * 130 + "\n" for i in range(100)]
    (tmp_path / "input.txt").write_text("".join(speeches), encoding="utf-8")
    corpus = load_corpus("shakespeare", tmp_path)
    assert texts(corpus) == speeches
    assert [corpus[split].num_rows for split in SPLITS] == [90, 5, 5]

    exported = tmp_path / "hub" / "shakespeare"
    whole = "".join(speeches)
    for split, part in {"train": whole[:5000], "validation": whole[5000:70_000], "test": whole[70_000:]}.items():
        (exported / split).mkdir(parents=True)
        documents.as_dataset([part]).to_parquet(exported / split / "0000.parquet")
    assert corpus_revision(load_corpus("shakespeare", tmp_path / "hub")) == corpus_revision(corpus)


def test_a_revision_tells_texts_and_their_borders_apart(tiny_corpus):
    corpus = load_corpus(tiny_corpus)
    revision = corpus_revision(corpus)
    assert revision == corpus_revision(load_corpus(tiny_corpus))
    assert all(len(digits) == 12 and int(digits, 16) >= 0 for digits in revision.values())
    assert len({*revision.values()}) == 3
    assert text_revision(["ab", "c"]) != text_revision(["a", "bc"])


# The documentation of this Python


@pytest.fixture(scope="module")
def documentation():
    return load_corpus("pydocs")


def test_pydocs_is_large_enough_and_reads_as_prose(documentation):
    size = sum(len(text) for text in texts(documentation))
    assert 1_000_000 < size < 6_000_000
    for split, share in {"train": 0.9, "validation": 0.05, "test": 0.05}.items():
        assert abs(sum(map(len, documentation[split]["text"])) / size - share) < 0.04
    assert documentation["validation"].num_rows >= 16  # what a quick run scores
    whole = "\n".join(texts(documentation))
    assert "The difflib module\n\nModule difflib" in whole
    assert "Lambdas\n\n   lambda_expr ::=" in whole, "the line drawn under a heading is left out"
    assert not re.search(r"^[-=*~+|_ ]*([-=*~_])\1\1[-=*~+|_ ]*$", whole, re.M)
    assert "\n    ...\n" in whole, "an ellipsis is not drawn"
    assert "SequenceMatcher.find_longest_match(alo=0, ahi=None, blo=0, bhi=None)" in whole
    assert 'The "assert" statement' in whole
    assert "all rights reserved" not in whole.lower()


def test_pydocs_is_the_same_in_another_process_and_imports_nothing(documentation, tmp_path):
    code = (
        "import json, sys; from curvekit.text.corpora import *; before = set(sys.modules)\n"
        "revision = corpus_revision(load_corpus('pydocs'))\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([revision, sorted(new & {'tkinter', 'turtle', 'idlelib', 'antigravity', 'sqlite3'})]))"
    )
    fresh = os.environ | {"HF_HOME": str(tmp_path), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=fresh)
    assert json.loads(done.stdout) == [corpus_revision(documentation), []]


def test_docstrings_are_read_without_running_the_module(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "support.py").write_text('"""' + "Left out. " * 40 + '"""')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "danger.py").write_text(
        '"""A module.\n\nCopyright (c) 1999 Nobody. All rights reserved.\n\nIts end."""\n'
        "raise SystemExit\n"
        "class Point(tuple):\n    '''A point.'''\n"
        "    def move(self, by, *, twice=False):\n        '''Move it.'''\n"
    )
    assert list(pydocs._modules(tmp_path)) == [
        "The danger module\n\nA module.\n\nIts end.\n\n"
        "class Point(tuple)\n\nA point.\n\nPoint.move(by, *, twice=False)\n\nMove it.\n"
    ]


def test_pydocs_all_is_read_once(monkeypatch, tmp_path, tiny_texts):
    calls = []
    read = lambda installed_packages: calls.append(installed_packages) or tiny_texts  # noqa: E731
    monkeypatch.setattr(pydocs, "python_documentation", read)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert corpus_revision(load_corpus("pydocs-all")) == corpus_revision(load_corpus("pydocs-all"))
    assert calls == [True]


# The hub and its cache


def test_the_hub_cache_comes_before_the_hub(monkeypatch, tmp_path):
    repository = tmp_path / "datasets--Salesforce--wikitext"
    snapshot = repository / "snapshots" / "0123abcd" / "wikitext-2-raw-v1"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    rows = documents.as_dataset(WIKITEXT.splitlines(keepends=True))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for split in ("train", "validation"):
        rows.to_parquet(snapshot / f"{split}-00000-of-00001.parquet")
    with pytest.raises(CurvekitError, match="HF_HUB_OFFLINE is set"):  # half a download is not a corpus
        load_corpus("wikitext-2")
    rows.to_parquet(snapshot / "test-00000-of-00001.parquet")
    said = []
    assert load_corpus("wikitext-2", announce=said.append)["test"].num_rows == 3
    assert "local cache" in said[-1]


def test_the_hub_is_asked_for_the_raw_files_by_their_real_name(monkeypatch, tmp_path):
    asked = []

    def download(repository, *, repo_type, revision, allow_patterns, local_files_only):
        if local_files_only:
            raise LocalEntryNotFoundError("nothing here")
        asked.append((repository, repo_type, revision, allow_patterns))
        folder = tmp_path / allow_patterns.split("/")[0]
        folder.mkdir()
        for name in (
            "train-00000-of-00002",
            "train-00001-of-00002",
            "validation-00000-of-00001",
            "test-00000-of-00001",
        ):
            documents.as_dataset(WIKITEXT.splitlines(keepends=True)).to_parquet(folder / f"{name}.parquet")
        return str(tmp_path)

    monkeypatch.setattr(hub, "unreachable", lambda: None)
    monkeypatch.setattr(corpora, "snapshot_download", download)
    corpus = load_corpus("wikitext-103")
    assert asked == [("Salesforce/wikitext", "dataset", "main", "wikitext-103-raw-v1/*")]
    assert [corpus[split].num_rows for split in SPLITS] == [6, 3, 3]


def test_openwebtext_is_streamed_once_and_a_part_held_out(monkeypatch, tmp_path):
    pages = ({"text": f"Page {i}."} for i in range(10**9))  # whoever reads to the end never returns
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(corpora, "_OPENWEBTEXT_DOCUMENTS", 400)
    with pytest.raises(CurvekitError, match="HF_HUB_OFFLINE is set"):
        load_corpus("openwebtext")
    monkeypatch.setattr(corpora, "load_dataset", lambda *names, split, streaming: pages)
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    corpus = load_corpus("openwebtext")
    assert len(texts(corpus)) == 400 and 0 < corpus["test"].num_rows < 10
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(corpora, "_OPENWEBTEXT_DOCUMENTS", 400)
    assert corpus_revision(load_corpus("openwebtext")) == corpus_revision(corpus)


@pytest.mark.parametrize("name", ["wikitext-103", "openwebtext", "shakespeare"])
def test_a_silent_hub_is_given_up_within_five_seconds(online, monkeypatch, name):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "SECONDS", 0.5 if name != "wikitext-103" else hub.SECONDS)
        start = time.monotonic()
        with pytest.raises(
            CurvekitError, match=f"corpus {name} .*; give a data_dir that holds it, or take corpus pydocs"
        ):
            load_corpus(name)
        assert time.monotonic() - start < 5


def test_a_silent_name_server_is_given_up_as_well(online, monkeypatch):
    class Silent:
        def head(self, *_, **__):
            time.sleep(30)

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Silent)
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    start = time.monotonic()
    assert "no answer within 0.3 seconds" in hub.unreachable()
    assert time.monotonic() - start < 5


def test_what_is_named_explicitly_is_never_replaced(wikitext, tmp_path, monkeypatch, documentation):
    monkeypatch.setattr(corpora, "_hub_folder", lambda name: pytest.fail("went on to the hub"))
    for name, folder, problem in [
        ("wikitext-103", wikitext, "does not hold wikitext-103"),  # another corpus's folder
        ("wikitext-103", tmp_path, "does not hold wikitext-103"),
        ("wikitext-2", tmp_path / "none", "there is no data folder"),
        ("openwebtext", tmp_path, "does not hold openwebtext"),
        ("shakespeare", tmp_path, "expected input.txt"),
        ("pydocs", tmp_path, "leave data_dir="),
    ]:
        with pytest.raises(CurvekitError, match=problem):
            load_corpus(name, folder)


def test_the_environment_s_folder_is_passed_over_aloud(monkeypatch, tmp_path):
    monkeypatch.setenv("CURVEKIT_DATA", str(tmp_path))
    said = []
    with pytest.raises(CurvekitError, match="HF_HUB_OFFLINE is set"):
        load_corpus("wikitext-2", announce=said.append)
    assert str(tmp_path) in said[0] and "instead" in said[0]


# Complaints


@pytest.mark.parametrize(("name", "problem"), [
    ("wikitxt-2", "unknown corpus 'wikitxt-2'; did you mean 'wikitext-2'"),
    ("", "unknown corpus ''"),
    ("./wikitext-2", "there is no file or folder './wikitext-2'"),
    ("stories.txt", "there is no file or folder 'stories.txt'"),
])  # fmt: skip
def test_an_unknown_name_and_a_missing_path_are_told_apart(name, problem):
    with pytest.raises(CurvekitError, match=problem):
        load_corpus(name)


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("a.txt", b"", "is empty"),
    ("a.txt", b" \n\n \n", "is empty"),
    ("a.txt", b"PK\x03\x04\x00\x00" * 9, "is a binary file"),
    ("a.txt", b"line\n" * 3000 + b"\0", "is a binary file"),
    ("a.txt", b"line\n" * 300 + b"caf\xe9\n", "not UTF-8: byte 0xe9 at offset 1,503"),
    ("a.txt", b"alone", "1 distinct document, and three splits need three"),
    ("a.txt", b"<sos> A <eos>\n<sos> <eos>\n<sos>\n", "is empty: it has 3 titles and no story; name a file"),
    ("a.txt", b"<sos> A <nl> B <eos>\nand more\n", "text outside of a story in line 2, 'and more'"),
    ("a.txt", b"<sos> A <nl> caf\xe9 <eos>\n", "not UTF-8: byte 0xe9 at offset 16"),
    ("a.jsonl", b"", "is empty|cut off"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b', "cut off or is not jsonl"),
    ("a.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8: byte 0xe9 at offset 13"),
    ("a.jsonl", b'{"text": 1}\n{"text": 2}\n', "holds int64, expected strings"),
    ("a.jsonl", b'{"text": ["a"]}\n', "holds .*, expected strings"),
    ("a.csv", b"title,body\na,b\n", r"no column 'text' \(columns: 'title', 'body'\)"),
    ("a.csv", b"title,text\na,\n", "no row has text|is empty"),
    ("a.csv", b"text\nHello there, world\nOne, two\n", "more fields in its rows than names in its header"),
    ("a.csv", b"text,text\na,b\n", "has two columns 'text'"),
    ("a.parquet", b"PAR1 and then nothing", "is cut off or is not parquet"),
    ("a.pdf", b"%PDF-1.7", "is none of .txt"),
])  # fmt: skip
def test_a_bad_file_ends_in_one_clear_sentence(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CurvekitError, match=problem) as raised:
        load_corpus(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_parquet_cut_off_in_the_middle_is_named(tmp_path, tiny_texts):
    path = tmp_path / "a.parquet"
    documents.as_dataset(tiny_texts).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CurvekitError, match="cut off or is not parquet"):
        load_corpus(path)


def test_missing_and_doubled_split_files_are_named(tiny_corpus, tmp_path):
    for name in ("train.txt", "validation.txt"):
        (tmp_path / name).write_bytes((tiny_corpus / name).read_bytes())
    with pytest.raises(CurvekitError, match=r"has no test file \(split files there: train.txt, validation.txt\)"):
        load_corpus(tmp_path)
    (tmp_path / "validation.txt").unlink()
    (tmp_path / "test.txt").write_bytes((tiny_corpus / "test.txt").read_bytes())
    for name in ("valid.txt", "val.txt"):
        (tmp_path / name).write_bytes((tiny_corpus / "validation.txt").read_bytes())
    with pytest.raises(CurvekitError, match="one validation file or all its shards"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("unit", ["lines", "passages"])
def test_without_a_validation_file_some_of_the_training_text_validates(tmp_path, tiny_texts, unit):
    lines = tiny_texts * 20 if unit == "passages" else tiny_texts
    joined = "\n\n" if unit == "passages" else "\n"
    (tmp_path / "train.txt").write_text(joined.join(f"{i}. {text}" for i, text in enumerate(lines)))
    (tmp_path / "test.txt").write_text("\n".join(f"A test of {text}" for text in tiny_texts[:9]))
    (tmp_path / "test_modern.txt").write_text("\n".join(f"Modern. {text}" for text in tiny_texts[:5]))
    said = []
    corpus = load_corpus(tmp_path, announce=said.append)
    assert corpus["test"].num_rows == 9 and corpus["validation"].num_rows >= 1
    train, validation = list(corpus["train"]["text"]), list(corpus["validation"]["text"])
    assert not set(train) & set(validation)
    assert "has no validation file: " in " ".join(said) and "1 files that belong to no split" in " ".join(said)
    assert further_splits(tmp_path) == {"test_modern": tmp_path / "test_modern.txt"}
    if unit == "passages":  # the end of it
        assert validation[-1].strip().endswith("story number 59.")
        assert sum(len(text.split()) for text in train + validation) == sum(len(text.split()) + 1 for text in lines)


def test_a_folder_without_texts_and_a_unit_that_does_nothing_are_refused(tmp_path, wikitext):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CurvekitError, match="holds no file of .txt"):
        load_corpus(tmp_path / "empty")
    with pytest.raises(CurvekitError, match="unknown document unit 'lines'; did you mean 'line'"):
        load_corpus(wikitext, document="lines")
    with pytest.raises(CurvekitError, match="has documents of its own"):
        load_corpus("wikitext-2", wikitext, document="line")


def test_every_corpus_says_in_a_line_what_it_is():
    assert set(CORPORA) >= {
        "wikitext-103",
        "wikitext-2",
        "openwebtext",
        "shakespeare",
        "stories",
        "pydocs",
        "pydocs-all",
    }
    assert all(description and "\n" not in description for description in CORPORA.values())


def test_wikitext_2_has_the_articles_its_authors_count():
    folder = os.environ.get("CURVEKIT_TEST_DATA")
    if not folder:
        pytest.skip("needs WikiText-2: set CURVEKIT_TEST_DATA to a folder that holds wikitext-2")
    corpus = load_corpus("wikitext-2", folder)
    assert [corpus[split].num_rows for split in SPLITS] == [600, 60, 60]
