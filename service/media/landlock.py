"""Landlock: the calling thread, and all it starts, may open only what is named here.

Knows the kernel's calls and structures (linux/landlock.h, kernel 5.13 and newer), by ctypes, for
the standard library has none of them; knows nothing of what is confined. It needs neither root nor
namespaces, so it also holds in containers that forbid those.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ = _EXECUTE | _READ_FILE
# Rights over files that each version of the interface added, up to that bit.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_TCP = 0b11  # bind and connect, since version 4
_SCOPES = 0b11  # abstract unix sockets and signals, since version 6


def confine_thread(
    *, readable: Iterable[str], devices: Iterable[str], listable: Iterable[str]
) -> None:
    """Take the calling thread's rights for good; its children and their children have no more.

    What lies at or below `readable` may be read and run, `devices` may be read and written,
    folders `listable` may be listed. Where the kernel knows how, no TCP connection can be made and
    no signal sent to a process outside. Raises OSError where the kernel has no Landlock.
    """
    version = _call(_CREATE_RULESET, None, 0, _VERSION)
    rights = (1 << max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)) - 1
    handled = struct.pack("QQQ", rights, _TCP, _SCOPES)[: _length(version)]
    ruleset = _call(_CREATE_RULESET, handled, len(handled), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ | _READ_DIR)
        for path in devices:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        for path in listable:
            _allow(ruleset, path, _READ_DIR)
        _no_new_privileges()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _length(version: int) -> int:
    """Bytes of the structure that this version reads; a longer one is refused."""
    return 24 if version >= 6 else 16 if version >= 4 else 8


def _allow(ruleset: int, path: str, rights: int) -> None:
    with suppress(FileNotFoundError):  # what is not there needs no rule
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):  # noqa: PTH112 - the descriptor's path, symlinks followed
                rights &= ~_READ_DIR
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)


def _no_new_privileges() -> None:
    """The kernel asks for it first: a program with more rights could be tricked otherwise."""
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    result = int(_libc().syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
