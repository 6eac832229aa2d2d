r"""Proximal policy optimisation: the clipped objective, a value head, generalised advantages and an adaptive KL price.

An answer's tokens are actions a_t, t = 0 .. T-1, of a policy pi; R is the answer's reward, pi_ref the reference:

    r_t = -beta (log pi_old(a_t) - log pi_ref(a_t)) + R [t = T-1]                             reward of a token
    delta_t = r_t + gamma V(s_{t+1}) - V(s_t),    V(s_T) = 0
    A_t = sum_{l >= 0} (gamma lambda)^l delta_{t+l},    G_t = A_t + V_old(s_t)                  advantage, return
    rho_t = pi(a_t) / pi_old(a_t)
    L_policy = -mean_t min(rho_t A^_t, clip(rho_t, 1 - eps, 1 + eps) A^_t)
    L_value  = 1/2 mean_t max((V_t - G_t)^2, (V_old + clip(V_t - V_old, -eps_v, eps_v) - G_t)^2)
    L = L_policy + c L_value

A^ is A with mean 0 and standard deviation 1 over the tokens of a round. After a round of n answers whose mean KL is K,

    beta <- beta (1 + n / horizon clip(K / target - 1, -0.2, 0.2))

What maximises E[R] - beta KL(pi || pi_ref) over one action is pi(a) proportional to pi_ref(a) exp(R(a) / beta); the
tests hold the update to it. Beside each fast function stands the same written out, token by token.

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017) and "High-Dimensional Continuous Control Using
Generalized Advantage Estimation" (2016); the KL price and its controller: Ziegler et al., "Fine-Tuning Language Models
from Human Preferences" (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PPO:
    """The constants of the equations: eps, eps_v, c, gamma, lambda; passes over a round, and the parts of each."""

    ratio_clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    gae_lambda: float = 0.95
    epochs: int = 2
    minibatches: int = 2
    clip: float = 1.0


class Batch(NamedTuple):
    """What a round keeps of the policy that wrote it: all ``[answers, time]``, without meaning where ``mask`` is 0."""

    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


class Losses(NamedTuple):
    """``total`` is what a step descends; the others tell of it. ``clipped``: the share of tokens beyond the clip."""

    total: Tensor
    policy: Tensor
    value: Tensor
    clipped: Tensor


class ValueHead(nn.Module):
    """V(s) of a hidden state: one linear map ``[width] -> 1``, which begins as 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states).squeeze(-1)


class Controller:
    """The price of KL, ``beta``, raised where an answer's KL is above the target and lowered where it is below.

    With a target of 0 it stays what it is.
    """

    def __init__(self, beta: float, target: float, horizon: int) -> None:
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, answers: int) -> None:
        """Move after a round of so many answers, whose mean KL was ``kl`` nats an answer."""
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * answers / self.horizon


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t ``[answers, time]`` of the answers' rewards ``[answers]``."""
    rewards = -beta * (log_probs - reference) * mask
    last = mask.long().sum(1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """A_t ``[answers, time]``, as one product with the powers of gamma lambda."""
    mask = mask.to(values.dtype)
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    delta = (rewards + gamma * following - values) * mask
    time = torch.arange(values.shape[1], device=values.device)
    ahead = time[:, None] - time[None, :]  # l of delta_{t + l}: rows are t + l, columns t
    decay = torch.where(ahead >= 0, (gamma * gae_lambda) ** ahead.clamp(min=0).to(values.dtype), 0.0)
    return delta @ decay.to(values.dtype) * mask


def naive_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """:func:`advantages` as the formula reads."""
    out = torch.zeros_like(values)
    for row in range(len(values)):
        length = int(mask[row].sum())
        v = [float(values[row, t]) for t in range(length)] + [0.0]
        delta = [float(rewards[row, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            out[row, t] = sum((gamma * gae_lambda) ** ahead * delta[t + ahead] for ahead in range(length - t))
    return out


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over what the mask keeps."""
    mask = mask.to(values.dtype)
    count = mask.sum()
    mean = (values * mask).sum() / count
    variance = ((values - mean) ** 2 * mask).sum() / count
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def round_of(
    scores: Tensor, log_probs: Tensor, reference: Tensor, values: Tensor, mask: Tensor, beta: float, settings: PPO
) -> Batch:
    """What a round learns from, of the answers' rewards ``[answers]`` and what both models say of their tokens."""
    rewards = token_rewards(scores, log_probs, reference, mask, beta)
    found = advantages(rewards, values, mask, settings.gamma, settings.gae_lambda)
    return Batch(log_probs, values, whitened(found, mask), found + values * mask, mask)


def losses(log_probs: Tensor, values: Tensor, old: Batch, settings: PPO) -> Losses:
    """The losses of the policy as it is now on a round that it wrote before."""
    mask = old.mask.to(values.dtype)
    count = mask.sum()
    ratio = torch.exp((log_probs - old.log_probs) * mask)
    low, high = 1 - settings.ratio_clip, 1 + settings.ratio_clip
    gain = torch.minimum(ratio * old.advantages, ratio.clamp(low, high) * old.advantages)
    near = old.values + (values - old.values).clamp(-settings.value_clip, settings.value_clip)
    miss = torch.maximum((values - old.returns) ** 2, (near - old.returns) ** 2)
    policy, value = -(gain * mask).sum() / count, 0.5 * (miss * mask).sum() / count
    clipped = (((ratio < low) | (ratio > high)) * mask).sum() / count
    return Losses(policy + settings.value_weight * value, policy, value, clipped)


def naive_losses(log_probs: Tensor, values: Tensor, old: Batch, settings: PPO) -> Losses:
    """:func:`losses` as the formulas read, a token at a time."""
    policy = value = torch.zeros((), dtype=values.dtype)
    clipped, count = 0, 0
    for row in range(len(values)):
        for t in range(int(old.mask[row].sum())):
            ratio = torch.exp(log_probs[row, t] - old.log_probs[row, t])
            kept = torch.clip(ratio, 1 - settings.ratio_clip, 1 + settings.ratio_clip)
            gains = ratio * old.advantages[row, t], kept * old.advantages[row, t]
            policy = policy - torch.min(*gains)
            moved = torch.clip(values[row, t] - old.values[row, t], -settings.value_clip, settings.value_clip)
            misses = (
                (values[row, t] - old.returns[row, t]) ** 2,
                (old.values[row, t] + moved - old.returns[row, t]) ** 2,
            )
            value = value + 0.5 * torch.max(*misses)
            clipped += int(kept != ratio)
            count += 1
    policy, value = policy / count, value / count
    return Losses(policy + settings.value_weight * value, policy, value, torch.tensor(clipped / count))


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]  # rows of the round -> log-probabilities and values, as of now


def improve(
    evaluate: Evaluate,
    old: Batch,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: PPO,
    seed: int,
    loss: Callable[[Tensor, Tensor, Batch, PPO], Losses] = losses,
) -> dict[str, float]:
    """Learn from a round: ``epochs`` passes over it, each in ``minibatches`` steps of an order of its own.

    Returns:
        Means over the steps: ``loss, policy_loss, value_loss, clipped, grad_norm``.
    """
    totals: dict[str, float] = {}
    steps = 0
    for rows in _order(len(old.mask), settings, seed):
        found = loss(*evaluate(rows), Batch(*(part[rows] for part in old)), settings)
        optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        norm: Any = nn.utils.clip_grad_norm_(parameters, settings.clip or float("inf"))
        optimizer.step()
        seen = {"loss": found.total, "policy_loss": found.policy, "value_loss": found.value, "clipped": found.clipped}
        for name, value in (seen | {"grad_norm": norm}).items():
            totals[name] = totals.get(name, 0.0) + float(value.detach())
        steps += 1
    return {name: total / steps for name, total in totals.items()}


def _order(answers: int, settings: PPO, seed: int) -> Iterator[Tensor]:
    dice = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        yield from torch.randperm(answers, generator=dice).chunk(settings.minibatches)
