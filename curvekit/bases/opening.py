"""Opening what was saved: a run's model, a recipe's folder, or a base by name, with its tokeniser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from curvekit.bases import hub
from curvekit.bases.hub import pick_base
from curvekit.bases.saved import check_saved
from curvekit.bases.tokenizer import base_tokenizer, saved_tokenizer
from curvekit.bases.weights import load_checked
from curvekit.errors import CurvekitError
from curvekit.files import checked_path, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: str | Path) -> PreTrainedModel:
    """A saved model, whole or an adapter on its base, on the CPU, in evaluation mode.

    Raises:
        CurvekitError: its files are missing, cut off or changed, or its tensors are not those of its configuration.
            Of an adapter, what :func:`curvekit.bases.adapters.open_adapter` raises.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    import curvekit.t5  # noqa: F401  registers the models with transformers
    from curvekit.bases.adapters import is_adapter, open_adapter

    if not Path(folder).is_dir():
        raise CurvekitError(f"there is no model yet in {folder}; give the run's command again, it goes on")
    if is_adapter(folder):
        return open_adapter(folder)
    check_saved(folder)
    kind = AutoModelForSeq2SeqLM if writes_targets(folder) else AutoModelForCausalLM
    return load_checked(kind, folder, f"the model in {folder}", local_files_only=True, trust_remote_code=False)


def writes_targets(folder: str | Path) -> bool:
    """Whether what is saved in a folder is a T5, with a curve or without, which writes a target for a source."""
    from curvekit.t5 import SEQ2SEQ

    path = Path(folder) / "config.json"
    return path.is_file() and str(read_json(path).get("model_type")).removeprefix("curve_") in SEQ2SEQ


def open_model(
    name: str | Path, recipe: str | None = None, *, seq2seq: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any model and its tokeniser, in evaluation mode, on the GPU if there is one.

    Args:
        name: a run's folder, a saved model's folder, or a base, such as ``gpt2``.
        recipe: for a base: what is built on it (default: the base itself, which is ``plain``, or of ``mini-curve`` the
            recipe that it was pretrained with).
        seq2seq: whether who asks can use a T5, which continues no text but writes a target for a source.

    Raises:
        CurvekitError: a T5 for one who cannot; there is no such model, it is not whole, or a recipe is asked of one
            that has its own.
    """
    import torch

    from curvekit.bases.building import base_config, build_model, is_seq2seq, plain_name
    from curvekit.modes import quiet

    folder = checked_path(name, "the model")
    name = str(folder) if str(name).startswith("~") else name
    saved = read_json(folder / "config.json") if hub.exists(folder / "config.json") else {}
    if not saved:
        if hub.exists(folder) and folder.is_dir():
            raise CurvekitError(f"{folder} holds no run, model or base (no config.json); name a folder below it")
        pick_base(str(name))
    is_run = bool(saved) and "model_type" not in saved
    is_recipe = str(saved.get("model_type")).startswith("curve_")
    ships_so = not saved and recipe is None and hub.own_recipe(str(name)) is not None
    if recipe is not None and (is_run or is_recipe):
        raise CurvekitError(f"{folder} holds the recipe {saved.get('recipe')!r}; leave the recipe {recipe!r} out")
    with quiet():
        held = folder / "model" if is_run else folder
        if not seq2seq and (writes_targets(held) if saved else is_seq2seq(base_config(str(name)))):
            raise CurvekitError(
                f"{name} is a T5, which writes a target for a source and continues no text; give a GPT-2, GPT-Neo or "
                "LLaMA, or use `curvekit evaluate`, `curvekit generate` or `curvekit check`"
            )
        if is_run and not held.is_dir():
            raise CurvekitError(f"the run in {folder} has no model yet; give its command again, it goes on")
        if is_run:
            own = saved.get("tokenizer", "base")
            model = load_model(held)
            tokenizer = saved_tokenizer(held, str(saved.get("base")) if own == "base" else str(own))
        else:
            tokenizer = base_tokenizer(str(name))
            tokenizer.name_or_path = folder.resolve().name  # a signature names no folder of this machine
            if is_recipe or ships_so:
                model = load_model(folder if is_recipe else hub.located(str(name)))
            else:
                model = build_model(recipe or plain_name(str(name)), str(name), tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), tokenizer  # type: ignore[arg-type]  # transformers wraps Module.to without its self
