"""A run as a folder that is a Hugging Face Space: its model, this package, an app, what it requires and a card."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
from pathlib import Path

import curvekit
from curvekit.errors import CurvekitError
from curvekit.files import write_text

APP = '''"""The demo of {name}: started by the Space, or by `python app.py`."""

import os

from curvekit.bases.opening import open_model
from curvekit.serving.gradio_demo import demo, launch

blocks = demo({{{name!r}: open_model("model")}})

if __name__ == "__main__":
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    launch(blocks, server_name=host, server_port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
'''
CARD = """---
title: {name}
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: mit
---

# {name}

A model of curvekit, recipe `{recipe}`, {parameters:.1f} million parameters. The same prompt, settings and seed write
the same text here as `curvekit generate model` writes.
{warning}
`app.py` starts the demo; `curvekit/` is the package as it was when this folder was written, `model/` the weights.
"""
LEAKS = "\nThis recipe sees later words of a prompt: its perplexities mean nothing.\n"
NEEDED = (
    "torch", "transformers", "tokenizers", "safetensors", "accelerate", "datasets", "huggingface_hub", "numpy", "scipy",
    "filelock", "tqdm", "matplotlib", "gradio", "fastapi", "prometheus-client", "nbconvert", "nbformat", "nbclient",
    "ipywidgets", "ipykernel", "jupyter_client", "papermill", "sacrebleu", "rouge_score", "gguf", "pillow",
)  # fmt: skip


def space(run: str | Path, folder: str | Path) -> Path:
    """Write the Space of a run, a saved model or a base; return its folder.

    Raises:
        CurvekitError: there is no such model, or the folder is there and not empty.
    """
    from curvekit.bases.opening import open_model

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CurvekitError(f"{folder} is there already; name a new folder, or empty it")
    model, tokenizer = open_model(run)
    name = re.sub(r"[^\w.+-]+", "-", Path(run).resolve().name if Path(run).exists() else str(run))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            model.save_pretrained(new / "model")
            tokenizer.save_pretrained(new / "model")
            package = Path(curvekit.__file__).parent
            shutil.copytree(package, new / "curvekit", ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "mini*"))
            write_text(new / "app.py", APP.format(name=name))
            write_text(new / "requirements.txt", requirements())
            write_text(new / "README.md", _card(name, model))
            new.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise CurvekitError(f"cannot write {folder} ({error.strerror or error}); choose another folder") from error
    return folder


def requirements() -> str:
    """The packages that the demo loads, in the versions that are installed here."""
    lines = []
    for name in NEEDED:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "\n".join(lines) + "\n"


def _card(name: str, model: object) -> str:
    config = model.config  # type: ignore[attr-defined]
    return CARD.format(
        name=name,
        gradio=importlib.metadata.version("gradio"),
        python="3.11",
        recipe=getattr(config, "recipe", "plain"),
        parameters=sum(each.numel() for each in model.parameters()) / 1e6,  # type: ignore[attr-defined]
        warning=LEAKS if getattr(config, "leaks", False) else "",
    )
