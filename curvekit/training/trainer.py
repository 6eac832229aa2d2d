"""One run: train a recipe with the Hugging Face Trainer, then score it on held-out text.

A run is two stages with a folder between them. :func:`fit` leaves ``model/``; :func:`evaluate` reads it back and
leaves ``metrics.json``. Whatever is killed goes on from the last thing that is whole: a checkpoint, the model, or
the metrics. The Trainer restores weights, optimiser, schedule, data order and dice, so the losses are those of a
run that nobody disturbed (bit for bit on a CPU; on a GPU as far as its kernels repeat themselves).
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from curvekit.bases.adapters import Lora, add_adapter, is_adapted, save_adapter
from curvekit.bases.building import architecture_of, base_config, build_model
from curvekit.bases.hub import SHIPPED
from curvekit.causality import warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.evaluation.conformance import conformance
from curvekit.evaluation.metrics import text_metrics
from curvekit.files import append_jsonl, finite, read_json, read_jsonl, write_json, write_jsonl
from curvekit.generation.streams import generate
from curvekit.modes import quiet
from curvekit.ownership import MARKER, mark, marker, replaced
from curvekit.text.packing import PaddedExamples, pack, pad
from curvekit.text.shards import PreparedCorpus, open_corpus, revisions
from curvekit.text.tokenization import DropoutTokenizer, run_tokenizer
from curvekit.training.checkpoints import (
    WEIGHTS,
    SafeTrainer,
    gone,
    is_last,
    last_whole_checkpoint,
    load_weights,
    own_checkpoints,
    step_of,
    writing,
)
from curvekit.training.dealing import Dealt, Filled
from curvekit.training.losses import frozen_head_loss
from curvekit.training.optimizers import adamw, decays, muon
from curvekit.training.preflight import check_room, check_run, check_texts, precision
from curvekit.training.processes import (
    agree,
    by_first,
    first_then_others,
    in_step,
    meeting,
    place,
    share_of_batch,
)
from curvekit.training.runs import HISTORY, LOCK, Run, claimed, load_run
from curvekit.training.scoring import shared_score
from curvekit.training.settings import SPLITS, RunConfig
from curvekit.training.sharding import is_sharded, shard
from curvekit.training.tracking import Row, Watcher, watching

__all__ = ["Run", "RunConfig", "evaluate", "fit", "load_run", "train"]

CONFORMANCE = "conformance.json"  # from the first step to metrics.json
LANGUAGE_METRICS = ("loss", "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
TEXT_METRICS = (
    *("bleu", "chrf", "rouge1", "rouge2", "rougeL"),
    *("distinct_1", "distinct_2", "distinct_3", "repetition_4", "self_bleu"),
)


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
    with meeting() as here, _claimed(config, folder) as run:
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
        corpus = first_then_others(lambda: open_corpus(config.corpus, config.data_dir, announce=told.append))
        agree(revisions(corpus), "corpora")
        with in_step():
            if not trained:
                check_texts(config, corpus)
        revision = by_first(lambda: _same_corpus(folder, corpus))
        checkpoint, rows = by_first(lambda: _goes_on(run))
        with watching(config, folder, rows, progress, on_row, here.first) as watchers, quiet():
            shown = progress != "none" and here.first
            for text in told:
                _tell(watchers, text, lasting=True)
            if not trained:
                fit(config, run, corpus, Path(checkpoint) if checkpoint else None, watchers, shown)
            evaluate(config, run, corpus, revision, watchers, shown)
    return run


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
    corpus: DatasetDict,
    checkpoint: Path | None = None,
    watchers: Sequence[Watcher] = (),
    progress: bool = False,
) -> None:
    """Train from the base, or on from a checkpoint; write the rows of ``history.jsonl``, then ``model/``.

    With patience the weights kept are those of the lowest validation loss, else the last ones.
    """
    here = place()
    tokenizer = first_then_others(
        lambda: run_tokenizer(config.tokenizer, config.base, corpus["train"]["text"], config.vocabulary)
    )
    with in_step():
        model = build(config, tokenizer)
        check_room(config, model.config.max_context)
        warn_if_leaking(model)
    by_first(lambda: _conform(run.folder, model, tokenizer, progress))
    tokens = run.folder / "tokens"
    by_first(lambda: [_scaffold(run.folder, name) and None for name in ("tokens", "checkpoints")])
    blocks, validation = first_then_others(lambda: _examples(config, corpus, tokenizer, tokens, progress))
    if isinstance(blocks, PaddedExamples):
        _tell(watchers, f"{blocks}", lasting=True)
    callbacks: list[TrainerCallback] = [_History(run.folder / "history.jsonl", watchers)]
    if config.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.patience))
    arguments = training_arguments(
        config, run.folder / "checkpoints", model.config.base_is_random, fresh=checkpoint is None
    )
    cached = model.config.use_cache  # the Trainer turns it off, and what is saved shall generate with a cache
    trainer = RunTrainer(model, arguments, config, blocks, validation, callbacks)
    if here.world > 1:
        kept = "each with a part of the weights" if is_sharded(model) else "each with all weights"
        _tell(watchers, f"{here.world} processes, {kept}", lasting=True)
    if checkpoint is None or not is_last(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if here.first:
        if trainer.sharded:
            model = build(config, tokenizer)  # whole, for the weights that were saved
        model.config.use_cache = cached
        kept = _of_training(config, run.history)["kept_step"]
        load_weights(model, run.folder / "checkpoints" / f"checkpoint-{kept}" / WEIGHTS)
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


def _examples(config: RunConfig, corpus: DatasetDict, tokenizer: Any, tokens: Path, progress: bool) -> tuple[Any, Any]:
    """What trains and what validates, cut into blocks."""
    laid_out = pad if config.examples == "padded" else pack

    def examples(split: str, texts: Any, cutter: Any) -> Any:
        path = tokens / f"{split}.safetensors"
        return laid_out(texts, cutter, config.block_size, path, progress, f"the {split} split")

    if isinstance(corpus, PreparedCorpus):
        blocks: Any = corpus.blocks(tokenizer, config.block_size)
    else:
        blocks = examples("train", *_training_text(config, corpus["train"], tokenizer))
    validation = examples("validation", _held_out(config, corpus, "validation", tokenizer), tokenizer)
    return blocks, validation


def evaluate(
    config: RunConfig,
    run: Run,
    corpus: DatasetDict,
    revision: dict[str, str],
    watchers: Sequence[Watcher] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Score the held-out splits, continue held-out beginnings, and write ``metrics.json``, the last file of a run.

    The figures of the test split stand at the top, those of the validation split under ``validation``.
    ``tokens_per_second`` and ``train_seconds`` count training steps alone. ``best_step`` had the lowest validation
    loss, ``kept_step`` are the weights that are scored.
    """
    here = place()
    device = torch.device(f"cuda:{here.local_rank}" if torch.cuda.is_available() else "cpu")
    model: Any = run.model()
    model.to(device)
    tokenizer: Any = run.tokenizer()
    figures: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        _require_there(run.folder)
        _tell(watchers, f"scoring the {split} documents")
        score = shared_score(
            model,
            tokenizer,
            _held_out(config, corpus, split, tokenizer),
            context=config.window,
            stride=config.stride,
            keep_tokens=config.keep_tokens,
            progress=progress,
            signature={
                "model": Path(config.base).name,
                "corpus": Path(config.corpus).name,
                "revision": revision[split],
                "split": split,
            },
        ).to_dict()
        by_first(lambda: write_json(run.folder / f"scores-{split}.json", score) and None)  # noqa: B023
        figures[split] = {name: score[name] for name in (*LANGUAGE_METRICS, "leaks", "signature")}
    return by_first(lambda: _finished(config, run, corpus, model, tokenizer, figures, watchers))


def _finished(
    config: RunConfig,
    run: Run,
    corpus: DatasetDict,
    model: Any,
    tokenizer: Any,
    figures: dict[str, dict[str, Any]],
    watchers: Sequence[Watcher],
) -> dict[str, Any]:
    """Write the samples and, last of all, the metrics."""
    _tell(watchers, "writing samples")
    samples = _samples(config, model, tokenizer, corpus["test"]["text"])
    write_jsonl(run.folder / "samples.jsonl", samples)
    texts: dict[str, Any] = dict.fromkeys(TEXT_METRICS)
    if samples:
        texts = text_metrics(
            [row["continuation"] for row in samples],
            [row["reference"] for row in samples],
            length=max(1, config.sample_tokens // 3),  # words; the same for every recipe, or diversity compares nothing
        )

    metrics = (
        {"recipe": config.recipe, "seed": config.seed, "fingerprint": config.fingerprint()}
        | figures["test"]
        | texts
        | _of_training(config, run.history)
        | {
            "parameters": model.num_parameters(),
            "trainable_parameters": model.num_parameters(only_trainable=True),
            "base_is_random": model.config.base_is_random,
            "precision": precision(config),
            "conformance": read_json(run.folder / CONFORMANCE) if (run.folder / CONFORMANCE).exists() else None,
            "validation": figures["validation"],
        }
    )
    for watcher in watchers:
        watcher.finish(metrics, samples)
    _require_there(run.folder)
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


def _require_there(folder: Path) -> None:
    if not (folder / LOCK).exists():
        raise gone(folder)


def _conform(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: bool) -> None:
    """Measure once, before the first step, whether the model computes what it should; say it and keep it."""
    if (folder / CONFORMANCE).exists():
        return
    found = conformance(model, tokenizer)
    if shown:
        print(f"conformance: {found.line()}", file=sys.stderr, flush=True)
    write_json(folder / CONFORMANCE, found.to_dict())


class RunTrainer(SafeTrainer):
    """The Trainer of a run: its batches, dealt out to all processes, its optimiser, and its loss."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        config: RunConfig,
        blocks: Any,
        validation: Any,
        callbacks: list[TrainerCallback],
    ) -> None:
        here = place()
        turn = arguments.per_device_train_batch_size * here.world
        super().__init__(
            model,
            arguments,
            train_dataset=Filled(blocks, turn) if here.world > 1 else blocks,
            eval_dataset=Filled(validation, turn) if here.world > 1 and validation is not None else validation,
            callbacks=callbacks,
            compute_metrics=_over_tokens,
            preprocess_logits_for_metrics=_hits,
        )
        self.remove_callback(PrinterCallback)
        self.sharded = config.shard and here.world > 1
        if self.sharded:
            shard(model)
            self.is_distributed_loading_by_transformers = True  # the Trainer leaves such a model as it is
        if config.optimizer == "muon" or config.added_rate != 1:  # else the Trainer's AdamW
            make = muon if config.optimizer == "muon" else adamw
            self.optimizer = make(model, arguments.learning_rate, config.weight_decay, config.added_rate)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        examples = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(examples, Filled):
            return Dealt(examples, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def _track_num_input_tokens(self, inputs: dict[str, torch.Tensor]) -> None:
        """Blank rows are no tokens."""
        if place().world > 1:
            real = (inputs["labels"] != -100).any(1)
            inputs = {name: inputs[name][real] for name in ("input_ids", "attention_mask") if name in inputs}
        super()._track_num_input_tokens(inputs)

    def prediction_step(self, *inputs: Any, **options: Any) -> Any:
        """A validation batch's loss is the mean over its own tokens, as :func:`_over_tokens` reads it."""
        self.args.average_tokens_across_devices = False
        try:
            return super().prediction_step(*inputs, **options)
        finally:
            self.args.average_tokens_across_devices = True

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Sum the gradients of a step's batches before they are shared."""
        model: Any = self.model
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """With an adapter the head is frozen, and a training step need not hold the logits of its batch."""
        own: Any = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        whole = return_outputs or self.args.fp16 or self.accelerator.num_processes > 1  # fp16 scales its loss first
        if whole or not is_adapted(own):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        nowhere = torch.zeros(0, dtype=torch.long, device=labels.device)
        states = model(**rest, logits_to_keep=nowhere, output_hidden_states=True).hidden_states[-1]
        return frozen_head_loss(states, own.get_output_embeddings().weight, labels, num_items_in_batch)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Matrices only: no bias, norm, gate, sink or curve's weight is pulled towards zero."""
        matrices = {name for name, parameter in model.named_parameters() if decays(name, parameter)}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]


class _History(TrainerCallback):
    """Writes the rows of ``history.jsonl`` and tells the watchers; its clock runs only while a step is computed."""

    def __init__(self, path: Path, watchers: Sequence[Watcher]) -> None:
        self.path, self.watchers = path, watchers
        self.seconds = max((row["seconds"] for row in read_jsonl(path, HISTORY) if "seconds" in row), default=0.0)
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.save_steps = args.save_steps  # a checkpoint brings the interval of its own time

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        state.log_history.clear()  # the rows are in the file; every checkpoint would write them all again
        row: Row = {"step": state.global_step}
        if "loss" in logs:
            self.seconds += time.perf_counter() - self.began
            row |= {
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": finite(logs.get("grad_norm")),
                "tokens": state.num_input_tokens_seen,
                "seconds": round(self.seconds, 4),
            }
        elif "eval_loss" in logs:
            row |= {
                "validation_loss": logs["eval_loss"],
                "validation_perplexity": math.exp(min(logs["eval_loss"], 700.0)),
                "validation_accuracy": logs["eval_accuracy"],
            }
        else:
            return
        loss = row.get("loss", row.get("validation_loss"))
        if finite(loss) is None:
            raise CurvekitError(
                f"the loss is {loss} at step {state.global_step}: training has come apart; "
                "lower learning_rate, lengthen warmup, or use precision 'float32'"
            )
        _require_there(self.path.parent)
        if place().first:
            append_jsonl(self.path, row)
        for watcher in self.watchers:
            watcher.row(row)


def training_arguments(config: RunConfig, folder: Path, base_is_random: bool, fresh: bool) -> TrainingArguments:
    """The Trainer's settings for a run whose checkpoints lie in ``folder``."""
    batch_size, accumulate = share_of_batch(config.batch_size, config.accumulate, place().world)
    cuda = torch.cuda.is_available()
    numbers = precision(config)
    rate = config.learning_rate
    arguments = TrainingArguments(
        use_cpu=not cuda,  # else accelerate knows no CPU among several
        output_dir=str(folder.resolve()),
        max_steps=config.steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=_default_rate(config, base_is_random) if rate is None else rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        bf16=numbers == "bf16",
        fp16=numbers == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        torch_compile=config.compile,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would put another number in the place of a NaN
        include_num_input_tokens_seen="all" if config.examples == "packed" else "non_padding",
        include_for_metrics=["loss"],
        eval_on_start=fresh and not base_is_random,  # what fine-tuning gains is seen from here
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_steps=config.eval_every if config.patience else config.save_every,
        save_total_limit=config.keep_checkpoints,
        load_best_model_at_end=config.patience > 0,
        metric_for_best_model="eval_loss" if config.patience else None,
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # else patience is counted anew after a resume
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # on several the Trainer would multiply the batch by their number
    return arguments


def _default_rate(config: RunConfig, base_is_random: bool) -> float:
    """What is recommended; an adapter's was measured on ``smollm2`` (0.5 to 4e-3; the gate gained nothing by more)."""
    if config.adapter == "lora":
        return 2e-3
    return 1e-3 if base_is_random or config.base in SHIPPED else 1e-4


def _over_tokens(predicted: EvalPrediction) -> dict[str, float]:
    """Loss and accuracy a scored token.

    ``losses`` has each batch's mean over its tokens once for every example. Averaged as they are, which is what the
    Trainer does by itself, a batch of short documents would weigh as much as one of long ones.
    """
    scored = np.asarray(predicted.label_ids)[:, 1:] != -100  # [examples, block - 1]
    counts = scored.sum(1)
    losses = np.where(counts, np.asarray(predicted.losses, np.float64)[: len(scored)], 0.0)  # a blank batch has none
    hits = np.asarray(predicted.predictions)[scored]
    return {"loss": float((losses * counts).sum() / scored.sum()), "accuracy": float(hits.mean())}


def _hits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Whether each next token was ranked first: booleans [batch, block - 1]."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits[:, :-1].argmax(-1) == labels[:, 1:]


def _dropout(config: RunConfig) -> dict[str, float]:
    """The base's own settings of dropout: of embeddings and residuals, none of attention."""
    architecture = architecture_of(base_config(config.base))
    if config.dropout and not architecture.dropouts:
        raise CurvekitError(f"dropout is {config.dropout}, and a {architecture.title} has none; leave it at 0")
    return dict.fromkeys(architecture.dropouts, config.dropout) | {architecture.attention_dropout: 0.0}


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
    _require_there(folder.parent)
    with writing(folder), replaced(folder, "model") as half:
        save_adapter(model, half) if is_adapted(model) else model.save_pretrained(half)
        tokenizer.save_pretrained(half)


def _training_text(config: RunConfig, texts: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Any]:
    """The training text and what cuts it; with dropout, as many passes over it as the steps take, each cut anew.

    All passes lie in one stream, whose blocks are shuffled together. It follows from the texts and the seed, so a
    run goes on with the same cuts.
    """
    if config.tokenizer != "bpe-dropout":
        return texts, tokenizer
    wanted, once = config.steps * config.accumulate * config.batch_size, len(texts)
    if config.examples == "packed":
        once = len(
            pack(texts, tokenizer, config.block_size, progress=False, name="the train split")
        )  # with dropout it is some more
    return texts.repeat(math.ceil(wanted / once)), DropoutTokenizer(tokenizer, seed=config.seed)


def _held_out(config: RunConfig, corpus: DatasetDict, split: str, tokenizer: Any) -> list[str]:
    """The first documents of a split; to validate, as many more as one block needs, if they are very short."""
    texts = corpus[split]["text"]
    if split == "test":
        return list(texts[: config.eval_documents])
    taken, tokens = list(texts[: config.validation_documents]), 0
    for number, text in enumerate(texts):
        if tokens >= config.block_size or config.examples == "padded":
            break
        tokens += len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if number >= len(taken):
            taken.append(text)
    return taken


def _samples(config: RunConfig, model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> list[dict[str, str]]:
    """Continue the beginnings of the first documents that are long enough, or else of the longest.

    A document shorter than a beginning and its continuation is cut in the middle.
    """
    if not config.sample_prompts:
        return []
    whole = config.prompt_tokens + config.sample_tokens
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:whole] for text in texts]
    longest = sorted(range(len(ids)), key=lambda i: -len(ids[i]))[: config.sample_prompts]
    rows = []
    for document in (ids[i] for i in sorted(longest) if len(ids[i]) > 1):
        cut = min(config.prompt_tokens, len(document) // 2)
        rows.append((tokenizer.decode(document[:cut]), tokenizer.decode(document[cut:])))
    continuations = generate(
        model,
        tokenizer,
        [prompt for prompt, _ in rows],
        max_new_tokens=config.sample_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    return [
        {"prompt": prompt, "continuation": text, "reference": reference}
        for (prompt, reference), text in zip(rows, continuations, strict=True)
    ]


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
