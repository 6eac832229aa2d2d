"""A control in a request to the service: what names no file is honoured, what would open one is refused."""

from __future__ import annotations

import json

import pytest

from curvekit.generation.streams import generate
from curvekit.serving.orders import Limits, Refused, generate_order


def order(control):
    return generate_order(
        {"prompt": "The river", "control": control}, Limits(), lambda model, prompt: 3, lambda model: 64
    )


def test_a_bag_and_a_preface_reach_the_order():
    control = order({"bag": ["river"], "preface": "A bank.", "step_size": 0.2}).sampling.control
    assert control is not None and control.bag == ("river",) and control.preface == "A bank."
    assert order(None).sampling.control is None


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"vector": "/etc/passwd"}, "control.vector names a file"),
        ({"attribute": "x", "label": "y"}, "control.attribute names a file"),
        ({"expert": "mini"}, "control.expert names a file"),
        ({"bag": ["a"] * 2000}, "at most 1000 short words"),
        ({"bag": ["a"], "iterations": 50}, "a service takes 1 to 10"),
        ({"preface": "a" * 5000}, "longer than 4000 characters"),
        ({"bog": ["a"]}, "did you mean 'bag'"),
        ("x", "give a Control, or an object"),
    ],
)
def test_what_a_service_does_not_do_is_refused(control, message):
    with pytest.raises(Refused, match=message):
        order(control)


def test_a_steered_text_is_the_librarys_through_http_whole_and_streamed(client, talker):
    control = {"bag": ["river"], "step_size": 2.0, "preface": "A bank.", "guidance_scale": 1.3}
    settings = {"max_new_tokens": 10, "temperature": 0.9, "top_p": 0.9, "seed": 5, "control": control}
    expected = generate(*talker, ["The river"], **settings)[0]
    assert expected != generate(*talker, ["The river"], **settings | {"control": None})[0]
    body = {"prompt": "The river", **settings}
    assert client.post("/generate", json=body).json()["continuation"] == expected
    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        told = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert "".join(each.get("text", "") for each in told[:-1]) == expected
    answer = client.post("/generate", json=body | {"control": {"vector": "x"}})
    assert answer.status_code == 400 and "names a file" in answer.text
    answer = client.post("/generate", json=body | {"control": {"bag": ["extraordinary"]}})
    assert answer.status_code == 400 and "no word of the bag is one token" in answer.text
