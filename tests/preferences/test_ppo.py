"""PPO: the equations against themselves written out, and against an optimum that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from curvekit.preferences.ppo import (
    PPO,
    Batch,
    Controller,
    ValueHead,
    advantages,
    improve,
    losses,
    naive_advantages,
    naive_losses,
    round_of,
    token_rewards,
    whitened,
)


def rows(answers=5, time=7, seed=0):
    """Random log-probabilities, values and a mask of answers of unequal lengths, in float64."""
    dice = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(answers, time, generator=dice, dtype=torch.float64)  # noqa: E731
    lengths = torch.randint(1, time + 1, (answers,), generator=dice)
    mask = torch.arange(time) < lengths[:, None]
    return draw, mask


@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 0.95), (0.9, 1.0), (1.0, 0.0), (0.7, 0.3)])
def test_advantages_are_those_of_the_formula(gamma, gae_lambda):
    draw, mask = rows()
    rewards, values = draw() * mask, draw()
    fast = advantages(rewards, values, mask, gamma, gae_lambda)
    naive = naive_advantages(rewards, values, mask, gamma, gae_lambda)
    assert (fast - naive).abs().max() < 1e-12, (fast - naive).abs().max()


def test_with_lambda_1_an_advantage_is_the_rest_of_the_rewards_less_the_value():
    draw, mask = rows()
    rewards, values = draw() * mask, draw()
    found = advantages(rewards, values, mask, 1.0, 1.0)
    rest = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(found, (rest - values) * mask, atol=1e-12)


def test_the_reward_falls_on_the_last_token_and_the_kl_on_every_one():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    policy, reference = torch.full((2, 4), -1.0), torch.full((2, 4), -3.0)
    found = token_rewards(torch.tensor([5.0, 7.0]), policy, reference, mask, beta=0.5)
    assert found.tolist() == [[-1.0, -1.0, 4.0, 0.0], [6.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("part", ["policy", "value", "total", "clipped"])
def test_losses_and_their_gradients_are_those_of_the_eager_equations(part):
    draw, mask = rows(seed=3)
    old = Batch(draw() / 3, draw(), whitened(draw(), mask), draw(), mask)
    new, values = (old.log_probs + draw() / 5).requires_grad_(), (old.values + draw() / 3).requires_grad_()
    found = [getattr(each(new, values, old, PPO()), part) for each in (losses, naive_losses)]
    assert abs(float((found[0] - found[1]).detach())) < (1e-6 if part == "clipped" else 1e-12)
    assert float(found[0].detach()) != 0, "a test on which nothing is clipped shows nothing"
    if part != "clipped":
        gradients = [torch.autograd.grad(each, (new, values), allow_unused=True) for each in found]
        for fast, eager in zip(*gradients, strict=True):
            assert (fast is None) == (eager is None)
            assert fast is None or (fast - eager).abs().max() < 1e-12


class Words(nn.Module):
    """A policy over 11 words that sees the word before, with a value head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(11, 11), ValueHead(11)

    def forward(self, seen, written):
        states = self.words(seen)
        return states.log_softmax(-1).gather(-1, written[..., None]).squeeze(-1), self.head(states)


def test_an_update_moves_every_parameter_where_the_eager_reference_moves_it():
    dice = torch.Generator().manual_seed(0)
    seen, written = (torch.randint(11, (8, 6), generator=dice) for _ in range(2))
    mask = torch.arange(6) < torch.randint(1, 7, (8,), generator=dice)[:, None]
    moved = []
    for loss in (losses, naive_losses):
        policy = Words().double()
        before = {name: each.detach().clone() for name, each in policy.named_parameters()}
        with torch.no_grad():
            log_probs, values = policy(seen, written)
        scores = torch.arange(8, dtype=torch.float64)
        old = round_of(scores, log_probs, log_probs - 0.1, values, mask, 0.1, PPO(epochs=3))
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.05, weight_decay=0.0)
        improve(
            lambda r, policy=policy: policy(seen[r], written[r]), old, list(policy.parameters()), optimizer,
            PPO(epochs=3), seed=1, loss=loss,
        )  # fmt: skip
        moved.append({name: each.detach() - before[name] for name, each in policy.named_parameters()})
    for name in moved[0]:
        assert moved[0][name].abs().max() > 1e-3
        assert (moved[0][name] - moved[1][name]).abs().max() < 1e-10, name


def test_on_a_bandit_it_finds_the_known_optimum():
    """Over one action the best policy is pi(a) = pi_ref(a) exp(R(a) / beta) / Z."""
    beta, reward = 0.5, torch.tensor([0.0, 0.5, 1.0, -1.0])
    reference = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    optimum = (reference + reward / beta).softmax(0)
    logits, value = nn.Parameter(reference.clone()), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([logits, value], lr=0.02)
    settings = PPO(epochs=2, minibatches=2, value_weight=0.5)
    dice = torch.Generator().manual_seed(0)
    averaged = torch.zeros(4)
    for step in range(300):
        log_policy = logits.log_softmax(0).detach()
        actions = torch.multinomial(log_policy.exp(), 512, replacement=True, generator=dice)
        mask = torch.ones(512, 1, dtype=torch.bool)
        old = round_of(
            reward[actions], log_policy[actions][:, None], reference[actions][:, None],
            value.detach().expand(512, 1), mask, beta, settings,
        )  # fmt: skip

        def now(rows, actions=actions):
            return logits.log_softmax(0)[actions[rows]][:, None], value.expand(len(rows), 1)

        improve(now, old, [logits, value], optimizer, settings, seed=step)
        if step >= 200:  # it goes on trembling with the samples
            averaged += logits.softmax(0).detach() / 100
    assert (averaged - optimum).abs().max() < 0.03, (averaged, optimum)
    assert (reference.exp() - optimum).abs().max() > 0.25, "the start was no optimum"
    gain = (optimum * (reward - beta * (optimum.log() - reference))).sum()
    assert value.item() == pytest.approx(gain.item(), abs=0.1), "the value is what is to be expected"


def test_the_controller_brings_the_kl_to_its_target():
    beta = Controller(0.1, target=2.0, horizon=100)
    for _ in range(200):
        beta.update(1.0 / beta.beta, answers=20)  # a policy whose KL falls as it gets dearer
    assert 1.0 / beta.beta == pytest.approx(2.0, rel=0.02)
    still = Controller(0.1, target=0.0, horizon=100)
    still.update(50.0, 20)
    assert still.beta == 0.1


def test_one_round_moves_the_price_by_no_more_than_a_fifth_of_its_share():
    beta = Controller(1.0, target=1.0, horizon=100)
    beta.update(1e6, answers=100)
    assert beta.beta == pytest.approx(1.2)


def test_a_value_head_begins_at_zero():
    assert ValueHead(5)(torch.randn(2, 3, 5)).abs().max() == 0
    assert math.isfinite(float(ValueHead(5).linear.weight.sum()))
