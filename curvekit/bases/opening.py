"""Opening what was saved: a run's model, a recipe's folder, or a base by name, with its tokeniser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from curvekit.bases import hub
from curvekit.bases.hub import pick_base
from curvekit.errors import CurvekitError, first_line
from curvekit.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: str | Path) -> PreTrainedModel:
    """A saved model, whole or an adapter on its base, on the CPU, in evaluation mode.

    Raises:
        CurvekitError: its files are missing, or cut off; or what :func:`curvekit.bases.adapters.open_adapter` raises.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import curvekit.modeling  # noqa: F401  registers the model with transformers
    from curvekit.bases.adapters import is_adapter, open_adapter

    if is_adapter(folder):
        return open_adapter(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CurvekitError(_not_whole("model", folder, error)) from error


def _not_whole(what: str, folder: str | Path, error: Exception) -> str:
    reason = first_line(error)
    return f"the {what} in {folder} is not whole ({reason}); restore it, or delete the run's folder and train it again"


def saved_tokenizer(folder: str | Path, name: str) -> PreTrainedTokenizerBase:
    """The tokeniser saved with a model; ``name`` is what signatures call it.

    Raises:
        CurvekitError: its files are missing, or cut off.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower
        raise CurvekitError(_not_whole("tokeniser", folder, error)) from error
    tokenizer.name_or_path = Path(name).name  # a signature names no folder of this machine
    return tokenizer


def base_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokeniser that a base brings: ``mini``, a folder, or a hub model.

    Raises:
        CurvekitError: the base has no tokeniser here and the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    where = hub.located(base)
    hub.require_model(where, "the base", "base='mini'", "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where,
            clean_up_tokenization_spaces=False,
            local_files_only=hub.local_only(where),
            trust_remote_code=False,
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise CurvekitError(f"the base {base!r} has no readable tokeniser ({first_line(error)})") from error
    if tokenizer.eos_token is None:
        raise CurvekitError(f"the tokeniser of {base!r} has no end-of-text token; curvekit puts one before a document")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def open_model(name: str | Path, recipe: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any model and its tokeniser, in evaluation mode, on the GPU if there is one.

    Args:
        name: a run's folder, a saved model's folder, or a base, such as ``gpt2``.
        recipe: for a base: what is built on it (default ``plain``, the base itself).

    Raises:
        CurvekitError: there is no such model, it is not whole, or a recipe is asked of one that has its own.
    """
    import torch

    from curvekit.bases.building import build_model
    from curvekit.modes import quiet

    folder = Path(name)
    saved = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if not saved:
        if folder.is_dir():
            raise CurvekitError(f"{folder} holds no run, model or base (no config.json); name a folder below it")
        pick_base(str(name))
    is_run = bool(saved) and "model_type" not in saved
    is_recipe = str(saved.get("model_type")).startswith("curve_")
    if recipe is not None and (is_run or is_recipe):
        raise CurvekitError(f"{folder} holds the recipe {saved.get('recipe')!r}; leave the recipe {recipe!r} out")
    with quiet():
        if is_run:
            own = saved.get("tokenizer", "base")
            model = load_model(folder / "model")
            tokenizer = saved_tokenizer(folder / "model", str(saved.get("base")) if own == "base" else str(own))
        else:
            tokenizer = base_tokenizer(str(name))
            tokenizer.name_or_path = folder.resolve().name  # a signature names no folder of this machine
            model = load_model(folder) if is_recipe else build_model(recipe or "plain", str(name), tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), tokenizer  # type: ignore[arg-type]  # transformers wraps Module.to without its self
