"""Ports for servers that must be told theirs, and keep it over a restart."""

from __future__ import annotations

import random
import socket

# Below what kernels give away by themselves (32768 on Linux, 16000 on gVisor): what others connect
# from, or listen on where they asked for any port, is never one of these.
_FIRST, _LAST = 10_000, 15_999


def free_port() -> int:
    """One that nobody listens on now, and hardly anybody will soon."""
    while True:
        port = random.SystemRandom().randint(_FIRST, _LAST)  # whoever seeds the usual one
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
