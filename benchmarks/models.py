"""The models of the benchmarks: a recipe and transformers' own class of one shape with the same weights.

Weights of the base's part are random, which no timing sees; the encoder is MiniLM, over a random table of the shape's
vocabulary. The curve's gate starts at zero, so that a recipe with softmax attention computes what the base computes,
and with a sink of -inf SoftEMax is softmax: that is what the checks compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Settings
from curvekit.bases.berts import load_bert
from curvekit.bases.building import MINI
from curvekit.modeling import ARCHITECTURES
from curvekit.recipes import RECIPES
from curvekit.t5 import SEQ2SEQ

SHAPES: dict[str, dict[str, Any]] = {  # a GPT-2 where no other model type is said
    "tiny": {"vocab_size": 256, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "mini": {"vocab_size": 8192, **MINI},
    "124M": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "tiny gpt_neo": {
        "model_type": "gpt_neo", "vocab_size": 256, "max_position_embeddings": 128, "hidden_size": 32, "num_layers": 2,
        "num_heads": 2, "window_size": 8, "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neo": {
        "model_type": "gpt_neo", "vocab_size": 8192, "max_position_embeddings": 1024, "hidden_size": 320,
        "num_layers": 4, "num_heads": 5, "window_size": 256, "attention_types": [[["global", "local"], 2]],
    },
    "tiny llama": {
        "model_type": "llama", "vocab_size": 256, "max_position_embeddings": 128, "hidden_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 96,
        "tie_word_embeddings": True,
    },
    "tiny t5": {
        "model_type": "t5", "vocab_size": 256, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
        "pad_token_id": 0, "decoder_start_token_id": 0,
    },
    "t5-mini": {
        "model_type": "t5", "vocab_size": 8192, "d_model": 320, "d_kv": 64, "d_ff": 1280, "num_layers": 2,
        "num_heads": 5, "pad_token_id": 0, "decoder_start_token_id": 0,
    },
    "smollm2": {
        "model_type": "llama", "vocab_size": 49152, "max_position_embeddings": 8192, "hidden_size": 576,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "tie_word_embeddings": True, "rope_theta": 100000.0,
    },
}  # fmt: skip


def pair(recipe: str, shape: dict[str, Any], settings: Settings, **changes: Any) -> tuple[Any, Any]:
    """The recipe and transformers' own class, in evaluation mode, with no token that ends a text.

    transformers' class attends with SDPA; its GPT-Neo has the formula alone.
    """
    torch.manual_seed(0)
    architecture = (ARCHITECTURES | SEQ2SEQ)[shape.get("model_type", "gpt2")]
    plain: dict[str, Any] = {name: value for name, value in shape.items() if name != "model_type"}
    plain |= dict.fromkeys((*architecture.dropouts, architecture.attention_dropout), 0.0)
    plain |= {"bos_token_id": 0, "eos_token_id": None}
    kind = "eager" if architecture.title == "GPT-Neo" else "sdpa"
    peer = architecture.plain(architecture.plain.config_class(**plain, attn_implementation=kind))
    recipes = RECIPES[recipe] | {"recipe": recipe} | changes
    bert = None
    if recipes.get("source") == "encoder":
        bert, _ = load_bert("minilm")
        bert.embeddings.word_embeddings = nn.Embedding(shape["vocab_size"], bert.config.hidden_size)
        bert.config.vocab_size = shape["vocab_size"]
        recipes["encoder_config"] = bert.config.to_dict()
        if recipes.get("encoder_layers"):
            recipes["encoder_config"]["num_hidden_layers"] = recipes["encoder_layers"]
    ours = architecture.model(architecture.config(**plain | recipes))
    ours.load_state_dict(peer.state_dict(), strict=False)
    if bert is not None and ours.curved.encoder is not None:
        ours.curved.encoder.fill(bert)
    return ours.eval().to(settings.device), peer.eval().to(settings.device)


@contextmanager
def as_softmax(model: Any) -> Iterator[None]:
    """SoftEMax with a sink of -inf, which is softmax; a model with softmax is left as it is."""
    modules = [module for module in model.modules() if isinstance(module, model.curved.attention)]
    if model.config.attention == "softemax":
        for module in modules:
            module.log_sink = torch.full((model.config.num_attention_heads,), -math.inf, device=model.device)
    try:
        yield
    finally:
        if model.config.attention == "softemax":
            for module in modules:
                del module.log_sink


def forward_flops(model: Any, length: int) -> float:
    """Floating-point operations of one token's forward pass through a base: matrices, attention and output."""
    config = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".embed" not in name)
    matrices -= sum(p.numel() for name, p in model.named_parameters() if name.endswith(("wte.weight", "wpe.weight")))
    matrices += config.vocab_size * config.hidden_size  # the output's
    return 2.0 * matrices + 2.0 * config.num_hidden_layers * length * config.hidden_size  # causal: half of the scores
