"""What turns gradients into steps: AdamW, or Muon for the matrices inside the blocks and AdamW for the rest.

Muon steps along the gradient's momentum M = U S V^T with all singular values made one, U V^T, which a Newton-Schulz
iteration finds without a decomposition. Scaled by 0.2 sqrt(max(rows, columns)) such a step is as long as AdamW's
usually are, so one learning rate serves both.

Sources: Jordan et al. (2024), Muon: An optimizer for hidden layers in neural networks; Liu et al. (2025), Muon is
Scalable for LLM Training. The optimisers themselves are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from curvekit.bases.adapters import is_added
from curvekit.errors import CurvekitError
from curvekit.training.precision import native_bfloat16

_BIAS = ".relative_attention_bias.weight"  # of T5: a table that is looked up, and no matrix that multiplies


class StackedMuon(Muon):
    """torch's Muon (``match_rms_adamw``), all matrices of one shape in one product; its rate may be a tensor.

    The updates are those of torch's to the rounding of bfloat16, and so is the state, so that either goes on from the
    other's. A step asks the device for nothing, so that a GPU is not waited for and a CUDA graph can hold it. Parts of
    matrices that are sharded are torch's to step.
    """

    def __init__(self, params: Any, lr: Any, weight_decay: float = 0.1) -> None:
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        from curvekit.training.sharding import is_part

        if any(is_part(p) for group in self.param_groups for p in group["params"]):
            loss: float | None = super().step(closure)
            return loss
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                for p in params:
                    if not self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                gradients = [p.grad for p in params if p.grad is not None]
                momenta = [self.state[p]["momentum_buffer"] for p in params]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
                updates = orthogonalised(torch.stack(list(ahead)), group["ns_coefficients"], group["ns_steps"])
                updates = updates.to(params[0].dtype) * (-0.2 * math.sqrt(max(shape)) * group["lr"])
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(updates.unbind()))
        return None


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), iterations: int = 5
) -> Tensor:
    """Bring the singular values of ``[count, rows, columns]`` near one, by Newton-Schulz's iteration.

    It is done in bfloat16, or where the hardware does not multiply in that, in float32.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16() if native_bfloat16(matrices.device) else matrices.float()
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAndAdamW(Optimizer):
    """Muon for one list of parameter groups and AdamW for another, as one optimiser with one list of groups.

    Args:
        matrices: groups of parameters with two dimensions, for Muon.
        others: groups for AdamW.
        learning_rate: of all groups.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], learning_rate: float) -> None:
        self.parts: tuple[Optimizer, ...] = (
            StackedMuon(matrices, learning_rate),
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
    """Whether weight decay pulls a parameter towards zero: matrices, but not the weights of a curve or a kernel."""
    return parameter.ndim >= 2 and not name.endswith(("weight_logits", "kernel_weights", "gates"))


def muon(
    model: Any, learning_rate: float, weight_decay: float, added_rate: float = 1.0, site_rate: float | None = None
) -> MuonAndAdamW:
    """Muon for the matrices of the blocks, AdamW for all else that is trained: embeddings, norms, the curve.

    Args:
        added_rate, site_rate: as of :func:`adamw`.

    Raises:
        CurvekitError: no block is trained.
    """
    blocks, rest = _parts(model)
    return MuonAndAdamW(
        [{"params": list(blocks.values()), "weight_decay": weight_decay}],
        _groups(model, rest, weight_decay, multiples(added_rate, site_rate), lambda times: learning_rate * times),
        learning_rate,
    )


def _parts(model: Any) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The trained parameters by name: the matrices of the blocks, and the rest."""
    trained = _trained(model)
    inside = {name: p for name, p in trained.items() if name.startswith(model.block_names) and p.ndim == 2}
    blocks = {name: p for name, p in inside.items() if not name.endswith(_BIAS)}
    if not blocks:
        raise CurvekitError("muon steps the matrices of the blocks, and all of them are frozen; use optimizer 'adamw'")
    return blocks, {name: p for name, p in trained.items() if name not in blocks}


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float, added_rate: float, site_rate: float | None = None
) -> AdamW:
    """AdamW; what curvekit adds to a base learns at ``added_rate`` times the rate, in its blocks at ``site_rate``."""
    rates = multiples(added_rate, site_rate)
    groups = _groups(model, _trained(model), weight_decay, rates, lambda times: learning_rate * times)
    return AdamW(groups, lr=learning_rate, fused=True)


def multiples(added_rate: float, site_rate: float | None) -> dict[str, float]:
    """What each :func:`kind` of parameter multiplies the rate by; in the blocks, unless it is said, as elsewhere."""
    return {"base": 1.0, "added": added_rate, "sites": added_rate if site_rate is None else site_rate}


def kind(name: str, model: nn.Module) -> str:
    """Whether a parameter is of the ``base``, ``added`` to it, or one of the mixers that stand at its ``sites``."""
    return "sites" if ".mixers." in name else "added" if is_added(name, model) else "base"


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _groups(
    model: nn.Module,
    named: dict[str, nn.Parameter],
    weight_decay: float,
    times: dict[str, float],
    rate: Callable[[float], Any],
) -> list[dict[str, Any]]:
    """Matrices and vectors apart, and what learns at another ``rate(multiple)``; the base's groups stand first."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault((times[kind(name, model)], not decays(name, parameter)), []).append(parameter)
    return [
        {"params": each, "weight_decay": 0.0 if bare else weight_decay, "lr": rate(multiple)}
        for (multiple, bare), each in sorted(groups.items(), key=lambda each: (each[0][0] != times["base"], each[0]))
    ]


def lost(model: nn.Module) -> str:
    """Which parameters are infinite or not numbers, as the end of a clause; empty where none is."""
    first, *more = [name for name, each in model.named_parameters() if not each.detach().isfinite().all()] or [""]
    if not more:
        return first and f", and {first} is not finite"
    return f", and {first} and {len(more)} more parameters are not finite"


class DeviceMuon:
    """:func:`muon` for a step that stays on the device: stacked Muon, fused AdamW, rates that are tensors.

    Args:
        model: as of :func:`muon`.
        weight_decay: of matrices.
        own_rate: the rate of what curvekit adds (curve, mixers, sinks) is so many times the rate of the rest.
        site_rate: the same of the mixers in the blocks; default as ``own_rate``.
    """

    def __init__(
        self, model: nn.Module, weight_decay: float, own_rate: float = 1.0, site_rate: float | None = None
    ) -> None:
        device = next(model.parameters()).device
        times = multiples(own_rate, site_rate)
        self.rates = {multiple: torch.zeros((), device=device) for multiple in times.values()}
        blocks, rest = _parts(model)
        groups = _groups(model, rest, weight_decay, times, self.rates.__getitem__)
        self.parts: tuple[Optimizer, ...] = (
            StackedMuon([{"params": list(blocks.values())}], self.rates[times["base"]], weight_decay),
            AdamW(groups, fused=True, capturable=device.type == "cuda"),
        )
        self.parameters = [*blocks.values(), *rest.values()]

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Step at ``rate``, a tensor without dimensions on the device."""
        for multiple, own in self.rates.items():
            own.copy_(rate * multiple)
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def forget(self) -> None:
        """Back to the state before the first step, in place."""
        for part in self.parts:
            for state in part.state.values():
                for value in state.values():
                    value.zero_()
