r"""The loss of a language model whose head is frozen, without the logits of a whole batch.

With hidden states h_i, the head's matrix W and the next tokens t_i,

    loss = 1/N sum_i (logsumexp(W h_i) - (W h_i)[t_i]),      d loss / d h_i = 1/N W^T (softmax(W h_i) - onehot(t_i)).

W learns nothing, so a piece of the batch gives its loss and its gradient at once, and its logits are let go of: of
1,024 tokens and 49,152 entries a copy of them is 200 MB, and the usual way holds three or four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**23  # logits that are held at once: 32 MB in float32


def frozen_head_loss(hidden: Tensor, weight: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the next tokens, in nats, divided by ``count`` or by the number of scored tokens.

    Args:
        hidden: ``[batch, time, width]``, what the head reads.
        weight: ``[vocabulary, width]``, the head's matrix; it gets no gradient.
        labels: ``[batch, time]``, the tokens themselves, -100 where nothing is scored; shifted here.
        count: scored tokens of all batches of a step, where a batch is a part of one.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    total = _FrozenHead.apply(hidden.flatten(0, 1), weight.detach(), targets.to(hidden.device))
    return total / ((targets != -100).sum() if count is None else count)


class _FrozenHead(torch.autograd.Function):
    """The sum over the tokens; its gradient is computed in the forward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        half = torch.is_autocast_enabled(device)
        lower = torch.get_autocast_dtype(device) if half else weight.dtype
        weight, gradient = weight.to(lower), torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, PIECE // len(weight))
        with torch.autocast(device, enabled=False):
            for h, t, g in zip(hidden.split(rows), targets.split(rows), gradient.split(rows), strict=True):
                logits = (h.to(lower) @ weight.T).float()
                scored = t != -100
                t = t.clamp(min=0).unsqueeze(-1)
                lse = logits.logsumexp(-1, keepdim=True)
                total += ((lse - logits.gather(-1, t)).squeeze(-1) * scored).sum()
                logits.sub_(lse).exp_()  # the softmax, in place
                logits.scatter_add_(-1, t, torch.full_like(lse, -1.0)).mul_(scored.unsqueeze(-1))
                g.copy_(logits.to(lower) @ weight)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None
