"""One run: train a recipe with the Hugging Face Trainer, then score it on what was held out.

A run is two stages with a folder between them. :func:`fit` leaves ``model/``; :func:`evaluate` reads it back and
leaves ``metrics.json``. Whatever is killed goes on from the last thing that is whole: a checkpoint, the model, or
the metrics. The Trainer restores weights, optimiser, schedule, data order and dice, so the losses are those of a
run that nobody disturbed (bit for bit on a CPU; on a GPU as far as its kernels repeat themselves).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from curvekit.bases.adapters import Lora, add_adapter, is_adapted, save_adapter
from curvekit.bases.building import architecture_of, base_config, build_model
from curvekit.causality import warn_if_leaking
from curvekit.conversion import calibrate
from curvekit.errors import CurvekitError
from curvekit.evaluation.conformance import conformance
from curvekit.files import read_json, write_json, write_jsonl
from curvekit.modes import quiet
from curvekit.ownership import MARKER, mark, marker, replaced
from curvekit.text.packing import PackedBlocks
from curvekit.text.shards import ShardedBlocks, revisions
from curvekit.text.tokenization import run_tokenizer, start_token
from curvekit.training.checkpoints import (
    WEIGHTS,
    is_last,
    last_whole_checkpoint,
    load_weights,
    own_checkpoints,
    step_of,
    writing,
)
from curvekit.training.materials import Material, Measured
from curvekit.training.memory import kept
from curvekit.training.objectives import Objective, training_counts
from curvekit.training.preflight import check_room, check_run, precision, writes_targets
from curvekit.training.processes import (
    agree,
    by_first,
    first_then_others,
    in_step,
    meeting,
    place,
    share_of_batch,
)
from curvekit.training.runs import Run, claimed, load_run, require_there
from curvekit.training.seq2seq import Targets
from curvekit.training.settings import RunConfig
from curvekit.training.sharding import is_sharded
from curvekit.training.stepping import History, RunTrainer, training_arguments
from curvekit.training.tasks import Answers
from curvekit.training.texts import Texts
from curvekit.training.tracking import Row, Watcher, watching

__all__ = ["Run", "RunConfig", "evaluate", "fit", "load_run", "material_of", "train"]

CONFORMANCE = "conformance.json"  # from the first step to metrics.json


def train(
    config: RunConfig,
    folder: str | Path,
    *,
    progress: str = "auto",
    on_row: Callable[[Row], None] | None = None,
) -> Run:
    """Train and evaluate one run in ``folder``, or go on with the one that is there.

    A finished run returns at once. One that was killed, at whatever step, ends with the same losses as an
    undisturbed one.

    Args:
        config: see :class:`RunConfig`.
        folder: a new or empty folder, or that of the same run. One process at a time.
        progress: ``bar``, ``lines`` or ``none``; ``auto`` is a bar where someone looks at it, else lines.
        on_row: called with every new row of the history, for example to plot it.

    Raises:
        CurvekitError: a bad setting; another run, other files or another process in the folder; a folder that
            cannot be written, or a full disk; a corpus that changed since; a loss that is not a number.
    """
    config.validate()
    folder = Path(folder)
    with meeting() as here, _claimed(config, folder) as run, kept(not torch.cuda.is_available()):
        share_of_batch(config.batch_size, config.accumulate, here.world)
        finished, trained = by_first(lambda: [run.finished, run.trained])
        if finished:
            by_first(lambda: _clear(folder))  # of what a kill at the very end left
            return run
        told: list[str] = []  # while nobody watches yet
        with in_step():
            if not trained:
                check_run(config)
        agree(config.fingerprint(), "settings")
        material = first_then_others(lambda: material_of(config, told.append))
        agree(revisions(material.corpus), "corpora")
        with in_step():
            if not trained:
                material.check()
        revision = by_first(lambda: _same_corpus(folder, material.corpus))
        checkpoint, rows = by_first(lambda: _goes_on(run))
        with watching(config, folder, rows, progress, on_row, here.first) as watchers, quiet():
            shown = progress != "none" and here.first
            for text in told:
                _tell(watchers, text, lasting=True)
            if not trained:
                fit(config, run, material, Path(checkpoint) if checkpoint else None, watchers, shown)
            evaluate(config, run, material, revision, watchers, shown)
    return run


def material_of(config: RunConfig, announce: Callable[[str], object] = lambda text: None) -> Material:
    """What a run reads: the rows of its task, those of its T5, or its corpus."""
    if config.task is not None:
        return Answers(config, announce)
    return Targets(config, announce) if writes_targets(config) else Texts(config, announce)


@contextlib.contextmanager
def _claimed(config: RunConfig, folder: Path) -> Iterator[Run]:
    """The run's folder, held by the first process for all, which see it on one disk."""
    with contextlib.ExitStack() as stack:
        by_first(lambda: stack.enter_context(claimed(config, folder)) and None)
        with in_step():
            if not (folder / "config.json").exists():
                raise CurvekitError(
                    f"process {place().rank} does not see {folder}; name a folder that all machines share"
                )
        yield Run(folder)


def _goes_on(run: Run) -> tuple[str | None, list[Row]]:
    """The checkpoint from which training goes on, if any, and the rows of the history up to it."""
    if run.trained:
        return None, run.history
    checkpoint, rows = last_whole_checkpoint(run.folder / "checkpoints"), run.history
    if checkpoint and all(row["step"] < step_of(checkpoint) for row in rows):
        warnings.warn(f"{run.folder} has lost the history of its checkpoints; training begins anew", stacklevel=2)
        _clear(run.folder, "checkpoints")
        checkpoint = None
    return str(checkpoint) if checkpoint else None, _take_back(run.folder, rows, checkpoint)


def fit(
    config: RunConfig,
    run: Run,
    material: Material,
    checkpoint: Path | None = None,
    watchers: Sequence[Watcher] = (),
    progress: bool = False,
) -> None:
    """Train from the base, or on from a checkpoint; write the rows of ``history.jsonl``, then ``model/``.

    With patience the weights kept are those of the lowest validation loss, else the last ones.
    """
    here = place()
    tokenizer = first_then_others(
        lambda: run_tokenizer(config.tokenizer, config.base, material.vocabulary(), config.vocabulary)
    )
    with in_step():
        model = build(config, tokenizer)
        check_room(config, model.config.max_context)
        warn_if_leaking(model)
    by_first(lambda: _conform(run.folder, model, tokenizer, progress))
    tokens = run.folder / "tokens"
    by_first(lambda: [_scaffold(run.folder, name) and None for name in ("tokens", "checkpoints")])
    blocks, validation = first_then_others(lambda: material.examples(tokenizer, tokens, progress))
    if not isinstance(blocks, PackedBlocks | ShardedBlocks):
        _tell(watchers, f"{blocks}", lasting=True)
    if checkpoint is None:
        _convert(config, model, blocks)
    callbacks: list[TrainerCallback] = [History(run.folder / "history.jsonl", watchers)]
    if config.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.patience))
    arguments = training_arguments(
        config, run.folder / "checkpoints", model.config.base_is_random, checkpoint is None, material.counts_padding
    )
    cached = model.config.use_cache  # the Trainer turns it off, and what is saved shall generate with a cache
    counts = training_counts(blocks.stream, model.config.vocab_size) if config.loss == "inverse_frequency" else None
    trainer = RunTrainer(
        model,
        arguments,
        config,
        blocks,
        validation,
        callbacks,
        ahead=material.ahead,
        collator=material.collator(model),
        objective=Objective.of(config, counts, start_token(tokenizer)),
    )
    if here.world > 1:
        each = "each with a part of the weights" if is_sharded(model) else "each with all weights"
        _tell(watchers, f"{here.world} processes, {each}", lasting=True)
    if checkpoint is None or not is_last(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if here.first:
        if trainer.sharded:
            model = build(config, tokenizer)  # whole, for the weights that were saved
        model.config.use_cache = cached
        kept = _of_training(config, run.history)["kept_step"]
        load_weights(model, run.folder / "checkpoints" / f"checkpoint-{kept}" / WEIGHTS)
        material.prepare(model)
    by_first(lambda: _save_model(model, tokenizer, run.folder / "model"))


def build(config: RunConfig, tokenizer: Any) -> Any:
    """The model before its first step."""
    model = build_model(
        config.recipe,
        config.base,
        tokenizer,
        encoder=config.encoder,
        seed=config.seed,
        scratch=config.scratch,
        freeze=config.freeze,
        **_dropout(config) | config.overrides(),
    )
    if config.adapter == "lora":
        lora = Lora(config.rank, config.alpha, config.target_names(), config.adapter_dropout)
        add_adapter(model, config.base, lora, config.seed)
    return model


def _convert(config: RunConfig, model: Any, blocks: Any) -> None:
    """Let sinks that are new to a pretrained softmax model begin low; those that the base brought stay."""
    if model.config.attention != "sink" or model.config.base_is_random or not config.sink_share:
        return
    if model.config.is_encoder_decoder or "log_sink" in config.model:
        return
    sinks = [each for name, each in model.named_parameters() if name.endswith("log_sink")]
    if all((each == model.config.log_sink).all() for each in sinks):
        first = [blocks[i]["input_ids"] for i in range(min(8, len(blocks)))]
        calibrate(model, torch.stack(first).to(sinks[0].device), config.sink_share)


def evaluate(
    config: RunConfig,
    run: Run,
    material: Material,
    revision: dict[str, str],
    watchers: Sequence[Watcher] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Measure the trained model on what was held out, and write ``metrics.json``, the last file of a run.

    The figures of the test split stand at the top, those of the validation split under ``validation``.
    ``tokens_per_second`` and ``train_seconds`` count training steps alone. ``best_step`` had the lowest validation
    loss, ``kept_step`` are the weights that are scored.
    """
    here = place()
    device = torch.device(f"cuda:{here.local_rank}" if torch.cuda.is_available() else "cpu")
    model: Any = run.model()
    model.to(device)
    measured = material.measure(run, model, run.tokenizer(), revision, lambda text: _tell(watchers, text), progress)
    return by_first(lambda: _finished(config, run, model, measured, watchers))


def _finished(
    config: RunConfig, run: Run, model: Any, measured: Measured, watchers: Sequence[Watcher]
) -> dict[str, Any]:
    """Write the samples and, last of all, the metrics."""
    require_there(run.folder)
    write_jsonl(run.folder / "samples.jsonl", measured.samples)
    metrics = (
        {"recipe": config.recipe, "seed": config.seed, "fingerprint": config.fingerprint()}
        | measured.splits["test"]
        | measured.rest
        | _of_training(config, run.history)
        | {
            "parameters": model.num_parameters(),
            "trainable_parameters": model.num_parameters(only_trainable=True),
            "base_is_random": model.config.base_is_random,
            "precision": precision(config),
            "conformance": read_json(run.folder / CONFORMANCE) if (run.folder / CONFORMANCE).exists() else None,
            "validation": measured.splits["validation"],
        }
    )
    for watcher in watchers:
        watcher.finish(metrics, measured.samples)
    require_there(run.folder)
    write_json(run.folder / "metrics.json", metrics)
    _clear(run.folder)
    (run.folder / CONFORMANCE).unlink(missing_ok=True)  # metrics.json has it
    return metrics


def _clear(folder: Path, *scaffolds: str) -> None:
    """Remove what is needed only to go on, and is several times as large as the model; what is another's stays."""
    for name in scaffolds or ("checkpoints", "tokens"):
        place = folder / name
        for own in own_checkpoints(place):
            shutil.rmtree(own)
        for split in ("train", "validation"):
            (place / f"{split}.safetensors").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or somebody has put something into it
            if {path.name for path in place.iterdir()} <= {MARKER}:
                shutil.rmtree(place)


def _scaffold(folder: Path, name: str) -> Path:
    """A folder of what is needed only to go on, marked, so that what a disk damages in it is known to be ours."""
    place = folder / name
    place.mkdir(exist_ok=True)
    if not marker(place):
        mark(place, name)
    return place


def _conform(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: bool) -> None:
    """Measure once, before the first step, whether the model computes what it should; say it and keep it."""
    if (folder / CONFORMANCE).exists():
        return
    found = conformance(model, tokenizer)
    config: Any = model.config
    if config.registered and found.leak > 0 and not config.leaks:
        parts = " and ".join(map(repr, config.registered))
        raise CurvekitError(
            f"the recipe {config.recipe!r} sees the future through {parts}: its logits move by {found.leak:.1e} when "
            "later words change; mend what is registered"
        )
    if shown:
        print(f"conformance: {found.line()}", file=sys.stderr, flush=True)
    write_json(folder / CONFORMANCE, found.to_dict())


def _dropout(config: RunConfig) -> dict[str, float]:
    """The base's own settings of dropout: of embeddings and residuals, none of attention; a T5 has one for all."""
    architecture = architecture_of(base_config(config.base))
    if config.dropout and not architecture.dropouts:
        raise CurvekitError(f"dropout is {config.dropout}, and a {architecture.title} has none; leave it at 0")
    return {architecture.attention_dropout: 0.0} | dict.fromkeys(architecture.dropouts, config.dropout)


def _same_corpus(folder: Path, corpus: DatasetDict) -> dict[str, str]:
    """Note which texts the run began with; refuse to go on with others."""
    revision, path = revisions(corpus), folder / "corpus.json"
    if path.exists() and (before := read_json(path)) != revision:
        changed = [split for split in revision if before.get(split) != revision[split]]
        raise CurvekitError(
            f"the corpus has changed since the run in {folder} began (its {', '.join(changed)} texts); "
            "restore it or choose another folder"
        )
    write_json(path, revision)
    return revision


def _take_back(folder: Path, rows: Sequence[Row], checkpoint: Path | None) -> list[Row]:
    """Take back the rows after the checkpoint: they will be computed, and written, again."""
    last = step_of(checkpoint) if checkpoint else -1
    rows = [row for row in rows if row["step"] <= last]
    write_jsonl(folder / "history.jsonl", rows)
    return rows


def _save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write ``model/`` whole or not at all."""
    require_there(folder.parent)
    with writing(folder), replaced(folder, "model") as half:
        save_adapter(model, half) if is_adapted(model) else model.save_pretrained(half)
        tokenizer.save_pretrained(half)


def _of_training(config: RunConfig, history: Sequence[Row]) -> dict[str, Any]:
    """What the rows of the history say of the whole run."""
    steps = [row for row in history if "loss" in row]
    validations = [row for row in history if "validation_loss" in row and row["step"]]  # not the base's own
    best = min(validations, key=lambda row: row["validation_loss"])["step"]
    first, last = steps[0], steps[-1]
    # The first step warms up (kernels, compilation) and is left out of the rate.
    tokens, seconds = last["tokens"] - first["tokens"], last["seconds"] - first["seconds"]
    return {
        "steps": last["step"],
        "best_step": best,
        "kept_step": best if config.patience else last["step"],
        "train_tokens": last["tokens"],
        "train_seconds": last["seconds"],
        "tokens_per_second": tokens / seconds if seconds > 0 else last["tokens"] / max(last["seconds"], 1e-9),
    }


def _tell(watchers: Sequence[Watcher], text: str, lasting: bool = False) -> None:
    for watcher in watchers:
        watcher.say(text, lasting)
