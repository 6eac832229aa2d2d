"""The diary of a preference run: a row a step in ``history.jsonl``, told to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from curvekit.errors import CurvekitError
from curvekit.files import append_jsonl, finite, read_jsonl, write_jsonl
from curvekit.training.checkpoints import gone
from curvekit.training.runs import HISTORY, LOCK
from curvekit.training.tracking import Row, Watcher

NAMES = {  # trl's names of what is kept of a step, and ours
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "margin": "reward_margin",
    "accuracy": "reward_accuracy",
    "reward": "reward",
    "kl": "kl",
    "completions/mean_length": "length",
    "entropy": "entropy",
}


class Diary:
    """Writes rows; its clock runs only while a step is computed."""

    def __init__(self, folder: Path, watchers: Sequence[Watcher]) -> None:
        self.folder, self.watchers = folder, watchers
        rows = read_jsonl(folder / "history.jsonl", HISTORY)
        self.seconds = max((row["seconds"] for row in rows if "seconds" in row), default=0.0)
        self.began = time.perf_counter()

    def begin(self) -> None:
        """A step begins."""
        self.began = time.perf_counter()

    def step(self, step: int, figures: Mapping[str, Any]) -> None:
        """A step has ended.

        Raises:
            CurvekitError: its loss is no number, or the folder is gone.
        """
        self.seconds += time.perf_counter() - self.began
        row: Row = {"step": step} | {name: _number(value) for name, value in figures.items()}
        if finite(row.get("loss")) is None:
            raise CurvekitError(
                f"the loss is {figures.get('loss')} at step {step}: training has come apart; lower learning_rate, or "
                "raise beta"
            )
        if not (self.folder / LOCK).exists():
            raise gone(self.folder)
        row["seconds"] = round(self.seconds, 4)
        append_jsonl(self.folder / "history.jsonl", row)
        for watcher in self.watchers:
            watcher.row(row)


def take_back(folder: Path, step: int) -> list[Row]:
    """Take back the rows after a step: they will be computed, and written, again."""
    rows = [row for row in read_jsonl(folder / "history.jsonl", HISTORY, whole=False) if row["step"] <= step]
    write_jsonl(folder / "history.jsonl", rows)
    return rows


class Told(TrainerCallback):
    """What trl logs, into the diary under our names."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.save_steps = args.save_steps  # a checkpoint brings the interval of its own time

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.diary.begin()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        state.log_history.clear()  # the rows are in the file; every checkpoint would write them all again
        if "loss" not in logs:
            return
        kept: Row = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        kept |= {ours: logs[theirs] for theirs, ours in NAMES.items() if theirs in logs}
        self.diary.step(state.global_step, kept | {"tokens": int(logs.get("num_tokens", 0))})


def _number(value: Any) -> Any:
    return finite(float(value)) if isinstance(value, float) else value
