"""HTTP as it arrives: what is no request, comes too slowly or is one connection too many is refused in JSON."""

from __future__ import annotations

import asyncio
import http
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from curvekit.serving.answers import error_body

CONNECTIONS = 1024  # at once


class Wire(H11Protocol):
    """uvicorn's protocol in pure Python, which bounds a request's head (16 KB); its refusals are the service's own.

    Args:
        patience: seconds within which a request must have come whole, from the connection's or its own first byte, and
            within which a client must go on to read.
    """

    def __init__(self, *args: Any, patience: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._patience = patience
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._refuse(503, f"{CONNECTIONS} connections are open already; come again later")
        else:
            self._mind()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._mind()

    def pause_writing(self) -> None:
        """The client does not read; one that does not go on is given up."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def _mind(self) -> None:
        """Run the clock for as long as a request is on its way."""
        coming = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not coming or self.transport.is_closing():
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(self._patience, self._late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._refuse(408, f"the request did not come within {self._patience:g} s")

    def _should_upgrade(self) -> bool:
        return False  # there are no WebSockets here: such a request is answered as HTTP

    def send_400_response(self, msg: str) -> None:
        """What h11 cannot read; called where its error is handled."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(431, "the request's head is larger than 16 KB; send fewer or shorter headers")
        else:
            self._refuse(400, f"this is no HTTP request: {str(error)[:200]}")

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up; where an answer has begun already, hang up."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_body(" ".join(message.split()))).encode()
            headers = [
                ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")
            ]  # fmt: skip
            reason = http.HTTPStatus(status).phrase
            told = h11.Response(status_code=status, headers=headers, reason=reason)
            for each in (told, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(each) or b"")
        self.transport.close()
