"""A softmax model becomes a SoftEMax model without a jump: its sinks take no more of any query than they may."""

from __future__ import annotations

import pytest
import torch
from tiny import builder

from curvekit.bases.building import build_model
from curvekit.bases.tokenizer import base_tokenizer
from curvekit.conversion import calibrate, sinks_for
from curvekit.errors import CurvekitError
from curvekit.modeling import ARCHITECTURES

TEXT = (
    "The river was low in summer, and the boats lay on the sand. She read the letter twice before she put it back into "
    "the drawer, and then she went to the window and looked out at the garden, where her brother was walking up and "
    "down with his hands behind him. It was late in the afternoon, and nobody had come to the house all day."
)
IDS = torch.randint(1, 300, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.3, 0.05, 1e-3])
def test_no_query_loses_more_than_the_share_and_one_loses_it_all(share):
    lse = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    taken = torch.sigmoid(sinks_for(lse, share)[:, None] - lse)  # exp(b - L) with L = logaddexp(lse, b)
    assert torch.allclose(taken.amax(-1), torch.full((3,), share, dtype=torch.float64))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_model_is_nearer_to_the_softmax_model_the_less_its_sinks_take(
    architecture, tiny_bases, tiny_encoder, tiny_tokenizer
):
    make = builder(tiny_bases[architecture], tiny_encoder, tiny_tokenizer)
    plain, sink = make("plain"), make("sink")
    with torch.no_grad():
        theirs = plain(IDS).logits
        before = (sink(IDS).logits - theirs).abs().max().item()
        distances = []
        for share in (0.05, 0.005, 1e-4):
            found = calibrate(sink, IDS, share)
            assert found.shape == (2, sink.config.num_attention_heads)
            distances.append((sink(IDS).logits - theirs).abs().max().item())
    assert before > distances[0] > distances[1] > distances[2], (before, distances)
    assert sink.config._attn_implementation == "softemax" and not sink.training


def test_the_sinks_are_learned_from_there(make):
    model = make("sink")
    calibrate(model, IDS)
    model.train()(IDS, labels=IDS).loss.backward()
    sinks = [p for n, p in model.named_parameters() if n.endswith("log_sink")]
    assert len(sinks) == 2 and all(p.requires_grad and (p.grad != 0).any() for p in sinks)


def test_mini_with_calibrated_sinks_loses_less_than_one_percent_and_softemax_loses_more():
    ids = base_tokenizer("mini")(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        plain, jump = (build_model(name)(ids, labels=ids).loss.item() for name in ("plain", "softemax"))
        model = build_model("sink")
        calibrate(model, ids)
        converted = model(ids, labels=ids).loss.item()
    assert abs(converted - plain) < 0.01, (plain, converted)
    assert abs(jump - plain) > 3 * abs(converted - plain), (plain, jump, converted)


def test_what_cannot_be_calibrated_is_refused(make):
    with pytest.raises(CurvekitError, match="only learned sinks"):
        calibrate(make("softemax"), IDS)
    with pytest.raises(CurvekitError, match="share is 1"):
        calibrate(make("sink"), IDS, 1)
