"""A service that runs: a free port, a key where others can reach it, and an end that finishes what was begun."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvekit.errors import CurvekitError

if TYPE_CHECKING:
    import uvicorn

KEY_VARIABLE = "CURVEKIT_API_KEY"
Voices = Mapping[str, tuple[Any, Any]]


@contextlib.contextmanager
def extra(name: str = "serve") -> Iterator[None]:
    """Imports inside need an extra; where it is not installed, a sentence says so."""
    try:
        yield
    except ImportError as error:
        raise CurvekitError(
            f"this needs the extra {name!r}, which is not installed; pip install 'curvekit[{name}]'"
        ) from error


def gathered(models: Sequence[Any]) -> Voices:
    """Models and tokenisers by name, of names, folders, runs, or such a mapping.

    Raises:
        CurvekitError: there is none, or one cannot be had.
    """
    from curvekit.widgets.voices import load_voices

    if len(models) == 1 and isinstance(models[0], Mapping):
        return models[0]
    names = [str(getattr(each, "folder", each)) for each in models]
    if not names:
        raise CurvekitError("name a model: a base such as mini, or the folder of a run")
    return load_voices(names)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        CurvekitError: the port is taken, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(1024)
        except OSError:
            bound.close()
            raise
        return bound
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CurvekitError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --port (0 takes a free one)"
        ) from error


def loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_of(host: str, file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key from a file or the environment; needed where other machines reach the service.

    Raises:
        CurvekitError: it is needed and missing, or weak, or its file cannot be read.
    """
    try:
        key = file.read_text(encoding="utf-8").strip() if file else environment.get(KEY_VARIABLE, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CurvekitError(f"cannot read the key in {file} ({error}); write it there as one line") from error
    if not key:
        if file or not loopback(host):
            raise CurvekitError(
                (f"{file} is empty" if file else f"other machines reach {host}, so the service needs a key")
                + f"; write one of 16 characters or more into a file for --key-file, or into {KEY_VARIABLE}"
            )
        return None
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise CurvekitError(
            "the key is shorter than 16 characters, or holds others than ASCII letters; make a longer one"
        )
    return key


def address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def names_of(host: str) -> tuple[str, ...]:
    """By which names a service that only this machine reaches may be called."""
    return ("localhost", "127.0.0.1", "::1", host) if loopback(host) else ()


def server_of(app: Any, seconds: float) -> uvicorn.Server:
    """uvicorn over the service: quiet, bounded, and with signals that drain it.

    Args:
        seconds: until what was begun is given up, once it drains.
    """
    import uvicorn

    from curvekit.serving.wire import Wire

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """SIGTERM and Ctrl-C: no new connections, what was begun is written to its end; a second Ctrl-C: now."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

        def handle_exit(self, sig: int, frame: Any) -> None:
            app.state.service.draining = True  # whoever asks on a connection that is open hears that it is not ready
            super().handle_exit(sig, frame)

    limits = app.state.service.limits
    config = uvicorn.Config(
        app,
        http=functools.partial(Wire, patience=2 * limits.body_seconds),  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(seconds) + 5,
        ws="none",
    )
    return Server(config)


@contextlib.contextmanager
def in_thread(app: Any, bound: socket.socket, seconds: float = 30.0) -> Iterator[str]:
    """An application that runs in a thread of its own while inside, and its address."""
    import time

    server = server_of(app, seconds)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            server.run(sockets=[bound])
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="curvekit-service", daemon=True)
    url = address(bound)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise CurvekitError("the service did not start") from (failure[0] if failure else None)
            time.sleep(0.005)
        yield url
    finally:
        server.should_exit = True
        thread.join(seconds)
        server.force_exit = True
        thread.join(seconds)
        bound.close()


@contextlib.contextmanager
def serve(
    *models: Any, host: str = "127.0.0.1", port: int = 0, key: str | None = None, limits: Any = None
) -> Iterator[str]:
    """A service in this process, for as long as one is inside: ``with serve(run) as url:``.

    Args:
        models: runs, their folders, or bases by name; or one mapping of names to (model, tokeniser).
        host, port: where it listens; port 0 takes a free one. Another host than loopback needs a key.
        key: what ``Authorization: Bearer`` must hold.
        limits: a :class:`curvekit.serving.orders.Limits`.

    Yields:
        its address, such as ``http://127.0.0.1:40123``.

    Raises:
        CurvekitError: no such model, no such address, a missing key, or a missing extra.
    """
    with extra():
        from curvekit.serving.service import application
    if key is None and not loopback(host):
        key_of(host, None, {})
    bound = listening(host, port)
    app = application(gathered(models), limits=limits, key=key, hosts=names_of(host))
    with in_thread(app, bound) as url:
        yield url


def run(app: Any, bound: socket.socket, announce: Callable[[], object]) -> None:
    """Serve in this thread until a signal ends it."""
    server = server_of(app, app.state.service.limits.seconds)
    announce()
    try:
        server.run(sockets=[bound])
    finally:
        bound.close()
