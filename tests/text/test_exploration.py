"""Looking at a corpus first: what is counted is what is there, on texts and on a task's rows."""

import json
import re

import numpy as np
import pytest

from curvekit import figures
from curvekit.cli.frame import main
from curvekit.figures.corpora import pictures
from curvekit.text.duplicates import find_repeats, overlap
from curvekit.text.exploration import Exploration, explore, measure_tokenizer, tokenizers_by_name
from curvekit.text.scripts import scripts, what_is_wrong, writes_from_right

TALE = "The keeper of the light went up the stairs at six, as he had done every evening since the spring."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    train = [
        f"{TALE} {i} ships came by, of which the {i + 7}th was lost in the fog off the cape of storms."
        for i in range(9)
    ]
    train += [train[0], "Привет, мир! Это \ufffd и \x07.", "שלום עולם"]
    (folder / "train.txt").write_text("\n".join(train) + "\n", encoding="utf-8")
    (folder / "validation.txt").write_text("A quiet validation.\nAnother one.\n")
    (folder / "test.txt").write_text(f"{train[3]}\nUnseen words everywhere.\n")
    return folder


@pytest.fixture(scope="module")
def found(corpus) -> Exploration:
    return explore(corpus, tokenizers=tokenizers_by_name(["characters", "bpe"], 300))


def test_it_counts_what_is_there(found, corpus):
    train = (corpus / "train.txt").read_text().splitlines()
    split = found.splits["train"]
    assert (split.documents, split.characters) == (12, sum(map(len, train)))
    assert split.words == sum(len(re.findall(r"\w+", text)) for text in train) == sum(found.words.values())
    assert found.words["the"] == sum(text.lower().split().count("the") for text in train)
    assert split.lengths.tolist()[-1] == 2 and found.characters["\ufffd"] == 1


def test_repeats_and_what_stands_in_held_out_text_are_told(found):
    exact, near = found.splits["train"].repeats
    assert exact == 1 and near >= 7  # one tale with other numbers
    assert found.splits["train"].leaked[0] == 1
    assert found.unseen[0] > 0 and found.unseen[1] > 0


def test_repeats_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(rng.choice(words, 40)) for _ in range(12)]
    texts += [texts[2] + " more", texts[5], texts[2].replace("w1", "w2", 1)]
    wanted = [i for i in range(len(texts)) if any(overlap(texts[i], texts[j]) >= 0.5 for j in range(i))]
    assert [each.text for each in find_repeats(texts)] == wanted == [12, 13, 14]
    assert [each.exact for each in find_repeats(texts)] == [False, True, False]


def test_scripts_and_wrong_characters_are_named(found):
    assert set(found.scripts) >= {"Latin", "Cyrillic", "Hebrew"} and set(found.wrong) == {"replacement", "control"}
    assert "и" in found.wrong["control"][1]
    assert scripts("Ω日本ひカ한कاא") == dict.fromkeys(
        ["Greek", "Hiragana", "Katakana", "Hangul", "Devanagari", "Arabic", "Hebrew"], 1
    ) | {"Han": 2}
    assert what_is_wrong("\n") is None and what_is_wrong("\ue000") == "private use"
    assert writes_from_right("«שלום» hello") and not writes_from_right("3. hello שלום") and not writes_from_right("123")


def test_tokens_a_word_are_those_of_the_tokeniser(found, tiny_tokenizer):
    assert found.tokens["characters"]["bytes_per_token"] == pytest.approx(1.0, abs=0.1)
    assert found.tokens["bpe"]["per_word"] < found.tokens["characters"]["per_word"]
    text = "The curve runs through the points"
    made = measure_tokenizer(tiny_tokenizer, text)
    assert made["per_word"] == len(tiny_tokenizer(text)["input_ids"]) / 6


def test_zipf_finds_the_exponent_of_a_zipf_text(found):
    made = Exploration(**found.__dict__ | {"words": dict(enumerate((1e6 / np.arange(1, 5000) ** 0.9).astype(int)))})
    assert made.zipf()[1] == pytest.approx(0.9, abs=0.01)


def test_a_story_that_ends_in_a_trailer_is_counted(tmp_path):
    lines = [f"Tale {i}\n{TALE} He said {i} words.\nSubscribe to my newsletter!" for i in range(2)]
    rows = [*lines, f"Tale\n{TALE}", f"{TALE}\n{TALE} He slept."]
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert explore(tmp_path / "tales.jsonl").trailers == {"subscription": 2}


def test_a_tasks_rows_are_texts_too(tmp_path):
    rows = [
        {"turns": [{"role": "user", "text": f"hello {i}"}, {"role": "assistant", "text": "hi"}], "id": "x"}
        for i in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[3]) + "\n")
    made = explore(tmp_path)
    assert made.splits["train"].documents == 3 and made.words["hello"] == 3 and "x" not in made.words
    assert made.words["user"] == 0


def test_the_command_prints_and_writes_figures(corpus, tmp_path, capsys):
    assert main(["explore", str(corpus), "--tokenizers", "characters", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "12 documents" in said and "Cyrillic" in said and "1 repeat an earlier one exactly" in said
    assert "Zipf's exponent" in said and "the longest:" in said
    kept = json.loads((tmp_path / "out" / "exploration.json").read_text())
    assert kept["splits"]["train"]["documents"] == 12 and kept["zipf_exponent"] is not None
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names >= {"zipf.svg", "document-lengths.png", "scripts.svg", "tokens.png"}
    (tmp_path / "out" / "exploration.json").write_text("mine")
    assert main(["explore", str(corpus), "--out", str(tmp_path / "out")]) == 2
    assert main(["explore", str(corpus / "nothing")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_pictures_are_drawn_of_any_corpus(found):
    for figure in pictures(found).values():
        assert figures.drawing.render(figure).startswith(b"\x89PNG") and figure.get_label()
