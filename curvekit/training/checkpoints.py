"""Checkpoints that can be trusted: no pickles, and never half of one.

transformers' Trainer keeps its optimiser and random states in pickles. Its reader is restricted
(``weights_only=True``), but here no pickle is written or read at all: tensors lie in safetensors, everything
else is JSON in the same file's header. A checkpoint is sealed (:mod:`curvekit.ownership`) when it is whole: one
that was cut off, by a kill or a full disk, has no seal or no whole files, and one whose bytes a disk has changed does
not have the digests that were written with it.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file
from transformers import Trainer, TrainerState

from curvekit.bases import adapters
from curvekit.errors import CurvekitError
from curvekit.ownership import broken, seal
from curvekit.training import sharding
from curvekit.training.processes import place
from curvekit.training.runs import gone, is_checkpoint

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
DICE = "rng.safetensors"
STATE = "trainer_state.json"  # written last of all: without it the checkpoint is not whole


class SafeTrainer(Trainer):
    """The Trainer, with checkpoints of safetensors and JSON.

    Only what writes and reads a checkpoint is overridden; how training runs is the Trainer's own. The
    overridden methods are private to transformers 5, so its version is pinned, and the tests resume through
    them.
    """

    model: Any  # present whenever a checkpoint is written or read, which the Trainer's own types do not say
    optimizer: Any
    lr_scheduler: Any

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder, kept = Path(str(self.args.output_dir)), self.args.save_total_limit
        with writing(folder):
            self.args.save_total_limit = None  # the Trainer's own rotation deletes whatever is called checkpoint-*
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = kept
            if self.args.should_save:
                seal(folder / f"checkpoint-{self.state.global_step}", "checkpoint")
                self._forget(folder, kept)

    def _forget(self, folder: Path, kept: int | None) -> None:
        """Delete the oldest checkpoints beyond those kept; the last and the best stay in any case."""
        own = own_checkpoints(folder)
        best = Path(self.state.best_model_checkpoint or "").name
        spare = [checkpoint for checkpoint in own[:-1] if checkpoint.name != best]
        for checkpoint in spare[: max(0, len(own) - max(kept or len(own), 1))]:
            shutil.rmtree(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        folder = Path(output_dir or str(self.args.output_dir))
        if sharding.is_sharded(model):
            adapted = adapters.is_adapted(model)
            state = sharding.whole(adapters.adapter_state(model) if adapted else model.state_dict())
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                if adapted:
                    adapters.save_weights(model, folder / WEIGHTS, state)
                else:
                    save_file(sharding.unique(model, state), folder / WEIGHTS, metadata={"format": "pt"})
        elif not self.args.should_save:
            return
        elif adapters.is_adapted(model):
            folder.mkdir(parents=True, exist_ok=True)
            adapters.save_weights(model, folder / WEIGHTS)
        else:
            model.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        scaler = self.accelerator.scaler
        state = {
            "optimizer": sharding.whole(self.optimizer.state_dict()),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        if self.args.should_save:
            save_state(Path(output_dir) / OPTIMIZER, state)

    def _save_scaler(self, output_dir: str) -> None:
        """Nothing: fp16's loss scale lies beside the optimiser."""

    def _save_rng_state(self, output_dir: str) -> None:
        numbers: Any = np.random.get_state(legacy=False)
        numbers["state"]["key"] = torch.from_numpy(numbers["state"]["key"].astype(np.int64))
        state = {"python": random.getstate(), "numpy": numbers, "cpu": torch.get_rng_state(), "cuda": []}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        if self.args.should_save:
            save_state(Path(output_dir) / DICE, state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def _load_best_model(self) -> None:
        load_weights(self.model, Path(str(self.state.best_model_checkpoint)) / WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint) / OPTIMIZER)
        own = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate puts one around it
        self.optimizer.load_state_dict(sharding.optimizer_parts(own, state["optimizer"]))
        self.lr_scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing: fp16's loss scale came with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint) / DICE)
        state["numpy"]["state"]["key"] = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
        if rank := place().rank:  # the first process goes on with its dice, the others with dice of their own
            torch.manual_seed((int(self.args.seed) + 1_000_003 * rank + step_of(Path(checkpoint))) % 2**63)


def load_weights(model: Any, path: Path) -> None:
    """A checkpoint's weights; of a model with an adapter those that are trained, its base having the others."""
    if adapters.is_adapted(model):
        adapters.load_weights(model, path, sharding.part_of)
    elif sharding.is_sharded(model):
        sharding.load_whole(model, load_file(path))
    else:
        load_model(model, path)


def save_state(path: Path, state: Any) -> None:
    """Write nested dictionaries, lists, tuples, numbers and tensors as one safetensors file."""
    tensors: dict[str, torch.Tensor] = {}

    def described(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().clone().contiguous()  # shared memory cannot be saved
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[key, described(item)] for key, item in value.items()]}  # keys may be integers
        if isinstance(value, list | tuple):
            return {type(value).__name__: [described(item) for item in value]}
        return value

    structure = json.dumps(described(state))
    save_file(tensors or {"empty": torch.zeros(0)}, path, metadata={"structure": structure})


def load_state(path: Path) -> Any:
    """Read what :func:`save_state` wrote, on the CPU."""

    def rebuilt(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        [(kind, content)] = value.items()
        if kind == "tensor":
            return file.get_tensor(content)
        if kind == "dict":
            return {key: rebuilt(item) for key, item in content}
        items = [rebuilt(item) for item in content]
        return tuple(items) if kind == "tuple" else items

    with safe_open(path, "pt") as file:
        return rebuilt(json.loads(file.metadata()["structure"]))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint in ``folder`` from which training can go on, if any.

    Warns about every one that cannot be used, and removes it: the Trainer would count it among those kept.
    """
    whole, faults = None, {}
    for checkpoint in own_checkpoints(folder):
        fault = damage(checkpoint)
        if fault is None:
            whole = checkpoint
            continue
        faults[checkpoint] = fault
        shutil.rmtree(checkpoint)
    instead = f"that of step {step_of(whole)} is used" if whole else "training begins anew"
    for checkpoint, fault in faults.items():
        warnings.warn(f"{checkpoint} {fault}; {instead}", stacklevel=2)
    return whole


def own_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of this trainer in a folder, by step; ``checkpoint-12-backup`` is somebody's own."""
    return sorted(filter(is_checkpoint, folder.glob("*")), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimiser steps behind a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def damage(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being used, as ``was cut off (...)``, or None when it is whole."""
    for name in (WEIGHTS, OPTIMIZER, DICE):
        try:
            with safe_open(checkpoint / name, "pt"):  # compares the header with the file's length
                pass
        except (OSError, SafetensorError) as error:
            return f"was cut off ({name}: {error})"
    try:
        best = _state(checkpoint).best_global_step
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"was cut off ({STATE}: {error})"
    if fault := broken(checkpoint):
        return f"is damaged ({fault})"
    if best:
        before = checkpoint.with_name(f"checkpoint-{best}")
        if not (before / WEIGHTS).exists():
            return f"was cut off (the best one before it, of step {best}, is gone)"
        if before != checkpoint and (fault := broken(before)):
            return f"is of no use (the best one before it, of step {best}, is damaged: {fault})"
    return None


def is_last(checkpoint: Path) -> bool:
    """Whether training was over when the checkpoint was written: going on would be a step too many."""
    callbacks: Any = _state(checkpoint).stateful_callbacks
    return callbacks["TrainerControl"]["args"]["should_training_stop"]


def _state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / STATE))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a folder without permission raises into one sentence."""
    there = folder.parent.exists()
    try:
        yield
    except (OSError, SafetensorError) as error:
        if there and not folder.parent.exists():
            raise gone(folder.parent) from error
        reason = getattr(error, "strerror", None) or error
        raise CurvekitError(
            f"cannot write into {folder}: {reason}; free some space and give the same command again, "
            "it goes on from the last whole checkpoint"
        ) from error
