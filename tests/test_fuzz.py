"""A thousand corpus files, command lines and broken saved files, seeded: a result or one sentence, and no row lost."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.text import documents

SHORT = (
    *("--steps", "2", "--block-size", "32", "--batch-size", "2", "--eval-every", "2", "--sample-prompts", "1"),
    *("--sample-tokens", "3", "--prompt-tokens", "3", "--keep-tokens", "1", "--precision", "float32"),
)
WORDS = (
    *("river", "ferry", "pears", "кот", "дом", "船", "在", "雾", "שלום", "नमस्ते", "naïve", "“go”", "\N{GRINNING FACE}"),
    *("NA", "null", "1984", "2021-03-01", "a,b", '"q"', "x;y", "{z}", "[1]"),
)
QUICK, WHOLE = 60, 1000


def sizes(quick: int = QUICK) -> list[Any]:
    """A quick sample, and the whole, which is slow."""
    return [quick, pytest.param(WHOLE, marks=pytest.mark.slow)]


# Corpora


def sentence(dice: random.Random) -> str:
    text = " ".join(dice.choices(WORDS, k=dice.choice([1, 3, 12])))
    return text.replace(" ", dice.choice(["\n", "\r\n", "\r", "\t"]), 1) if dice.random() < 0.2 else text


def other_column(dice: random.Random, row: int) -> Any:
    return dice.choice([row, str(row), None, 1.5, True, [row], {"a": row}, "A17", "x" * 50])


def corpus_file(dice: random.Random, folder: Path, number: int) -> tuple[Path, int, bool]:
    """A file, how many rows (of a table) or lines with text (of a text) it has, and whether it was damaged after."""
    kind = dice.choice(["txt", "TXT", "jsonl", "json", "csv", "parquet"])
    path = folder / f"{number}.{kind}"
    rows: list[str | None] = [sentence(dice) for _ in range(dice.choice([0, 1, 2, 3, 20, 200]))]
    rows = [dice.choice([None, "", " \n"]) if dice.random() < dice.choice([0, 0.3]) else row for row in rows]
    if kind == "parquet":
        return path, parquet(dice, path, rows), False
    ends = dice.choice(["\n", "\r\n", "\r"])
    if kind.lower() == "txt":
        lines = [re.sub(r"\s+", " ", row or "") for row in rows]
        text, there = ends.join(lines), sum(bool(line.strip()) for line in lines)
    elif kind == "csv":
        out = io.StringIO(newline="")
        table = csv.writer(out, lineterminator=ends, quoting=csv.QUOTE_ALL)
        table.writerow(["id", "text"])
        table.writerows([number, row or ""] for number, row in enumerate(rows))
        text, there = out.getvalue(), len(rows)
    else:
        objects = [{"id": other_column(dice, number), "text": row} for number, row in enumerate(rows)]
        for each in objects:
            if each["text"] is None and dice.random() < 0.5:
                del each["text"]
        ascii_only = dice.random() < 0.5
        if kind == "json" and dice.random() < 0.7:
            text = json.dumps(objects, ensure_ascii=ascii_only, indent=dice.choice([None, 2]))
        else:
            text = "".join(json.dumps(each, ensure_ascii=ascii_only) + ends for each in objects)
        there = len(rows)
    data, damaged = encoded(dice, text)
    path.write_bytes(data)
    return path, there, damaged


def encoded(dice: random.Random, text: str) -> tuple[bytes, bool]:
    data = text.encode(dice.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "cp1252", "koi8-r"]), "replace")
    if dice.random() > 0.1 or not data:
        return data, False
    place = dice.randrange(len(data))
    return dice.choice([data[:place], data[:place] + b"\0" + data[place:], data[:place] + b"\xff" + data[place:]]), True


def parquet(dice: random.Random, path: Path, rows: list[str | None]) -> int:
    kind = dice.choice([pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), "dictionary", "lists"])
    if kind == "dictionary":
        column: Any = pyarrow.array(rows, pyarrow.string()).dictionary_encode()
    elif kind == "lists":
        column = pyarrow.array([None if row is None else [row] for row in rows], pyarrow.list_(pyarrow.string()))
    else:
        column = pyarrow.array(rows, kind)
    other = dice.choice(
        [
            pyarrow.array([{"a": 1}] * len(rows), pyarrow.struct([("a", pyarrow.int64())])),
            pyarrow.array([[("k", "v")]] * len(rows), pyarrow.map_(pyarrow.string(), pyarrow.string())),
            pyarrow.array(range(len(rows))),
        ]
    )
    pyarrow.parquet.write_table(pyarrow.table({"other": other, "text": column}), path)
    return len(rows)


@pytest.mark.parametrize("count", sizes())
def test_a_corpus_file_is_read_or_refused_and_no_row_is_lost_in_silence(tmp_path, count):
    dice = random.Random(13)
    read = refused = 0
    for number in range(count):
        path, there, damaged = corpus_file(dice, tmp_path, number)
        said: list[str] = []
        try:
            rows = documents.read_files([path], "line" if path.suffix.lower() == ".txt" else "auto", said.append)
        except CurvekitError as error:
            assert str(path) in str(error) and "\n" not in str(error), error
            refused += 1
            continue
        finally:
            path.unlink()
        assert not any("\r" in text or "\ufeff" in text for text in rows["text"])
        read += 1
        if not damaged:  # of what was cut off where a row ends nothing tells
            counts = [
                tuple(int(n.replace(",", "")) for n in found) for text in said for found in LEFT_OUT.findall(text)
            ]
            assert rows.num_rows + sum(left_out for left_out, _ in counts) == there, (path, said)
            assert {of for _, of in counts} <= {there}
    assert read > count / 3 and refused > count / 20


LEFT_OUT = re.compile(r"([\d,]+) of ([\d,]+) rows have no text and were left out")


# Command lines


@pytest.fixture
def quick_commands(monkeypatch, tiny_base):
    """What takes long only checks what it was given: no training, no report, and a model that is loaded once."""
    from curvekit.bases import opening
    from curvekit.cli import evaluate, generate
    from curvekit.reports import execution
    from curvekit.training import pretraining, trainer

    opened = opening.open_model(tiny_base)

    def open_model(name, recipe=None, **rest):
        return opened if str(name) == str(tiny_base) and recipe is None else opening.open_model(name, recipe, **rest)

    def only_checked(config, *_, **__):
        raise CurvekitError(f"enough: {config.validate().slug()[:40]}")

    monkeypatch.setattr(trainer, "train", only_checked)
    monkeypatch.setattr(pretraining, "train", only_checked)
    monkeypatch.setattr(execution, "report", only_checked)
    for command in (evaluate, generate):
        monkeypatch.setattr(command, "open_model", open_model)


def nasty(dice: random.Random, folder: Path) -> str:
    return dice.choice([
        "9" * dice.choice([3, 20, 400, 5000]), "-1", "0", "1", "3", "1e-320", "1e999", "nan", "inf", "0.5", "", " ",
        "a" * 300, "x/" * 2100, "\udcff.txt", "отчёт", "船", "~nouser/x", "~", "/dev/zero", "/dev/null",
        str(folder / "pipe.txt"), str(folder / "pipe.json"), str(folder), str(folder / "none"), "{" * 900,
        "[" * 900 + "]" * 900, "true", "false",
        '{"degree": ' + "[" * 500 + "]" * 500 + "}", "channels=[]", "degree=" + "9" * 5000,
        "degree=99999999999999999999", "place=NaN", "a=b", "=", "gpt2", "curv", "mini", "pydocs", "wikitext2", "--",
        "-", "-x", "\\n", "line\nbreak",
        "4294967296", "18446744073709551616", "1000000", "bpe-dropout", "characters", "static", "softemax",
    ])  # fmt: skip


FLAGS = (
    *("--out", "--config", "--corpus", "--base", "--model", "--seed", "--steps", "--block-size", "--temperature"),
    *("--data-dir", "--encoder", "--recipe", "--tokenizer", "--vocabulary", "--scratch", "--freeze", "--top-p"),
    *("--learning-rate", "--stride", "--context", "--wandb-project", "--notebooks", "--parameter", "--recipes"),
    *("--seeds", "--file", "--tokens", "--beams", "--num-beams", "--count", "--stop", "--top-k", "--json"),
    *("--do-sample", "--documents", "--split", "--baseline", "--readme", "--name", "--leraning-rate"),
    *("--learning_rate", "--x", "-z"),
)  # fmt: skip


def command_line(dice: random.Random, folder: Path, base: Path, corpus: Path) -> list[str]:
    command = dice.choice(
        ["train", "train", "report", "evaluate", "generate", "generate", "compare", "card", "pretrain"]
    )
    words = [command]
    positional = [str(base)] if command in ("evaluate", "generate") else [str(folder)] if command == "compare" else []
    words += positional if dice.random() < 0.8 else [nasty(dice, folder)]
    if command in ("train", "report"):
        words += ["--base", str(base), "--corpus", str(corpus)]
    if command == "evaluate":
        words += ["--corpus", str(corpus), "--documents", "1"]
    if command == "generate":
        words += ["--tokens", "2"]
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        words.append(dice.choice(FLAGS))
        if dice.random() < 0.9:
            words.append(nasty(dice, folder))
    if dice.random() < 0.2:
        dice.shuffle(words)
    if dice.random() < 0.1:
        words.insert(dice.randrange(len(words) + 1), "--")
    return words


@pytest.mark.parametrize("count", sizes())
def test_a_command_line_ends_with_0_or_2_and_one_sentence(
    tmp_path, count, quick_commands, tiny_base, tiny_corpus, capfd, monkeypatch
):
    for name in ("pipe.txt", "pipe.json"):
        os.mkfifo(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    dice = random.Random(17)
    ends = {0: 0, 2: 0}
    for _ in range(count):
        argv = command_line(dice, tmp_path, tiny_base, tiny_corpus)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = main(argv)
        except SystemExit as end:  # argparse's own
            status = end.code
        except Exception as error:
            raise AssertionError(f"{[word[:80] for word in argv]} raised {error!r:.300}") from error
        said = capfd.readouterr().err
        assert status in ends, argv
        assert "Traceback" not in said
        assert status == 0 or said.splitlines()[-1].startswith("curvekit"), said[-500:]
        ends[status] += 1
    assert ends[2] > count / 2 and ends[0]


# Saved files


@pytest.fixture(scope="module")
def saved(tiny_base, tiny_corpus, tmp_path_factory) -> Path:
    """A folder with two runs, their comparison, ratings and a card."""
    from curvekit.experiments.comparison import compare
    from curvekit.preferences.ratings import append_rating

    folder = tmp_path_factory.mktemp("saved")
    for recipe in ("gpt2", "softemax"):
        argv = [
            "train",
            "--recipe",
            recipe,
            "--base",
            tiny_base,
            "--corpus",
            tiny_corpus,
            *SHORT,
            "--out",
            folder / recipe,
        ]
        assert main([str(word) for word in argv]) == 0
    compare([folder / "gpt2", folder / "softemax"], "gpt2", folder, samples=100)
    answers = {"better": "first", "fluent": "tie", "on_topic": "second"}
    for seed in range(3):
        append_rating(folder / "ratings.jsonl", {"prompt": "A", "first": "x", "second": "y", "seed": seed, **answers})
    return folder


def uses(folder: Path) -> dict[str, Any]:
    """What reads each saved file."""
    from curvekit.bases.opening import open_model
    from curvekit.cli.readme import results_block
    from curvekit.experiments.comparison import compare, load_comparison
    from curvekit.preferences.ratings import read_ratings, win_rates
    from curvekit.reports.markup import headline
    from curvekit.training.runs import load_run

    def comparison() -> None:
        found = load_comparison(folder)
        headline(found), found.summary(), found.to_markdown(), found.to_latex(), found.run_folders("gpt2")

    def run() -> None:
        found = load_run(folder / "softemax")
        found.metrics, found.history, found.samples, found.corpus, found.scores("validation")
        compare([folder / "gpt2", folder / "softemax"], "gpt2", samples=20)

    def model() -> None:
        open_model(folder / "softemax")

    quick = {
        "comparison.json": comparison,
        "results.json": lambda: results_block(folder),
        "ratings.jsonl": lambda: win_rates(read_ratings(folder / "ratings.jsonl")),
        **dict.fromkeys(
            ("softemax/config.json", "softemax/metrics.json", "softemax/history.jsonl", "softemax/samples.jsonl"), run
        ),
        **dict.fromkeys(("softemax/corpus.json", "softemax/scores-test.json", "softemax/scores-validation.json"), run),
    }
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    return quick | {f"softemax/model/{name}": model for name in names}


def broken(dice: random.Random, text: str) -> str:
    """A text of JSON, or of JSON lines, with one fault."""
    if dice.random() < 0.2:
        place = dice.randrange(len(text))
        return dice.choice(
            [text[:place], text[:place] + dice.choice('\0{["x9') + text[place + 1 :], "", "[]", "null", "{}"]
        )
    lines = text.splitlines() if text.count("\n{") else [text]
    line = dice.randrange(len(lines))
    value = json.loads(lines[line])
    holder, key = value, None
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        if not keys:
            break
        key = dice.choice(list(keys))
        if not isinstance(holder[key], dict | list) or not holder[key] or dice.random() < 0.3:
            break
        holder = holder[key]
    deep: Any = 0
    for _ in range(dice.choice([3, 300])):
        deep = [deep]
    if key is not None:
        if isinstance(holder, dict) and dice.random() < 0.2:
            del holder[key]
        else:
            holder[key] = dice.choice(
                [None, 0, -1, 3, 10**30, 0.5, "", "x", "\ud800", True, [], {}, [None], {"a": 1}, deep]
            )
    lines[line] = json.dumps(value)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("count", sizes())
def test_a_broken_saved_file_is_named_or_does_not_matter(saved, tmp_path, count):
    folder = shutil.copytree(saved, tmp_path / "saved")
    use = uses(folder)
    names = list(use)
    for check in set(use.values()):
        check()  # whole, everything can be read
    weights = [1 if "/model/" in name else 6 for name in names]  # a model takes longest to open
    dice = random.Random(19)
    refused = 0
    for _ in range(count):
        (name,) = dice.choices(names, weights)
        path = folder / name
        whole = path.read_bytes()
        path.write_text(broken(dice, whole.decode()), encoding="utf-8", errors="surrogatepass")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use[name]()
        except CurvekitError as error:
            refused += 1
            assert "\n" not in str(error), error
        except Exception as error:
            found = path.read_text(encoding="utf-8", errors="replace")
            raise AssertionError(f"{name} raised {error!r:.300}; it held {found[:1500]}") from error
        finally:
            path.write_bytes(whole)
    assert refused > count / 4
