"""`lpr serve`: the application under uvicorn, its address announced, its end an orderly one.

uvicorn stops listening at once when it is asked to stop; here the service first says that it is
unready for a while, so that a load balancer sends nobody to a closed door. Whatever hangs, it is
gone in time: what was acknowledged is durable, so there is nothing that a hard end could lose.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from ipaddress import ip_address
from types import FrameType

import uvicorn

from service.app import create_app
from service.connections import Config
from service.errors import LPRError, StartupError
from service.parts import Service
from service.settings import Settings
from service.tracing import export_spans

logger = logging.getLogger(__name__)

# When asked to stop: for requests in flight, and then for the parts to close.
_FINISH_S = 18
_CLOSE_S = 6
# How long a thread that computes in Python may keep the event loop from what has just arrived. The
# usual 5 ms are lost several times a request, as often as the loop has waited for something.
_SWITCH_S = 0.0005
# Idle connections. Longer than usual clients keep theirs, or they would send into a closed one.
_KEEP_ALIVE_S = 20


def serve(settings: Settings) -> None:
    """Run until asked to stop. Raises StartupError if it cannot start, or not become ready."""
    _allow_many_connections()
    _keep_the_loop_free()
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, fail)
    service: Service = app.state.service
    guarded = service.keys.required or settings.allow_anonymous
    listener = _listen(settings.host, settings.port, beyond_this_machine=guarded)
    config = Config(
        app,
        settings.head_timeout_s,
        settings.answer_timeout_s,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FINISH_S,
    )
    server = _Server(config, service, address(*listener.getsockname()[:2]))
    end_traces = export_spans(settings.tracing)
    try:
        service.open_store()
        server.run([listener])
    except StartupError:  # of the store
        service.close()
        raise
    except SystemExit:  # uvicorn's way to say that the application did not start
        if not failures:
            raise
    finally:
        end_traces()
    if failures:
        raise _as_ours(failures[0])


class _Server(uvicorn.Server):
    config: Config

    def __init__(self, config: Config, service: Service, address: str) -> None:
        super().__init__(config)
        self._service = service
        self._address = address
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info(
            "listening", extra={"address": self._address, "keys": self._service.keys.required}
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self._service.draining.is_set()
        self._service.drain()
        if again or sig != signal.SIGTERM:
            self.force_exit = self.should_exit and again
            self.should_exit = True
            return
        drain_s = self._service.settings.drain_s
        self._stop_at = time.monotonic() + drain_s
        self.config.ask_to_close()
        end = threading.Timer(drain_s + _FINISH_S + _CLOSE_S, os._exit, (1,))
        end.daemon = True
        end.start()

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _allow_many_connections() -> None:
    """As many as the machine allows: a crowd of slow clients must not shut out the probes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_the_loop_free() -> None:
    """Of what would hold it up by tens of milliseconds, whatever arrives meanwhile."""
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()  # the modules: no collection need go through them again


def _listen(host: str, port: int, *, beyond_this_machine: bool) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        if not (beyond_this_machine or ip_address(where[0]).is_loopback):
            raise StartupError(
                f"without keys it listens on this machine only, and {host} is reached from others;"
                " make a key with `lpr keys create`, or say LPR_ALLOW_ANONYMOUS=true to let"
                " everybody who reaches it do everything"
            )
        # With its protocol by name: asyncio turns Nagle's algorithm off for such sockets only, and
        # with it on each answer waits 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(2048)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise StartupError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def address(host: str, port: int) -> str:
    """The URL of a service that listens there, for a client on this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _as_ours(error: BaseException) -> StartupError:
    if isinstance(error, StartupError):
        return error
    detail = error.detail if isinstance(error, LPRError) else f"{type(error).__name__}: {error}"
    failure = StartupError(detail)
    failure.__cause__ = error
    return failure
