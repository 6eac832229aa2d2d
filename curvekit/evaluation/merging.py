"""Merging: an adapter's run made into one whole model in a folder, and what that changes, measured.

The change is that in the logits, and ``KL(p || q)`` of the next word's distributions, of the model with the adapter
beside its base (p) and of the merged one (q), over a text. Merging rounds once, in float32. A cast to half precision
rounds every weight, and mostly back to where the base's own would be: it is measured where it is asked for, and the
share of weights that it leaves there is told.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from curvekit.bases.adapters import beside, is_adapted, merge
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.evaluation.conformance import TEXT, divergence, largest_change, text_ids
from curvekit.files import read_jsonl, write_json
from curvekit.modes import quiet

RECORD = "merge.json"
TOKENS = 512


@torch.no_grad()
def merge_run(
    folder: str | Path, out: str | Path, text: str | None = None, cast: str | None = None, tokens: int = TOKENS
) -> dict[str, Any]:
    """Write the whole model of an adapter's run to ``out``, all of it or nothing; return what was measured.

    Args:
        folder: a run's, or that of its model.
        out: a new or empty folder, or one that this wrote before.
        text: what is measured on, its first ``tokens``; default: what the run continued of held-out documents, else
            a few sentences.
        cast: ``bfloat16`` or ``float16``, to measure a cast of the whole too; what is written stays float32.

    Returns:
        ``tokens`` read, and under ``merged`` (and ``cast``) ``dtype``, ``logits`` (largest change in any) and ``kl``
        (nats a token); of a cast also ``unmoved``, the share of the merged matrices' weights that it puts where the
        base's own cast is. ``out/merge.json`` holds the same.

    Raises:
        CurvekitError: no adapter is there, ``out`` holds something else, or it cannot be written.
    """
    folder, out = Path(folder), Path(out)
    _require_place(out)
    model, tokenizer = open_model(folder)
    if not is_adapted(model):
        raise CurvekitError(f"{folder} holds a whole model and no adapter, so there is nothing to merge; use it as is")
    record: dict[str, Any] = {"base": model.base_record}
    model.cpu()
    ids = text_ids(model, tokenizer, text or _held_out(folder) or TEXT, tokens)
    before = _logits(model, ids)
    base = {name: weight.to(_type(cast)) for name, weight in beside(model).items()} if cast else {}
    merge(model)
    report: dict[str, Any] = {"tokens": ids.shape[1], "merged": {"dtype": "float32"} | _changes(before, model, ids)}
    _write(model, tokenizer, out, record | report)
    if cast:
        half: Any = model.to(_type(cast))  # type: ignore[arg-type]  # transformers wraps Module.to without its self
        same = sum(torch.eq(half.get_submodule(name).weight, weight).sum().item() for name, weight in base.items())
        unmoved = same / sum(weight.numel() for weight in base.values())
        report["cast"] = {"dtype": cast} | _changes(before, half, ids) | {"unmoved": unmoved}
        write_json(out / RECORD, record | report)
    return report


def _type(name: str | None) -> torch.dtype:
    return getattr(torch, str(name))


def _changes(before: Tensor, model: Any, ids: Tensor) -> dict[str, float]:
    after = _logits(model, ids)
    return {"logits": largest_change(before, after), "kl": divergence(before, after)}


def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


def _held_out(folder: Path) -> str:
    """The held-out text that a run kept beside what it wrote."""
    run = folder.parent if folder.name == "model" else folder
    return "\n\n".join(row["prompt"] + row["reference"] for row in read_jsonl(run / "samples.jsonl"))


def _require_place(out: Path) -> None:
    if out.is_dir() and (out / RECORD).is_file():
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CurvekitError(f"{out} holds something else than a merged model; choose a new folder")


def _write(model: Any, tokenizer: Any, out: Path, record: dict[str, Any]) -> None:
    """Put a folder in its place in one step; an older one goes when the new one is whole."""
    half = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        with quiet():
            model.save_pretrained(half / "new")
            tokenizer.save_pretrained(half / "new")
        write_json(half / "new" / RECORD, record)
        if out.exists():
            out.rename(half / "old")
        (half / "new").rename(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CurvekitError(f"cannot write {out}: {reason}; choose another folder or free some space") from error
    finally:
        if half is not None:
            if (half / "old").exists() and not out.exists():
                (half / "old").rename(out)
            shutil.rmtree(half, ignore_errors=True)
