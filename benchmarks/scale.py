"""What a run of any size costs, computed: memory by part, tokens a second, hours, and a simulation that checks it.

Nothing here is measured on many GPUs. The table of ``docs/scale.md`` follows from the assumptions below by the formulas
of :func:`memory` and :func:`step`, and :func:`simulated` plays one step unit by unit, with communication beside
computation, to check the formula for the time. ``python -m benchmarks.scale docs/scale.md`` writes the table.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.several import measured
from curvekit.evaluation.results import fill

GB = 1e9
BEGIN, END = "<!-- scale:begin -->", "<!-- scale:end -->"
MEASURED_BEGIN, MEASURED_END = "<!-- several:begin -->", "<!-- several:end -->"


@dataclass(frozen=True)
class Model:
    """A GPT-2 by its shape, with the parameters of a curve left out: they are below one percent."""

    name: str
    layers: int
    width: int
    vocabulary: int = 50_257
    context: int = 1024

    @property
    def parameters(self) -> int:
        """12 width^2 a block, and the embeddings."""
        return 12 * self.layers * self.width**2 + (self.vocabulary + self.context) * self.width

    def flops(self) -> float:
        """Floating-point operations a token, forward and backward: 6 N + 6 L d T (causal attention)."""
        return 6 * self.parameters + 6 * self.layers * self.width * self.context


@dataclass(frozen=True)
class Machine:
    """An assumed cluster of eight GPUs a node; what is assumed, and from where, stands beside each figure."""

    peak: float = 989e12  # dense bf16 operations a second of an H100 SXM, its data sheet
    share: float = 0.35  # of the peak that training reaches; public GPT-2 trainings report 0.3 to 0.5
    room: float = 80e9  # bytes of a GPU
    inside: float = 450e9  # bytes a second and direction between GPUs of a node (NVLink 4), its data sheet
    between: float = 50e9  # bytes a second and GPU between nodes (400 Gb/s InfiniBand)
    reached: float = 0.7  # of a link's rate that collectives reach
    node: int = 8

    def link(self, gpus: int) -> float:
        """Bytes a second of the slowest link in a ring."""
        return self.reached * (self.inside if gpus <= self.node else self.between)


MODELS = (
    Model("124M", 12, 768),
    Model("355M", 24, 1024),
    Model("774M", 36, 1280),
    Model("1.5B", 48, 1600),
)
GPUS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (0.1e9, 1e9, 10e9, 100e9)
BATCH = 8  # blocks a GPU at a time


def memory(
    model: Model, gpus: int = 1, shard: bool = False, checkpointing: bool = False, batch: int = BATCH
) -> dict[str, float]:
    """Bytes a GPU by part, in bf16 autocast with float32 weights and AdamW.

    A block keeps 34 bytes a token and channel for its backward (flash attention keeps no squares; Korthikanti et al.
    2022, without the dropout masks that curvekit does not draw), with checkpointing its 2-byte input and one block
    at a time; the logits are there in bf16, in float32, and as gradients.
    """
    share = 1 / gpus if shard else 1.0
    tokens = batch * model.context
    blocks = 34 * tokens * model.width * model.layers
    if checkpointing:
        blocks = 2 * tokens * model.width * model.layers + 34 * tokens * model.width
    return {
        "weights": 4 * model.parameters * share,
        "gradients": 4 * model.parameters * share,
        "optimiser": 8 * model.parameters * share,
        "bf16 copies": 2 * model.parameters / (model.layers if shard else 1),
        "activations": blocks,
        "logits": 10 * tokens * model.vocabulary,
    }


def sent(model: Model, gpus: int, shard: bool) -> float:
    """Bytes that each GPU sends in a step: a ring's all-reduce of float32 gradients, or FSDP2's two gathers of weights
    in float32 and its reduce-scatter."""
    ring = (gpus - 1) / gpus
    return (3 if shard else 2) * 4 * model.parameters * ring


def step(
    model: Model, gpus: int, shard: bool, machine: Machine, batch: int = BATCH, checkpointing: bool = False
) -> dict[str, float]:
    """Seconds of a step: what is computed, what is sent, and the longer of what overlaps.

    DDP sends while the backward computes, two thirds of the step; FSDP2 while either does. What the last unit sends
    has nothing beside it: one part in so many units is not hidden.
    """
    work = model.flops() * (4 / 3 if checkpointing else 1.0)
    computed = batch * model.context * work / (machine.peak * machine.share)
    wires = sent(model, gpus, shard) / machine.link(gpus) if gpus > 1 else 0.0
    beside = computed if shard else computed * 2 / 3
    units = model.layers + 1
    seconds = computed - beside + max(beside, wires) + wires / units
    return {"computed": computed, "sent": wires, "seconds": seconds, "tokens": gpus * batch * model.context / seconds}


def simulated(model: Model, gpus: int, shard: bool, machine: Machine, batch: int = BATCH) -> float:
    """One step played unit by unit: a computing stream and a sending one, each doing one thing at a time.

    A block is a unit and so is what stands around them. DDP sends a unit's gradients when its backward is done; FSDP2
    gathers the next unit's weights while this one computes, forward and backward, and sends its gradients after.
    """
    units = model.layers + 1
    sizes = [12 * model.width**2] * model.layers + [(model.vocabulary + model.context) * model.width]
    work = [6 * n + (6 * model.width * model.context if i < model.layers else 0) for i, n in enumerate(sizes)]
    rate = machine.peak * machine.share / (batch * model.context)
    ring = (gpus - 1) / gpus
    wires = [4 * n * ring / machine.link(gpus) if gpus > 1 else 0.0 for n in sizes]
    free_gpu = free_wire = 0.0
    arrived = [0.0] * units
    for phase, part in (("forward", 1 / 3), ("backward", 2 / 3)):
        order = list(range(units)) if phase == "forward" else list(range(units))[::-1]
        if shard:
            for unit in order:  # gathers are asked for in order, as early as the wire is free
                free_wire = arrived[unit] = free_wire + wires[unit]
        for unit in order:
            begin = max(free_gpu, arrived[unit] if shard else 0.0)
            free_gpu = begin + work[unit] * part / rate
            if phase == "backward":
                times = 1 if shard else 2  # a reduce-scatter, or an all-reduce
                free_wire = max(free_wire, free_gpu) + times * wires[unit]
    return max(free_gpu, free_wire)


def fits(parts: dict[str, float], machine: Machine) -> bool:
    """Whether nine tenths of a GPU hold the parts."""
    return sum(parts.values()) <= 0.9 * machine.room


def plan(model: Model, gpus: int, machine: Machine) -> tuple[int, bool, bool]:
    """Blocks a GPU, whether to shard and whether to checkpoint: the first that fits, cheapest first."""
    for batch in (BATCH, BATCH // 2, BATCH // 4):
        for checkpointing in (False, True):
            for shard in (False, True) if gpus > 1 else (False,):
                if fits(memory(model, gpus, shard, checkpointing, batch), machine):
                    return batch, shard, checkpointing
    return 1, gpus > 1, True


def tables(machine: Machine | None = None) -> str:
    """The tables of ``docs/scale.md``."""
    machine = machine or Machine()
    lines = ["| model | " + " | ".join(memory(MODELS[0])) + " | all, GB |", "| --- |" + " ---: |" * 7]
    for model in MODELS:
        parts = memory(model)
        cells = [f"{each / GB:.1f}" for each in (*parts.values(), sum(parts.values()))]
        lines.append(f"| {model.name} ({model.parameters / 1e6:,.0f}M) | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | GPUs | flags | GB a GPU | tokens/s | "
        + " | ".join(f"h for {each / 1e9:g}B" for each in TOKENS)
        + " | limited by | simulated |",
        "| --- | ---: | --- | ---: | ---: |" + " ---: |" * len(TOKENS) + " --- | ---: |",
    ]
    for model in MODELS:
        for gpus in GPUS:
            batch, shard, checkpointing = plan(model, gpus, machine)
            found = step(model, gpus, shard, machine, batch, checkpointing)
            flags = " ".join(
                [f"`--batch-size {batch * gpus}`", *(["`--shard true`"] if shard else []),
                 *(["`--gradient-checkpointing true`"] if checkpointing else [])]
            )  # fmt: skip
            used = sum(memory(model, gpus, shard, checkpointing, batch).values()) / GB
            hours = [f"{tokens / found['tokens'] / 3600:,.2f}" for tokens in TOKENS]
            hidden = found["computed"] * (1.0 if shard else 2 / 3)
            limit = "the wires" if found["sent"] > hidden else "computing"
            ratio = "" if checkpointing else f"{simulated(model, gpus, shard, machine, batch) / found['seconds']:.2f}"
            lines.append(
                f"| {model.name} | {gpus} | {flags} | {used:.0f} | {found['tokens']:,.0f} | {' | '.join(hours)} "
                f"| {limit} | {ratio} |"
            )
    return "\n".join(lines)


def write(path: Path) -> None:
    """Put the tables between their marks in a page."""
    fill(path, tables(), BEGIN, END)
    fill(path, measured(), MEASURED_BEGIN, MEASURED_END)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:
        print(tables())
