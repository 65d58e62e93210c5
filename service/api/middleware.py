"""What every request passes on its way in and out, as pure ASGI.

Not `@app.middleware("http")`: that one hides a client's leaving from the handlers.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from http import HTTPMethod

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import Admission
from service.api.problems import problem_response
from service.deadlines import Deadline, working_under
from service.errors import (
    BodyTooLargeError,
    EncodingUnsupportedError,
    LPRError,
    OverloadedError,
)
from service.telemetry import Telemetry
from service.tracing import callers_trace, traceparent

logger = logging.getLogger("service.requests")


class Observe:
    """Names each request, times it, counts it, and logs it in one line."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        state["started"] = started = time.perf_counter()
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(traceparent())
                headers["x-request-id"] = state["request_id"]
                headers["x-total-time"] = f"{1e3 * (time.perf_counter() - started):.3f}"
            await send(message)

        with callers_trace(Headers(scope=scope)):
            try:
                await self._app(scope, receive, observed)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path, and known methods only: a client may write anything
        # there, and each new word would be a series of its own.
        state, telemetry = scope["state"], self._telemetry
        route = state.get("route") or getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"
        problem = state.get("problem")
        if status >= 400:
            telemetry.failures.labels(problem or "internal").inc()
        telemetry.requests.labels(method, route, str(status)).inc()
        telemetry.request_seconds.labels(method, route).observe(seconds)
        fields = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1e3 * seconds, 3),
        }
        if "grant" in state:
            fields["key_id"] = state["grant"].key_id
        logger.info("request", extra=fields if problem is None else fields | {"problem": problem})


class Head:
    """Answers HEAD as GET, whose body the server leaves away: load balancers ask that way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class TurnAway:
    """Refuses by its head what there is no room for: of ten times the load nine tenths are
    refused, and on the way to a route each would take cores from those who were let in.
    """

    def __init__(self, app: ASGIApp, doors: Mapping[str, Admission]) -> None:
        """`doors`: who lets in the posts to each of these paths."""
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._doors:
            try:
                self._doors[scope["path"]].check()
            except OverloadedError as error:
                scope["state"]["route"] = scope["path"]  # for the metrics
                await problem_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Attend:
    """Gives each request its deadline, counted from when its body is here, and a way to see its
    client leave: `Admission.run` ends the work on it then.
    """

    def __init__(self, app: ASGIApp, within_s: float) -> None:
        self._app = app
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def client_left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass  # what nobody reads of the body

        deadline = Deadline(self._within_s, client_left)

        async def timed() -> Message:
            message = await receive()
            deadline.restart()
            return message

        with working_under(deadline):
            await self._app(scope, timed, send)


class LimitBody:
    """Refuses bodies that are too large or encoded: by their head unread, else while reading."""

    def __init__(self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int]) -> None:
        """`larger`: paths whose bodies may have more bytes, and how many."""
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._larger.get(scope["path"], self._max_bytes)
        refusal = self._refusal(Headers(scope=scope), most)
        if refusal is not None:
            await problem_response(refusal, scope)(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise self._too_large(most)
            return message

        await self._app(scope, limited, send)

    def _refusal(self, headers: Headers, most: int) -> LPRError | None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            return EncodingUnsupportedError("send the body as it is, without Content-Encoding")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            return self._too_large(most)
        return None

    def _too_large(self, most: int) -> BodyTooLargeError:
        return BodyTooLargeError(f"a request's body has at most {most} bytes")
