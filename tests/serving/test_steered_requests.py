"""A control in a request to the service: what names no file is honoured, what would open one is refused."""

from __future__ import annotations

import pytest

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
