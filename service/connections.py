"""HTTP connections that nobody can hold open by being slow: uvicorn's, with three more clocks.

uvicorn waits for ever for the rest of a request's head, for the rest of a body whose answer was
already given, and for a client to take its answer; and where it hangs up on a client that is still
sending, the answer may be lost (RFC 9112, section 9.6). Bytes that are no request at all get a
problem document like any other mistake. Knows nothing of requests; a body that is wanted has a
deadline of its own.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.problems import MEDIA_TYPE, Problem
from service.errors import MalformedRequestError


class Connection(H11Protocol):
    """Made by uvicorn, which hands it the `Config` below."""

    config: Config
    _clock: asyncio.TimerHandle | None = None
    _answer_clock: asyncio.TimerHandle | None = None
    _parting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        transport.set_write_buffer_limits(0)  # writing is paused while anything is not taken
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._parting is not None:
            return
        if self._clock is None and not self._at_work:
            self._expect_head()
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self._at_work:
            self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begun, _ = self.conn.trailing_data
        if begun and not self._at_work:  # the next head came in part, with this request
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not `close`, which would wait until the client has taken the rest.
        self._answer_clock = self.loop.call_later(
            self.config.answer_timeout_s, self.transport.abort
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_answer_clock()
        if self._parting is not None:
            self._parting.cancel()
        super().connection_lost(exc)

    def part(self, transport: asyncio.Transport) -> None:
        """Hang up; on a client that is still sending, when it has had time to take its answer.

        Closed at once, what it still sends would reset the connection, and the answer with it.
        """
        sending = self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if not sending or not transport.can_write_eof():
            transport.close()
        elif self._parting is None:
            transport.write_eof()
            self._stop_clock()
            self.flow.resume_reading()
            self._parting = self.loop.call_later(self.config.answer_timeout_s, transport.abort)

    def shutdown(self) -> None:
        super().shutdown()
        if self._parting is not None:  # a service that stops does not wait for it
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to bytes that are not HTTP."""
        body = _not_http(msg).model_dump_json(exclude_none=True).encode()
        headers = [
            ("content-type", MEDIA_TYPE),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(self.config.head_timeout_s, self.transport.close)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _stop_answer_clock(self) -> None:
        if self._answer_clock is not None:
            self._answer_clock.cancel()
            self._answer_clock = None


class _Transport:
    """A transport whose `close` is up to the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._connection.part(self._transport)


class Config(uvicorn.Config):
    """uvicorn's configuration, with seconds for a request's head to arrive, and for each part of an
    answer to be taken."""

    def __init__(
        self, app: Any, head_timeout_s: float, answer_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(app, http=Connection, **options)
        self.head_timeout_s = head_timeout_s
        self.answer_timeout_s = answer_timeout_s

    def ask_to_close(self) -> None:
        """From now on every answer tells its client to open a new connection for the next one."""
        self.headers.append(("connection", "close"))
        if self.loaded:  # and its headers were encoded
            self.encoded_headers.append((b"connection", b"close"))


def _not_http(detail: str) -> Problem:
    error = MalformedRequestError
    return Problem(
        type=f"/problems/{error.slug}",
        title=error.title,
        status=error.status,
        detail=detail,
        instance="",
        request_id=uuid.uuid4().hex,
    )
