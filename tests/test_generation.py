"""Generation: the same text for the same seed, whatever the batch, the padding or the stream."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.errors import CurvekitError
from curvekit.generation import generate, stream

PROMPTS = ["The river", "She read the letter twice before she put", "", "A bank is also the side of a river."]


@pytest.fixture(scope="module")
def model(tiny_base):
    """Two layers of random weights, so peaked that no two tokens tie."""
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
    return model


def test_greedy_text_is_what_a_loop_over_argmax_writes(model, tiny_tokenizer):
    ids = [tiny_tokenizer.eos_token_id, *tiny_tokenizer("The river")["input_ids"]]
    start = len(ids)
    for _ in range(12):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tiny_tokenizer.eos_token_id:
            break
    expected = tiny_tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert generate(model, tiny_tokenizer, ["The river"], max_new_tokens=12, temperature=0) == [expected]


def test_a_batch_of_unequal_prompts_writes_what_each_prompt_writes_alone(model, tiny_tokenizer):
    settings = {"max_new_tokens": 10, "temperature": 0}
    alone = [text for prompt in PROMPTS for text in generate(model, tiny_tokenizer, [prompt], **settings)]
    assert generate(model, tiny_tokenizer, PROMPTS, **settings) == alone
    assert generate(model, tiny_tokenizer, PROMPTS, batch_size=3, **settings) == alone
    assert len(set(alone)) > 1


def test_the_seed_decides_and_the_callers_random_state_stays(model, tiny_tokenizer):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, tiny_tokenizer, PROMPTS, seed=3, max_new_tokens=8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert generate(model, tiny_tokenizer, PROMPTS, seed=3, max_new_tokens=8) == first
    assert generate(model, tiny_tokenizer, PROMPTS, seed=4, max_new_tokens=8) != first


def test_a_prompt_longer_than_the_model_loses_its_beginning(model, tiny_tokenizer):
    settings = {"max_new_tokens": 10, "temperature": 0}
    end = "She put it back into the drawer. " * 12
    long = "Nobody can see this. " * 40 + end
    assert len(tiny_tokenizer(end)["input_ids"]) > model.config.n_positions
    texts = generate(model, tiny_tokenizer, [long, end], **settings)
    assert texts[0] == texts[1]


def test_several_continuations_stand_beside_their_prompt(model, tiny_tokenizer):
    texts = generate(model, tiny_tokenizer, PROMPTS[:2], max_new_tokens=6, num_return_sequences=3)
    assert len(texts) == 6
    settings = {"max_new_tokens": 6, "temperature": 0, "num_beams": 3, "num_return_sequences": 2}
    beams = generate(model, tiny_tokenizer, PROMPTS[:2], **settings)
    assert beams[2:] == generate(model, tiny_tokenizer, PROMPTS[1:2], **settings)


def test_top_k_of_one_is_greedy(model, tiny_tokenizer):
    greedy = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=8, temperature=0)
    assert generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=8, top_k=1) == greedy
    assert generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=8, min_p=1.0) == greedy


def test_a_stop_string_and_what_follows_it_are_cut(model, tiny_tokenizer):
    text = generate(model, tiny_tokenizer, ["The river"], max_new_tokens=16, seed=2)[0]
    stop = text[len(text) // 2 :][:3]
    cut = generate(model, tiny_tokenizer, ["The river"], max_new_tokens=16, seed=2, stop=[stop])[0]
    assert cut == text[: text.index(stop)]
    assert "".join(stream(model, tiny_tokenizer, "The river", max_new_tokens=16, seed=2, stop=[stop])) == cut


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_pieces_of_a_stream_are_the_generated_text(model, tiny_tokenizer, temperature):
    settings = {"max_new_tokens": 20, "temperature": temperature, "seed": 5}
    before = torch.get_rng_state()
    pieces = list(stream(model, tiny_tokenizer, "The river", **settings))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(pieces) > 1
    assert "".join(pieces) == generate(model, tiny_tokenizer, ["The river"], **settings)[0]


def streaming() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "curvekit-stream"]


def test_a_cancelled_stream_ends_early_and_leaves_no_thread(model, tiny_tokenizer, monkeypatch):
    cancel, forwards = threading.Event(), count_forwards(model, monkeypatch)
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=60, cancel=cancel, seed=1)
    next(pieces)
    cancel.set()
    list(pieces)
    assert len(forwards) < 60
    assert not streaming()


def test_a_stream_that_nobody_reads_on_stops_the_model(model, tiny_tokenizer, monkeypatch):
    forwards = count_forwards(model, monkeypatch)
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=60, seed=1)
    next(pieces)
    pieces.close()
    assert len(forwards) < 60
    assert not streaming()


def count_forwards(model, monkeypatch) -> list[None]:
    """Slow the model to a few milliseconds a token and count them."""
    calls: list[None] = []
    forward = model.forward

    def slow(*args, **kwargs):
        calls.append(None)
        time.sleep(0.01)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", slow)
    return calls


def test_what_fails_in_the_thread_is_raised_to_the_reader(model, tiny_tokenizer, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream(model, tiny_tokenizer, "The river", max_new_tokens=4))


def test_a_model_that_hangs_does_not_hang_the_reader(model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(model, "generate", lambda **settings: time.sleep(0.5))
    with pytest.raises(CurvekitError, match=r"no token came within 0\.1 s"):
        list(stream(model, tiny_tokenizer, "The river", max_new_tokens=4, timeout=0.1))


def test_a_model_in_training_is_in_training_afterwards(model, tiny_tokenizer):
    model.train()
    try:
        greedy = generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=4, temperature=0)
        assert model.training
    finally:
        model.eval()
    assert generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=4, temperature=0) == greedy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 64}, "max_new_tokens is 64, but the model has 64 positions; give at most 63"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0; give more than 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"stop": "\n"}, "give a list of strings"),
        ({"temperature": 0, "num_return_sequences": 2}, "without sampling there are only 1"),
    ],
)
def test_a_setting_out_of_range_is_one_clear_sentence(model, tiny_tokenizer, settings, message):
    with pytest.raises(CurvekitError, match=message):
        generate(model, tiny_tokenizer, ["The river"], **({"max_new_tokens": 4} | settings))


def test_no_prompts_give_no_texts(model, tiny_tokenizer):
    assert generate(model, tiny_tokenizer, []) == []
