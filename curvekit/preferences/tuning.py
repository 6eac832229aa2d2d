"""Training on preferences by trl: DPO, KTO, the chosen answers alone, a reward model, GRPO and RLOO.

What trl would do otherwise than the rest of this house is set right here: prompts are encoded as they are when the
model writes, its checkpoints are those of :mod:`curvekit.training.checkpoints`, its reference is the policy with the
adapter off and never opened by a name, reference log-probabilities are computed once and kept, padded prompts keep
their positions, and nothing is sent anywhere.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers.trainer_callback import PrinterCallback

from curvekit.errors import CurvekitError
from curvekit.files import write_atomically
from curvekit.modes import evaluating
from curvekit.preferences.diary import Diary, Told
from curvekit.preferences.encoding import answer_ids, prompt_ids
from curvekit.preferences.gathering import Preference, answers_of
from curvekit.preferences.policies import Policy, positions
from curvekit.preferences.rewards import Reward
from curvekit.preferences.settings import PreferenceConfig
from curvekit.training.checkpoints import SafeTrainer

REFERENCE = "reference.safetensors"
_CLASSES = {"dpo": "DPO", "kto": "KTO", "sft": "SFT", "reward": "Reward", "grpo": "GRPO", "rloo": "RLOO"}
_COLUMNS = {"dpo": ("ref_chosen_logps", "ref_rejected_logps"), "kto": ("ref_logps", "ref_KL_logps")}


def require_trl() -> Any:
    """The package trl.

    Raises:
        CurvekitError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("trl")
    except ImportError as error:
        raise CurvekitError("training on preferences needs trl; pip install 'curvekit[align]'") from error


def rows_of(config: PreferenceConfig, tokenizer: Any, pairs: Sequence[Preference]) -> Dataset:
    """The pairs as token ids, in the columns that the method's trainer reads."""
    rows: list[dict[str, Any]] = []
    for each in pairs:
        prompt = prompt_ids(tokenizer, each.prompt, config.chat)
        chosen = answer_ids(tokenizer, each.chosen, each.chosen_ended)
        rejected = answer_ids(tokenizer, each.rejected, each.rejected_ended)
        if config.method == "dpo":
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
        elif config.method == "kto":
            rows += [
                {"prompt_ids": prompt, "completion_ids": ids, "label": label}
                for ids, label in ((chosen, True), (rejected, False))
            ]
        elif config.method == "reward":
            rows.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
        else:
            labels = [-100] * len(prompt) + chosen
            rows.append({"input_ids": prompt + chosen, "labels": labels})
    if config.method == "kto":
        size = config.batch_size
        for first in range(0, len(rows), size):  # each prompt with another's answer, of which KTO estimates the KL
            part = rows[first : first + size]
            for row, other in zip(part, [part[-1], *part[:-1]], strict=True):
                row["KL_completion_ids"] = other["completion_ids"]
    return Dataset.from_list(rows)


def make_trainer(
    config: PreferenceConfig,
    policy: Policy,
    rows: Dataset,
    folder: Path,
    diary: Diary,
    reward: Reward | None = None,
) -> Any:
    """trl's trainer of the method, ready for ``train``; ``rows`` are pairs, or for GRPO and RLOO have ``prompt``."""
    trl = require_trl()
    name = _CLASSES[config.method]
    arguments = getattr(trl, f"{name}Config")(**_arguments(config, folder))
    base = getattr(trl, f"{name}Trainer")
    kind = _trainer(base, config, policy, folder)
    given: dict[str, Any] = {"args": arguments, "train_dataset": rows, "processing_class": policy.tokenizer}
    if reward is not None:
        given["reward_funcs"] = _reward_function(reward)
    trainer = kind(policy.model, callbacks=[Told(diary)], **given)
    trainer.remove_callback(PrinterCallback)
    if config.method in ("grpo", "rloo") and config.beta:
        trainer.beta, trainer.ref_model = config.beta, _REFERENCE
    return trainer


_REFERENCE = object()  # stands for the reference in the trainers that write: see ``_get_per_token_logps_and_entropies``


def _trainer(base: Any, config: PreferenceConfig, policy: Policy, folder: Path) -> Any:
    """trl's class with the house's checkpoints, encoding and reference."""

    class Trainer(SafeTrainer, base):
        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: it would be written among the checkpoints."""

        def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
            return dataset  # it is token ids already

        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            found = kept_reference(folder / REFERENCE, len(dataset), _COLUMNS[config.method])
            if found is None:
                found = _computed(self, policy, dataset, batch_size, _COLUMNS[config.method])
                write_atomically(folder / REFERENCE, lambda file: file.write(_as_bytes(found or {})))
            for column, values in found.items():
                dataset = dataset.add_column(column, values.tolist())
            return dataset

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
            return [prompt_ids(policy.tokenizer, prompt, config.chat) for prompt in prompts], None, {}

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, batch_size: Any = None,
            compute_entropy: bool = False, **_: Any,
        ) -> tuple[Any, Any, None]:  # fmt: skip
            labels = input_ids.masked_fill(attention_mask == 0, -100)
            labels[:, :-logits_to_keep] = -100
            given = {"attention_mask": attention_mask, "position_ids": positions(attention_mask), "labels": labels}
            if model is _REFERENCE:
                with policy.as_reference() as reference:
                    if reference is not policy.model:
                        return _plain(reference, input_ids, attention_mask, logits_to_keep, config), None, None
                    out = self.model(input_ids=input_ids, fused_lm_head=True, **given)
            else:
                out = model(input_ids=input_ids, fused_lm_head=True, **given)
            entropies = out.entropy[:, -logits_to_keep:] if compute_entropy else None
            return out.log_probs[:, -logits_to_keep:], entropies, None

    Trainer.__name__ = base.__name__
    return Trainer


def _plain(model: Any, ids: torch.Tensor, mask: torch.Tensor, answer: int, config: PreferenceConfig) -> torch.Tensor:
    """Log-probabilities of the last ``answer`` tokens at the temperature that they were drawn with."""
    given = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    logits = model(input_ids=ids, logits_to_keep=answer + 1, **given).logits[:, :-1].float() / config.temperature
    return logits.log_softmax(-1).gather(-1, ids[:, -answer:, None]).squeeze(-1)


def _reward_function(reward: Reward) -> Callable[..., list[float]]:
    def rewarded(prompts: list[str], completions: list[str], completion_ids: Any = None, **_: Any) -> list[float]:
        return reward(prompts, answers_of(completions))

    return rewarded


def kept_reference(path: Path, rows: int, columns: Sequence[str]) -> dict[str, torch.Tensor] | None:
    """The reference's log-probabilities of the answers as they were computed before, if they are whole."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError):
        return None
    right = found.keys() == set(columns) and all(len(each) == rows for each in found.values())
    return found if right else None


@torch.no_grad()
def _computed(
    trainer: Any, policy: Policy, dataset: Dataset, batch_size: int, columns: Sequence[str]
) -> dict[str, torch.Tensor]:
    from tqdm.auto import tqdm

    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    starts = range(0, len(dataset), batch_size)
    with evaluating(policy.model), policy.as_reference():
        for first in tqdm(starts, desc="reference log-probabilities", disable=None, leave=False):
            batch = trainer.data_collator([dataset[i] for i in range(first, min(first + batch_size, len(dataset)))])
            batch = {k: v.to(policy.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            parts.append(trainer.compute_ref_log_probs(policy.model, batch))
    both = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
    return dict(zip(columns, both, strict=True))


def _as_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def first_batch(trainer: Any, size: int) -> tuple[float, float]:
    """The loss of the first pairs, and the margin between the rewards of their answers; no gradient is kept."""
    rows = trainer.train_dataset
    batch = trainer.data_collator([rows[i] for i in range(min(size, len(rows)))])
    batch = {k: v.to(trainer.model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    margins = trainer._metrics["eval"].get("rewards/margins") or [math.nan]
    margin = float(margins[-1])
    trainer._metrics["eval"].clear()
    return loss, margin


def _arguments(config: PreferenceConfig, folder: Path) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    given: dict[str, Any] = {
        "output_dir": str(folder.resolve() / "checkpoints"),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.held,
        "gradient_accumulation_steps": config.batch_size // config.held,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(config.warmup * config.steps),
        "weight_decay": 0.0,
        "max_grad_norm": config.clip,
        "bf16": False,
        "use_cpu": not cuda,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_pin_memory": cuda,
        "disable_tqdm": True,
        "report_to": "none",
    }
    if config.method != "sft":
        given["disable_dropout"] = True
    if config.method in ("dpo", "kto"):
        given |= {"beta": config.beta, "max_length": None, "precompute_ref_log_probs": True}
        given |= {"precompute_ref_batch_size": config.held}
    if config.method == "dpo":
        losses = [config.loss] + (["sft"] if config.sft_weight else [])
        given |= {"loss_type": losses, "loss_weights": [1.0, config.sft_weight][: len(losses)]}
    if config.method in ("sft", "reward"):
        given["max_length"] = None
    if config.method in ("grpo", "rloo"):
        given |= {"beta": 0.0, "num_generations": config.generations, "temperature": config.temperature}
        given |= {"max_completion_length": config.answer_tokens, "top_p": 1.0, "top_k": 0}
    return given
