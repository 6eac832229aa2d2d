"""Mixed training text: the shares are those asked for, held-out text stays out, and what cannot be mixed is named."""

import pytest
from datasets import Dataset

from curvekit.errors import CurvekitError
from curvekit.text.mixing import Ingredient, load_mixed, mixed, parse_mix, shares, size_of
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


def rows(mark, count, size=20):
    return Dataset.from_dict({"text": [f"{mark}{i:0{size - 1}d}" for i in range(count)]})


def test_shares_follow_the_temperature():
    assert shares([100, 300], [None, None]) == pytest.approx([0.25, 0.75])
    assert shares([100, 10_000], [None, None], 2.0) == pytest.approx([10 / 110, 100 / 110])
    assert shares([100, 10_000], [None, None], 1e6) == pytest.approx([0.5, 0.5], abs=1e-4)
    assert shares([100, 300, 7], [None, None, 0.2]) == pytest.approx([0.2, 0.6, 0.2])


@pytest.mark.parametrize("wanted", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.8)])
def test_a_mixture_has_its_shares_and_all_of_the_first(wanted):
    made = mixed([rows("a", 300), rows("b", 100)], wanted)["text"]
    share = sum(text[0] == "a" for text in made) / len(made)
    assert share == pytest.approx(wanted[0], abs=0.01)
    assert {text for text in made if text[0] == "a"} == set(rows("a", 300)["text"])
    assert sum(text[0] == "a" for text in made) == 300
    assert list(made) == list(mixed([rows("a", 300), rows("b", 100)], wanted)["text"])


def test_a_mix_is_read_and_what_is_none_is_named():
    assert parse_mix("pydocs=0.25, texts/de") == [Ingredient("pydocs", 0.25), Ingredient("texts/de", None)]
    for text, said in (
        ("pydocs=x", "give CORPUS or CORPUS=SHARE"), ("", "names no corpus"), ("a=0.5,b=0.6", "together below 1"),
        ("a,a", "twice"), ("a=0", "above 0"), ("=0.5", "names no corpus"),
    ):  # fmt: skip
        with pytest.raises(CurvekitError, match=said):
            parse_mix(text)
    with pytest.raises(CurvekitError, match="unknown corpus 'pydoks'; did you mean 'pydocs'"):
        RunConfig(mix="pydoks=0.2").validate()
    with pytest.raises(CurvekitError, match="nothing is mixed"):
        RunConfig(mix_temperature=2.0).validate()


@pytest.fixture
def other(tmp_path, tiny_texts):
    folder = tmp_path / "other"
    folder.mkdir()
    lines = [
        f"Row {i} of the other corpus says nothing of the first, and has words of its own {i * i}." for i in range(30)
    ]
    held_out = tiny_texts[55]
    (folder / "train.txt").write_text("\n".join([*lines, held_out]) + "\n")
    (folder / "test.txt").write_text("A test.\nAnother test.\n")
    (folder / "valid.txt").write_text("A validation.\nAnother.\n")
    return folder


def test_held_out_text_of_the_corpus_is_left_out_of_what_is_mixed_in(other, tiny_corpus, tiny_texts):
    said = []
    corpus = load_mixed(str(tiny_corpus), None, f"{other}=0.5", announce=said.append)
    held_out = set(corpus["test"]["text"]) | set(corpus["validation"]["text"])
    assert not held_out & set(corpus["train"]["text"])
    share = size_of(corpus["train"].filter(lambda row: "other corpus" in row["text"])) / size_of(corpus["train"])
    assert share == pytest.approx(0.5, abs=0.03)
    assert "1 documents that stand in held-out text" in " ".join(said) and "mixed: " in " ".join(said)
    assert corpus["test"]["text"][0] == tiny_texts[52]


def test_what_would_leave_nothing_is_named(tiny_corpus):
    with pytest.raises(CurvekitError, match="every document of .* stands in held-out text"):
        load_mixed(str(tiny_corpus), None, f"{tiny_corpus}=0.5")


def test_a_run_trains_on_a_mixture_and_learns_its_tokeniser_from_it(other, tiny_base, tiny_corpus, tmp_path):
    config = RunConfig(
        recipe="plain", base=str(tiny_base), corpus=str(tiny_corpus), mix=f"{other}=0.5", steps=2, eval_every=2,
        block_size=32, batch_size=2, sample_prompts=0, scratch=True, tokenizer="bpe", vocabulary=420,
    )  # fmt: skip
    run = train(config, tmp_path / "run", progress="none")
    plain = train(RunConfig(**config.to_dict() | {"mix": None}), tmp_path / "plain", progress="none")
    text = "words of its own, the other corpus says nothing"
    assert len(run.tokenizer()(text)["input_ids"]) < len(plain.tokenizer()(text)["input_ids"])
    assert run.corpus["test"] == plain.corpus["test"] and run.corpus["train"] != plain.corpus["train"]
