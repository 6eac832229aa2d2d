"""Rounds of PPO on a language model: it writes answers, they are rewarded, and it learns from them (``ppo.py``).

What a round draws follows from the seed and its number, so a run that was killed goes on as if it had not been. The
value head reads the policy's last hidden states and sends no gradient into them: the policy is moved by its own loss
alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from curvekit.bases.adapters import adapter_state, is_adapted
from curvekit.files import write_atomically
from curvekit.modes import evaluating
from curvekit.preferences.diary import Diary
from curvekit.preferences.policies import BATCH, Policy, Rollout, forced, log_probabilities, write
from curvekit.preferences.ppo import PPO, Controller, ValueHead, improve, round_of
from curvekit.preferences.prompting import encoded
from curvekit.preferences.rewards import Reward
from curvekit.preferences.settings import PreferenceConfig
from curvekit.training.checkpoints import load_state, save_state

PROGRESS = "progress.safetensors"


class Reinforcement:
    """The policy with its value head, optimiser and price of KL, as they are after so many rounds."""

    def __init__(self, config: PreferenceConfig, policy: Policy) -> None:
        self.config, self.policy = config, policy
        self.head = ValueHead(policy.model.config.hidden_size).to(policy.device)
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        self.parameters: list[nn.Parameter] = [*trained, *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate or 0.0, weight_decay=0.0)
        self.price = Controller(float(config.beta or 0.0), config.kl_target, config.kl_horizon)
        self.rounds, self.tokens = 0, 0
        self.settings = PPO(
            config.ratio_clip, config.value_clip, config.value_weight, config.gamma, config.gae_lambda, config.epochs,
            config.minibatches, config.clip,
        )  # fmt: skip

    def round(self, prompts: Sequence[str], reward: Reward) -> dict[str, Any]:
        """Write answers to the next prompts and learn from them; what is to be told of it."""
        config, policy, number = self.config, self.policy, self.rounds
        chosen = next_prompts(prompts, config.batch_size, number, config.seed)
        ids = encoded(config, policy.tokenizer, chosen)
        seed = config.seed * 100_003 + number
        rollout = write(policy.model, policy.tokenizer, ids, config.answer_tokens, seed, config.temperature)
        scores = torch.tensor(reward(chosen, rollout.answers), device=policy.device)
        log_probs, values = self._seen(rollout)
        with policy.as_reference() as reference:
            base = log_probabilities(reference, rollout)
        kl = float(((log_probs - base) * rollout.answer).sum(1).mean())
        old = round_of(scores, log_probs, base, values, rollout.answer, self.price.beta, self.settings)
        rate = self._rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        policy.model.eval()  # without dropout there is no other mode

        def now(rows: Tensor) -> tuple[Tensor, Tensor]:
            found, states = forced(policy.model, rollout.ids[rows], rollout.mask[rows], rollout.width, hidden=True)
            assert states is not None
            return found, self.head(states.detach().float())

        told: dict[str, Any] = dict(improve(now, old, self.parameters, self.optimizer, self.settings, seed))
        told |= {"learning_rate": rate, "reward": float(scores.float().mean()), "kl": kl, "beta": self.price.beta}
        told["length"] = float(rollout.answer.sum(1).float().mean())
        self.price.update(kl, len(chosen))
        self.rounds += 1
        self.tokens += int(rollout.mask.sum())
        return told | {"tokens": self.tokens}

    @torch.no_grad()
    def _seen(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of all tokens, by the policy that wrote them."""
        parts = []
        with evaluating(self.policy.model):
            for i in range(0, len(rollout.ids), BATCH):
                rows = slice(i, i + BATCH)
                found, states = forced(
                    self.policy.model, rollout.ids[rows], rollout.mask[rows], rollout.width, hidden=True
                )
                assert states is not None
                parts.append((found, self.head(states.float())))
        log_probs, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_probs * rollout.answer, values * rollout.answer

    def _rate(self, number: int) -> float:
        """The rate of a round: up in the warm-up, then down by a cosine, as every run's."""
        warmup = math.ceil(self.config.warmup * self.config.steps)
        highest = self.config.learning_rate or 0.0
        if number < warmup:
            return highest * (number + 1) / warmup
        return highest * 0.5 * (1 + math.cos(math.pi * (number - warmup) / max(1, self.config.steps - warmup)))

    def save(self, folder: Path) -> None:
        """Write all that is needed to go on as one file, whole or not at all."""
        state = {
            "rounds": self.rounds,
            "tokens": self.tokens,
            "beta": self.price.beta,
            "policy": dict(self._trained()),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

        def fill(file: Any) -> None:
            temporary = Path(file.name)
            save_state(temporary, state)

        write_atomically(folder / PROGRESS, fill)

    def load(self, folder: Path) -> bool:
        """Go on from what :meth:`save` wrote; False where there is nothing whole."""
        try:
            state = load_state(folder / PROGRESS)
        except (OSError, SafetensorError, KeyError, ValueError):
            return False
        own = dict(self._trained())
        if own.keys() != state["policy"].keys():
            return False
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state["policy"][name])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rounds, self.tokens, self.price.beta = state["rounds"], state["tokens"], state["beta"]
        return True

    def _trained(self) -> list[tuple[str, Tensor]]:
        model = self.policy.model
        if is_adapted(model):
            return list(adapter_state(model).items())
        return [(name, p.detach()) for name, p in model.named_parameters()]


def next_prompts(prompts: Sequence[str], count: int, number: int, seed: int) -> list[str]:
    """The prompts of a round: all of them in an order of each pass's own, one round after the other."""
    chosen: list[str] = []
    place = number * count
    while len(chosen) < count:
        lap, within = divmod(place + len(chosen), len(prompts))
        order = list(range(len(prompts)))
        random.Random(f"{seed}-{lap}").shuffle(order)
        chosen += [prompts[i] for i in order[within : within + count - len(chosen)]]
    return chosen


def reinforce(
    config: PreferenceConfig,
    work: Reinforcement,
    folder: Path,
    prompts: Sequence[str],
    reward: Reward,
    diary: Diary,
) -> None:
    """All rounds that are left, each a row of the diary."""
    while work.rounds < config.steps:
        diary.begin()
        told = work.round(prompts, reward)
        diary.step(work.rounds, told)
        if work.rounds % config.save_every == 0 or work.rounds == config.steps:
            work.save(folder)
