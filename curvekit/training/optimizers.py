"""What turns gradients into steps: AdamW, or Muon for the matrices inside the blocks and AdamW for the rest.

Muon steps along the gradient's momentum M = U S V^T with all singular values made one, U V^T, which a Newton-Schulz
iteration finds without a decomposition. Scaled by 0.2 sqrt(max(rows, columns)) such a step is as long as AdamW's
usually are, so one learning rate serves both.

Sources: Jordan et al. (2024), Muon: An optimizer for hidden layers in neural networks; Liu et al. (2025), Muon is
Scalable for LLM Training. The optimisers themselves are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from curvekit.bases.adapters import is_added
from curvekit.errors import CurvekitError


class MuonAndAdamW(Optimizer):
    """Muon for one list of parameter groups and AdamW for another, as one optimiser with one list of groups.

    Args:
        matrices: groups of parameters with two dimensions, for Muon.
        others: groups for AdamW.
        learning_rate: of all groups.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], learning_rate: float) -> None:
        self.parts: tuple[Optimizer, ...] = (
            Muon(matrices, lr=learning_rate, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=learning_rate, fused=True),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The groups are the parts' own, so that a schedule or a scaler that changes them reaches the parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls a parameter towards zero: matrices, but not the logits of a curve's weights."""
    return parameter.ndim >= 2 and not name.endswith("weight_logits")


def muon(model: Any, learning_rate: float, weight_decay: float, added_rate: float = 1.0) -> MuonAndAdamW:
    """Muon for the matrices of the blocks, AdamW for all else that is trained: embeddings, norms, the curve.

    Raises:
        CurvekitError: no block is trained.
    """
    trained = _trained(model)
    within = f"{model.base_model_prefix}.{model.base_model.blocks}."
    blocks = {name: p for name, p in trained.items() if name.startswith(within) and p.ndim == 2}
    if not blocks:
        raise CurvekitError("muon steps the matrices of the blocks, and all of them are frozen; use optimizer 'adamw'")
    rest = {name: p for name, p in trained.items() if name not in blocks}
    return MuonAndAdamW(
        [{"params": list(blocks.values()), "weight_decay": weight_decay}],
        _groups(model, rest, learning_rate, weight_decay, added_rate),
        learning_rate,
    )


def adamw(model: nn.Module, learning_rate: float, weight_decay: float, added_rate: float) -> AdamW:
    """AdamW, with ``added_rate`` times the rate for what curvekit adds to a base."""
    groups = _groups(model, _trained(model), learning_rate, weight_decay, added_rate)
    return AdamW(groups, lr=learning_rate, fused=True)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _groups(
    model: nn.Module, named: dict[str, nn.Parameter], rate: float, weight_decay: float, added_rate: float
) -> list[dict[str, Any]]:
    """Matrices and vectors apart, and where its rate is another, what curvekit adds; the base's groups stand first."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        added = added_rate != 1 and is_added(name, model)
        groups.setdefault((added, not decays(name, parameter)), []).append(parameter)
    return [
        {"params": each, "weight_decay": 0.0 if bare else weight_decay, "lr": rate * (added_rate if added else 1)}
        for (added, bare), each in sorted(groups.items())
    ]
