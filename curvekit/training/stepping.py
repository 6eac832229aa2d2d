"""The steps of a run: the Trainer with a run's batches, optimiser and loss, and the rows that it leaves behind."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from curvekit.bases.adapters import is_adapted
from curvekit.bases.hub import SHIPPED
from curvekit.errors import CurvekitError
from curvekit.files import append_jsonl, finite, read_jsonl
from curvekit.training.checkpoints import SafeTrainer
from curvekit.training.dealing import Dealt, Filled
from curvekit.training.losses import frozen_head_loss
from curvekit.training.objectives import Objective, plain_with_gradient_of
from curvekit.training.optimizers import adamw, decays, lost, muon
from curvekit.training.preflight import precision
from curvekit.training.processes import place, share_of_batch
from curvekit.training.runs import HISTORY, require_there
from curvekit.training.settings import RunConfig
from curvekit.training.sharding import shard
from curvekit.training.tracking import Row, Watcher


class RunTrainer(SafeTrainer):
    """The Trainer of a run: its batches, dealt out to all processes, its optimiser, and its loss."""

    objective: Objective

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        config: RunConfig,
        blocks: Any,
        validation: Any,
        callbacks: list[TrainerCallback],
        *,
        ahead: bool = True,
        collator: Any = None,
        objective: Objective | None = None,
    ) -> None:
        here = place()
        turn = arguments.per_device_train_batch_size * here.world
        super().__init__(
            model,
            arguments,
            train_dataset=Filled(blocks, turn) if here.world > 1 else blocks,
            eval_dataset=Filled(validation, turn) if here.world > 1 and validation is not None else validation,
            callbacks=callbacks,
            compute_metrics=functools.partial(over_tokens, ahead=ahead),
            preprocess_logits_for_metrics=functools.partial(hits_of, ahead=ahead),
            data_collator=collator,
        )
        self.objective = objective or Objective()
        self.remove_callback(PrinterCallback)
        self.sharded = config.shard and here.world > 1
        if self.sharded:
            shard(model)
            self.is_distributed_loading_by_transformers = True  # the Trainer leaves such a model as it is
        if config.optimizer == "muon" or {config.added_rate, config.site_rate} - {1, None}:  # else the Trainer's AdamW
            make = muon if config.optimizer == "muon" else adamw
            rates = config.added_rate, config.site_rate
            self.optimizer = make(model, arguments.learning_rate, config.weight_decay, *rates)

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
        """A validation batch's loss is the mean over its own tokens, as :func:`over_tokens` reads it."""
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
        """The plain loss, with the gradient of the run's objective where that is another.

        With an adapter the head is frozen, and a training step with the plain loss need not hold its batch's logits.
        """
        if not self.objective.is_plain and torch.is_grad_enabled():
            plain, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            rest = {name: inputs.get(name) for name in ("attention_mask", "position_ids")}
            found = self.objective(outputs.logits, inputs["labels"], inputs["input_ids"], num_items_in_batch, **rest)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                found = found * self.accelerator.num_processes  # gradients are averaged over them; so is the plain loss
            loss = plain_with_gradient_of(plain, found)
            return (loss, outputs) if return_outputs else loss
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


class History(TrainerCallback):
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
        apart = finite(loss) is None
        if apart or finite(logs.get("grad_norm", 0.0)) is None:  # in float16 a step of such a gradient is left out
            gone = lost(kwargs["model"])
            if apart or gone:
                raise CurvekitError(
                    f"the loss is {loss} at step {state.global_step}{gone}: training has come apart; "
                    "lower learning_rate, lengthen warmup, or use precision 'float32'"
                )
        require_there(self.path.parent)
        if place().first:
            append_jsonl(self.path, row)
        for watcher in self.watchers:
            watcher.row(row)


def training_arguments(
    config: RunConfig, folder: Path, base_is_random: bool, fresh: bool, counts_padding: bool = True
) -> TrainingArguments:
    """The Trainer's settings for a run whose checkpoints lie in ``folder``."""
    batch_size, accumulate = share_of_batch(config.batch_size, config.accumulate, place().world)
    cuda = torch.cuda.is_available()
    numbers = precision(config)
    arguments = TrainingArguments(
        use_cpu=not cuda,  # else accelerate knows no CPU among several
        output_dir=str(folder.resolve()),
        max_steps=config.steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=highest_rate(config, base_is_random),
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
        include_num_input_tokens_seen="all" if counts_padding else "non_padding",
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


def highest_rate(config: RunConfig, base_is_random: bool) -> float:
    """The learning rate that was set, or what is recommended.

    An adapter's was measured on ``smollm2`` (0.5 to 4e-3; the gate gained nothing by more).
    """
    if config.learning_rate is not None:
        return config.learning_rate
    if config.adapter == "lora":
        return 2e-3
    return 1e-3 if base_is_random or config.base in SHIPPED else 1e-4


def over_tokens(predicted: EvalPrediction, ahead: bool = True) -> dict[str, float]:
    """Loss and accuracy a scored token; a label is ``ahead`` of its logits by one, but in a T5's target beside them.

    ``losses`` has each batch's mean over its tokens once for every example. Averaged as they are, which is what the
    Trainer does by itself, a batch of short documents would weigh as much as one of long ones.
    """
    scored = np.asarray(predicted.label_ids)[:, int(ahead) :] != -100  # [examples, block - 1]
    counts = scored.sum(1)
    losses = np.where(counts, np.asarray(predicted.losses, np.float64)[: len(scored)], 0.0)  # a blank batch has none
    hits = np.asarray(predicted.predictions)[scored]
    return {"loss": float((losses * counts).sum() / scored.sum()), "accuracy": float(hits.mean())}


def hits_of(logits: Any, labels: torch.Tensor, ahead: bool = True) -> torch.Tensor:
    """Whether each token was ranked first: booleans [batch, block - 1], of a target [batch, time]."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits[:, :-1].argmax(-1) == labels[:, 1:] if ahead else logits.argmax(-1) == labels
