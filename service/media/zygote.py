"""The process that workers are forked from: libav is loaded once, each clip has a fresh worker.

Started by `workers` within the sandbox, before any clip is seen; then it gives up every file, and
each worker once more, so that none can look into this process or into another worker. Knows the
socket's messages, on which all trust ends: what a worker says may be the clip's words.

A message brings the task and three descriptors: the clip, a file for the pixels, and a socket. On
that the worker sends a descriptor of itself, by which it can be killed, and then its report.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import pkgutil
import resource
import selectors
import signal
import socket
from contextlib import suppress
from itertools import pairwise
from typing import Any, NoReturn

import av

from service.media import frame_reader
from service.media.clip_rules import Task
from service.media.frame_reader import NotSureError, TooLargeError
from service.media.landlock import confine_thread

READY = b"ready"
_MESSAGE_BYTES = 4_096
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(control: socket.socket) -> None:
    """Serve until the other end of `control` is closed."""
    _load_all_of_av()
    _give_up_files()
    _LIBC.prctl(_PR_SET_DUMPABLE, 0)  # no debugger, where there is no Landlock
    gc.freeze()  # the collector's marks would copy every page in every worker
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        control.send(READY)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fileobj)
                    _reap(key.fd, key.data)
                elif not _serve(control, selector):
                    return


def _load_all_of_av() -> None:
    """It loads parts of itself when they are first needed, and then no file can be read."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name != "av.__main__":
            importlib.import_module(module.name)


def _serve(control: socket.socket, selector: selectors.BaseSelector) -> bool:
    """Start one worker; False at the end."""
    message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
    if not message:
        return False
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:  # too many of them: the socket closes without an answer
        child = None
    if child == 0:
        _work(json.loads(message), descriptors, parent)
    for descriptor in descriptors:
        os.close(descriptor)
    if child is not None:
        selector.register(os.pidfd_open(child), selectors.EVENT_READ, child)
    return True


def _reap(descriptor: int, child: int) -> None:
    """Its group is killed before it is reaped: until then its number cannot be taken by others."""
    os.close(descriptor)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _work(message: dict[str, Any], descriptors: list[int], parent: int) -> NoReturn:
    clip, pixels, socket_number = descriptors
    try:
        _close_all_but(descriptors)
        with socket.socket(fileno=socket_number) as answers:
            _confine(message["limits"], parent)
            _introduce(answers)
            answers.sendall(json.dumps(_report(Task(**message["task"]), clip, pixels)).encode())
    finally:
        os._exit(0)


def _introduce(answers: socket.socket) -> None:
    own = os.pidfd_open(os.getpid())
    socket.send_fds(answers, [b"!"], [own])
    os.close(own)


def _close_all_but(descriptors: list[int]) -> None:
    """Other workers' are among those that were inherited."""
    edges = [2, *sorted(descriptors), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    for below, above in pairwise(edges):
        os.closerange(below + 1, above)


def _confine(limits: dict[str, int], parent: int) -> None:
    os.setpgid(0, 0)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for name, most in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (most, most))
    _give_up_files()


def _give_up_files() -> None:
    with suppress(OSError):  # a kernel without it: the sandbox has said so
        confine_thread(readable=(), devices=(), listable=())


def _report(task: Task, clip: int, pixels: int) -> dict[str, Any]:
    gc.disable()  # it does not live long enough
    complaints = frame_reader.Complaints()
    try:
        with mmap.mmap(pixels, task.frames * task.size * task.size * 3) as room:
            found = frame_reader.read(task, clip, room)
    except TooLargeError as error:
        return {"too_large": str(error)}
    except NotSureError as error:
        return {"not_sure": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever libav says, the other decoder says better
        return {"not_sure": type(error).__name__}
    if complaints.any() and not found.partial:
        return {"not_sure": "complaints"}
    return {"count": found.count, "duration_s": found.duration_s, "partial": found.partial}
