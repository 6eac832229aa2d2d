"""Generation: the same text for the same seed, whatever the batch, the padding or the stream."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.generation.sampling import Sampling, row_seed
from curvekit.generation.streams import Piece, _spelled, _Step, _until_stop, complete, generate, stream
from curvekit.text.tokenization import train_characters

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


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_sample_depends_on_its_seed_and_on_nothing_beside_it(model, tiny_tokenizer, settings):
    settings = settings | {"max_new_tokens": 8, "seed": 5}
    rows = list(complete(model, tiny_tokenizer, PROMPTS, **settings))
    assert list(complete(model, tiny_tokenizer, PROMPTS, batch_size=1, **settings))[-1].text == rows[-1].text
    own = settings.get("num_return_sequences", 1)
    for number, row in enumerate(rows):
        again = settings | {"seed": row.seed, "num_return_sequences": own if settings.get("num_beams") else 1}
        texts = generate(model, tiny_tokenizer, [row.prompt], **again)
        assert row.text == texts[number % own if settings.get("num_beams") else 0]
    seeds = [row_seed(seed, row) for seed in (5, 6) for row in range(len(rows))]
    assert len(set(seeds)) == len(seeds) and rows[0].seed == 5


def test_streams_at_once_write_what_each_writes_alone_and_touch_no_dice(model, tiny_tokenizer):
    texts: dict[int, str] = {}

    def write(seed: int) -> None:
        texts[seed] = joined(stream(model, tiny_tokenizer, "The river", max_new_tokens=30, seed=seed))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    before = torch.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    assert texts == {
        seed: generate(model, tiny_tokenizer, ["The river"], max_new_tokens=30, seed=seed)[0] for seed in range(4)
    }


def test_a_tokeniser_that_knows_only_a_beginning_begins_with_it(model, tiny_tokenizer):
    settings = {"max_new_tokens": 8, "temperature": 0}
    beginner = copy.deepcopy(tiny_tokenizer)
    beginner.bos_token, beginner.eos_token, beginner.pad_token = tiny_tokenizer.eos_token, None, None
    texts = generate(model, beginner, PROMPTS, **settings)
    ended = generate(model, tiny_tokenizer, PROMPTS, **settings)
    assert all(text.startswith(own) for text, own in zip(texts, ended, strict=True)) and any(ended)
    beginner.bos_token = None
    with pytest.raises(CurvekitError, match="no end-of-text token"):
        generate(model, beginner, PROMPTS, **settings)


def test_a_prompt_longer_than_the_model_loses_its_beginning(model, tiny_tokenizer):
    settings = {"max_new_tokens": 10, "temperature": 0}
    end = "She put it back into the drawer. " * 12
    long = "Nobody can see this. " * 40 + end
    assert len(tiny_tokenizer(end)["input_ids"]) > model.config.n_positions
    texts = generate(model, tiny_tokenizer, [long, end], **settings)
    assert texts[0] == texts[1]
    longer, shorter = complete(model, tiny_tokenizer, [long, "A bank"], **settings)
    tokens = len(tiny_tokenizer(long)["input_ids"])
    assert longer.truncated == tokens - (model.config.n_positions - 10) and shorter.truncated == 0
    pieces = stream(model, tiny_tokenizer, long, **settings)
    assert joined(pieces) == longer.text and pieces.completion.truncated == longer.truncated


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
    assert joined(stream(model, tiny_tokenizer, "The river", max_new_tokens=16, seed=2, stop=[stop])) == cut


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_pieces_of_a_stream_are_the_generated_text(model, tiny_tokenizer, temperature):
    settings = {"max_new_tokens": 20, "temperature": temperature, "seed": 5}
    before = torch.get_rng_state()
    pieces = stream(model, tiny_tokenizer, "The river", **settings)
    assert pieces.completion is None
    text = joined(pieces)
    assert torch.equal(torch.get_rng_state(), before)
    assert text == pieces.completion.text == generate(model, tiny_tokenizer, ["The river"], **settings)[0]


def test_a_piece_has_the_probability_the_model_gives_it_and_its_likeliest_rivals(model, tiny_tokenizer):
    ids = [tiny_tokenizer.eos_token_id, *tiny_tokenizer("The river")["input_ids"]]
    settings = {"max_new_tokens": 8, "temperature": 0.5, "top_k": 2, "seed": 2}
    pieces = list(stream(model, tiny_tokenizer, "The river", alternatives=3, **settings))
    assert len(pieces) == 8
    for piece in pieces:
        with torch.no_grad():
            odds = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        assert piece.probability == pytest.approx(float(odds[piece.token_id]), rel=1e-4)
        best = odds.topk(3)
        assert [each.token_id for each in piece.alternatives] == best.indices.tolist()
        assert [each.probability for each in piece.alternatives] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert piece.token_id in best.indices[:2]
        assert piece.alternatives[0].text == tiny_tokenizer.decode([piece.alternatives[0].token_id])
        ids.append(piece.token_id)


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_character_of_several_tokens_comes_whole(tiny_tokenizer, kind):
    tokenizer = tiny_tokenizer if kind == "bytes" else train_characters(["plain letters only"])
    ids = tokenizer("a €é 你b", add_special_tokens=False)["input_ids"]
    steps = [_Step(each, 0.5, [(each, 0.5)]) for each in ids]
    pieces = list(_spelled(tokenizer, iter(steps), []))
    assert [piece.text for piece in pieces if len(piece.text.encode()) > 1] == ["€", "é", "你"]
    assert joined(pieces) == "a €é 你b" and len(pieces) == len(ids)
    euro = [piece.alternatives[0].text for piece in pieces[2:5]]
    assert euro == ["\\xe2", "\\x82", "\\xac"]
    cut = list(_spelled(tokenizer, iter(steps[:4]), []))  # in the middle of the euro
    assert joined(cut) == "a "


def test_a_stop_string_of_letters_that_take_several_tokens(model, tiny_tokenizer, monkeypatch):
    ids = tiny_tokenizer("a€b", add_special_tokens=False)["input_ids"]
    forward, calls = model.forward, []

    def writing(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits[..., ids[len(calls) % len(ids)]] += 1e4
        calls.append(None)
        return output

    monkeypatch.setattr(model, "forward", writing)
    (row,) = complete(model, tiny_tokenizer, ["The river"], max_new_tokens=12, stop=["€"])
    assert (row.text, row.reason, row.tokens) == ("a", "stop string", len(ids) - 1)


@pytest.mark.parametrize("stop", [["ab"], ["xx", "cab"], ["bc", "abx"], ["zz"]])
def test_no_piece_shows_a_part_of_a_stop_string(stop):
    for text in ("xxabc", "aab", "ca caab", "abab", "abx"):
        for size in (1, 2, 3):
            parts = [text[i : i + size] for i in range(0, len(text), size)]
            pieces = list(_until_stop((Piece(part, 0, 1.0) for part in parts), stop))
            found = [text.index(word) for word in stop if word in text]
            # The generation ends with the first token that completes a stop string.
            read = next((i for i in range(len(parts)) if any(w in "".join(parts[: i + 1]) for w in stop)), len(parts))
            seen = "".join(parts[: read + 1])
            expected = min([len(seen), *(seen.index(word) for word in stop if word in seen)])
            assert joined(pieces) == text[:expected], (text, stop, size, found)


def test_how_it_ended_is_said(model, tiny_tokenizer, monkeypatch):
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=12, temperature=0)
    text = joined(pieces)
    done = pieces.completion
    assert (done.reason, done.tokens, done.prompt, done.truncated) == ("length", 12, "The river", 0)
    assert 0 < done.first_token_seconds <= done.seconds
    assert done.tokens_per_second == pytest.approx(12 / done.seconds)
    settings = {"max_new_tokens": 12, "temperature": 0, "stop": [text[4:7]]}
    (row,) = complete(model, tiny_tokenizer, ["The river"], **settings)
    pieces = stream(model, tiny_tokenizer, "The river", **settings)
    joined(pieces)
    for each in (row, pieces.completion):
        assert (each.reason, each.text) == ("stop string", text[: text.index(text[4:7])]) and each.tokens < 12


def test_an_end_of_text_ends_it_and_is_no_text(model, tiny_tokenizer, monkeypatch):
    forward, calls = model.forward, []

    def ending(*args, **kwargs):
        output = forward(*args, **kwargs)
        calls.append(None)
        output.logits[..., tiny_tokenizer.eos_token_id] += 1e4 if len(calls) % 4 == 0 else -1e4
        return output

    monkeypatch.setattr(model, "forward", ending)
    (row,) = complete(model, tiny_tokenizer, ["The river"], max_new_tokens=12)
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=12)
    last = list(pieces)[-1]
    assert (last.text, last.token_id, last.probability) == ("", tiny_tokenizer.eos_token_id, 1.0)
    for each in (row, pieces.completion):
        assert (each.reason, each.tokens) == ("eos", 4) and "<|" not in each.text


def test_a_stop_string_in_the_prompt_stops_nothing(model, tiny_tokenizer):
    settings = {"max_new_tokens": 6, "temperature": 0}
    (plain,) = complete(model, tiny_tokenizer, ["The river"], **settings)
    across = "er" + plain.text[:1]
    assert across not in plain.text[:4]
    for stop in ("The", across):
        expected = plain.text[: plain.text.index(stop)] if stop in plain.text else plain.text
        (row,) = complete(model, tiny_tokenizer, ["The river"], stop=[stop], **settings)
        assert row.text == expected and row.tokens > 1


def joined(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def streaming() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "curvekit-stream"]


def test_a_cancelled_stream_ends_early_and_leaves_no_thread(model, tiny_tokenizer, monkeypatch):
    cancel, forwards = threading.Event(), count_forwards(model, monkeypatch)
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=60, cancel=cancel, seed=1)
    next(pieces)
    cancel.set()
    assert len(list(pieces)) <= 2  # the token in progress, and one that was waiting
    assert len(forwards) < 60
    assert not streaming()
    assert pieces.completion.reason == "stopped" and pieces.completion.tokens <= 3


def test_a_stream_that_nobody_reads_on_stops_the_model(model, tiny_tokenizer, monkeypatch):
    forwards = count_forwards(model, monkeypatch)
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=60, seed=1)
    next(pieces)
    pieces.close()
    assert len(forwards) < 60
    assert not streaming()
    assert pieces.completion.reason == "stopped"
    with pytest.raises(StopIteration):
        next(pieces)


def test_an_interrupt_while_the_thread_begins_leaves_no_thread(model, tiny_tokenizer, monkeypatch):
    forwards, start = count_forwards(model, monkeypatch), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(stream(model, tiny_tokenizer, "The river", max_new_tokens=60))
    assert len(forwards) < 60 and not streaming()


def test_the_callers_event_stays_the_callers(model, tiny_tokenizer):
    cancel = threading.Event()
    for _ in range(2):
        assert len(list(stream(model, tiny_tokenizer, "The river", max_new_tokens=5, cancel=cancel))) == 5
    assert not cancel.is_set()


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
    pieces = stream(model, tiny_tokenizer, "The river", max_new_tokens=4)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(pieces)
    assert pieces.completion is None and not streaming()


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
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; give a whole number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0; give more than 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"stop": "\n"}, "give a list of strings"),
        ({"temperature": 0, "num_return_sequences": 2}, "without sampling there are only 1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "raise num_beams"),
    ],
)
def test_a_setting_out_of_range_is_one_clear_sentence(model, tiny_tokenizer, settings, message):
    with pytest.raises(CurvekitError, match=message):
        generate(model, tiny_tokenizer, ["The river"], **({"max_new_tokens": 4} | settings))


def test_no_prompts_give_no_texts(model, tiny_tokenizer):
    assert generate(model, tiny_tokenizer, []) == []


def test_one_text_in_place_of_a_list_is_refused(model, tiny_tokenizer):
    with pytest.raises(CurvekitError, match="give a list of texts"):
        generate(model, tiny_tokenizer, "The river")


def test_beams_and_several_continuations_are_not_streamed(model, tiny_tokenizer):
    for setting in ("num_beams", "num_return_sequences"):
        with pytest.raises(CurvekitError, match="one continuation can be streamed"):
            stream(model, tiny_tokenizer, "The river", max_new_tokens=4, **{setting: 2})


def test_a_recipe_that_sees_the_future_generates_all_the_same(tiny_base, tiny_encoder, tiny_tokenizer):
    model = build_model("published", str(tiny_base), tiny_tokenizer, encoder=str(tiny_encoder))
    ids = [tiny_tokenizer.eos_token_id, *tiny_tokenizer("The river")["input_ids"]]
    start = len(ids)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    settings = {"max_new_tokens": 6, "temperature": 0}
    pieces = list(stream(model, tiny_tokenizer, "The river", **settings))
    assert [piece.token_id for piece in pieces] == ids[start:][: len(pieces)]
    together = generate(model, tiny_tokenizer, PROMPTS, **settings)
    assert together == [generate(model, tiny_tokenizer, [prompt], **settings)[0] for prompt in PROMPTS]


def test_a_name_opens_a_base_a_recipe_on_it_or_a_saved_model(tiny_base, tmp_path):
    base, tokenizer = open_model(tiny_base)
    sink, _ = open_model(tiny_base, "sink")
    assert (base.config.recipe, sink.config.recipe, base.training) == ("gpt2", "sink", False)
    sink.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = open_model(str(tmp_path))
    assert again.config.recipe == "sink"
    with pytest.raises(CurvekitError, match="holds the recipe 'sink'"):
        open_model(tmp_path, "curve")
    with pytest.raises(CurvekitError, match="did you mean 'curve'"):
        open_model(tiny_base, "curv")


def test_a_changed_setting_is_checked_too():
    assert Sampling().changed("seed", 7) == Sampling(seed=7)
    with pytest.raises(CurvekitError, match="did you mean 'temperature'"):
        Sampling().changed("temprature", 1)
    with pytest.raises(CurvekitError, match="top_p is 2"):
        Sampling().changed("top_p", 2)
