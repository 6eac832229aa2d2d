"""Small files of steering: tensors with what they are and whose states they were made from, as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from curvekit.errors import CurvekitError, first_line
from curvekit.files import checked_path, present, write_atomically
from curvekit.shapes import require

_ROWS = 64  # of the embedding, by which a model is known again


def trait(model: PreTrainedModel) -> str:
    """12 hexadecimal digits of a model's shape and of its first words' embeddings."""
    words: Any = model.get_input_embeddings()
    digest = hashlib.sha256(f"{model.config.hidden_size} {model.config.num_hidden_layers}".encode())
    digest.update(words.weight[:_ROWS].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def save_part(path: str | Path, kind: str, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> Path:
    """Write tensors and what is told of them, whole or not at all.

    Raises:
        CurvekitError: the file is there and is something else, or cannot be written.
    """
    path = require_place(checked_path(path), kind)
    metadata = {"format": "pt", "kind": kind, "told": json.dumps(dict(told), ensure_ascii=False)}
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, metadata=metadata)
    return write_atomically(path, lambda file: file.write(content))


def require_place(path: Path, kind: str) -> Path:
    """Return a path where there is nothing yet, or something of this kind.

    Raises:
        CurvekitError: something else is there.
    """
    if present(path) and (not path.is_file() or (path.stat().st_size and _kind(path) != kind)):
        raise CurvekitError(f"{path} is no {kind} and would be overwritten; name another file")
    return path


def _kind(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("kind")
    except (SafetensorError, OSError):
        return None


def open_part(
    path: str | Path, kind: str, shape: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and what is told of them.

    Raises:
        CurvekitError: there is no such file, it is cut off, or it is something else.
    """
    path = checked_path(path, f"the {kind}")
    if not path.is_file():
        raise CurvekitError(f"there is no {kind} {path}; name its file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(metadata.get("told", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CurvekitError(f"{path} is no {kind}, or cut off ({first_line(error)}); make it again") from error
    if metadata.get("kind") != kind or not set(names) <= tensors.keys():
        raise CurvekitError(f"{path} is no {kind}; name the file of one")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CurvekitError(f"{path} holds what is no number; make it again")
    return tensors, require(found, dict(shape), path)


def require_same(path: str | Path, kind: str, model_trait: str, model: PreTrainedModel, width: int) -> None:
    """Return where a part was made from this model's states.

    Raises:
        CurvekitError: it was made from another's.
    """
    own = model.config.hidden_size
    if width != own or trait(model) != model_trait:
        raise CurvekitError(
            f"the {kind} {path} was made from the states of another model (width {width}, "
            f"{model_trait}) than this one (width {own}, {trait(model)}); make one from it"
        )
