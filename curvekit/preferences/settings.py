"""The settings of a preference run: one dataclass, as :class:`curvekit.training.settings.RunConfig` is a run's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from curvekit.errors import CurvekitError
from curvekit.files import checked_path
from curvekit.preferences.ratings import QUESTIONS
from curvekit.preferences.rules import rule
from curvekit.training.fields import Settings, setting

OFFLINE = ("dpo", "kto", "sft", "reward")  # learn from pairs
ONLINE = ("ppo", "grpo", "rloo")  # learn from the rewards of what the model writes itself
METHODS = (*OFFLINE, *ONLINE)
_RATES = {"dpo": 5e-4, "kto": 5e-4, "sft": 5e-4, "reward": 1e-3, "ppo": 1e-3, "grpo": 5e-4, "rloo": 5e-4}
_BETAS = {"dpo": 0.1, "kto": 0.1, "sft": 0.0, "reward": 0.0, "ppo": 0.05, "grpo": 0.05, "rloo": 0.05}
_SMALLER = {"smollm2": {"batch_size": 4, "at_once": 1}}


@dataclass
class PreferenceConfig(Settings):
    """Every setting of a preference run. The defaults are the recommended values."""

    method: str = setting(
        "dpo",
        "dpo, kto or sft on pairs; reward: a model of them; ppo, grpo or rloo on the reward of what the model writes",
        choices=METHODS,
    )
    base: str = setting("mini", "what is trained: mini, smollm2, ..., a hub name, or the folder of a run or a model")
    seed: int = setting(0, "of prompts, samples, data order and new weights", least=0, most=2**32 - 1)

    pairs: str | None = setting(
        None, "file of preferences: ratings.jsonl of the blind rating, or .jsonl, .csv, .parquet with prompt, chosen, "
        "rejected"
    )  # fmt: skip
    question: str = setting("better", "which answer of a rating decides", choices=tuple(QUESTIONS))
    rule: str | None = setting(
        None, "rule that rewards an answer, such as full_sentence, no_numbers, at_most_words:20; joined by +"
    )
    reward: str | None = setting(None, "folder of a run of method reward, whose model rewards an answer")
    held_out: str | None = setting(
        None, "rule, or folder of a reward run, that judges and never trains (default: the rule itself on new prompts)"
    )

    prompts: str | None = setting(
        None, "file of prompts, one a line, or rows with prompt (default: the pairs' own, or beginnings of the corpus)"
    )
    corpus: str = setting("pydocs", "text whose documents begin the prompts, and that perplexity is measured on")
    data_dir: str | None = setting(None, "folder with the corpus's files, instead of the hub", result=False)
    prompt_tokens: int = setting(16, "tokens of a beginning of a document", least=1)
    prompt_count: int = setting(256, "prompts that train, when they come from the corpus", least=1)
    test_prompts: int = setting(64, "held-out prompts on which start and end are compared", least=1)
    answer_tokens: int = setting(40, "tokens of an answer at most", least=1)
    samples: int = setting(4, "answers to a prompt from which a rule makes a pair", least=2)
    cut: bool = setting(True, "an answer cut at its length also stands as ended after its last full sentence")
    chat: bool = setting(False, "prompts are a user's messages, written by the base's chat template")

    adapter: str = setting("lora", "lora, with the adapter off as the reference; or none", choices=("lora", "none"))
    rank: int = setting(8, "of the adapter's matrices", least=1)
    alpha: float = setting(16.0, "the adapter's product counts alpha / rank times", least=0)
    beta: float | None = setting(
        None, "price of a nat of KL from the reference (default: 0.1 for pairs, 0.05 for rewards)", least=0
    )
    loss: str = setting("sigmoid", "of dpo, as trl names it", choices=("sigmoid", "ipo", "hinge"))
    sft_weight: float = setting(0.0, "weight of the chosen answer's cross-entropy beside DPO's loss", least=0)
    steps: int = setting(60, "optimiser steps; of ppo, rounds of writing and learning", least=1)
    batch_size: int = setting(None, "pairs, or answers, of a step (default: 16; smollm2 4)", least=1)
    at_once: int | None = setting(
        None, "dpo: pairs of a step that are held in memory together (default: all; smollm2 1)", least=1, result=False
    )
    learning_rate: float | None = setting(None, "highest rate (default: 5e-4; ppo and reward 1e-3)", least=0)
    warmup: float = setting(0.1, "share of the steps in which the rate rises to it", least=0, most=0.9)
    clip: float = setting(1.0, "largest gradient norm; 0 clips nothing", least=0)
    generations: int = setting(4, "answers to a prompt that grpo and rloo compare", least=2)

    ratio_clip: float = setting(0.2, "ppo: how far a probability's ratio may move in one round", least=0.001, most=0.99)
    value_clip: float = setting(0.2, "ppo: how far a value may move in one round", least=0.001)
    value_weight: float = setting(0.1, "ppo: weight of the values' loss", least=0)
    gamma: float = setting(1.0, "ppo: worth of a reward one token later", least=0, most=1)
    gae_lambda: float = setting(0.95, "ppo: how far an advantage looks ahead", least=0, most=1)
    epochs: int = setting(2, "ppo: passes over a round's answers", least=1)
    minibatches: int = setting(2, "ppo: parts of a round, a step each", least=1)
    kl_target: float = setting(
        2.0, "ppo: nats an answer that the controller of beta aims at; 0: beta is fixed", least=0
    )
    kl_horizon: int = setting(1000, "ppo: answers in which the controller moves beta", least=1)

    eval_documents: int = setting(8, "test documents on which perplexity is measured", least=1)
    block_size: int = setting(256, "tokens of a scoring window", least=2)
    temperature: float = setting(1.0, "of all answers", least=1e-3, most=100)
    save_every: int = setting(10, "steps between checkpoints", least=1, result=False)
    track: str = setting(
        "none", "where losses and metrics are also logged", choices=("none", "wandb", "tensorboard"), result=False
    )
    wandb_mode: str = setting(
        "offline", "wandb writes files only, or sends them", choices=("offline", "online"), result=False
    )
    wandb_project: str = setting("curvekit", "wandb project", result=False)

    def __post_init__(self) -> None:
        """Choose what was left open, by method and base."""
        if isinstance(self.base, str) and self.base.startswith("~"):
            self.base = str(checked_path(self.base, "base"))
        if self.beta is None:
            self.beta = _BETAS.get(self.method, 0.1)
        if self.learning_rate is None:
            self.learning_rate = _RATES.get(self.method, 5e-4)
        if self.batch_size is None:
            self.batch_size = _SMALLER.get(self.base, {}).get("batch_size", 16)

    def validate(self) -> PreferenceConfig:
        """Return itself if the values can be used together.

        Raises:
            CurvekitError: one sentence about the first that cannot.
        """
        self.checked()
        if self.rule is not None:
            rule(self.rule)
        if self.method in OFFLINE and self.pairs is None and self.rule is None:
            raise CurvekitError(
                f"method is {self.method!r}, which learns from pairs, and there are none; give pairs, a file of "
                "preferences, or rule, which makes them from samples"
            )
        if self.method in ONLINE and (self.rule is None) == (self.reward is None):
            seen = "neither is" if self.rule is None else "both are"
            raise CurvekitError(
                f"method is {self.method!r}, which needs one reward, and {seen} given; give rule or reward"
            )
        if self.method in ("grpo", "rloo") and self.batch_size % self.generations:
            raise CurvekitError(
                f"batch_size is {self.batch_size}, which is no multiple of the {self.generations} generations of a "
                "prompt; give a multiple"
            )
        if self.method == "ppo" and self.batch_size % self.minibatches:
            raise CurvekitError(
                f"batch_size is {self.batch_size}, which {self.minibatches} minibatches cannot share; give a multiple"
            )
        if self.at_once is not None and not self._summed:
            raise CurvekitError(
                f"at_once is {self.at_once}, and only DPO's own loss is the mean of its pairs' losses; leave it out"
            )
        if self.batch_size % self.held:
            raise CurvekitError(
                f"batch_size is {self.batch_size}, which cannot be held {self.held} at once; give a divisor as at_once"
            )
        if self.method == "ppo" and self.temperature != 1:
            raise CurvekitError(
                f"temperature is {self.temperature:g}, and ppo learns of the distribution that it draws from; leave it "
                "at 1"
            )
        if self.method in ("dpo", "kto") and self.beta == 0:
            raise CurvekitError(f"beta is 0, and the loss of {self.method} then teaches nothing; give 0.1")
        return self

    @property
    def held(self) -> int:
        """Pairs, or answers, of a step that are in memory together; gradients are summed over the others."""
        few = self.at_once or (_SMALLER.get(self.base, {}).get("at_once") if self._summed else None)
        return few or self.batch_size

    @property
    def _summed(self) -> bool:
        return self.method == "dpo" and not self.sft_weight

    def slug(self) -> str:
        """A folder name: ``dpo-mini-full_sentence-seed0``."""
        of = self.rule or Path(self.pairs or self.reward or "").stem
        return re.sub(r"[^\w.+-]+", "-", f"{self.method}-{Path(self.base).name}-{of}-seed{self.seed}")
