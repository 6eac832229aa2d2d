"""Where models lie: with the package, on this disk, or on the hub, of which is decided within seconds if it answers."""

from __future__ import annotations

import functools
import re
import threading
import time
from pathlib import Path

from curvekit.errors import CurvekitError, pick

BASES = ("mini", "smollm2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
SHIPPED = {"mini": Path(__file__).parents[1] / "assets" / "mini"}  # a base's name -> its folder in the package
SECONDS = 3.0
MINUTE = 60.0


def unreachable() -> str | None:
    """Why the hub cannot be used now, or None when it can. Asks at most once a minute, for at most a few seconds.

    One HEAD request, through the proxies and to the ``HF_ENDPOINT`` that ``huggingface_hub`` uses; any HTTP
    answer counts. It is asked in a thread because no time limit of a request covers a silent name server.
    """
    return _asked(int(time.monotonic() / MINUTE))


@functools.lru_cache(maxsize=1)
def _asked(minute: int) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    endpoint = constants.ENDPOINT
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=SECONDS)
            outcome.append(None)
        except Exception as error:
            outcome.append(f"the hub at {endpoint} does not answer ({error or type(error).__name__})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return outcome[0] if outcome else f"the hub at {endpoint} gave no answer within {SECONDS:g} seconds"


def require(what: str, instead: str) -> None:
    """Return when the hub can be reached.

    Raises:
        CurvekitError: ``what`` is not on this machine and the hub cannot be reached; do ``instead``.
    """
    reason = unreachable()
    if reason is not None:
        raise CurvekitError(f"{what} is not on this machine and {reason}; {instead}")


def require_model(name: str, what: str, instead: str, *files: str) -> None:
    """Return when a model's folder, one of its ``files`` in the local cache, or the hub can be read.

    Raises:
        CurvekitError: none of them can; take ``instead``, which ships with a package.
    """
    if not (Path(name).is_dir() or any(cached(name, file) for file in (*files, "config.json"))):
        require(f"{what} {name!r}", f"use {instead}, which needs no network, or a local folder")


def located(name: str) -> str:
    """The folder of what ships with the package, of ``smollm2`` or of a GGUF file (made at first), else the name.

    Raises:
        CurvekitError: as :func:`curvekit.bases.smollm2.locate` and :func:`curvekit.bases.gguf.converted`.
    """
    if name == "smollm2":
        from curvekit.bases import smollm2

        return smollm2.locate()
    if name.endswith(".gguf"):
        from curvekit.bases import gguf

        return str(gguf.converted(name))
    return str(SHIPPED.get(name, name))


def cached(repository: str, filename: str = "config.json") -> bool:
    """Whether a file of a hub repository lies in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, filename), str)
    except HFValidationError:  # a path, and no hub's name
        return False


def local_only(name: str) -> bool:
    """Whether a folder or a cached repository must be read without asking the hub for a newer one."""
    return Path(name).is_dir() or unreachable() is not None


def pick_base(name: str) -> None:
    """A known name, a folder on this disk, or a hub name ``owner/name`` pass; a misspelt name does not.

    Raises:
        CurvekitError: it is none of them, with the nearest known names.
    """
    if name in BASES or Path(name).exists() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return
    if name.startswith((".", "/")):
        raise CurvekitError(f"there is no {name}; give an existing base, or one of: {', '.join(BASES)}")
    pick(name, BASES, "base")
