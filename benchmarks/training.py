"""Rows of training: a step of each recipe beside transformers' own class, both in the Trainer's hands."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from benchmarks.harness import Case, Goal, Settings, same
from benchmarks.models import SHAPES, as_softmax, forward_flops, pair
from curvekit.training.memory import kept
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import precision

# recipe -> what is changed in it, and the goal
RECIPES: dict[str, tuple[str, dict[str, Any], float]] = {
    "softemax": ("softemax", {}, 0.97),
    "curve": ("curve", {}, 0.95),
    "curve-causal": ("curve-causal", {}, 0.6),
    "curve+softemax": ("curve+softemax", {}, 0.6),
    "curve+softemax, causal": ("curve+softemax", {"context": "causal"}, 0.6),
}
# of another architecture -> its recipes and goals; GPT-Neo's own attention is the formula alone
OTHERS: dict[str, dict[str, float]] = {
    "smollm2": {"softemax": 0.97, "curve": 0.95},
    "gpt_neo": {"softemax": 1.5, "curve": 1.0},
    "t5-mini": {"softemax": 0.95, "curve": 0.95},
}
TARGET = 4  # of a T5: as many source's tokens as a target has
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, of the makers' data sheets


def cases(settings: Settings) -> Iterator[Case]:
    batches = {"tiny": (2, 32)} if settings.quick else {"mini": (8, 256), "124M": (1, 256)}
    if settings.cuda and not settings.quick:
        batches = {"mini": (64, 512), "124M": (32, 512)}  # MiniLM has 512 positions
    for compiled in (False, True) if settings.cuda else (False,):
        for shape, (batch, length) in batches.items():
            for name, (_, _, goal) in RECIPES.items():
                yield _case(name, shape, batch, length, compiled, goal, settings)
    if not settings.quick:
        yield _compiled("curve+softemax", "mini", *batches["mini"], settings)
        if not settings.cuda:
            yield _keeping("curve+softemax", "mini", *batches["mini"], settings)
    others = {"tiny llama": (2, 32), "tiny gpt_neo": (2, 32), "tiny t5": (2, 32)}
    if not settings.quick:
        others = {"smollm2": (16, 512), "gpt_neo": (16, 1024), "t5-mini": (64, 512)} if settings.cuda else {
            "smollm2": (2, 256), "gpt_neo": (1, 1024), "t5-mini": (8, 256),
        }  # fmt: skip
    for (shape, (batch, length)), goals in zip(others.items(), OTHERS.values(), strict=True):
        for name, goal in goals.items():
            yield _case(name, shape, batch, length, False, goal, settings)


def _case(name: str, shape: str, batch: int, length: int, compiled: bool, goal: float, settings: Settings) -> Case:
    recipe, changes, _ = RECIPES.get(name, (name, {}, goal))
    ours, peer = pair(recipe, SHAPES[shape], settings, **changes)
    ids = torch.randint(SHAPES[shape]["vocab_size"], (batch, length), device=settings.device)
    attention = "SDPA" if peer.config._attn_implementation == "sdpa" else "its own attention"
    of_targets = bool(peer.config.is_encoder_decoder)
    batch_of = {"input_ids": ids, "labels": ids[:, : length // TARGET].contiguous() if of_targets else ids}

    def check() -> str:
        with torch.no_grad(), as_softmax(ours):
            said = same(ours(**batch_of).loss, peer(**batch_of).loss, 1e-4, "losses before the first step")
        softemax = ours.config.attention == "softemax"
        return said + (" with a sink of -inf; with its own they differ, as they should" if softemax else "")

    def facts(row: dict[str, Any]) -> dict[str, Any]:
        if of_targets:  # whose two stacks read different numbers of tokens
            return {}
        flops = 3 * forward_flops(peer, length)  # of the base alone: forward once, backward twice
        found: dict[str, Any] = {"flops_a_token": flops}
        peak = next((value for model, value in PEAK_FLOPS.items() if model in row["device"]), None)
        if peak:
            found |= {"mfu": row["ours_rate"] * flops / peak, "peer_mfu": row["peer_rate"] * flops / peak}
            found["notes"] = [f"model FLOPs utilisation {found['mfu']:.1%}, the peer's {found['peer_mfu']:.1%}"]
        return found

    return Case(
        f"{name}, {shape}{', compiled' if compiled else ''}",
        f"the recipe {name}, batch {batch} of {length}",
        f"{type(peer).__name__} with {attention}" + (", compiled" if compiled else ""),
        stepper(ours, batch_of, compiled),
        stepper(peer, batch_of, compiled),
        check,
        Goal("ratio", goal),
        work=batch * length,
        unit="tokens",
        seconds=10.0,
        facts=facts,
    )


def _compiled(recipe: str, shape: str, batch: int, length: int, settings: Settings) -> Case:
    """A compiled step beside the same that is not: what it gains, and after how many steps it has paid for itself."""
    ours, _ = pair(recipe, SHAPES[shape], settings)
    twin, _ = pair(recipe, SHAPES[shape], settings)
    ids = torch.randint(SHAPES[shape]["vocab_size"], (batch, length), device=settings.device)
    batch_of = {"input_ids": ids, "labels": ids}
    quick, plain = stepper(ours, batch_of, compiled=True), stepper(twin, batch_of)
    first: dict[str, float] = {}

    def check() -> str:
        began = time.perf_counter()
        quick(), plain()
        first["seconds"] = time.perf_counter() - began
        return same(ours(**batch_of).loss, twin(**batch_of).loss, 1e-3, "losses after the first step")

    def facts(row: dict[str, Any]) -> dict[str, Any]:
        gained = row["peer_seconds"] - row["ours_seconds"]
        steps = math.ceil(first["seconds"] / gained) if gained > 0 else None
        told = "it does not pay" if steps is None else f"it has paid for itself after {steps:,} steps"
        return {"steps_to_pay": steps, "notes": [f"the first step takes {first['seconds']:.0f} s: {told}"]}

    return Case(
        f"{recipe}, {shape}, compiled or not",
        f"the recipe {recipe}, compiled, batch {batch} of {length}",
        "the same, not compiled",
        quick,
        plain,
        check,
        work=batch * length,
        unit="tokens",
        seconds=20.0,
        facts=facts,
    )


def _keeping(recipe: str, shape: str, batch: int, length: int, settings: Settings, steps: int = 5) -> Case:
    """Steps whose memory stays with the process, as in every training here, beside those whose goes and comes."""
    ours, _ = pair(recipe, SHAPES[shape], settings)
    ids = torch.randint(SHAPES[shape]["vocab_size"], (batch, length), device=settings.device)
    step = stepper(ours, {"input_ids": ids, "labels": ids})

    def several(wanted: bool) -> None:
        with kept(wanted):
            for _ in range(steps):
                step()

    def check() -> str:
        with kept() as done:
            step()
        return "the same steps" if done else "malloc is not glibc's: nothing is kept"

    return Case(
        f"{recipe}, {shape}, memory kept or not",
        f"{steps} steps of the recipe {recipe}, batch {batch} of {length}, memory kept",
        "the same, memory given back",
        lambda: several(True),
        lambda: several(False),
        check,
        work=steps * batch * length,
        unit="tokens",
        seconds=20.0,
    )


def stepper(model: Any, batch: dict[str, torch.Tensor], compiled: bool = False) -> Callable[[], None]:
    """One training step of the Trainer on a batch: forward, backward, clipping, AdamW."""
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there
        bf16=precision(RunConfig()) == "bf16",
        use_cpu=model.device.type == "cpu",
        torch_compile=compiled,
        max_steps=1000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments)
    trainer.create_optimizer_and_scheduler(1000)
    wrapped, optimizer = trainer.accelerator.prepare(model, trainer.optimizer)
    trainer.model_wrapped, trainer.current_gradient_accumulation_steps = wrapped, 1

    def step() -> None:
        trainer.training_step(wrapped, dict(batch))
        trainer.accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
