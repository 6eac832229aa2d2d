"""The zoo measures as the kit measures, compares what may be compared, and a model that cannot be had is a row."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.evaluation import timing
from curvekit.evaluation import zoo as room
from curvekit.evaluation.metrics import score_documents
from curvekit.evaluation.zoo import differences, measure, overhead, refusals, texts_of, zoo
from curvekit.evaluation.zoo_settings import ZooSettings

SMALL = {"documents": 6, "words": 14, "context": 32, "stride": 16, "prompts": 2, "prompt_words": 8,
         "continuation_words": 4, "prefill": 12, "decode": 3, "repeats": 2}  # fmt: skip


@pytest.fixture
def settings(tiny_corpus):
    return ZooSettings(corpus=str(tiny_corpus), **SMALL)


@pytest.fixture
def here(monkeypatch):
    """Rows are measured in this process, which is quicker; returns the names that were."""
    asked = []

    def apart(order, folder):
        asked.append(order["name"])
        room.write_json(folder / "order.json", order)
        room.main(str(folder / "order.json"), str(folder / "row.json"))
        return room.read_json(folder / "row.json")

    monkeypatch.setattr(room, "_apart", apart)
    return asked


@pytest.fixture
def tiny_t5(tiny_tokenizer, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    end = tiny_tokenizer.eos_token_id
    special = {"decoder_start_token_id": end, "eos_token_id": end, "pad_token_id": end}
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=len(tiny_tokenizer), **shape, **special)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "tiny-t5")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny-t5")
    return tmp_path / "tiny-t5"


def test_models_of_every_architecture_stand_beside_each_other(tiny_bases, tiny_t5, settings, here, tmp_path):
    said = []
    names = [str(tiny_bases["gpt2"]), str(tiny_bases["gpt_neo"]), "nowhere", str(tiny_bases["llama"])]
    found = zoo(names, settings, tmp_path / "zoo", said.append)
    rows = found["rows"]
    assert [row.get("architecture") for row in rows] == [
        "CurveGPT2LMHeadModel", "CurveGPTNeoForCausalLM", None, "CurveLlamaForCausalLM",
    ]  # fmt: skip
    assert rows[2]["error"].startswith("unknown base 'nowhere'"), "one that cannot be had ends its row alone"
    texts, _ = texts_of(settings, said.append)
    assert len(texts) == 6 and all(len(text.split()) == 14 for text in texts)
    for name, row in zip(names, rows, strict=True):
        if "error" in row:
            continue
        model, tokenizer = open_model(name)
        score = score_documents(model, tokenizer, texts, context=32, stride=16)
        assert row["perplexity"] == pytest.approx(score.perplexity)
        assert row["bits_per_byte"] == pytest.approx(score.bits_per_byte)
        assert row["parameters"] == sum(each.numel() for each in model.parameters())
        assert row["prefill_ms"] > 0 and row["decode_ms"] > 0 and row["threads"] >= 1
        assert row["bleu"] is not None and row["chrf"] is not None and row["keeps_text"]
        assert not any(str(name) in str(value) for value in row.values()), "no folder of this machine"
    pairs = found["differences"]
    assert len(pairs) == 3 and all(pair["low"] <= pair["difference"] <= pair["high"] for pair in pairs)
    neo = pairs[0]
    assert neo["difference"] == pytest.approx(rows[1]["bits_per_byte"] - rows[0]["bits_per_byte"])
    assert 0 < overhead(rows) < 1

    assert here == names
    again = zoo(names[:2], settings, tmp_path / "zoo", said.append)
    assert here == names, "what was measured is not measured again"
    assert again["rows"] == rows[:2]
    with pytest.raises(CurvekitError, match="each once"):
        zoo([names[0], names[0]], settings, tmp_path / "zoo")


def test_a_model_that_leaks_compares_with_nothing(tiny_base, settings, make, tiny_tokenizer, tmp_path):
    make("published").save_pretrained(tmp_path / "published")
    tiny_tokenizer.save_pretrained(tmp_path / "published")
    texts, _ = texts_of(settings, lambda _: None)
    with pytest.warns(UserWarning, match="sees the tokens"):
        rows = [measure(str(name), texts, settings, {}) for name in (tiny_base, tmp_path / "published")]
    assert set(refusals(*rows)) == {*room.QUALITY, *room.WRITING, room.REST}
    assert differences(rows)[0]["why_not"] == "sees the words it predicts"


@pytest.fixture
def row(tiny_base, settings):
    texts, _ = texts_of(settings, lambda _: None)
    return measure(str(tiny_base), texts, settings, {"corpus": "x"})


def other(row, **changes):
    """The same row with other values, of its score's signature where they are there."""
    score = row["score"]
    signature = {name: changes.pop(name, value) for name, value in score["signature"].items()}
    return row | {"name": "other", "score": score | {"signature": signature}} | changes


@pytest.mark.parametrize(
    ("changes", "refused", "why"),
    [
        ({"tokenizer_hash": "other"}, {"perplexity", "token_accuracy"}, "other tokens"),
        ({"context": 16}, {*room.QUALITY, room.REST}, "reads 16 tokens, not 32"),
        ({"keeps_text": False}, {*room.QUALITY, room.REST}, "the tokens of other do not keep the text"),
        ({"kind": "seq2seq", "given": "the first 8 words"}, {*room.QUALITY}, "given the first 8 words"),
        ({room.REST: None}, {room.REST}, "the rest of a text is more than other reads"),
        ({"threads": 99}, {*room.COSTS}, "another machine, threads or type"),
        ({"machine": "an abacus"}, {*room.COSTS}, "another machine, threads or type"),
        ({"prefill_tokens": 5}, {"prefill_ms"}, "reads 5 tokens, not 12"),
        ({}, set(), ""),
    ],
)
def test_what_may_not_be_compared_says_so(row, changes, refused, why):
    changed = other(row, **changes)
    found = refusals(changed, row)
    assert set(found) == refused and set(found.values()) <= {why}
    (pair,) = differences([row, changed])
    given = "given" in changes
    assert pair["of"] == ("the rest" if given else "whole texts")
    assert ("why_not" in pair) == ("bits_per_byte" in refused and not given)
    if "why_not" not in pair:
        assert pair["difference"] == pytest.approx(0)


def test_one_that_writes_targets_compares_in_the_rest_of_texts(tiny_t5, tiny_bases, settings, here, tmp_path):
    names = [str(tiny_bases["gpt2"]), str(tiny_t5)]
    found = zoo(names, settings, tmp_path / "zoo", lambda _: None)
    gpt2, t5 = found["rows"]
    assert t5["kind"] == "seq2seq" and t5["given"] == "the first 8 words" and "score" not in t5
    assert t5["bits_per_byte"] == t5[room.REST] and t5["bleu"] is not None and t5["decode_ms"] > 0
    (pair,) = found["differences"]
    assert pair["of"] == "the rest"
    assert pair["difference"] == pytest.approx(t5[room.REST] - gpt2[room.REST])

    texts, _ = texts_of(settings, lambda _: None)
    model, tokenizer = open_model(names[0])
    whole = score_documents(model, tokenizer, texts, context=32, stride=16, keep_tokens=6)
    rests = [re.match(r"(?:\s*\S+){8}", text).end() for text in texts]  # by hand: the losses behind the first words
    bits, size = 0.0, 0
    for text, start, told in zip(texts, rests, whole.token_nll, strict=True):
        count = len(tokenizer(text[start:], add_special_tokens=False)["input_ids"])
        assert "".join(told["tokens"][-count:]) == text[start:]
        bits += sum(told["nll"][-count:]) / math.log(2)
        size += len(text[start:].encode())
    assert gpt2[room.REST] == pytest.approx(bits / size, rel=1e-4)


def test_a_rest_beyond_the_positions_is_a_cell_that_says_so_or_the_row(tiny_base, tiny_t5, settings):
    texts, _ = texts_of(settings, lambda _: None)
    narrow = ZooSettings(**{**asdict(settings), "context": 4, "stride": 2})
    found = measure(str(tiny_base), texts, narrow, {})
    assert found[room.REST] is None and "rest" not in found and found["bits_per_byte"] > 0
    with pytest.raises(CurvekitError, match="longer|more than"):
        measure(str(tiny_t5), texts, narrow, {})


def test_nothing_ends_early_when_time_is_taken(tiny_base, monkeypatch):
    model, tokenizer = open_model(str(tiny_base))
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] += 100  # a model that wants to end
    lengths, generate = [], model.generate

    def counted(ids, **given):
        made = generate(ids, **given)
        lengths.append(made.shape[1])
        return made

    monkeypatch.setattr(model, "generate", counted)
    found = timing.milliseconds(model, prompt=20, tokens=5, repeats=3)
    assert lengths == [21, 26] * 4
    assert found["prefill_tokens"] == 20 and found["decode_tokens"] == 5
    assert found["prefill_ms"] > 0 and 0 <= found["busy"] <= 1
    assert found["prefill_cpu_ms"] > 0


def test_where_other_work_is_done_the_processors_time_is_told(row):
    free, busy = row | {"busy": 0.0}, row | {"busy": 0.9}
    assert room.taken(free, "decode_ms") == (row["decode_ms"], False)
    assert room.taken(busy, "decode_ms") == (row["decode_cpu_ms"], True)


def test_memory_is_what_was_held_at_once():
    peak = timing.memory()
    held = np.ones(50_000_000)  # 400 MB
    del held
    most = peak()
    assert most is None or most > 150, most


def test_settings_that_cannot_be_are_refused_by_name():
    for wrong, told in (
        ({"documents": 0}, "documents is 0; give 1 or more"),
        ({"stride": 600}, "stride is 600 and would skip tokens; give at most 512"),
        ({"words": 50}, "are more than the 50 words of a document"),
        ({"words": 40}, "the 40 words of a document have no rest after them"),
        ({"split": "tests"}, "give train, validation or test"),
    ):
        with pytest.raises(CurvekitError, match=told):
            ZooSettings(**wrong)
    assert ZooSettings(prompts=0, words=50).prompts == 0


def test_words_of_more_tokens_than_the_positions_are_cut_short_and_counted(tiny_base, settings):
    model, tokenizer = open_model(str(tiny_base))
    texts = [" ".join(["\N{CYRILLIC SMALL LETTER ZHE}" * 40] * 14)] * 3
    assert len(tokenizer(texts[0])["input_ids"]) > 10 * model.config.n_positions
    found = room.continued(model, tokenizer, texts, settings)
    assert found["short"] == 2 and found["bleu"] is not None


def test_the_beginning_of_a_text_is_whole_words_and_found_at_once():
    assert room.beginning_of(3).match(" one  two\nthree four")[0] == " one  two\nthree"
    begun = time.perf_counter()
    assert room.beginning_of(400).match("several words " * 190) is None
    assert time.perf_counter() - begun < 1


def test_texts_too_short_for_the_words_are_refused(tiny_corpus):
    with pytest.raises(CurvekitError, match="no test document of .* has 900 words; give fewer"):
        texts_of(ZooSettings(corpus=str(tiny_corpus), words=900), lambda _: None)


def test_a_score_without_continuations_has_none(tiny_base, tiny_corpus):
    settings = ZooSettings(corpus=str(tiny_corpus), **SMALL | {"prompts": 0})
    texts, _ = texts_of(settings, lambda _: None)
    found = measure(str(tiny_base), texts, settings, {})
    assert found["bleu"] is None and math.isfinite(found["bits_per_byte"])
