"""A normaliser of one's own runs in attention as its function says, and one that cannot be trusted is refused."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from curvekit.attention import eager_softemax_attention, softemax_attention
from curvekit.causality import future_leak
from curvekit.errors import CurvekitError
from curvekit.normalisers import VARIANTS, softemax
from curvekit.variants import normalisers, register_normaliser, register_recipe, slowdown, unregister
from curvekit.variants.normalisers import attend, weights_of


def squared(scores):
    """Squared ReLU over how many keys are seen: no member of the family."""
    seen = (scores > -math.inf).sum(-1, keepdim=True).to(scores.dtype)
    return (1 + scores).clamp(min=0).square() / seen


def stable(scores):
    return softemax(scores)


def fused_stable(query, key, value, mask, is_causal, scale):
    return softemax_attention(query, key, value, mask=mask, is_causal=is_causal, scale=scale)


def inputs(heads=4, key_heads=4, queries=9, keys=9, dtype=torch.float32):
    shapes = (heads, queries), (key_heads, keys), (key_heads, keys)
    return [torch.randn(2, count, time, 8, dtype=dtype, requires_grad=True) for count, time in shapes]


@pytest.mark.parametrize("fused", [None, fused_stable])
@pytest.mark.parametrize("masked", ["causal", "boolean", "additive", "none"])
def test_attention_is_that_of_the_function_with_gradients_grouped_heads_and_empty_rows(fused, masked):
    register_normaliser("mine", stable, fused)
    seen = torch.rand(2, 1, 9, 9) > 0.5
    seen[0, 0, 3] = False
    smallest = torch.finfo(torch.float32).min
    given = {
        "causal": {"is_causal": True},
        "boolean": {"mask": seen},
        "additive": {"mask": torch.randn(2, 1, 9, 9).masked_fill(~seen, smallest)},
        "none": {},
    }[masked]
    query, key, value = inputs(key_heads=2)
    output, _ = attend("mine", query, key, value, **given)
    wanted, _ = eager_softemax_attention(query, key, value, **given)
    assert (output - wanted).abs().max() < 1e-5
    theirs = torch.autograd.grad(wanted.square().sum(), (query, key, value))
    for mine, other in zip(torch.autograd.grad(output.square().sum(), (query, key, value)), theirs, strict=True):
        assert (mine - other).abs().max() < 1e-4


def test_asking_for_weights_takes_the_formula_and_half_precision_is_normalised_in_float32():
    register_normaliser("squared", squared)
    query, key, value = inputs(dtype=torch.bfloat16)
    output, weights = attend("squared", query, key, value, is_causal=True, by_formula=True)
    assert output.dtype == weights.dtype == torch.bfloat16 and weights.shape == (2, 4, 9, 9)
    scores = (query @ key.transpose(-1, -2) * 8**-0.5).float()
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    assert (weights.float() - squared(scores.masked_fill(hidden, -math.inf))).abs().max() < 1e-2
    row = torch.tensor([[0.5, -math.inf], [-math.inf, -math.inf]])
    assert weights_of(row, "squared").tolist() == [[2.25, 0.0], [0.0, 0.0]]
    assert torch.equal(weights_of(row, "stable"), softemax(row, mask=row > -math.inf))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_any_model_of_transformers_takes_it_by_name_and_no_word_of_the_future(architecture, tiny_bases):
    register_normaliser("squared", squared)
    asked = {"attn_implementation": "softemax-squared"}
    if architecture == "gpt_neo":
        with pytest.raises(CurvekitError, match="would have no effect"):  # its own class has no attention interface
            AutoModelForCausalLM.from_pretrained(tiny_bases[architecture], **asked)
        return
    model = AutoModelForCausalLM.from_pretrained(tiny_bases[architecture], **asked)
    ids = torch.randint(0, 300, (2, 12))
    softmax = AutoModelForCausalLM.from_pretrained(tiny_bases[architecture], attn_implementation="eager")
    assert (model(ids).logits - softmax(ids).logits).abs().max() > 1e-4
    assert future_leak(model, ids) == 0


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_a_recipe_with_it_passes_the_conformance_line(architecture, tiny_bases, tiny_encoder, tiny_tokenizer):
    from tiny import builder

    from curvekit.evaluation.conformance import conformance
    from curvekit.evaluation.inspection import attention_of

    register_normaliser("squared", squared)
    register_recipe("mine", {"attention": "squared", "source": "self"})
    model = builder(tiny_bases[architecture], tiny_encoder, tiny_tokenizer)("mine")
    found = conformance(model, tiny_tokenizer)
    assert not found.failures, found.line()
    assert found.attention > 0, "float32 against float64"
    read = attention_of(model, tiny_tokenizer, "The river was low in summer.")
    assert read.member == "squared"
    own = read.rows(0, 0, 4, ("softmax", "squared"))
    assert list(own) == ["squared", "softmax"] and own["softmax"].sum() == pytest.approx(1)


def forgets_the_mask(scores):
    return torch.exp(scores.clamp(min=-30))


def over_all_queries(scores):
    kept = torch.exp(scores)
    return kept / kept.sum((-2, -1), keepdim=True)


def over_earlier_queries(scores):
    kept = torch.exp(scores)
    return kept / kept.sum(-1, keepdim=True).cumsum(-2)


def over_the_batch(scores):
    return torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True).mean(0, keepdim=True)


def counts_hidden_keys(scores):
    return torch.sigmoid(scores) / scores.shape[-1]


def dices(scores):
    return nn.functional.dropout(torch.sigmoid(scores), 0.5)


def breaks(scores):
    return scores.no_such_method()


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (forgets_the_mask, r"'bad' sees the future: it gives a key that is hidden .* the weight 9\.4e-14"),
        (over_all_queries, r"'bad' sees the future: the weights of a query depend on the scores of later queries"),
        (over_earlier_queries, "'bad' mixes queries"),
        (over_the_batch, "'bad' mixes queries"),
        (counts_hidden_keys, r"'bad' sees the future: its weights change .* when more keys are hidden"),
        (lambda scores: torch.sigmoid(scores)[..., :-1], r"'bad' gave \[2, 3, 6, 5\] of scores \[2, 3, 6, 6\]"),
        (lambda scores: scores.tolist(), "'bad' gave list of scores"),
        (lambda scores: scores * torch.sigmoid(scores), r"not numbers .* at hidden keys"),
        (lambda scores: torch.sigmoid(scores) / 0, r"not numbers \(NaN or infinite\) at keys it sees"),
        (lambda scores: torch.sigmoid(scores).half(), r"gave torch.float16 of scores in torch.float32"),
        (lambda scores: (scores - scores.amax(-1, True)).exp().sqrt(), "gradient that is not a number"),
        (lambda scores: scores.clamp(min=0).sqrt(), None),
        (dices, "other weights of the same scores"),
        (breaks, r"failed at test_own_normalisers.py, line \d+: AttributeError: .*no_such_method"),
    ],
)
def test_what_attention_cannot_be_built_on_is_refused_in_a_sentence(function, told):
    if told is None:
        register_normaliser("bad", function)
        return
    with pytest.raises(CurvekitError, match=told) as raised:
        register_normaliser("bad", function)
    assert "\n" not in str(raised.value)
    assert "bad" not in normalisers.NORMALISERS


def test_a_fused_form_that_computes_something_else_is_refused():
    with pytest.raises(CurvekitError, match="computes something else than its formula causally"):
        register_normaliser("bad", squared, fused_stable)
    ignores = lambda q, k, v, mask, is_causal, scale: softemax_attention(q, k, v, is_causal=is_causal, scale=scale)  # noqa: E731
    with pytest.raises(CurvekitError, match="computes something else than its formula under a mask"):
        register_normaliser("bad", stable, ignores)
    with pytest.raises(CurvekitError, match=r"fused form .* gave \[2, 3, 5\]"):
        register_normaliser("bad", stable, lambda *given: fused_stable(*given).sum(-1))


@pytest.mark.parametrize("name", ["softmax", "softemax", "sink", *VARIANTS])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(CurvekitError, match=rf"the name '{name}' of the normaliser is taken"):
        register_normaliser(name, squared)


def test_ones_own_name_is_replaced_when_asked_and_free_after_unregistering():
    register_normaliser("mine", squared)
    with pytest.raises(CurvekitError, match="'mine' is registered already; give replace=True"):
        register_normaliser("mine", stable)
    register_normaliser("mine", stable, replace=True)
    assert normalisers.NORMALISERS["mine"].function is stable
    unregister("mine")
    register_normaliser("mine", squared)
    for name in ("a b", "a/b", "", "flash-2", "x" * 50):
        with pytest.raises(CurvekitError, match="is called"):
            register_normaliser(name, squared)
    with pytest.raises(CurvekitError, match="unknown registered name 'other'"):
        unregister("other")


def test_without_a_fused_form_it_says_once_how_much_slower_it_is():
    register_normaliser("squared", squared)
    register_normaliser("fused", stable, fused_stable)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            attend("squared", *inputs(), is_causal=True)
            attend("fused", *inputs(), is_causal=True)
        with torch.inference_mode():
            attend("squared", *inputs(), is_causal=True)
    told = [str(each.message) for each in caught]
    assert len(told) == 1
    assert "'squared' has no fused form and runs by its formula: " in told[0] and "times as long as softmax" in told[0]
    assert slowdown("squared", tokens=64, repeats=1) > 0
    with pytest.raises(CurvekitError, match="no normaliser 'other' is registered"):
        slowdown("other")
