"""What must hold before the first step of preference training, checked on the run's own data, printed and kept.

A reference that is not the policy's start teaches something else without a word: with trl's reference opened again by
the model's name, a policy that was changed in memory begins at a loss of 0.63 in the place of ln 2. So a run does not
start until all of this holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvekit.bases.adapters import is_adapted
from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json
from curvekit.modes import evaluating
from curvekit.preferences.policies import ATTENTION, Policy, Rollout, described, log_probabilities
from curvekit.preferences.settings import PreferenceConfig

NEAR = 1e-4


def expected_loss(config: PreferenceConfig) -> float | None:
    """The loss where policy and reference are one; None where that is not known beforehand."""
    if config.method == "kto":
        return 0.5
    if config.method != "dpo" or config.sft_weight:
        return None
    return {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 1 / (4 * float(config.beta or 1) ** 2)}[config.loss]


def dropouts(model: nn.Module) -> list[str]:
    """Where a model would leave out at random what it reads, in training."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Dropout) and module.p) or getattr(module, ATTENTION, 0.0)
    ]


def differing_weights(policy: Policy) -> list[str]:
    """The tensors in which the reference is not the policy; an adapter's products must be zero."""
    if is_adapted(policy.model):
        products = ((name, p) for name, p in policy.model.named_parameters() if ".lora_B." in name)
        return [name for name, parameter in products if bool(parameter.detach().any())]
    theirs: Any = policy.copy
    other = dict(theirs.named_parameters())
    return [name for name, p in policy.model.named_parameters() if not torch.equal(p.detach(), other[name])]


@torch.no_grad()
def kl_at_start(policy: Policy, rollout: Rollout) -> float:
    """The largest difference in the log-probability of a token between the policy and its reference, in nats."""
    mine = log_probabilities(policy.model, rollout)
    with policy.as_reference() as reference:
        theirs = log_probabilities(reference, rollout)
    return float((mine - theirs).abs().max())


def check_start(
    policy: Policy,
    config: PreferenceConfig,
    folder: Path,
    rollout: Rollout,
    first: Callable[[], tuple[float, float]] | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Check, say and keep what holds before the first step; where that was done before, what was found then.

    Args:
        rollout: answers on which policy and reference are compared.
        first: the loss and the margin of a batch, where the method has pairs and a reference.

    Raises:
        CurvekitError: something does not hold, with what was found.
    """
    path = folder / "invariants.json"
    if path.exists():
        return read_json(path)["checked"]
    checked: dict[str, Any] = {"method": config.method}
    if left := dropouts(policy.model):
        raise CurvekitError(f"{left[0]} of the policy still drops out, and its KL would be noise; set dropout to 0")
    checked["dropout"] = 0
    if other := differing_weights(policy):
        raise CurvekitError(f"the reference is not the policy at step 0: {other[0]} differs; start from a saved model")
    checked["reference"] = described(policy)
    checked["kl"] = kl_at_start(policy, rollout)
    lines = [f"reference: {checked['reference']}, the policy's own", "dropout off", f"KL {checked['kl']:.1e}"]
    if checked["kl"] > NEAR:
        raise CurvekitError(f"the KL at step 0 is {checked['kl']:.2e} nats a token, expected 0; report this")
    if first is not None:
        expected = expected_loss(config)
        with evaluating(policy.model):
            checked["loss"], checked["margin"] = first()
        what = "" if expected is None else " (ln 2)" if expected == math.log(2) else f" ({expected:g})"
        lines += [f"loss {checked['loss']:.6f}{what}", f"margin {checked['margin']:.1e}"]
        if abs(checked["margin"]) > NEAR or (expected is not None and abs(checked["loss"] - expected) > NEAR):
            raise CurvekitError(
                f"the loss at step 0 is {checked['loss']:.4f} with a margin of {checked['margin']:.4f}, expected "
                f"{'any' if expected is None else f'{expected:.4f}'} and 0: the reference is another model than the "
                "policy; report this"
            )
    say("start: " + "; ".join(lines))
    write_json(path, {"checked": checked})
    return checked
