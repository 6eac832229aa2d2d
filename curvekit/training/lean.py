"""A run without the Trainer: whole steps on the device, for many small models at once.

A tiny model's step is bound by what launches it, not by what computes it. So a step here asks the device for nothing:
the tokens, the order of the blocks, the rates and the losses all lie there, and on a GPU a step is one CUDA graph, of
which several models' run side by side in one process. Blocks, order, schedule, clipping and loss are those of
:mod:`curvekit.training.trainer`, and so are the losses, to rounding.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers.masking_utils as masking
from safetensors.numpy import load_file, save_file
from torch import Tensor

from curvekit.errors import CurvekitError
from curvekit.evaluation.frequency import FREQUENCY_BINS
from curvekit.evaluation.metrics import DENOMINATORS, LanguageModelScore, windows
from curvekit.files import write_atomically
from curvekit.modes import evaluating
from curvekit.training.memory import kept
from curvekit.training.optimizers import DeviceMuon, lost

POSITION_BINS = (1, 4, 16, 64, 256, 1024, 4096, 16384)  # a token's place in its document: below the first, ...
PRECISIONS = ("bf16", "float32")
_PARTS = ("ids", "starts", "words", "bytes")  # the arrays of a split


@dataclass(frozen=True)
class LeanConfig:
    """What of a run is the same for every recipe. The defaults are those of the base that ships.

    ``own_rate`` multiplies the rate of what curvekit adds, ``site_rate`` of what of it stands in the blocks; see
    :class:`curvekit.training.optimizers.DeviceMuon`.
    """

    steps: int
    block_size: int = 512
    batch_size: int = 4
    learning_rate: float = 2e-3
    own_rate: float = 1.0
    site_rate: float | None = None
    warmup: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    precision: str = PRECISIONS[0]
    context_eval: int = 512
    stride: int = 512

    def rates(self) -> list[float]:
        """The rate of each step: from zero up in the warm-up, then down by a cosine, as transformers' schedule."""
        warmup = math.ceil(self.warmup * self.steps)
        rise = [i / max(1, warmup) for i in range(min(warmup, self.steps))]
        left = max(1, self.steps - warmup)
        fall = [0.5 * (1 + math.cos(math.pi * i / left)) for i in range(self.steps - len(rise))]
        return [self.learning_rate * share for share in (*rise, *fall)]


@dataclass(eq=False)
class Documents:
    """The held-out documents of a split as tokens: ``ids`` one after another, ``starts`` where each begins."""

    ids: np.ndarray
    starts: np.ndarray
    words: np.ndarray
    bytes: np.ndarray
    sources: list[str]

    def streams(self, prefix: int) -> list[np.ndarray]:
        """Each document's ids after one end-of-text token."""
        ends = np.append(self.starts[1:], len(self.ids))
        return [
            np.concatenate([[prefix], self.ids[a:b].astype(np.int64)]) for a, b in zip(self.starts, ends, strict=True)
        ]


@dataclass(eq=False)
class TokenSet:
    """A corpus as tokens: the training stream as :func:`curvekit.text.packing.pack` lays it, and held-out documents."""

    train: np.ndarray
    splits: dict[str, Documents]
    facts: dict[str, Any] = field(default_factory=dict)  # tokenizer_hash, revisions, vocabulary, prefix

    def save(self, path: str | Path) -> None:
        """Write everything as one safetensors file."""
        arrays = {"train": np.ascontiguousarray(self.train)}
        for name, split in self.splits.items():
            for part in _PARTS:
                arrays[f"{name}.{part}"] = np.ascontiguousarray(getattr(split, part))
        sources = {name: split.sources for name, split in self.splits.items()}
        save_file(arrays, str(path), {"facts": json.dumps(self.facts), "sources": json.dumps(sources)})

    @classmethod
    def load(cls, path: str | Path) -> TokenSet:
        """Read what :meth:`save` wrote; a file that ends in ``.xz`` is unpacked beside itself, once."""
        path = Path(path)
        if not path.exists():
            raise CurvekitError(f"there is no token file {path}; prepare one first")
        if path.suffix == ".xz":
            unpacked = path.with_suffix("")
            if not unpacked.exists():
                raw = lzma.decompress(path.read_bytes())
                write_atomically(unpacked, lambda file: file.write(raw))
            path = unpacked
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
        arrays, sources = load_file(str(path)), json.loads(header["sources"])
        splits = {
            name: Documents(**{part: arrays[f"{name}.{part}"] for part in _PARTS}, sources=sources[name])
            for name in sources
        }
        return cls(arrays["train"], splits, json.loads(header["facts"]))

    def blocks(self, block_size: int, device: torch.device) -> Tensor:
        """The training stream as blocks on the device, ``[blocks, block_size]``."""
        count = len(self.train) // block_size
        kind = np.int16 if self.facts["vocabulary"] < 2**15 else np.int32
        return torch.from_numpy(self.train[: count * block_size].astype(kind).reshape(count, block_size)).to(device)


def data_order(blocks: int, config: LeanConfig) -> list[list[int]]:
    """The blocks of every step, as the Trainer draws them: each pass in an order of its own, the rest of one short."""
    batches: list[list[int]] = []
    for epoch in range(config.steps + 1):
        shuffled = torch.randperm(blocks, generator=torch.Generator().manual_seed(config.seed + epoch)).tolist()
        batches += [shuffled[i : i + config.batch_size] for i in range(0, blocks, config.batch_size)]
        if len(batches) >= config.steps:
            break
    return batches[: config.steps]


@contextlib.contextmanager
def rows_of_one_text() -> Iterator[None]:
    """Tell transformers that no row holds several documents; looking for them waits for the device in every forward."""
    theirs = masking.find_packed_sequence_indices
    masking.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking.find_packed_sequence_indices = theirs


class LeanRun:
    """One model in training; :func:`together` runs several.

    Args:
        model: a causal language model of transformers, on the device; trained in place.
        config: how.
        blocks: :meth:`TokenSet.blocks`; models may share them.
        graph: on a GPU record a step once and replay it; a step that cannot be recorded is run as it is.
    """

    def __init__(self, model: Any, config: LeanConfig, blocks: Tensor, graph: bool = True) -> None:
        self.model, self.config, self.blocks = model.train(), config, blocks
        self.device = blocks.device
        order = data_order(len(blocks), config)
        self.sizes = [len(batch) for batch in order]
        padded = [batch + [0] * (config.batch_size - len(batch)) for batch in order]
        self.order = torch.tensor(padded, device=self.device)  # [steps, batch]
        self.rates = torch.tensor(config.rates(), device=self.device)
        self.losses = torch.zeros(config.steps, device=self.device)
        self.norms = torch.zeros(config.steps, device=self.device)
        self.at = torch.zeros(1, dtype=torch.long, device=self.device)
        self.optimizer = DeviceMuon(model, config.weight_decay, config.own_rate, config.site_rate)
        cuda = self.device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(self.device) if cuda else None
        self.graphs: dict[int, Any] = {}
        self.why_not: str | None = None if graph and cuda else "not asked for" if cuda else "no GPU"
        if self.why_not is None:
            self._record()

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return sum(self.sizes) * self.config.block_size

    def step(self, size: int) -> None:
        """One step on the blocks that are next, of which there are ``size``."""
        ids = self.blocks.index_select(0, self.order.index_select(0, self.at)[0, :size]).long()  # [size, block]
        labels = F.pad(ids[:, 1:], (0, 1), value=-100)
        self.optimizer.zero_grad()
        half = self.config.precision == "bf16"
        with rows_of_one_text(), torch.autocast(self.device.type, torch.bfloat16, half, cache_enabled=False):
            logits = self.model(ids, use_cache=False).logits.float()
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            loss = loss / (size * (ids.shape[1] - 1))
        loss.backward()
        if self.config.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.config.clip)
            self.norms.index_copy_(0, self.at, norm.detach().float().view(1))
        self.optimizer.step(self.rates.index_select(0, self.at)[0])
        self.losses.index_copy_(0, self.at, loss.detach().view(1))
        self.at += 1

    def _record(self) -> None:
        """Record the step of each size that occurs, after some that are taken back."""
        before = [p.detach().clone() for p in self.optimizer.parameters]
        try:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                for size in [*sorted(set(self.sizes)), self.sizes[0], self.sizes[0]]:
                    self.step(size)
                    self.at.zero_()
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            torch.cuda.synchronize(self.device)
            for size in sorted(set(self.sizes)):
                self.optimizer.zero_grad()
                recorded = torch.cuda.CUDAGraph()
                with torch.cuda.graph(recorded, stream=self.stream):
                    self.step(size)
                self.graphs[size] = recorded
        except RuntimeError as error:
            self.graphs, self.why_not = {}, str(error).splitlines()[0]
            torch.cuda.synchronize(self.device)
        with torch.no_grad():
            for p, value in zip(self.optimizer.parameters, before, strict=True):
                p.copy_(value)
        self.optimizer.forget()
        for each in (self.at, self.losses, self.norms):
            each.zero_()
        torch.cuda.synchronize(self.device)

    def advance(self, number: int) -> None:
        """Start step ``number``; on a GPU it is not waited for."""
        size = self.sizes[number]
        if self.stream is None:
            self.step(size)
            return
        with torch.cuda.stream(self.stream):
            if self.graphs:
                self.graphs[size].replay()
            else:
                self.step(size)

    def history(self) -> list[float]:
        """The loss of every step in nats a token.

        Raises:
            CurvekitError: a loss, a gradient or, after the last step, a parameter is not a number.
        """
        losses, gone = self.losses.tolist(), lost(self.model)
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and not torch.isfinite(self.norms).all():
            bad = int((~torch.isfinite(self.norms)).nonzero()[0])
        if bad is not None:
            raise CurvekitError(
                f"the loss or its gradient is not a number at step {bad + 1}{gone}; lower learning_rate"
            )
        if gone:
            raise CurvekitError(f"the loss is {losses[-1]:.4f} at the last step{gone}; lower learning_rate")
        return losses


def together(
    runs: Sequence[LeanRun],
    deadline: float = math.inf,
    every: int = 50,
    on_steps: Callable[[int], object] | None = None,
) -> float:
    """Train runs of one length side by side to their end; returns the seconds that all took.

    Every so many steps the device is waited for, and ``on_steps`` is told how many are done.

    Raises:
        TimeoutError: ``time.time()`` reached the deadline first.
    """
    (steps,) = {run.config.steps for run in runs}
    began = time.perf_counter()
    with kept(all(run.stream is None for run in runs)):
        for number in range(steps):
            for run in runs:
                run.advance(number)
            if number % every == every - 1:
                for run in runs:
                    if run.stream is not None:
                        run.stream.synchronize()
                if on_steps is not None:
                    on_steps(number + 1)
                if time.time() > deadline:
                    raise TimeoutError(f"stopped at step {number + 1} of {steps}")
        for run in runs:
            if run.stream is not None:
                run.stream.synchronize()
    return time.perf_counter() - began


def score_tokens(
    model: Any,
    tokens: TokenSet,
    split: str,
    context: int = 512,
    stride: int = 512,
    batch_tokens: int | None = None,
    signature: Mapping[str, Any] | None = None,
) -> tuple[LanguageModelScore, dict[str, Any]]:
    """Score a split as :func:`curvekit.evaluation.metrics.score_documents` does, without masks and with few waits.

    Returns:
        the score, and ``by_position`` and ``by_frequency``: nats and tokens of each bin of a token's place in its
        document and of its count in the training text (:data:`POSITION_BINS`, :data:`FREQUENCY_BINS`).
    """
    documents = tokens.splits[split]
    if model.config.leaks:
        raise CurvekitError(f"the recipe {model.config.recipe!r} sees the tokens that it predicts; no score compares")
    device = next(model.parameters()).device
    streams = documents.streams(tokens.facts["prefix"])
    lengths = [len(stream) - 1 for stream in streams]
    offsets = np.cumsum([0, *lengths])
    plan = [(d, w) for d, length in enumerate(lengths) for w in windows(length, context, stride)]
    plan.sort(key=lambda item: item[1].begin - item[1].end)
    nats = torch.zeros(offsets[-1] + 1, device=device)  # of every token, and one place for padding
    hits = torch.zeros(offsets[-1] + 1, dtype=torch.bool, device=device)
    most = batch_tokens or (1_024 if device.type == "cpu" else 8_192)  # a CPU's caches hold no more
    size = max(1, most // context)
    with evaluating(model), torch.inference_mode(), rows_of_one_text():
        for i in range(0, len(plan), size):
            batch = plan[i : i + size]
            longest = batch[0][1].end - batch[0][1].begin
            ids = np.zeros((len(batch), longest), np.int64)
            targets = np.zeros((len(batch), longest), np.int64)
            places = np.full((len(batch), longest), offsets[-1], np.int64)
            for row, (d, w) in enumerate(batch):
                ids[row, : w.end - w.begin] = streams[d][w.begin : w.end]
                targets[row, : w.end - w.begin] = streams[d][w.begin + 1 : w.end + 1]
                places[row, w.scored - w.begin : w.end - w.begin] = offsets[d] + np.arange(w.scored, w.end)
            there, wanted, where = (torch.from_numpy(each).to(device) for each in (ids, targets, places.reshape(-1)))
            logits = model(there, use_cache=False).logits.float().flatten(0, 1)
            nats[where] = F.cross_entropy(logits, wanted.flatten(), reduction="none")
            hits[where] = logits.argmax(-1) == wanted.flatten()
    every, right = nats[:-1].double().cpu().numpy(), hits[:-1].cpu().numpy()
    score = LanguageModelScore(
        nll=np.add.reduceat(every, offsets[:-1]),
        tokens=np.array(lengths),
        correct=np.add.reduceat(right.astype(np.int64), offsets[:-1]),
        words=documents.words,
        bytes=documents.bytes,
        signature={
            "recipe": model.config.recipe,
            **(signature or {}),
            "corpus": tokens.facts["corpus"],
            "revision": tokens.facts["revisions"][split],
            "split": split,
            "documents": len(streams),
            "texts": tokens.facts["revisions"][split],
            "tokenizer_hash": tokens.facts["tokenizer_hash"],
            "context": context,
            "stride": stride,
            "prefix": "one eos token",
            "denominators": DENOMINATORS,
            "dtype": "float32",
            "leaks": False,
        },
    )
    ids = np.concatenate([stream[1:] for stream in streams])
    counts = np.bincount(tokens.train, minlength=tokens.facts["vocabulary"])[ids]
    positions = np.concatenate([np.arange(length) for length in lengths])
    bins = {
        "by_position": np.digitize(positions, POSITION_BINS),
        "by_frequency": np.digitize(counts, FREQUENCY_BINS),
    }
    return score, {
        name: {
            "nats": np.bincount(of, every, len(edges) + 1).tolist(),
            "tokens": np.bincount(of, minlength=len(edges) + 1).tolist(),
        }
        for (name, of), edges in zip(bins.items(), (POSITION_BINS, FREQUENCY_BINS), strict=True)
    }
