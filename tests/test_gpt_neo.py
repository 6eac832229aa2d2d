"""GPT-Neo's attention behind the interface: local windows of whole texts, of padded ones, and with a past."""

from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface, GPTNeoConfig, GPTNeoForCausalLM

from curvekit.configuration import CurveGPTNeoConfig
from curvekit.modeling import CurveGPTNeoForCausalLM

WINDOW = 6
FIELDS = {
    "vocab_size": 60, "max_position_embeddings": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
    "window_size": WINDOW, "attention_types": [[["local", "global"], 1]], "bos_token_id": 0, "eos_token_id": 0,
    "resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def models(attention="softmax"):
    """transformers' own model and ours of the same weights, which are large enough for a window to matter."""
    torch.manual_seed(0)
    theirs = GPTNeoForCausalLM(GPTNeoConfig(**FIELDS))
    for name, parameter in theirs.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    ours = CurveGPTNeoForCausalLM(CurveGPTNeoConfig(**FIELDS, attention=attention))
    ours.load_state_dict(theirs.state_dict(), strict=False)
    return theirs, ours


def ids(time, batch=2):
    return torch.randint(1, 60, (batch, time), generator=torch.Generator().manual_seed(time))


def loss_and_gradients(model, words):
    model.zero_grad()
    loss = model(words, labels=words, use_cache=False).loss
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("time", [1, 5, 6, 7, 11, 12, 13, 19, 24])
def test_whole_texts_of_every_length_are_transformers_own(time):
    """By blocks of a window where a text is longer: logits and gradients, also of a last block that is not full."""
    theirs, ours = models()
    assert ours.config._attn_implementation == "sdpa"
    words = ids(time)
    difference = (ours(words, use_cache=False).logits - theirs(words, use_cache=False).logits).abs().max()
    assert difference < 1e-5, f"max_diff {difference:.2e}"
    if time > 1:
        for model in (theirs, ours):
            model.loss, model.gradients = loss_and_gradients(model, words)
        assert torch.allclose(theirs.loss, ours.loss)
        assert all(torch.allclose(ours.gradients[n], g, atol=1e-5) for n, g in theirs.gradients.items())


@pytest.mark.parametrize("attention", ["softmax", "softemax", "published", "sink"])
def test_blocks_padding_and_a_past_agree(attention):
    """Three ways to the same logits: by blocks, with a mask over all words, and word by word."""
    _, ours = models(attention)
    ours.eval()
    words = ids(19)
    with torch.no_grad():
        blocks = ours(words, use_cache=False).logits
        mask = torch.tensor([[0] * 3 + [1] * 19] * 2)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padded = torch.cat([words[:, :3], words], 1)
        masked = ours(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, 3:]
        rows, past = [], None
        for one in words.split(1, 1):
            step = ours(one, past_key_values=past, use_cache=True)
            past, rows = step.past_key_values, [*rows, step.logits]
    for other in (masked, torch.cat(rows, 1)):
        difference = (other - blocks).abs().max()
        assert difference < 1e-5, f"max_diff {difference:.2e}"


def test_a_word_sees_its_window_and_no_further():
    _, ours = models("softemax")
    local = ours.transformer.h[0].attn.attention
    states = torch.randn(1, 19, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output, _ = local(states)
    for place in range(19):
        (gradient,) = torch.autograd.grad(output[0, place].sum(), states, retain_graph=True)
        seen = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
        assert seen == list(range(max(0, place - WINDOW + 1), place + 1))


def test_a_long_text_makes_no_square_of_scores():
    """Blocks keep a local layer's memory linear: with a mask it would be a square of the text's length."""
    shapes = []
    _, ours = models("softemax")
    local = ours.transformer.h[0].attn.attention

    def watched(module, query, key, value, mask, **_):
        shapes.append((query.shape[2], key.shape[2], None if mask is None else tuple(mask.shape[-2:])))
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("watched", watched)
    local.config._attn_implementation_internal = "watched"
    local(torch.zeros(1, 60, 32))
    assert shapes == [(WINDOW, WINDOW, None), (WINDOW, 2 * WINDOW, (WINDOW, 2 * WINDOW))]
