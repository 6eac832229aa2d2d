"""The logit lens: after all blocks it is the model's own loss, and earlier another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from curvekit.errors import CurvekitError
from curvekit.evaluation.depth import losses_by_depth
from curvekit.text.tokenization import begun

TEXTS = ["a curve through the words before", "another text, and longer than the first of them"]


def own_loss(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return float(F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))


@pytest.mark.parametrize("recipe", ["gpt2", "softemax", "curve3+sites"])
def test_the_last_depth_is_the_model_s_own_loss(make, tiny_tokenizer, recipe):
    model = make(recipe)
    nats, tokens = losses_by_depth(model, tiny_tokenizer, TEXTS, tokens=24)
    assert nats.shape == (2, 2) and tokens.tolist() == [len(begun(tiny_tokenizer, text, 24)) - 1 for text in TEXTS]
    for text, loss in zip(TEXTS, nats[-1], strict=True):
        assert loss == pytest.approx(own_loss(model, begun(tiny_tokenizer, text, 24)), rel=1e-5)
    assert not np.allclose(nats[0], nats[1])


def test_llama_has_depths_too(tiny_bases, tiny_tokenizer):
    from curvekit.bases.building import build_model

    model = build_model("plain", str(tiny_bases["llama"]), tiny_tokenizer)
    nats, _ = losses_by_depth(model, tiny_tokenizer, TEXTS[:1])
    assert nats[-1, 0] == pytest.approx(own_loss(model, begun(tiny_tokenizer, TEXTS[0])), rel=1e-5)


def test_what_leaks_or_says_nothing_is_refused(make, tiny_tokenizer):
    with pytest.raises(CurvekitError, match="sees the tokens"):
        losses_by_depth(make("published"), tiny_tokenizer, TEXTS)
    with pytest.raises(CurvekitError, match="no token"):
        losses_by_depth(make("gpt2"), tiny_tokenizer, [""])
