"""Both ways to ask for a perplexity: the same of a causal model, and apart where a model looks at the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curvekit.causality import LeakWarning
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.evaluation.prefixes import score_both_ways


@pytest.mark.parametrize("recipe", ["plain", "curve+softemax", "curve-causal", "self-curve3+sites"])
def test_a_causal_model_scores_the_same_both_ways(make, tiny_tokenizer, tiny_texts, recipe):
    model = make(recipe)
    both = score_both_ways(model, tiny_tokenizer, tiny_texts, tokens=20, batch_size=3)
    assert both.tax == pytest.approx(1, abs=1e-5) and not both.looking.leaks
    assert np.allclose(both.looking.nll, both.blind.nll, rtol=1e-5)
    assert (both.looking.correct == both.blind.correct).all()
    long = [text for text in tiny_texts if len(tiny_tokenizer(text)["input_ids"]) >= 20]
    assert both.blind.tokens.tolist() == [20] * len(long)
    ids = [tiny_tokenizer(text)["input_ids"][:20] for text in long]
    cut = [text for text, first in zip(map(tiny_tokenizer.decode, ids), ids, strict=True)
           if tiny_tokenizer(text)["input_ids"] == first]  # fmt: skip
    whole = score_documents(model, tiny_tokenizer, cut, context=32)
    held = [both.blind.nll[i] for i, first in enumerate(ids) if tiny_tokenizer.decode(first) in cut]
    assert cut and np.allclose(whole.nll, held, rtol=1e-4)


def test_a_model_that_looks_ahead_scores_otherwise_when_it_may_not(make, tiny_tokenizer, tiny_texts):
    # The published normalisation hides nearly all of a word, so that hardly anything would be seen of the next.
    model = make("published", normalisation="layernorm", positions="base")
    with torch.no_grad():  # what the curve shows is large beside the scores of random weights
        model.curved.curve.projection.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.lm_head.weight.mul_(30)
    with pytest.warns(LeakWarning):
        both = score_both_ways(model, tiny_tokenizer, tiny_texts, tokens=20)
    assert both.looking.leaks and not both.blind.leaks, "a prefix holds no answer"
    assert abs(both.tax - 1) > 1e-3
    ids = torch.tensor([[tiny_tokenizer.eos_token_id, *tiny_tokenizer(tiny_texts[0])["input_ids"][:20]]])
    with torch.no_grad():
        alone = sum(-model(ids[:, :t]).logits[0, -1].log_softmax(-1)[ids[0, t]].item() for t in range(1, 21))
    assert both.blind.nll[0] == pytest.approx(alone, rel=1e-5)


def test_what_cannot_be_scored_is_said(make, tiny_tokenizer):
    with pytest.raises(CurvekitError, match="none of the 1 texts has 30 tokens"):
        score_both_ways(make("plain"), tiny_tokenizer, ["short"], tokens=30)
    with pytest.raises(CurvekitError, match="tokens is 64; give 1 to 63"):
        score_both_ways(make("plain"), tiny_tokenizer, ["short"], tokens=64)
