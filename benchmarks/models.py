"""The models of the benchmarks: a recipe and transformers' own GPT-2 of one shape with the same weights.

Weights of GPT-2's part are random, which no timing sees; the encoder is MiniLM, over a random table of the shape's
vocabulary. The curve's gate starts at zero, so that a recipe with softmax attention computes what GPT-2 computes, and
with a sink of -inf SoftEMax is softmax: that is what the checks compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.harness import Settings
from curvekit.bases.berts import load_bert
from curvekit.bases.building import MINI
from curvekit.configuration import CurveGPT2Config
from curvekit.modeling import CurveGPT2LMHeadModel
from curvekit.recipes import RECIPES

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 256, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "mini": {"vocab_size": 8192, **MINI},
    "124M": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def pair(
    recipe: str, shape: dict[str, Any], settings: Settings, **changes: Any
) -> tuple[CurveGPT2LMHeadModel, GPT2LMHeadModel]:
    """The recipe and transformers' GPT-2 with SDPA, in evaluation mode, with no token that ends a text."""
    torch.manual_seed(0)
    plain = shape | _NO_DROPOUT | {"bos_token_id": 0, "eos_token_id": None}
    peer = GPT2LMHeadModel(GPT2Config(**plain, attn_implementation="sdpa"))
    recipes = RECIPES[recipe] | {"recipe": recipe} | changes
    bert = None
    if recipes.get("source") == "encoder":
        bert, _ = load_bert("minilm")
        bert.embeddings.word_embeddings = nn.Embedding(shape["vocab_size"], bert.config.hidden_size)
        bert.config.vocab_size = shape["vocab_size"]
        recipes["encoder_config"] = bert.config.to_dict()
    ours = CurveGPT2LMHeadModel(CurveGPT2Config(**plain | recipes))
    ours.transformer.load_state_dict(peer.transformer.state_dict(), strict=False)
    if bert is not None and ours.transformer.encoder is not None:
        ours.transformer.encoder.fill(bert)
    return ours.eval().to(settings.device), peer.eval().to(settings.device)  # type: ignore[arg-type]


@contextmanager
def as_softmax(model: CurveGPT2LMHeadModel) -> Iterator[None]:
    """SoftEMax with a sink of -inf, which is softmax; a model with softmax is left as it is."""
    blocks = [block.attn for block in model.transformer.h]
    if model.config.attention == "softemax":
        for block in blocks:
            block.log_sink = torch.full((model.config.n_head,), -math.inf, device=model.device)
    try:
        yield
    finally:
        if model.config.attention == "softemax":
            for block in blocks:
                del block.log_sink


def forward_flops(shape: dict[str, Any], length: int) -> float:
    """Floating-point operations of one token's forward pass through GPT-2: matrices, attention and output."""
    matrices = 12 * shape["n_layer"] * shape["n_embd"] ** 2 + shape["vocab_size"] * shape["n_embd"]
    return 2.0 * matrices + 2.0 * shape["n_layer"] * length * shape["n_embd"]  # causal: half of the scores
