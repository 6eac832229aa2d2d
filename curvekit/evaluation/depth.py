"""Where in its depth a model comes to its prediction: the loss that its head would have after each block (logit lens).

    loss after k blocks = -log softmax(W norm(h_k))[next token]        k = 1, ..., L

with W the output matrix and norm the model's last one; after L blocks it is the model's own loss. Early losses say how
far a state already points to the next token, not what a model cut there could learn.

Source: nostalgebraist 2020, interpreting GPT: the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError
from curvekit.modes import evaluating
from curvekit.steering.states import after, blocks_of
from curvekit.text.tokenization import begun


@torch.no_grad()
def losses_by_depth(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each text's beginning after each block.

    Args:
        tokens: of each text, an end-of-text before it included.

    Returns:
        nats ``[blocks, texts]``, summed over a text's tokens, and the tokens ``[texts]`` that are scored.

    Raises:
        CurvekitError: a text without a token; a model that leaks, or has no blocks or no last norm.
    """
    if getattr(model.config, "leaks", False):
        raise CurvekitError("the model sees the tokens that it predicts; a loss of it says nothing")
    rows = [begun(tokenizer, text, tokens) for text in texts]
    if not all(len(row) > 1 for row in rows):
        raise CurvekitError("a text has no token; leave it out")
    blocks, norm, head = blocks_of(model), _last_norm(model), model.get_output_embeddings()
    states: list[torch.Tensor] = []
    found = np.zeros((len(blocks), len(rows)))
    with evaluating(model), after(blocks, states.append):
        for i, row in enumerate(rows):
            ids = torch.tensor([row], device=model.device)
            states.clear()
            model(ids, use_cache=False)
            for k, state in enumerate(states):
                logits = head(norm(state[0, :-1])).float()  # [time - 1, vocabulary]
                found[k, i] = float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return found, np.array([len(row) - 1 for row in rows])


def _last_norm(model: Any) -> nn.Module:
    for name in ("ln_f", "norm"):
        if isinstance(found := getattr(model.base_model, name, None), nn.Module):
            return found
    raise CurvekitError(f"a {type(model).__name__} has no last norm; take a GPT-2, GPT-Neo or LLaMA")
