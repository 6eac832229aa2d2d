"""Tokenisers: every text survives, on every reload; dropout draws from a seed, in training alone."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from curvekit.bases.building import build_model
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.generation.streams import generate
from curvekit.text.packing import pack, tokenizer_fingerprint
from curvekit.text.tokenization import (
    END_OF_TEXT,
    KINDS,
    DropoutTokenizer,
    encodable,
    run_tokenizer,
    train_bpe,
    train_characters,
)
from curvekit.training import texts as of_text
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import load_run, train

LEARNED = [kind for kind in KINDS if kind != "base"]
TRAPS = [
    "", " ", "\n\r\n\t\u2028", "  two  spaces ", "e\u0301 é", "<0x41>", "<0xZZ><0x", END_OF_TEXT, f"a{END_OF_TEXT}b",
    "<unk>", "Ġ Ċ ▁ ##", "\x00\x7f\x80\xff\ufeff\ufffd\uffff", "\U0010ffff 😀 👩‍👩‍👧 東京", "a" * 5000,
]  # fmt: skip
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
thorough = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def learned(tiny_texts):
    """Each learned tokeniser as a function of text to ids, with the tokeniser that decodes them."""
    made = {kind: run_tokenizer(kind, "mini", tiny_texts, 300) for kind in LEARNED}
    made["kept"] = train_bpe(["a <unk> in a <unk> text"] * 3, 300, kept=["<unk>", " <unk>"])
    cut = {kind: lambda text, t=tokenizer: t(text)["input_ids"] for kind, tokenizer in made.items()}
    for rate in (0.1, 1.0):
        dropped = DropoutTokenizer(made["kept"], rate)
        made[f"dropout {rate}"] = made["kept"]
        cut[f"dropout {rate}"] = lambda text, t=dropped: t([text])["input_ids"][0]
    return {kind: (cut[kind], made[kind]) for kind in made}


# Nothing is lost


@thorough
@given(text=any_text)
def test_every_tokeniser_round_trips_every_text(learned, text):
    for kind, (cut, tokenizer) in learned.items():
        assert tokenizer.decode(cut(text)) == text, kind


@pytest.mark.parametrize("text", TRAPS)
def test_texts_that_look_like_tokens_or_like_nothing_round_trip_too(learned, text):
    for kind, (cut, tokenizer) in learned.items():
        assert tokenizer.decode(cut(text)) == text, kind


@pytest.mark.parametrize("kind", LEARNED)
def test_a_saved_tokeniser_reloads_as_it_was(kind, learned, tmp_path):
    tokenizer = learned[kind][1]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    assert (again.eos_token, again.pad_token_id, len(again)) == (END_OF_TEXT, tokenizer.eos_token_id, len(tokenizer))
    for text in TRAPS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", LEARNED)
def test_learning_twice_gives_the_same_tokeniser(kind, tiny_texts, learned):
    again = run_tokenizer(kind, "mini", iter(tiny_texts), 300)
    assert again.backend_tokenizer.to_str() == learned[kind][1].backend_tokenizer.to_str()


# What a token is


def test_a_character_that_was_seen_is_one_token_and_another_is_its_bytes():
    tokenizer = train_characters(["naïve", "東"])
    assert tokenizer("東ï").tokens() == ["東", "ï"]
    assert tokenizer("京é").tokens() == ["<0xE4>", "<0xBA>", "<0xAC>", "<0xC3>", "<0xA9>"]
    assert len(tokenizer) == 1 + 256 + len(set("naïve東"))


def test_a_bpe_has_the_entries_that_were_asked_for(tiny_texts):
    assert len(train_bpe(tiny_texts, 300)) == len(train_bpe(tiny_texts, 300, kept=["<unk>"])) == 300
    with pytest.raises(CurvekitError, match="a vocabulary of 256 entries cannot hold every byte; give 257 or more"):
        train_bpe(tiny_texts, 256)


def test_what_is_kept_is_one_ordinary_token_and_teaches_no_merges():
    texts = ["the <unk> of the <unk>, and <unk>"] * 20
    tokenizer = train_bpe(texts, 300, kept=["<unk>"])
    assert tokenizer("an<unk>y <unk>").tokens() == ["an", "<unk>", "y", "Ġ", "<unk>"]
    assert tokenizer.decode(tokenizer("a <unk>")["input_ids"], skip_special_tokens=True) == "a <unk>"
    assert [entry for entry in tokenizer.get_vocab() if "unk" in entry] == ["<unk>"]
    assert any("unk" in entry and entry != "<unk>" for entry in train_bpe(texts, 300).get_vocab())
    with pytest.raises(CurvekitError, match="the kept piece 'é' would not decode to itself"):
        train_bpe(texts, 300, kept=["é"])


def test_the_base_tokeniser_is_the_bases_own(tiny_base, tiny_tokenizer):
    assert run_tokenizer("base", str(tiny_base), ["x"]).get_vocab() == tiny_tokenizer.get_vocab()
    with pytest.raises(CurvekitError, match="unknown tokenizer 'char'; did you mean 'characters'"):
        run_tokenizer("char", "mini", ["x"])


# Half a character


def test_a_lone_surrogate_is_named_wherever_text_meets_a_tokeniser(tiny_base, tiny_tokenizer):
    bad = ["whole", "ab\ud800c"]
    model = build_model("gpt2", str(tiny_base), tiny_tokenizer)
    for each in (
        lambda: list(encodable(bad)),
        lambda: train_characters(bad),
        lambda: train_bpe(bad, 300),
        lambda: DropoutTokenizer(tiny_tokenizer)(bad),
        lambda: pack(bad, tiny_tokenizer, 2),
        lambda: score_documents(model, tiny_tokenizer, bad),
        lambda: generate(model, tiny_tokenizer, bad, max_new_tokens=2),
    ):
        with pytest.raises(CurvekitError, match=r"text 2 is no Unicode: its character 3 is '\\ud800', half of a"):
            each()


# Dropout


@pytest.fixture(scope="module")
def bpe(tiny_texts):
    return train_bpe(tiny_texts, 400)


def as_the_source_says(tokenizer, dropout, dice):
    """BPE-dropout as the paper's algorithm 1 reads, on one word: draw for every merge, make the best that is left."""

    def cut(word):
        pieces = list(word)
        while True:
            left = [
                (tokenizer._ranks[pair], place)
                for place, pair in enumerate(pairwise(pieces))
                if pair in tokenizer._ranks and dice.random() >= dropout
            ]
            if not left:
                return pieces
            place = min(left)[1]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]

    return cut


@thorough
@given(text=any_text)
def test_without_dropout_it_is_the_tokenisers_own_bpe(learned, text):
    tokenizer = learned["kept"][1]
    assert DropoutTokenizer(tokenizer, 0.0)([text])["input_ids"] == [tokenizer(text)["input_ids"]]


def test_with_all_merges_left_out_a_word_is_its_bytes(bpe):
    assert len(DropoutTokenizer(bpe, 1.0)(["über 😀"])["input_ids"][0]) == len("über 😀".encode())


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_cuts_are_as_frequent_as_in_the_source(bpe, dropout):
    tokenizer, draws = DropoutTokenizer(bpe, dropout), 20_000
    naive = as_the_source_says(tokenizer, dropout, np.random.default_rng(1))
    word = "Ġthrough"
    counts = [{}, {}]
    for cut, count in zip((tokenizer._cut, naive), counts, strict=True):
        for _ in range(draws):
            key = tuple(cut(word))
            count[key] = count.get(key, 0) + 1
    assert len(counts[0]) > 3
    shares = {key: [count.get(key, 0) / draws for count in counts] for key in counts[0].keys() | counts[1].keys()}
    apart, key = max((abs(a - b), key) for key, (a, b) in shares.items())
    assert apart < 5 * np.sqrt(0.5 / draws), (key, shares[key])


def test_the_same_seed_draws_the_same_cuts_and_every_call_draws_others(bpe, tiny_texts):
    first, second, other = DropoutTokenizer(bpe, seed=3), DropoutTokenizer(bpe, seed=3), DropoutTokenizer(bpe, seed=4)
    cuts = [each(tiny_texts)["input_ids"] for each in (first, second, other, first)]
    assert cuts[0] == cuts[1]
    assert cuts[0] != cuts[2]
    assert cuts[0] != cuts[3]


def test_streams_of_other_dice_are_other_streams(bpe):
    prints = {tokenizer_fingerprint(each) for each in (bpe, DropoutTokenizer(bpe), DropoutTokenizer(bpe, seed=1))}
    assert len(prints) == 3


def test_a_word_of_any_length_is_cut_in_good_time(bpe):
    ids = DropoutTokenizer(bpe, 0.1)(["東" * 20_000 + "=" * 20_000])["input_ids"][0]
    assert bpe.decode(ids) == "東" * 20_000 + "=" * 20_000


def test_only_a_bpe_can_leave_merges_out(tiny_texts):
    with pytest.raises(CurvekitError, match="this tokeniser has none"):
        DropoutTokenizer(train_characters(tiny_texts))
    with pytest.raises(CurvekitError, match="dropout is 1.5; give a probability"):
        DropoutTokenizer(train_bpe(tiny_texts, 300), 1.5)


# Runs


@pytest.fixture(scope="module")
def config(tiny_base, tiny_corpus) -> RunConfig:
    return RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), scratch=True, tokenizer="bpe-dropout",
        vocabulary=300, block_size=32, batch_size=8, steps=24, eval_every=12, sample_prompts=2, prompt_tokens=8,
        sample_tokens=8,
    )  # fmt: skip


@pytest.mark.parametrize("kind", LEARNED)
def test_a_run_trains_on_its_own_tokeniser_and_saves_it(config, kind, tmp_path):
    run = train(dataclasses.replace(config, tokenizer=kind, steps=2), tmp_path / "run", progress="none")
    tokenizer = load_run(run.folder).tokenizer()
    assert len(tokenizer) == run.model().config.vocab_size
    assert run.metrics["signature"]["tokenizer"] == kind
    assert run.metrics["base_is_random"]
    for text in TRAPS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_dropout_cuts_the_training_text_and_no_other(config, tmp_path, monkeypatch):
    packed = []

    def spy(texts, tokenizer, *args, **kwargs):
        packed.append((list(getattr(texts, "column_names", [])), tokenizer, pack(texts, tokenizer, *args, **kwargs)))
        return packed[-1][2]

    monkeypatch.setattr(of_text, "pack", spy)
    run = train(config, tmp_path / "run", progress="none")
    _, blocks, validation = packed
    assert isinstance(blocks[1], DropoutTokenizer)
    assert validation[1].get_vocab() == run.tokenizer().get_vocab()
    saved = run.tokenizer().backend_tokenizer.model
    assert saved.dropout is None


def test_every_pass_over_the_text_is_cut_differently(config, tiny_texts, tiny_corpus):
    from curvekit.text.corpora import load_corpus

    texts = load_corpus(str(tiny_corpus))["train"]
    tokenizer = run_tokenizer("bpe-dropout", config.base, texts["text"], 300)
    repeated, cutter = of_text._training_text(config, texts, tokenizer)
    blocks = pack(repeated, cutter, config.block_size)
    assert len(blocks) >= config.steps * config.batch_size, "no block need be seen twice"
    stream = np.array(blocks.stream)
    starts = np.flatnonzero(stream == tokenizer.eos_token_id)
    documents = [tuple(part) for part in np.split(stream, starts)[1:]]
    assert len(documents) == len(repeated) > len(texts)
    passes = [documents[begin : begin + len(texts)] for begin in range(0, len(documents), len(texts))]
    assert tokenizer.decode(passes[0][0]) == tokenizer.decode(passes[1][0])
    assert sum(a != b for a, b in zip(*passes[:2], strict=True)) > 0.9 * len(texts)


def test_a_run_with_dropout_repeats_itself_and_goes_on_after_a_kill(config, tmp_path, interrupted):
    whole, again = (train(config, tmp_path / name, progress="none") for name in ("whole", "again"))
    losses = [[row.get("loss", row.get("validation_loss")) for row in run.history] for run in (whole, again)]
    assert losses[0] == losses[1]

    resumed = train(config, interrupted(config, tmp_path / "killed", step=15), progress="none")
    assert [row.get("loss", row.get("validation_loss")) for row in resumed.history] == losses[0]
    assert resumed.scores("test").nll.tolist() == whole.scores("test").nll.tolist()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scratch": False}, "tokenizer is 'bpe-dropout', but the weights of .* know the base's own only"),
        ({"tokenizer": "chars"}, "unknown tokenizer 'chars'; did you mean 'characters'"),
        ({"vocabulary": 12}, "vocabulary is 12; give 257 or more"),
    ],
)
def test_settings_that_cannot_work_say_so(config, changes, says):
    with pytest.raises(CurvekitError, match=says):
        dataclasses.replace(config, **changes).validate()
