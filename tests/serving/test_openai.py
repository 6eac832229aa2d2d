"""OpenAI's dialect, through OpenAI's own client: shapes, streams, reasons, log-probabilities, and honest refusals."""

from __future__ import annotations

import math

import openai
import pytest
import torch

from curvekit.generation.sampling import row_seed
from curvekit.generation.streams import generate

SETTINGS = {"temperature": 0.9, "top_p": 0.9, "seed": 7}


@pytest.fixture
def ai(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def library(talker, prompt, **settings):
    return generate(*talker, [prompt], **{"max_new_tokens": 16, **SETTINGS, **settings})[0]


def test_completions_are_the_librarys_texts_for_each_prompt_and_each_n(ai, talker):
    answer = ai.completions.create(model="talker", prompt=["The river", "A bank"], max_tokens=16, n=2, **SETTINGS)
    rows = [(prompt, row_seed(7, row)) for row, prompt in enumerate(["The river"] * 2 + ["A bank"] * 2)]
    assert [each.text for each in answer.choices] == [library(talker, prompt, seed=seed) for prompt, seed in rows]
    assert [each.index for each in answer.choices] == [0, 1, 2, 3]
    assert {each.finish_reason for each in answer.choices} == {"length"}
    read = sum(len(talker[1](prompt)["input_ids"]) for prompt in ("The river", "A bank"))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 64)
    assert answer.usage.total_tokens == read + 64


def test_a_stream_of_completions_joins_to_the_same_texts(ai, talker):
    told = ai.completions.create(
        model="talker", prompt=["The river", "A bank"], max_tokens=16, stream=True, echo=True,
        stream_options={"include_usage": True}, **SETTINGS,
    )  # fmt: skip
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    for chunk in told:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts[0] == "The river" + library(talker, "The river")
    assert texts[1] == "A bank" + library(talker, "A bank", seed=row_seed(7, 1))
    assert reasons == {0: "length", 1: "length"} and usage.completion_tokens == 32


def test_a_stream_ends_with_done(client):
    body = {"prompt": "The river", "max_tokens": 3, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)


def test_stop_ends_a_text_before_it_and_is_the_reason(ai, talker):
    stop = library(talker, "The river")[4:6]
    answer = ai.completions.create(model="talker", prompt="The river", max_tokens=16, stop=[stop], **SETTINGS)
    assert answer.choices[0].text == library(talker, "The river", stop=[stop])
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_are_the_models_for_the_prompt_and_for_what_was_written(ai, talker):
    model, tokenizer = talker
    ids = tokenizer("A bank is a place")["input_ids"]
    answer = ai.completions.create(model="talker", prompt=ids, max_tokens=4, echo=True, logprobs=3, temperature=0)
    told = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("A bank is a place")
    new: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            logits = model(torch.tensor([ids + new])).logits[0]
            logits[
                len(ids) - 1 :, tokenizer.eos_token_id
            ] = -math.inf  # the model never ends, see its generation config
            new.append(int(logits[-1].argmax()))
        odds = logits.log_softmax(-1)
    assert len(told.tokens) == len(ids) + 4 and told.token_logprobs[0] is None and told.top_logprobs[0] is None
    for place, token in enumerate((ids + new)[1:]):
        assert told.token_logprobs[place + 1] == pytest.approx(float(odds[place, token]), abs=1e-3)
        assert max(told.top_logprobs[place + 1].values()) == pytest.approx(float(odds[place].max()), abs=1e-3)
    assert told.text_offset == [sum(map(len, told.tokens[:place])) for place in range(len(told.tokens))]


def test_a_prompt_may_be_scored_and_nothing_written(ai, talker):
    answer = ai.completions.create(model="talker", prompt="A bank is", max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == "A bank is" and answer.usage.completion_tokens == 0
    values = answer.choices[0].logprobs.token_logprobs
    assert len(values) == len(talker[1]("A bank is")["input_ids"]) and all(math.isfinite(value) for value in values)


MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is the river?"}]


def test_a_chat_is_the_template_continued_whole_and_as_a_stream(ai, talker):
    settings = {"model": "talker", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = ai.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
    message = answer.choices[0].message
    model, tokenizer = talker
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    start = len(ids)
    with torch.no_grad():
        for _ in range(12):
            logits = model(torch.tensor([ids])).logits[0, -1]
            logits[tokenizer.eos_token_id] = -math.inf  # the model never ends, see its generation config
            ids.append(int(logits.argmax()))
    assert message.role == "assistant" and message.content == tokenizer.decode(ids[start:])
    assert answer.choices[0].finish_reason == "length" and answer.usage.prompt_tokens == start
    content = answer.choices[0].logprobs.content
    assert len(content) == 12 and all(len(each.top_logprobs) == 2 for each in content)
    assert all(each.logprob == pytest.approx(each.top_logprobs[0].logprob) for each in content)
    deltas = [chunk.choices[0] for chunk in ai.chat.completions.create(**settings, stream=True)]
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == "length"
    assert "".join(each.delta.content or "" for each in deltas) == message.content


def test_a_seed_and_n_hold_in_chats(ai):
    settings = {
        "model": "talker",
        "messages": MESSAGES,
        "max_completion_tokens": 12,
        "temperature": 1,
        "n": 2,
        "seed": 3,
    }
    first, again = (ai.chat.completions.create(**settings) for _ in range(2))
    texts = [each.message.content for each in first.choices]
    assert texts == [each.message.content for each in again.choices] and texts[0] != texts[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "end"), ("best_of", 3), ("presence_penalty", 0.5), ("frequency_penalty", -1), ("logprobs", 99),
        ("logit_bias", {"5": 10}), ("n", 0), ("temperature", -1), ("top_p", 0), ("max_tokens", 100_000), ("guess", 1),
        ("stop", ["a"] * 17),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_a_400_that_names_it(client, field, value):
    answer = client.post("/v1/completions", json={"prompt": "A", field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400 and field in error["message"] and error["param"] == field


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "A"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text alone"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"model": "tiny"}, "no chat template"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "positions"),
    ],
)
def test_so_it_is_in_chats(client, change, said):
    answer = client.post("/v1/chat/completions", json={"messages": MESSAGES} | change)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(ai):
    with pytest.raises(openai.BadRequestError, match="exceed the 256 positions"):
        ai.completions.create(model="talker", prompt="The river " * 200, max_tokens=16)
    with pytest.raises(openai.NotFoundError, match="unknown model 'talke'; did you mean 'talker'"):
        ai.completions.create(model="talke", prompt="A")


def test_the_models_are_listed(ai):
    assert [each.id for each in ai.models.list()] == ["talker", "tiny"]
    assert ai.models.retrieve("tiny").owned_by == "curvekit"
