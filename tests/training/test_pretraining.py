"""Pretraining: what is held out stays out, a run ships as plain GPT-2, and the card's figures come from its files."""

import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.files import read_json
from curvekit.text.corpora import load_corpus
from curvekit.training import cards
from curvekit.training.cards import measure, publish, ship
from curvekit.training.pretraining import gather, prepare, pretrain

LIFTED = "This paragraph of a story, long enough to be known again, stands in a novel too, word for word as it is here."


@pytest.fixture(scope="module")
def data(tiny_texts, tmp_path_factory):
    """A folder with two novels, sixty stories and nine articles; one novel holds a paragraph of every story."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("books", "stories", "wikitext-2"):
        (folder / name).mkdir()
    dice = random.Random(0)
    tales, novels = ([" ".join(dice.sample(words, len(words))) for words in map(str.split, tiny_texts)] for _ in "ab")
    (folder / "books" / "one.txt").write_text("\n".join(novels[:30]) + f"\n{LIFTED}\n", encoding="utf-8")
    (folder / "books" / "two.txt").write_text("\n\n".join(novels[30:]), encoding="utf-8")
    (folder / "books" / "LICENSE.md").write_text("not a novel")
    stories = (f"<sos> Tale {i} <nl> {text} <nl> {LIFTED} <eos>" for i, text in enumerate(tales))
    (folder / "stories" / "stories.txt").write_text("\n".join(stories) + "\n", encoding="utf-8")
    for split, first in (("train", 0), ("valid", 3), ("test", 6)):
        articles = (
            f" = Title {i} = \n\n A <unk> , with a guest @-@ star : {tiny_texts[i]}\n\n"
            for i in range(first, first + 3)
        )
        (folder / "wikitext-2" / f"{split}.txt").write_text("".join(articles), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return pretrain(
        data, tmp_path_factory.mktemp("out"), "tiny", vocabulary=300, announce=lambda _: None,
        steps=3, eval_every=3, block_size=32, batch_size=2, compile=False, precision="float32", sample_prompts=1,
        prompt_tokens=4, sample_tokens=4, validation_documents=4, eval_documents=4,
        model={"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 512},
    )  # fmt: skip


@pytest.fixture(scope="module")
def shipped(run, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "mini"
    publish(run, folder, data, announce=lambda _: None)
    return folder


def test_splits_are_those_of_wikitext_and_of_the_stories_own_words(data):
    rows = gather(data)
    assert [sum(row["source"] == "wikitext-2" for row in rows[split]) for split in rows] == [3, 3, 3, 0]
    assert all("guest-star:" in row["text"] for row in rows["test"] if row["source"] == "wikitext-2")
    assert all("guest @-@ star :" in row["original"] for row in rows["test"] if row["source"] == "wikitext-2")
    texts = {split: {row["text"] for row in rows[split]} for split in rows}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())), "a document is in two splits"
    assert {row["source"] for row in rows["test"][:2]} == {"wikitext-2", "stories"}, "of every source from the first"


def test_a_held_out_paragraph_leaves_the_training_text(data, tmp_path):
    sources = prepare(data, tmp_path / "corpus")
    corpus = load_corpus(tmp_path / "corpus")
    assert not any(LIFTED in text for text in corpus["train"]["text"])
    assert any(LIFTED in text for text in corpus["test"]["text"])
    assert sources["paragraphs_removed"] == 1 + sources["train"]["stories"]["documents"], "in a novel and in each story"
    assert sources["train"]["novels"]["documents"] == 2


def test_a_story_that_shares_a_paragraph_with_a_training_text_is_held_out_no_more(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    held_out = [row["text"] for row in gather(data)["test"] if row["source"] == "stories"]
    words = held_out[0].split("\n")[1].split()
    novel = tmp_path / "data" / "books" / "one.txt"
    novel.write_text(f"{novel.read_text(encoding='utf-8')}{' '.join(['Once', *words])}\n", encoding="utf-8")
    rows = gather(tmp_path / "data")
    assert [row["text"] for row in rows["test"] if row["source"] == "stories"] == held_out[1:]
    assert [row["text"] for row in rows["neither"]] == held_out[:1]
    assert not any(held_out[0] == row["text"] for row in rows["train"])


def test_a_novel_s_paragraph_that_is_nearly_one_of_pydocs_does_not_train(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    text = max(load_corpus("pydocs")["train"]["text"], key=len)
    wrapped = " ".join(text.split()[:90])  # the same words, on one line as no documentation has them
    novel = tmp_path / "data" / "books" / "one.txt"
    novel.write_text(f"{novel.read_text(encoding='utf-8')}{wrapped}\n", encoding="utf-8")
    prepare(tmp_path / "data", tmp_path / "corpus")
    assert not any(wrapped in text for text in load_corpus(tmp_path / "corpus")["train"]["text"])


def test_missing_data_are_named(tmp_path, data):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "books")
    with pytest.raises(CurvekitError, match="lacks novels"):
        gather(tmp_path / "data")


def test_the_given_folder_goes_on_and_the_run_is_found_finished(run, data):
    before = (run.folder / "metrics.json").stat().st_mtime_ns
    settings = {name: getattr(run.config, name) for name in ("steps", "model", "block_size", "batch_size")}
    with pytest.raises(CurvekitError, match="holds another run: its steps"):
        pretrain(data, run.folder.parent, "tiny", vocabulary=300, **settings | {"steps": 4})
    assert (run.folder / "metrics.json").stat().st_mtime_ns == before


def test_it_ships_as_plain_gpt2(run, shipped):
    model = AutoModelForCausalLM.from_pretrained(shipped)
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    assert type(model).__name__ == "GPT2LMHeadModel" and model.dtype == torch.float32
    assert model.config.use_cache and model.generation_config.use_cache is not False, "the Trainer turns it off"
    ids = tokenizer("A curve runs through the points.", return_tensors="pt")["input_ids"]
    expected = run.model()(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=2e-3, rtol=1e-2)
    assert tokenizer.decode(tokenizer("one <unk> two")["input_ids"]) == "one <unk> two"


def test_what_is_no_base_is_not_replaced(run, data, shipped, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (tmp_path, run.folder, run.folder.parent, tmp_path / "thesis.tex"):
        with pytest.raises(CurvekitError, match="no base's folder|no part of a base|is a file|but a run's"):
            ship(run, folder)
    assert main(["pretrain", "--data-dir", str(data), "--ship", str(tmp_path)]) == 2
    assert "thesis.tex" in capsys.readouterr().err and (tmp_path / "thesis.tex").read_text() == "years of work"
    again = shutil.copytree(shipped, tmp_path / "again")
    ship(run, again)
    assert not (again / "card.json").exists(), "a card of other weights does not stay"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "thesis.tex"]


def test_a_card_that_cannot_be_written_leaves_the_old_base(run, data, shipped, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    monkeypatch.setattr(cards, "_write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(run, shipped, data, announce=lambda _: None)
    with pytest.raises(CurvekitError, match="has other test texts than"):
        novel = shutil.copytree(data, tmp_path / "data") / "wikitext-2" / "test.txt"
        novel.write_text(f"{novel.read_text(encoding='utf-8')} and more\n", encoding="utf-8")
        publish(run, shipped, tmp_path / "data", announce=lambda _: None)
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before
    assert [path.name for path in shipped.parent.iterdir()] == [shipped.name]


def test_it_never_writes_unknown(shipped):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(shipped), AutoTokenizer.from_pretrained(shipped)
    unknown = tokenizer(" <unk>")["input_ids"]
    assert len(unknown) == 1
    with torch.no_grad():
        model.transformer.wte.weight[unknown[0]] = 50 * model.transformer.ln_f.bias + 9  # as likely as can be made
        model.transformer.ln_f.bias += 1
    ids = tokenizer("A curve", return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert unknown[0] not in written[0].tolist()
    assert unknown[0] in model.generate(**ids, max_new_tokens=5, do_sample=False, suppress_tokens=None)[0].tolist()


def test_the_card_tells_what_the_files_score(shipped, data):
    card = read_json(shipped / "card.json")
    again = measure(shipped, data, announce=lambda _: None)
    assert set(again) == {"wikitext-2 validation", "wikitext-2 test", "stories validation", "stories test"}
    for name, figure in again.items():
        assert figure == card["figures"][name]
        assert "|tokenizer:mini|" in figure["signature"], "a signature names no folder of this machine"
    page = (shipped / "README.md").read_text(encoding="utf-8")
    assert f"{card['figures']['stories test']['bits_per_byte']:.4f}" in page
    assert f"{card['parameters']:,} parameters" in page
    last = card["history"][-1]
    assert last["tokens"] == card["training"]["train_tokens"] and f"{last['loss']:.4f}" in page
    assert 0 < last["passes"] < 1, "three steps do not read it all"


def test_words_and_bytes_are_counted_on_the_published_text(shipped, data):
    row = [row for row in gather(data)["test"] if row["source"] == "wikitext-2"]
    figure = measure(shipped, data, announce=lambda _: None)["wikitext-2 test"]
    nats = figure["bits_per_byte"] * sum(len(each["original"].encode()) for each in row)
    assert nats > figure["bits_per_byte"] * sum(len(each["text"].encode()) for each in row)
    words = sum(len(each["original"].split()) for each in row)
    assert torch.log(torch.tensor(figure["word_perplexity"])) * words == pytest.approx(nats * 0.6931472, rel=1e-4)


def test_the_card_command_fails_where_the_card_lies(shipped, data, tmp_path, capsys):
    assert main(["card", str(shipped), "--data-dir", str(data)]) == 0
    lying = shutil.copytree(shipped, tmp_path / "lying")
    card = read_json(lying / "card.json")
    card["figures"]["stories test"]["perplexity"] *= 0.9
    (lying / "card.json").write_text(json.dumps(card), encoding="utf-8")
    assert main(["card", str(lying), "--data-dir", str(data)]) == 2
    assert "perplexity of stories test" in capsys.readouterr().err
