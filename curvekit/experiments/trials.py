"""One trial of a search: some settings, trained and scored in every fold, with what the last trial had still in memory.

A fold is trained by the Trainer of a run, on the same blocks in the same order, and scored at fixed shares of its
budget in bits a byte, which compares block sizes and tokenisers. There a trial that falls behind can be given up.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from curvekit.errors import CurvekitError
from curvekit.experiments.folds import FoldTokens
from curvekit.files import finite
from curvekit.modes import quiet
from curvekit.training.lean import score_tokens
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import RunTrainer, build, training_arguments

POINTS = 4  # scores in a fold: after a quarter of its steps, a half, ...
Report = Callable[[int, float], None]  # told (fold * POINTS + point, bits a byte); raises to give a trial up


class Diverged(Exception):
    """A trial's loss is not a number."""


class Trials:
    """Trains the folds of one trial after another; what they share is loaded once."""

    def __init__(self, tokens: FoldTokens) -> None:
        self.tokens = tokens
        self._key: tuple[Any, ...] = ()
        self._model: Any = None
        self._start: dict[str, Any] = {}

    def _fresh(self, config: RunConfig) -> Any:
        """The model before its first step; one of the same make as the last trial's gets its first weights again."""
        key = (
            *(config.recipe, config.base, config.encoder, config.seed, config.scratch, config.freeze),
            *(config.dropout, config.adapter, config.rank, config.alpha, config.targets, config.adapter_dropout),
            repr(sorted(config.overrides().items(), key=str)),
        )
        if key != self._key:
            self._key, self._model, self._start = (), None, {}  # two at once are not needed
            self._model = build(config, self.tokens.tokenizer)
            self._start = {name: each.detach().clone() for name, each in self._model.state_dict().items()}
            self._key = key
        else:
            self._model.load_state_dict(self._start)
            self._model.zero_grad()
        return self._model

    def fold(self, config: RunConfig, fold: int, report: Report) -> dict[str, Any]:
        """Train one fold and score it.

        Returns:
            ``bits`` (a byte, at each point), ``nll`` (nats), ``tokens``, ``bytes`` of the last point;
            ``train_seconds``, ``score_seconds``, ``seconds`` in all.

        Raises:
            Diverged: the loss is not a number.
            CurvekitError: a fold is shorter than a block, or the settings cannot be used.
        """
        began = time.perf_counter()
        model = self._fresh(config)
        padded = config.examples == "padded"
        with tempfile.TemporaryDirectory(prefix="curvekit-trial-") as nowhere, quiet():
            arguments = training_arguments(config, Path(nowhere), model.config.base_is_random, fresh=False)
            arguments.eval_strategy, arguments.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
            arguments.load_best_model_at_end = False
            watch = _Watch(self, config, fold, report)
            trainer = RunTrainer(
                model, arguments, config, self.tokens.examples(fold, config.block_size, padded), None, [watch]
            )
            trainer.train()
        return watch.found | {"seconds": round(time.perf_counter() - began, 4)}

    def score(self, model: Any, config: RunConfig, fold: int) -> Any:
        """The score of a fold's held-out documents."""
        stride = config.stride or max(1, config.window // 2)
        score, _ = score_tokens(model, self.tokens.held_out(fold), "fold", config.window, stride, 1_024)
        return score


class _Watch(TrainerCallback):
    """Scores a fold at its points; the clocks of training and scoring are kept apart."""

    def __init__(self, trials: Trials, config: RunConfig, fold: int, report: Report) -> None:
        self.trials, self.config, self.fold, self.report = trials, config, fold, report
        self.points = sorted({max(1, round(config.steps * point / POINTS)) for point in range(1, POINTS + 1)})
        self.found: dict[str, Any] = {"bits": [], "train_seconds": 0.0, "score_seconds": 0.0}
        self.began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history.clear()
        if finite(kwargs["logs"].get("loss", 0.0)) is None:
            raise Diverged

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found["train_seconds"] = round(self.found["train_seconds"] + time.perf_counter() - self.began, 4)
        if state.global_step not in self.points:
            return
        began = time.perf_counter()
        score = self.trials.score(kwargs["model"], self.config, self.fold)
        self.found["score_seconds"] = round(self.found["score_seconds"] + time.perf_counter() - began, 4)
        if not math.isfinite(score.bits_per_byte):
            raise Diverged
        self.found["bits"].append(score.bits_per_byte)
        self.found |= {
            "nll": float(score.nll.sum()),
            "tokens": int(score.tokens.sum()),
            "bytes": int(score.bytes.sum()),
        }
        self.report(self.fold * POINTS + self.points.index(state.global_step), score.bits_per_byte)


def pooled(folds: list[dict[str, Any]]) -> float:
    """Bits a byte over all folds: total nats / (ln 2 * total bytes)."""
    total = sum(fold["bytes"] for fold in folds)
    if not total:
        raise CurvekitError("no fold was scored")
    return sum(fold["nll"] for fold in folds) / (math.log(2) * total)
