"""A TCP proxy that can be slow, silent or rude: what happens to a network between two servers.

One thread with an event loop of its own; the toxics are set from the test and hold at once, also
for the connections that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Self

_CHUNK = 65_536


class Proxy:
    """Passes on everything between its own `port` and another of this machine."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._latency_s = 0.0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._flowing.set()
        server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._server: asyncio.Server = server
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, latency_s: float) -> None:
        """Let every chunk, either way, wait."""
        self._latency_s = latency_s

    def stall(self) -> None:
        """Pass nothing on; connections stay open, and new ones are taken."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def reset(self) -> None:
        """Cut all connections with RST, and each new one, until `heal`."""
        self._refusing = True
        self._do(self._cut())

    def heal(self) -> None:
        self._latency_s = 0.0
        self._refusing = False
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in list(self._connections):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:  # nobody listens there: neither does anybody here
            _reset(writer)
            return
        ends = {writer, far_writer}
        self._connections |= ends
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._connections -= ends
            for end in ends:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await asyncio.sleep(self._latency_s)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()  # the end of one way ends both: HTTP/2 and Redis know no half-open ones


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
