"""What users met, row by row of the table of cases: each test is the promise of its row, with an input of its own."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import text_metrics
from curvekit.text import documents
from curvekit.text.corpora import SPLITS, load_corpus

PLACES = ("quay", "mill", "ridge", "marsh", "tower", "field", "lane", "well", "barn", "gate", "weir", "copse")
TALES = [
    f"At the {place} on day {day} the {PLACES[(day * 5 + 1) % 12]} keeper counted {day * 7 + 3} lamps and {place}s."
    for day, place in enumerate(PLACES)
]


def texts(corpus) -> list[str]:
    return sorted(text for split in SPLITS for text in corpus[split]["text"])


def loaded(path: Path) -> tuple[list[str], str]:
    """The documents of a corpus, and all that was said."""
    said: list[str] = []
    return texts(load_corpus(path, announce=said.append)), "\n".join(said)


def refused(path: Path, **settings) -> str:
    with pytest.raises(CurvekitError) as raised:
        load_corpus(path, **settings)
    assert str(path) in str(raised.value)
    return str(raised.value)


def run(capsys, *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        status = main([str(word) for word in argv])
    except SystemExit as end:
        status = end.code
    done = capsys.readouterr()
    return status, done.out, done.err


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, **columns) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


SHORT = ("--steps", "4", "--block-size", "32", "--batch-size", "2", "--eval-every", "2", "--sample-prompts", "0",
         "--precision", "float32", "--recipe", "gpt2")  # fmt: skip


@pytest.mark.parametrize("names", [
    ["Train.txt", "Valid.txt", "Test.txt"],
    ["my_train.txt", "my_dev.txt", "my_test.txt"],
    ["tales-TRAIN.txt", "tales-Validation.txt", "tales-TEST.txt"],
    ["train_v2.txt", "val_v2.txt", "test_v2.txt"],
    ["Training/a/b.txt", "Validation/a.txt", "Testing/a.txt"],
    ["TalesTrain.txt", "TalesVal.txt", "TalesTest.txt"],
])  # fmt: skip
def test_c01_split_names_are_found_in_any_case_as_a_word_or_a_folder(tmp_path, names):
    for name, text in zip(names, TALES, strict=False):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    corpus = load_corpus(tmp_path)
    assert [corpus[split]["text"][0] for split in SPLITS] == TALES[:3]


def test_c01_split_names_that_are_not_whole_are_refused_or_said(tmp_path):
    (tmp_path / "half").mkdir()
    for name, text in zip(("My_Train.txt", "My_Valid.txt"), TALES, strict=False):
        (tmp_path / "half" / name).write_text(text)
    assert "has no test file (split files there: My_Train.txt, My_Valid.txt)" in refused(tmp_path / "half")
    for number, name in enumerate(("a_test_of_time", *"bcde")):
        (tmp_path / f"{name}.txt").write_text(TALES[number])
    (tmp_path / "half" / "My_Train.txt").unlink()
    (tmp_path / "half" / "My_Valid.txt").unlink()
    found, said = loaded(tmp_path)
    assert found == sorted(TALES[:5]) and "some names hold train, valid or test (a_test_of_time.txt)" in said


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_c02_rows_without_text_are_counted_and_told(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    rows = [text if number % 2 else None for number, text in enumerate(TALES)]
    if kind == "jsonl":
        write_jsonl(path, [{"text": row} if row else {"content": "x"} for row in rows])
    elif kind == "parquet":
        write_parquet(path, text=rows)
    else:
        path.write_text("text,id\n" + "".join(f"{row or ''},1\n" for row in rows))
    found, said = loaded(path)
    assert found == sorted(TALES[1::2]) and "6 of 12 rows have no text and were left out" in said


@pytest.mark.parametrize("start", ["", "<|startoftext|>"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_c03_end_of_text_marks_separate_documents_and_are_no_text(tmp_path, kind, start):
    tales = [f"{text}\nThen it rained." for text in TALES]
    path = tmp_path / f"tales.{kind}"
    if kind == "txt":
        path.write_text("".join(f"{start}{tale}\n<|endoftext|>\n" for tale in tales))
    else:
        write_jsonl(path, [{"text": f"{start}{one}<|endoftext|>{start}{two}<|endoftext|>"}
                           for one, two in zip(tales[::2], tales[1::2], strict=True)])  # fmt: skip
    assert loaded(path)[0] == sorted(tales)


@pytest.mark.parametrize(("text", "tokenizer"), [
    ("корабль ушёл", "13a"),
    ("שלום עולם ומלואו היום", "13a"),
    ("नाव सुबह नदी पर थी", "13a"),
    ("船在雾里等着潮水", "zh"),
    ("船は霧の中で待っています", "char"),
    ("เรือออกไปแล้ว", "char"),
])  # fmt: skip
def test_c04_equal_texts_score_100_in_every_script_and_the_signature_says_how(text, tokenizer):
    figures = text_metrics([text], [text])
    assert figures["rouge1"] == figures["rougeL"] == 100 and figures["bleu"] == pytest.approx(100)
    assert f"tok:{tokenizer}|" in figures["signatures"]["bleu"] and "tok:unicode" in figures["signatures"]["rouge"]
    other = text_metrics([text], ["nothing of the sort is said here"])
    assert other["rouge1"] == other["bleu"] == 0


def test_c05_no_character_makes_a_command_fail(tmp_path, tiny_base):
    corpus = tmp_path / "отчёт船.txt"
    corpus.write_text("\n".join(TALES), encoding="utf-8")
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    argv = ["evaluate", str(tiny_base), "--corpus", str(corpus), "--context", "32"]
    done = subprocess.run([sys.executable, "-m", "curvekit.cli", *argv], capture_output=True, env=env)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert rb"\u0442\u0447" in done.stdout, "what the encoding lacks is written as an escape"


def test_c06_only_checkpoints_of_its_own_are_looked_at(tmp_path, tiny_base, tiny_corpus, interrupted):
    from curvekit.training.settings import RunConfig

    config = RunConfig(recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), steps=4, block_size=32,
                       batch_size=2, eval_every=2, sample_prompts=0, precision="float32")  # fmt: skip
    folder = interrupted(config, tmp_path / "run", 3)
    kept = folder / "checkpoints" / "checkpoint-2-backup"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    from curvekit.training.checkpoints import last_whole_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert last_whole_checkpoint(folder / "checkpoints").name == "checkpoint-2"
    assert (kept / "notes.txt").read_text() == "mine"


def test_c07_only_text_is_read_whatever_the_other_columns_hold(tmp_path):
    rows = [
        {"text": text, "x": other} for text, other in zip(TALES, [1, "a", [1], {"b": 2}, None, 2.5] * 2, strict=True)
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.csv").write_text(
        "id,text\n" + "".join(f"{'A17' if n == 9 else n},{t}\n" for n, t in enumerate(TALES))
    )
    pairs = pyarrow.array([[("k", "v")]] * 12, pyarrow.map_(pyarrow.string(), pyarrow.string()))
    write_parquet(tmp_path / "a.parquet", text=TALES, headers=pairs)
    for kind in ("jsonl", "csv", "parquet"):
        assert loaded(tmp_path / f"a.{kind}")[0] == sorted(TALES), kind


def test_c08_prompt_files_are_read_by_the_rules_of_corpora(tmp_path, capsys, monkeypatch, tiny_base):
    data = "\ufeffThe river\r\nA boat\rIt\x85s one\n".encode()
    (tmp_path / "prompts.txt").write_bytes(data)
    status, out, _ = run(capsys, "generate", tiny_base, "--file", tmp_path / "prompts.txt", "--json", "--tokens", "2")
    assert status == 0 and [json.loads(line)["prompt"] for line in out.rstrip("\n").split("\n")] == [
        "The river",
        "A boat",
        "It\x85s one",
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run(capsys, "generate", tiny_base, "-", "--json", "--tokens", "2")[1] == out
    (tmp_path / "prompts.txt").write_bytes("The river".encode("utf-16"))
    assert "is UTF-16 text" in run(capsys, "generate", tiny_base, "--file", tmp_path / "prompts.txt")[2]


@pytest.mark.parametrize(("encoding", "text", "advice"), [
    ("cp1252", "She said “go” – café", "iconv -f cp1252 -t utf-8"),
    ("latin1", "Der Fluß war tief, naïve", "iconv -f latin1 -t utf-8"),
    ("cp1251", "корабль ушёл в море", "find out its encoding"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_c09_the_advice_is_by_what_the_bytes_are(tmp_path, kind, encoding, text, advice):
    (tmp_path / f"a.{kind}").write_bytes(f"text\n{text}\n".encode(encoding))
    assert advice in (said := refused(tmp_path / f"a.{kind}"))
    assert "in line 2" in said


@pytest.mark.parametrize("text", [
    "".join(f"第{day}天，船在雾里等着潮水，没有人知道它什么时候开。" for day in range(300)),
    "x" * 9000,
    "".join(f"第{day}天船在雾里" for day in range(500)) + "\n" + "潮水" * 900 + "\n",
])  # fmt: skip
def test_c10_text_without_white_space_is_cut_by_length(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(tmp_path / "a.txt")
    assert "".join(piece for split in SPLITS for piece in corpus[split]["text"]) == text
    assert min(corpus[split].num_rows for split in SPLITS) >= 1 and len(texts(corpus)) >= 30


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_c11_every_string_type_of_arrow_is_a_string(tmp_path, kind):
    column = pyarrow.array(TALES).dictionary_encode() if kind == "dictionary" else (
        pyarrow.array(TALES, getattr(pyarrow, kind)())
    )  # fmt: skip
    assert loaded(write_parquet(tmp_path / "a.parquet", text=column))[0] == sorted(TALES)


def test_c12_an_empty_file_of_a_folder_is_left_out_and_said(tmp_path):
    for number, text in enumerate(TALES[:5]):
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "none.jsonl").write_text("[]")
    found, said = loaded(tmp_path)
    assert found == sorted(TALES[:5])
    assert "empty.txt is empty and was left out" in said and "none.jsonl is empty and was left out" in said


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_c13_line_ends_are_one_rule_for_every_format(tmp_path, kind, ends):
    rows = [f"{text}{ends}It rained." for text in TALES]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_bytes(("id,text\r\n" + "".join(f'{n},"{row}"\r\n' for n, row in enumerate(rows))).encode())
    elif kind == "parquet":
        write_parquet(path, text=rows)
    else:
        objects = [{"text": row} for row in rows]
        path.write_text(json.dumps(objects)) if kind == "json" else write_jsonl(path, objects)
    assert loaded(path)[0] == sorted(f"{text}\nIt rained." for text in TALES)


def test_c14_voices_have_distinct_names(monkeypatch):
    from importlib import import_module

    from curvekit import widgets

    room = import_module(widgets.load_voices.__module__)
    monkeypatch.setattr(room, "open_model", lambda *given: given)
    voices = widgets.load_voices(["runs/a/curve", "runs/b/curve", "runs/c/curve-seed1"])
    assert [model for (model,) in voices.values()] == ["runs/a/curve", "runs/b/curve", "runs/c/curve-seed1"]
    assert list(voices) == ["curve", "b/curve", "curve-seed1"]
    with pytest.raises(CurvekitError, match="'mini' is given twice"):
        widgets.load_voices(["mini", "mini"])


def test_c15_a_split_that_is_too_short_is_named_with_its_size_and_a_block_that_fits(tmp_path, capsys, tiny_base):
    dice = random.Random(0)
    lines = [" ".join("".join(dice.choices("abcdefgh", k=5)) for _ in range(3)) for _ in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    argv = ["train", "--corpus", tmp_path / "a.txt", "--base", tiny_base, *SHORT, "--block-size", "64"]
    status, _, said = run(capsys, *argv, "--out", tmp_path / "run")
    assert status == 2 and "the validation split has" in said
    fitting = said.rpartition("a block_size of at most ")[2].split()[0]
    assert main([str(word) for word in [*argv, "--block-size", fitting, "--out", tmp_path / "run"]]) == 0


def test_c16_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    import datasets

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    assert loaded(write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TALES]))[0], "small files need no cache"
    monkeypatch.setattr(documents, "_LARGE", 10)
    with pytest.raises(CurvekitError, match="file/cache .*HF_DATASETS_CACHE"):
        load_corpus(tmp_path / "a.jsonl")


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_c17_utf16_is_recognised_and_a_nul_has_its_offset(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_bytes("text\nThe ferry left at dawn.\n".encode(encoding))
        assert "is UTF-16" in (said := refused(path)) and "iconv -f utf-16" in said
    path.write_bytes(b"text\nThe ferry\0 left.\n")
    assert "a NUL byte at offset 14, in line 2" in refused(path)


@pytest.mark.parametrize(("value", "kind"), [(1984, "int64"), ([1], "list"), ({"a": 1}, "object"), (True, "bool")])
def test_c18_the_type_that_was_found_and_its_row_are_said(tmp_path, value, kind):
    rows = [{"text": text} for text in TALES[:4]] + [{"text": value}]
    assert f"holds {kind}, expected strings: line 5 has {value!r}" in refused(write_jsonl(tmp_path / "a.jsonl", rows))
    column = pyarrow.array([[1, 2]], pyarrow.list_(pyarrow.int64()))
    assert "holds list<" in refused(write_parquet(tmp_path / "a.parquet", text=column))


def test_c19_half_of_a_character_is_told_with_the_line_of_the_file_and_nothing_else(tmp_path, capfd, monkeypatch):
    rows = [{"text": text} for text in TALES[:5]] + [{"text": "A boat \ud83d"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for size in (documents._LARGE, 10):
        monkeypatch.setattr(documents, "_LARGE", size)
        said = refused(path)
        assert "line 6" in said and "character 8 of its text is '\\ud83d'" in said and "cut off" not in said
    assert capfd.readouterr() == ("", ""), "no other library speaks before"


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", "text\n"), ("a.csv", "id,text\r\n"), ("a.csv", "\n\n"), ("a.json", "[]"), ("a.jsonl", "[]\n"),
    ("a.jsonl", "\n\r\n"),
    ("a.txt", "\n\n"), ("a.txt", "\ufeff"), ("a.json", ""), ("a.txt", "<|endoftext|>\n"),
])  # fmt: skip
def test_c20_what_has_no_rows_is_empty(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert "is empty" in refused(tmp_path / name)
    assert "is empty" in refused(write_parquet(tmp_path / "a.parquet", text=pyarrow.array([], pyarrow.string())))


def test_c21_strings_stay_strings(tmp_path):
    dates, numbers = [f"2021-03-{day:02}" for day in range(1, 13)], [f"0{number}.50" for number in range(12)]
    assert loaded(write_jsonl(tmp_path / "a.jsonl", [{"text": each} for each in dates]))[0] == dates
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(numbers))
    assert loaded(tmp_path / "a.csv")[0] == sorted(numbers)


def notebook(path: Path, claim: str = "It adds.", mark: str = "", metadata: dict | None = None) -> Path:
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# Sums\n\n**Claim.** {claim}"},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
         "source": "a = 1"},
        {"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "execution_count": None,
         "source": "print(a + 1)"},
    ]  # fmt: skip
    whole = {"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(mark + json.dumps(whole), encoding="utf-8")
    return path


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": {"name": "nowhere", "display_name": "x"}}])
def test_c22_a_notebook_without_a_kernel_runs_in_curvekits_own(tmp_path, metadata):
    from curvekit.reports.execution import report
    from curvekit.training.settings import RunConfig

    source = notebook(tmp_path / "sums.ipynb", metadata=metadata)
    page = report(
        RunConfig(), tmp_path / "report", notebooks=[source], parameters={"a": 41}, progress=lambda line: None
    )
    assert "42" in (page.parent / "sums.html").read_text()


def test_c23_settings_and_notebooks_with_a_mark_are_read(tmp_path, capsys):
    from curvekit.files import read_json
    from curvekit.reports.execution import plan_parameters
    from curvekit.training.settings import RunConfig

    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"recipe": "gpt2", "steps": 2}\r\n')
    assert read_json(tmp_path / "config.json") == {"recipe": "gpt2", "steps": 2}
    assert "steps" not in run(capsys, "train", "--config", tmp_path / "config.json", "--base", "nowhere")[2]
    source = notebook(tmp_path / "sums.ipynb", mark="\ufeff")
    assert plan_parameters([source], RunConfig(), {}, {"a": 3}) == {source: {"a": 3}}


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_c24_marks_between_joined_files_go(tmp_path, kind):
    lines = {"txt": "{}\n", "csv": '"{}"\n', "jsonl": '{{"text": "{}"}}\n'}[kind]
    first, second = ("".join(lines.format(text) for text in half) for half in (TALES[:6], TALES[6:]))
    head = "text\n" if kind == "csv" else ""
    (tmp_path / f"a.{kind}").write_text(f"\ufeff{head}{first}\ufeff{second}", encoding="utf-8")
    assert loaded(tmp_path / f"a.{kind}")[0] == sorted(TALES)


def test_c25_the_setting_that_leaves_no_merges_is_named(tmp_path, capsys, tiny_base, tiny_corpus):
    argv = ["train", "--base", tiny_base, "--corpus", tiny_corpus, "--scratch", "--tokenizer", "bpe-dropout", *SHORT]
    status, _, said = run(capsys, *argv, "--vocabulary", "257", "--out", tmp_path / "run")
    assert status == 2 and "vocabulary is 257" in said and "give 258 or more" in said


@pytest.mark.parametrize(
    ("typed", "meant"), [(r"\n", "\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), (r"\u000a", "\n"), ("\n", "\n")]
)
def test_c26_stop_understands_the_escapes_that_people_type(typed, meant, capsys):
    from curvekit.cli.frame import parser
    from curvekit.generation.console import Console
    from curvekit.generation.sampling import Sampling

    assert parser().parse_args(["generate", "mini", "x", "--stop", typed]).stop == [meant]
    console = Console(None, None, Sampling())
    console.command(f":set stop={typed}") if typed.strip() else console.command(':set stop=["\\n"]')
    assert console.sampling.stop == (meant,)
    assert r"\n for a line break" in " ".join(run(capsys, "generate", "--help")[1].split())


@pytest.mark.parametrize("words", [
    ["mini", "--tokens", "3", "--", "-x"], ["--tokens", "3", "--", "mini", "-x"], ["mini", "--", "-x", "--tokens", "3"],
    ["--tokens", "3", "mini", "--", "-x"], ["mini", "--max-new-tokens", "3", "--", "-x"],
    ["--", "mini", "-x", "--tokens=3"],
    ["mini", "--max_new_tokens=3", "--", "-x"],
])  # fmt: skip
def test_c27_flags_and_two_dashes_stand_in_any_order(words):
    from curvekit.cli.frame import parser

    found = parser().parse_args(["generate", *words])
    assert (found.model, found.prompt, found.max_new_tokens) == ("mini", "-x", 3)


@pytest.mark.parametrize(("argv", "near"), [
    (["train", "--leraning-rate", "3"], "--learning-rate"),
    (["generate", "mini", "x", "--token", "3"], "--tokens"),
    (["evaluate", "mini", "--splt", "test"], "--split"),
    (["report", "--seed", "3"], "--seeds"),
])  # fmt: skip
def test_c27_an_unknown_flag_is_answered_by_its_command(capsys, argv, near):
    status, _, said = run(capsys, *argv)
    assert status == 2 and said.startswith(f"usage: curvekit {argv[0]} ")
    assert f"there is no flag {next(w for w in argv if w.startswith('--'))}; did you mean" in said and near in said


def test_c28_a_character_that_no_font_has_is_said_under_the_figure(monkeypatch):
    from curvekit.figures import drawing
    from curvekit.figures.shading import token_cuts

    monkeypatch.setattr(drawing, "_family", lambda character: None)
    figure = token_cuts({"characters": ["船", "a", "走"]})
    assert "▯: no font of this machine has these characters (U+8239" in figure.texts[-1].get_text()


def test_c29_html_in_a_notebooks_claim_is_escaped(tmp_path):
    from curvekit.reports.execution import report
    from curvekit.training.settings import RunConfig

    source = notebook(tmp_path / "sums.ipynb", claim='It <script>alert(1)</script> *adds* <img src=x onerror="a()">.')
    page = report(RunConfig(), tmp_path / "report", notebooks=[source], progress=lambda line: None)
    for text in (page.read_text(), (page.parent / "sums.html").read_text()):
        assert "<script" not in text and "<img src=x" not in text
        assert "&lt;script&gt;" in text and "<em>adds</em>" in text


@pytest.mark.parametrize("words", [
    ["--corpus", "a" * 300], ["--out", "b/" * 3000], ["--corpus", "\udcff.txt"], ["--seed", "9" * 5000],
    ["--seed", str(2**32)], ["--steps", str(2**64)], ["--model", "degree=" + "9" * 5000],
    ["--model", '{"degree": ' + "[" * 1000 + "]" * 1000 + "}"],
    ["--temperature", "1e-320"], ["--recipe", "curve", "--model", "channels=[]"], ["--out", "~nouser/x"],
    ["--base", "~nouser/x"], ["--encoder", "~nouser/x", "--recipe", "curve"], ["--corpus", "{pipe}.txt"],
    ["--config", "{pipe}.json"], ["--config", "/dev/zero"], ["--data-dir", "~nouser/x"], ["--config", "{deep}"],
])  # fmt: skip
def test_r01_names_numbers_and_paths_have_bounds(tmp_path, capsys, tiny_base, tiny_corpus, words):
    for ending in ("txt", "json"):
        os.mkfifo(tmp_path / f"pipe.{ending}")
    (tmp_path / "deep.json").write_text('{"model": ' + '{"a":' * 900 + "1" + "}" * 901)
    names = {"pipe": str(tmp_path / "pipe"), "deep": str(tmp_path / "deep.json")}
    words = [word.format(**names) if word[:1] == "{" and word[1:5] in names else word for word in words]
    argv = ["train", *SHORT, "--base", tiny_base, "--corpus", tiny_corpus, "--out", tmp_path / "run", *words]
    status, _, said = run(capsys, *argv)
    assert status == 2 and "curvekit" in said.splitlines()[-1] and len(said.splitlines()[-1]) < 900


@pytest.mark.parametrize(
    "words", [["--beams", "1000000"], ["--temperature", "1e-320"], ["--seed", "9" * 30], ["--count", str(10**9)]]
)
def test_r01_sampling_has_bounds(capsys, tiny_base, words):
    status, _, said = run(capsys, "generate", tiny_base, "x", *words)
    assert status == 2 and "; give " in said
    assert run(capsys, "generate", "a prompt where the model was forgotten " * 9)[0] == 2


@pytest.fixture(scope="module")
def finished(tiny_base, tiny_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases") / "run"
    assert main([str(w) for w in ["train", "--base", tiny_base, "--corpus", tiny_corpus, *SHORT, "--out", folder]]) == 0
    return folder


@pytest.mark.parametrize(("file", "change", "field"), [
    ("model/config.json", {"n_layer": None}, "n_layer is None"),
    ("model/config.json", {"n_embd": 10**30}, "n_embd is 1"),
    ("model/config.json", {"model_type": 3}, "model_type is 3"),
    ("model/generation_config.json", {"eos_token_id": "x"}, "eos_token_id is 'x'"),
    ("model/tokenizer.json", {"model": None}, "model is None"),
    ("config.json", {"steps": "many"}, "steps is 'many'"),
    ("metrics.json", {"leaks": None}, "leaks is None"),
])  # fmt: skip
def test_r02_a_broken_file_of_a_run_is_named_with_its_field(finished, file, change, field):
    from curvekit.bases.opening import open_model
    from curvekit.training.runs import load_run

    path = finished / file
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | change))
    try:
        with pytest.raises(CurvekitError) as raised:
            open_model(finished) if file.startswith("model") else load_run(finished).metrics
    finally:
        path.write_text(whole)
    assert path.name in str(raised.value) and field in str(raised.value)


def test_r03_broken_scores_ratings_and_comparisons_are_named_with_their_field(finished, tmp_path):
    from curvekit.cli.readme import results_block
    from curvekit.experiments.comparison import load_comparison
    from curvekit.preferences.ratings import read_ratings
    from curvekit.training.runs import Run

    score = json.loads((finished / "scores-test.json").read_text())
    (tmp_path / "scores-test.json").write_text(json.dumps(score | {"nll": score["nll"][:-1]}))
    with pytest.raises(CurvekitError, match=r"scores-test.json: its lists are not of the same documents"):
        Run(tmp_path).scores()
    (tmp_path / "scores-test.json").write_text(json.dumps(score | {"words": ["x"] * len(score["words"])}))
    with pytest.raises(CurvekitError, match=r"scores-test.json: words\[0\] is 'x'; expected a whole number"):
        Run(tmp_path).scores()
    write_jsonl(tmp_path / "r.jsonl", [{"prompt": 1, "first": "a", "second": "b"}])
    with pytest.raises(CurvekitError, match="r.jsonl, line 1: prompt is 1; expected text"):
        read_ratings(tmp_path / "r.jsonl")
    (tmp_path / "comparison.json").write_text("{}")
    (tmp_path / "results.json").write_text('{"rows": [{"recipe": 3}], "summary": "", "command": ""}')
    with pytest.raises(CurvekitError, match="comparison.json is not of this version"):
        load_comparison(tmp_path)
    with pytest.raises(CurvekitError, match=r"results.json: rows\[0\]\.recipe is 3; expected text"):
        results_block(tmp_path)


@pytest.mark.parametrize("damage", ["state", "history", "stray"])
def test_r04_a_damaged_checkpoint_is_made_again_and_a_strange_one_left_alone(
    tmp_path, tiny_base, tiny_corpus, interrupted, damage
):
    from curvekit.training.settings import RunConfig
    from curvekit.training.trainer import train

    config = RunConfig(recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), steps=4, block_size=32,
                       batch_size=2, eval_every=2, sample_prompts=0, precision="float32")  # fmt: skip
    folder = interrupted(config, tmp_path / "run", 3)
    if damage == "state":
        (folder / "checkpoints" / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": null}')
    elif damage == "history":
        rows = (folder / "history.jsonl").read_text().splitlines()
        (folder / "history.jsonl").write_text("\n".join([*rows[:1], '{"step": "two"}', *rows[1:]]) + "\n")
    else:
        (folder / "checkpoints" / "checkpoint-x").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train(config, folder, progress="none").finished
