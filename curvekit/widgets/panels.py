"""Work on the screen: a panel that does one thing at a time in a thread, and the samples that grow in it.

Models work in threads, of which the kernel knows nothing: what fails in one becomes the panel's message, and stays
as its ``failure``; an interrupt of the kernel stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ipywidgets import HTML, Button, Layout, VBox
from matplotlib.figure import Figure

from curvekit.errors import CurvekitError
from curvekit.figures.shading import token_probabilities_html
from curvekit.generation.streams import Completion, Piece, Stream

REFRESH = 0.08  # seconds between two pictures of a growing text: more often is not seen, and keeps the page busy

_MUTED = "color:var(--jp-ui-font-color2,#5b6068);font-size:12px;line-height:1.5"
_PLAIN = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7"
_TONES = {"note": "#0067a8", "done": "#4f8a3c", "warning": "#c2410c", "error": "#b00020"}


class Stop(threading.Event):
    """An event that also tells why it was set."""

    why = ""

    def because(self, why: str) -> None:
        self.why = self.why or why
        self.set()


_running: set[Stop] = set()


def _listen_to_interrupts() -> None:
    """Let an interrupt of an idle kernel stop what its widgets do; by itself such an interrupt does nothing.

    The kernel puts its own handler back after each message, this one's included, so ours is set a moment later.
    """

    def stop_all(*_: Any) -> None:
        for stop in list(_running):
            stop.because("the kernel was interrupted")

    def install() -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, stop_all)

    with contextlib.suppress(RuntimeError):  # no loop: no kernel, and an interrupt is raised where it belongs
        loop = asyncio.get_running_loop()
        for delay in (0.05, 0.3):
            loop.call_later(delay, install)


def _told(failure: BaseException) -> str:
    return str(failure) if isinstance(failure, CurvekitError) else f"{type(failure).__name__}: {failure}"


class Panel(VBox):
    """What all widgets share: a line for messages, and one piece of work at a time, which can be stopped."""

    def __init__(self, *children: Any) -> None:
        self.failure: BaseException | None = None
        self.message = HTML()
        self.start = Button(description="Generate", button_style="primary", icon="play", layout=Layout(width="120px"))
        self.halt = Button(description="Stop", icon="stop", disabled=True, layout=Layout(width="90px"))
        self.halt.on_click(lambda _: self.stop("Stop was pressed"))
        self._stop, self._thread = Stop(), threading.Thread()
        super().__init__(children, layout=Layout(width="100%", max_width="1100px"))

    @staticmethod
    def still(*args: Any, **settings: Any) -> Figure:
        """What the widget of these arguments shows, as a figure."""
        raise NotImplementedError

    def say(self, text: str, tone: str = "note") -> None:
        """Show a message; an empty one removes it."""
        style = f"border-left:3px solid {_TONES[tone]};padding:2px 10px;line-height:1.5;overflow-wrap:anywhere"
        role = "alert" if tone == "error" else "status"
        self.message.value = f'<div role="{role}" style="{style}">{html.escape(text)}</div>' if text else ""

    def fail(self, failure: BaseException) -> None:
        """Keep what went wrong, and say it."""
        self.failure = failure
        self.say(_told(failure), "error")

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Turn what fails into the message: an exception of a callback would end in a log that nobody opens."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as failure:
            self.fail(failure)

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def work(self, task: Callable[[Stop], None]) -> None:
        """Do ``task`` in a thread, unless one is still at work."""
        if self.busy:
            self.say("The last one is still being written; stop it first.", "warning")
            return
        self._stop = stop = Stop()
        self._thread = threading.Thread(target=self._run, args=(task, stop), name="curvekit-widget", daemon=True)
        self.start.disabled, self.halt.disabled = True, False
        _running.add(stop)
        _listen_to_interrupts()
        self._thread.start()

    def _run(self, task: Callable[[Stop], None], stop: Stop) -> None:
        try:
            with self.shielded():
                task(stop)
        finally:
            _running.discard(stop)
            self.start.disabled, self.halt.disabled = False, True

    def stop(self, why: str = "stopped") -> None:
        """Stop the work after the token in progress."""
        self._stop.because(why)

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the work is done, for scripts and tests."""
        self._thread.join(seconds)


_ENDED = {
    "length": "all tokens asked for",
    "eos": "the document ended",
    "stop string": "a stop string came",
    "stopped": "stopped",
}


class Sample:
    """One continuation on the screen: its prompt, its tokens as they come, and how it came about.

    A ``blind`` one shows the text alone: colours and speed would tell who wrote it.
    """

    def __init__(self, heading: str, prompt: str, shade: str = "", blind: bool = False) -> None:
        self.heading, self.prompt, self.shade, self.blind = heading, prompt, shade, blind
        self.pieces: list[Piece] = []
        self.foot, self.failure = "…", ""
        self.box = HTML(layout=Layout(flex="1 1 280px", min_width="0", margin="4px 12px 8px 0"))
        self._next = 0.0
        self.draw()

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if (now := time.monotonic()) >= self._next:
            self.draw()
            self._next = time.monotonic() + max(REFRESH, 4 * (time.monotonic() - now))

    def finish(self, done: Completion | Exception) -> None:
        if isinstance(done, Completion):
            self.foot = (
                f"seed {done.seed} · {done.tokens} tokens, {done.tokens_per_second:.0f} a second, the first after "
                f"{1000 * done.first_token_seconds:.0f} ms · {_ENDED[done.reason]}"
            )
        else:
            self.foot, self.failure = "", _told(done)
        self.draw()

    def draw(self) -> None:
        shown = self.prompt if len(self.prompt) <= 600 else "… " + self.prompt[-600:]
        pieces = [piece for piece in self.pieces if piece.text]
        if self.blind:
            text = f'<div dir="auto" style="{_PLAIN}"><span style="opacity:0.6">{html.escape(shown)}</span>'
            text += f"{html.escape(self.text)}</div>"
        else:
            text = token_probabilities_html(
                [piece.text for piece in pieces],
                [piece.probability for piece in pieces],
                [[(other.text, other.probability) for other in piece.alternatives] for piece in pieces],
                shown,
            )
        ink = f"color:{self.shade};" if self.shade else ""
        head = f'<div style="{ink}font-weight:600">{html.escape(self.heading)}</div>' if self.heading else ""
        foot = "" if self.blind and not self.failure else f'<div style="{_MUTED}">{html.escape(self.foot)}</div>'
        failed = f'<div role="alert" style="color:{_TONES["error"]}">{html.escape(self.failure)}</div>'
        self.box.value = f'<div class="curvekit-sample">{head}{text}{foot}{failed if self.failure else ""}</div>'


def follow(begun: Sequence[tuple[Sample, Callable[[], Stream]]]) -> list[Completion | Exception]:
    """Read streams in turn, a token of each, into their samples; one that fails leaves the others alone."""
    done: dict[int, Completion | Exception] = {}
    live: dict[int, Stream] = {}

    def end(place: int, result: Completion | Exception) -> None:
        live.pop(place, None)
        done[place] = result
        begun[place][0].finish(result)

    try:
        for place, (_, begin) in enumerate(begun):
            try:
                live[place] = begin()
            except Exception as failure:
                end(place, failure)
        while live:
            for place, pieces in list(live.items()):
                piece = None
                try:
                    piece = next(pieces, None)
                except Exception as failure:
                    end(place, failure)
                    continue
                if piece is not None:
                    begun[place][0].add(piece)
                elif pieces.completion is not None:
                    end(place, pieces.completion)
    finally:
        for pieces in live.values():
            pieces.close()
    return [done[place] for place in range(len(begun))]
