"""A batch that rows join and leave: each writes what it writes alone, and one that goes or fails disturbs no other."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.bases.building import build_model
from curvekit.errors import CurvekitError
from curvekit.generation.batching import Batcher, Busy, Reader, write_all
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import complete, generate, stream

PROMPTS = ["The river", "She read the letter twice before she put", "", "A bank is also the side of a river."]
SETTINGS = (
    {"max_new_tokens": 20},
    {"max_new_tokens": 12, "temperature": 0},
    {"max_new_tokens": 17, "temperature": 0.7, "top_p": 0.8, "top_k": 40},
    {"max_new_tokens": 15, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 20, "temperature": 1.2, "min_p": 0.01, "stop": ["e", "th"]},
)


def peaked(model):
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(4)
    return model.eval()


def finished(rows, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not all(row.over for row in rows):
        assert time.monotonic() < deadline, "a row never ended"
        time.sleep(0.002)
    for row in rows:
        if row.failure is not None:
            raise row.failure
    return rows


@pytest.fixture(scope="module")
def model(tiny_base):
    return peaked(AutoModelForCausalLM.from_pretrained(tiny_base))


@pytest.fixture
def batcher(model, tiny_tokenizer):
    batcher = Batcher(model, tiny_tokenizer, most=4, waiting=40)
    yield batcher
    batcher.close(5)


def check_same(model, tokenizer):
    """Twenty rows of five kinds, some of them late, through a batch of six."""
    batcher = Batcher(model, tokenizer, most=6)
    try:
        rows = []
        for number in range(20):
            prompt, settings = PROMPTS[number % 4], SETTINGS[number % 5]
            rows.append(batcher.add(prompt, Sampling(seed=number, **settings)))
            if number % 3 == 0:
                time.sleep(0.01)
        for row in finished(rows):
            (alone,) = complete(model, tokenizer, [row.prompt], **vars(row.sampling))
            told = row.completion(tokenizer)
            assert (told.text, told.tokens, told.reason) == (alone.text, alone.tokens, alone.reason), row.sampling
    finally:
        batcher.close(5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama"])
def test_a_row_writes_what_its_prompt_and_seed_write_alone_whoever_is_beside_it(tiny_bases, tiny_tokenizer, kind):
    check_same(peaked(AutoModelForCausalLM.from_pretrained(tiny_bases[kind])), tiny_tokenizer)


@pytest.mark.parametrize("recipe", ["softemax", "curve", "curve+softemax", "published"])
def test_so_does_every_recipe(tiny_base, tiny_encoder, tiny_tokenizer, recipe):
    model = build_model(recipe, str(tiny_base), tiny_tokenizer, encoder=str(tiny_encoder))
    check_same(peaked(model), tiny_tokenizer)


def test_a_curve_over_a_causal_encoder_keeps_its_past_in_the_batch(tiny_bases, tiny_encoder, tiny_tokenizer):
    settings = {"encoder": str(tiny_encoder), "context": "causal"}
    model = build_model("curve", str(tiny_bases["llama"]), tiny_tokenizer, **settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gate"):
                weight.fill_(0.5)
    check_same(peaked(model), tiny_tokenizer)


def test_all_prompts_are_written_as_alone_and_none_waits_for_the_longest(model, tiny_tokenizer, monkeypatch):
    lengths, step = [], Batcher._step
    monkeypatch.setattr(Batcher, "_step", lambda self: (lengths.append(len(self.rows)), step(self))[1])
    settings = {"max_new_tokens": 24, "stop": ["e"], "seed": 3}
    prompts = [*PROMPTS, "It rained", "He was", "All the boats lay there"]
    written = list(write_all(model, tiny_tokenizer, prompts, batch_size=2, **settings))
    expected = list(complete(model, tiny_tokenizer, prompts, **settings))
    for name in ("prompt", "text", "seed", "tokens", "reason"):
        assert [getattr(each, name) for each in written] == [getattr(each, name) for each in expected], name
    tokens = [each.tokens for each in written]
    assert max(lengths) == 2 and len(set(tokens)) > 1
    # Each token but a row's first is a row's part in a step; only at the end does one row go on alone.
    assert sum(lengths) == sum(tokens) - len(tokens) and lengths.count(1) <= 24


def test_what_fails_is_raised_to_who_asked_for_all_texts_and_the_thread_ends(model, tiny_tokenizer, monkeypatch):
    def broken(self):
        raise RuntimeError("the model broke")

    monkeypatch.setattr(Batcher, "_step", broken)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="the model broke"):
        list(write_all(model, tiny_tokenizer, PROMPTS, max_new_tokens=8, temperature=0))
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, "its thread goes on"
        time.sleep(0.01)


def test_the_pieces_of_a_row_are_those_of_a_stream(model, tiny_tokenizer, batcher):
    for seed, settings in enumerate(SETTINGS):
        row = batcher.add("The river", Sampling(seed=seed, **settings), alternatives=3)
        reader, pieces = Reader(row, tiny_tokenizer), []
        while not row.over:
            pieces += reader.pieces()
        pieces += reader.pieces()
        expected = list(stream(model, tiny_tokenizer, "The river", seed=seed, alternatives=3, **settings))
        assert [piece.text for piece in pieces] == [piece.text for piece in expected]
        assert [piece.token_id for piece in pieces] == [piece.token_id for piece in expected]
        for mine, other in zip(pieces, expected, strict=True):
            assert mine.probability == pytest.approx(other.probability, rel=1e-3)
            assert [each.token_id for each in mine.alternatives] == [each.token_id for each in other.alternatives]
        assert list(reader.pieces()) == []


def test_a_row_that_is_cancelled_leaves_and_its_neighbours_go_on(model, tiny_tokenizer, batcher):
    rows = [batcher.add(prompt, Sampling(max_new_tokens=60, seed=seed)) for seed, prompt in enumerate(PROMPTS[:3])]
    while not rows[1].steps:
        time.sleep(0.001)
    rows[1].cancel()
    finished(rows)
    assert rows[1].completion(tiny_tokenizer).reason == "stopped" and len(rows[1].new) < 60
    for place in (0, 2):
        expected = generate(model, tiny_tokenizer, [PROMPTS[place]], max_new_tokens=60, seed=place)[0]
        assert rows[place].completion(tiny_tokenizer).text == expected


def test_a_row_that_fails_fails_alone(batcher, tiny_tokenizer, monkeypatch):
    draw = batcher._draw_alike

    def no_numbers(group, scores):
        draw(group, scores * float("nan") if group[0].sampling.temperature == 0.5 else scores)

    monkeypatch.setattr(batcher, "_draw_alike", no_numbers)
    good = batcher.add("The river", Sampling(max_new_tokens=30))
    bad = batcher.add("The river", Sampling(max_new_tokens=30, temperature=0.5))
    while not bad.over:
        time.sleep(0.001)
    assert isinstance(bad.failure, RuntimeError)
    assert len(finished([good])[0].new) > 1


def test_a_model_that_fails_tells_every_reader_and_the_next_row_is_written(model, tiny_tokenizer, batcher, monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batcher, "_forward", broken)
        rows = [batcher.add(prompt, Sampling(max_new_tokens=9)) for prompt in PROMPTS]
        while not all(row.over for row in rows):
            time.sleep(0.001)
        with pytest.raises(MemoryError):
            list(Reader(rows[0], tiny_tokenizer).pieces())
    assert all(isinstance(row.failure, MemoryError) for row in rows)
    finished([batcher.add("The river", Sampling(max_new_tokens=9))])


def test_who_waits_too_long_ends_as_it_is_and_who_finds_the_queue_full_is_told(model, tiny_tokenizer):
    batcher = Batcher(model, tiny_tokenizer, most=1, waiting=2)
    try:
        woken = threading.Event()
        first = batcher.add("The river", Sampling(max_new_tokens=50), wake=woken.set)
        assert woken.wait(20)  # it is in the batch, and no longer in the queue
        late = batcher.add("A bank", Sampling(max_new_tokens=20), seconds=0.0)
        batcher.add("A bank", Sampling(max_new_tokens=20))
        with pytest.raises(Busy, match="2 continuations wait already"):
            batcher.add("A bank", Sampling(max_new_tokens=20))
        finished([first, late])
        assert late.completion(tiny_tokenizer).reason == "stopped" and not late.new
    finally:
        batcher.close(20)
    with pytest.raises(Busy, match="ending"):
        batcher.add("A bank", Sampling(max_new_tokens=1))


def test_the_past_that_is_kept_is_bounded_whatever_is_asked_for(model, tiny_tokenizer, batcher, monkeypatch):
    from curvekit.generation import batching

    monkeypatch.setattr(batching, "_PLACES", 90)
    step, kept = Batcher._step, []

    def watched(self):
        step(self)
        kept.append((len(self.rows), self._mask.shape[1]))

    monkeypatch.setattr(Batcher, "_step", watched)
    asked = [(PROMPTS[number % 4], Sampling(max_new_tokens=5 + 6 * (number % 7), seed=number)) for number in range(20)]
    rows = finished([batcher.add(*each) for each in asked])
    assert max(count * width for count, width in kept) <= 90 and max(count for count, _ in kept) > 1
    for row, (prompt, sampling) in zip(rows, asked, strict=True):
        settings = {"max_new_tokens": sampling.max_new_tokens, "seed": sampling.seed}
        assert row.completion(tiny_tokenizer).text == generate(model, tiny_tokenizer, [prompt], **settings)[0]


@pytest.mark.parametrize("at_once", [256, 3])
def test_a_scored_prompt_tells_the_log_probability_of_each_of_its_tokens(
    model, tiny_tokenizer, batcher, monkeypatch, at_once
):
    monkeypatch.setattr("curvekit.generation.batching._SCORED_AT_ONCE", at_once)
    ids = tiny_tokenizer("A bank is a place for money.")["input_ids"]
    row = batcher.add(ids, Sampling(max_new_tokens=1), alternatives=2, score=True)
    only = batcher.add("A bank is a place for money.", Sampling(max_new_tokens=1), score=True, draws=False)
    finished([row, only])
    with torch.no_grad():
        odds = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert row.scored[0] == (ids[0], None, []) and len(row.scored) == len(ids)
    for place, (token, value, likeliest) in enumerate(row.scored[1:]):
        assert token == ids[place + 1]
        assert value == pytest.approx(float(odds[place, token]), abs=1e-4)
        assert [each for each, _ in likeliest] == odds[place].topk(2).indices.tolist()
    assert only.new == [] and only.scored[1][1] is not None and len(only.scored) == len(ids) + 1


def test_closing_writes_what_was_begun_to_its_end(model, tiny_tokenizer):
    batcher = Batcher(model, tiny_tokenizer, most=2)
    rows = [batcher.add(prompt, Sampling(max_new_tokens=30)) for prompt in PROMPTS]
    batcher.close(30)
    assert all(row.over and not row.stopped for row in rows)


def test_what_is_no_row_is_refused(batcher):
    with pytest.raises(CurvekitError, match="one continuation"):
        batcher.add("A", Sampling(num_beams=2))
    with pytest.raises(CurvekitError, match="token id 400"):
        batcher.add([1, 400], Sampling(max_new_tokens=1))
    with pytest.raises(CurvekitError, match="64 positions"):
        batcher.add("A", Sampling(max_new_tokens=64))
