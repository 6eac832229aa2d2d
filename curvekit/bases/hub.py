"""Where models lie: with the package, on this disk, or on the hub, of which is decided within seconds if it answers."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from curvekit.errors import CurvekitError, first_line, pick
from curvekit.files import read_json

GPT2S = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
T5S = ("t5-small", "t5-base", "t5-large")
BASES = ("mini", "mini-curve", "gpt-neo-mini", "t5-mini", "smollm2", *GPT2S, *T5S)
# A base's name -> its folder in the package.
SHIPPED = {
    name: Path(__file__).parents[1] / "assets" / name for name in ("mini", "mini-curve", "gpt-neo-mini", "t5-mini")
}
# Bases that are a shape without weights -> the base whose tokeniser they have.
SHAPES = {"gpt-neo-mini": "mini", "t5-mini": "mini"}
SECONDS = 4.0  # that a server may take; with what is asked of it first, an answer or a sentence is there within five
MINUTE = 60.0
_PACE = 200.0  # bytes a second below which an answer has no end
_LONGEST = 255  # characters of a name
_UPLOAD = 1_000_000  # bytes of a request that may take its time
T = TypeVar("T")


def unreachable() -> str | None:
    """Why the hub cannot be used now, or None when it can. Asks at most once a minute, for a few seconds.

    One HEAD request, through the proxies and to the ``HF_ENDPOINT`` that ``huggingface_hub`` uses; any answer counts
    but that the server is in trouble (5xx). From then on every request of ``huggingface_hub`` in this process is
    bounded, see :class:`_Bounded`; one that got no answer is remembered for a minute.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _failure() or _asked(int(time.monotonic() / MINUTE), constants.ENDPOINT)


@functools.lru_cache(maxsize=1)
def _asked(minute: int, endpoint: str) -> str | None:
    _bound()
    return no_answer(endpoint, "the hub", _head_of_hub)


def no_answer(url: str, what: str, head: Callable[[str], int] | None = None) -> str | None:
    """Why a server cannot be used, or None when it answers a HEAD request within :data:`SECONDS`.

    ``head`` asks, and returns the status. It is asked in a thread because no time limit of a request covers a silent
    name server, or an answer that comes byte by byte.
    """

    def ask() -> str | None:
        try:
            code = (head or _head)(url)
        except Exception as error:
            return _failure() or f"{what} at {url} does not answer ({first_line(error)})"
        return f"{what} at {url} answers {code}" if code >= 500 else None

    try:
        return _within(ask)
    except TimeoutError:
        return f"{what} at {url} gave no answer within {SECONDS:g} seconds"


def _head_of_hub(url: str) -> int:
    from huggingface_hub.utils import get_session

    return get_session().head(url, timeout=SECONDS).status_code


def _head(url: str) -> int:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _within(ask: Callable[[], T]) -> T:
    """What a function returns or raises.

    Raises:
        TimeoutError: it does neither within :data:`SECONDS`; it is left alone then.
    """
    outcome: list[Callable[[], T]] = []

    def run() -> None:
        try:
            found = ask()
            outcome.append(lambda: found)
        except Exception as error:
            outcome.append(functools.partial(_raise, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcome:
        raise TimeoutError
    return outcome[0]()


def _raise(error: Exception) -> Any:
    raise error


# Every request of huggingface_hub, and so of transformers and datasets, is bounded: they themselves would retry a
# server that is silent, or in trouble, for minutes.

_last_failure: tuple[float, str, str] | None = None  # when, of which endpoint, why


def _failure() -> str | None:
    """Why a request to the hub got no answer in the last minute."""
    from huggingface_hub import constants

    if _last_failure is None or constants.HF_HUB_OFFLINE:
        return None
    when, endpoint, reason = _last_failure
    return reason if endpoint == constants.ENDPOINT and time.monotonic() - when < MINUTE else None


def require_answers() -> None:
    """Raise what a request of the last minute failed by: transformers words it as a file that is not there.

    Raises:
        CurvekitError: the hub fell silent, or is in trouble.
    """
    if reason := _failure():
        raise _failed(reason)


def _failed(reason: str) -> CurvekitError:
    from huggingface_hub import constants

    global _last_failure
    if _failure() is None:  # one that is only recalled does not last longer
        _last_failure = (time.monotonic(), constants.ENDPOINT, reason)
    return CurvekitError(f"{reason}; try again later, or use what is on this machine")


@functools.cache
def _bound() -> None:
    """Put :class:`_Bounded` around the transports of ``huggingface_hub``'s client."""
    from huggingface_hub import utils

    def factory() -> Any:
        client: Any = before()
        client._transport = bounded(client._transport)
        client._mounts = {key: each and bounded(each) for key, each in client._mounts.items()}
        return client

    before = utils._http._GLOBAL_CLIENT_FACTORY
    bounded = functools.partial(_Bounded, importlib.import_module(type(before()).__module__.partition(".")[0]))
    utils.set_client_factory(factory)


class _Bounded:
    """A transport whose answers begin within :data:`SECONDS` and then come at a pace that leads to an end.

    Raises:
        CurvekitError: they do not, or the server is in trouble (5xx). It is no error that anybody retries.
    """

    def __init__(self, library: Any, transport: Any) -> None:
        self.library, self.transport = library, transport

    def handle_request(self, request: Any) -> Any:
        host = f"{request.url.scheme}://{request.url.netloc.decode()}"
        if reason := _failure():
            raise _failed(reason)
        if int(request.headers.get("content-length", 0)) > _UPLOAD:
            return self.transport.handle_request(request)
        limits = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = limits | dict.fromkeys(("connect", "read", "write", "pool"), SECONDS)
        try:
            response = _within(lambda: self.transport.handle_request(request))
        except (TimeoutError, self.library.TimeoutException) as error:
            raise _failed(f"the hub at {host} gave no answer within {SECONDS:g} seconds") from error
        if response.status_code >= 500:
            response.close()
            raise _failed(f"the hub at {host} answers {response.status_code}")
        response.stream = _stream(self.library, response.stream, host)
        return response

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> _Bounded:
        self.transport.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.transport.__exit__(*error)


def _stream(library: Any, stream: Any, host: str) -> Any:
    """A stream of bytes that ends with an error when it stops, or drips."""

    class Stream(library.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            began, received = time.monotonic(), 0
            try:
                for piece in stream:
                    received += len(piece)
                    passed = time.monotonic() - began
                    if passed > SECONDS:
                        if received < _PACE * passed:
                            raise _failed(f"the hub at {host} sends {received / passed:.0f} bytes a second")
                        began, received = time.monotonic(), 0
                    yield piece
            except library.TimeoutException as error:
                raise _failed(f"the hub at {host} fell silent in the middle of an answer") from error

        def close(self) -> None:
            stream.close()

    return Stream()


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


def require_weights(name: str) -> None:
    """Return unless a base is a shape alone.

    Raises:
        CurvekitError: it has no weights to begin from.
    """
    if name in SHAPES:
        raise CurvekitError(f"the base {name!r} is a shape without weights; give scratch to begin from random ones")


def config_at_hand(name: str) -> dict[str, Any]:
    """``config.json`` of a shipped base or a folder; empty where a network would have to be asked, or it is none."""
    with contextlib.suppress(OSError, ValueError):
        path = Path(SHIPPED.get(name, name)) / "config.json"
        return read_json(path) if path.is_file() else {}
    return {}


def own_recipe(name: str) -> str | None:
    """The recipe that a shipped base or a saved model was trained with; None where it adds nothing to its own model."""
    saved = config_at_hand(name)
    is_curve = str(saved.get("model_type")).startswith("curve_")
    return saved.get("recipe") if is_curve and saved.get("recipe") not in ("plain", "gpt2") else None


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


def exists(name: str | Path) -> bool:
    """Whether there is such a file or folder; a name that none can have, because of its length or a NUL, has none."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def pick_base(name: str) -> None:
    """A known name, a folder on this disk, or a hub name ``owner/name`` pass; a misspelt name does not.

    Raises:
        CurvekitError: it is none of them, with the nearest known names.
    """
    if name in BASES or exists(name) or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return
    if len(name) > _LONGEST or "\n" in name or not name.strip():
        said = f"{name[:40]!r}..." if len(name) > 40 else repr(name)
        raise CurvekitError(f"{said} is no base and no folder; name one first, such as mini, and then the rest")
    if name.startswith((".", "/")):
        raise CurvekitError(f"there is no {name}; give an existing base, or one of: {', '.join(BASES)}")
    pick(name, BASES, "base")
