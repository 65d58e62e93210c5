"""Hands clips to workers that are forked for each of them, and always gets their time back.

The parent's side of `zygote`. Where this machine cannot have workers, or one could not be started,
it says so and the clip goes another way; what a worker says is checked, for it has met the clip.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import math
import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service import deadlines
from service.errors import UnavailableError
from service.media.clip_rules import Task
from service.media.sandbox import LOOK_S, Sandbox, SandboxLimits, end_group, private_file

_LOG = logging.getLogger(__name__)
_START_S = 60.0
_FORK_S = 5.0  # for the zygote to fork, on a machine that is very busy
_REPORT_BYTES = 4_096
_FOLDER = Path(__file__).resolve().parent.parent  # of the package `service`
_PROGRAM = """
import sys, types
# Python finds a package by listing the folder around it: of a checkout, that is not to be read.
package = sys.modules["service"] = types.ModuleType("service")
package.__path__ = [sys.argv[2]]
sys.path.insert(0, sys.argv[3])
import socket
from service.media.zygote import main
main(socket.socket(fileno=int(sys.argv[1])))
"""


class WorkersUnavailableError(Exception):
    """No worker could be had, through no fault of the clip."""


class Report(BaseModel):
    """What a worker says; all of it may be the clip's words."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(default=0, ge=0)
    duration_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    partial: bool = False
    too_large: str | None = Field(default=None, pattern=r"^\d{1,9}x\d{1,9}$")
    not_sure: str | None = None


@dataclass(frozen=True)
class Read:
    """`cut`: the worker was killed at its wall limit. Without a report it died or spoke badly."""

    report: Report | None
    cut: bool
    pixels: npt.NDArray[np.uint8]  # [count, S, S, 3], RGB, the memory that the worker wrote to


class Workers:
    """Safe to share between threads. The zygote is started anew when it has died."""

    def __init__(self, limits: SandboxLimits) -> None:
        """Raises WorkersUnavailableError."""
        if not (hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")):
            raise WorkersUnavailableError("it takes a kernel with memfd and pidfd")
        libav = importlib.util.find_spec("av")
        if libav is None or libav.origin is None:
            raise WorkersUnavailableError("PyAV is not installed")
        self._limits = limits
        self._paths = (str(_FOLDER), str(Path(libav.origin).parents[1]))
        readable = (str(_FOLDER), self._paths[1], sys.prefix, sys.base_prefix)
        # The zygote lives long: its workers' limits of time and files are not its own.
        self._sandbox = Sandbox(
            SandboxLimits(
                limits.wall_s,
                cpu_s=1e9,
                memory_bytes=limits.memory_bytes,
                open_files=1_024,
                file_bytes=limits.file_bytes,
            ),
            readable,
        )
        self.layers = self._sandbox.layers
        self._starting = threading.Lock()
        self._zygote = self._started()

    def read(self, task: Task, clip: int) -> Read:
        """Have a worker read `clip`, a sealed private file; blocking.

        Raises WorkersUnavailableError, UnavailableError if there is no memory for the frames, and
        what `deadlines.check` raises once the caller's request is over.
        """
        length = task.frames * task.size * task.size * 3
        with private_file() as pixels:
            _fix_length(pixels, length)
            with self._worker(task, clip, pixels) as (answers, deadline):
                said, cut = _collect(answers, deadline)
            report = _checked(said, task.frames)
            shape = (report.count if report else 0, task.size, task.size, 3)
            return Read(report, cut, _mapped(pixels, shape))

    @contextlib.contextmanager
    def _worker(self, task: Task, clip: int, pixels: int) -> Iterator[tuple[socket.socket, float]]:
        """A running worker's answers, and when it must end; it has ended when this is left."""
        deadline = time.monotonic() + self._limits.wall_s
        try:
            answers, theirs = socket.socketpair()
        except OSError as error:
            raise UnavailableError(f"The decoder could not be started: {error}.") from error
        with answers:
            with theirs:
                self._send(task, [clip, pixels, theirs.fileno()])
            process = _introduced(answers)
            try:
                yield answers, deadline
            finally:
                _end(process)

    def _send(self, task: Task, descriptors: list[int]) -> None:
        limits = self._limits
        message = {
            "task": asdict(task),
            "limits": {
                "CPU": math.ceil(limits.cpu_s) + 1,
                "NOFILE": limits.open_files,
                "CORE": 0,
            },
        }
        data = json.dumps(message).encode()
        try:
            socket.send_fds(self._zygote.control, [data], descriptors)
        except OSError:
            self._restart()
            try:
                socket.send_fds(self._zygote.control, [data], descriptors)
            except OSError as error:
                raise WorkersUnavailableError(str(error)) from error

    def _restart(self) -> None:
        with self._starting:
            if not self._zygote.alive():
                _LOG.warning("the process that decoders are forked from had ended")
                self._zygote = self._started()

    def _started(self) -> _Zygote:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), *self._paths]
            try:
                process = self._sandbox.launch(command, [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise WorkersUnavailableError(str(error)) from error
        return _Zygote(ours, process)


class _Zygote:
    """A running one, and the socket on which it is told of clips. Ends with this object."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Raises WorkersUnavailableError if it does not come up."""
        self.control = control
        self._process = process
        weakref.finalize(self, _stop, control, process)
        control.settimeout(_START_S)
        try:
            ready = control.recv(_REPORT_BYTES)
        except OSError as error:
            raise WorkersUnavailableError(f"it did not start: {error}") from error
        if not ready:
            raise WorkersUnavailableError("it ended at its start")
        control.settimeout(_FORK_S)

    def alive(self) -> bool:
        return self._process.poll() is None


def _stop(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Its workers end with it."""
    control.close()
    end_group(process)


def _fix_length(file: int, length: int) -> None:
    """Of that length for good: a file cut short under our memory would end this process."""
    try:
        os.ftruncate(file, length)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError as error:
        raise UnavailableError(f"There is no memory for the frames: {error}.") from error


def _mapped(file: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The file's own memory as an array, without a copy."""
    length = math.prod(shape)
    memory = mmap.mmap(file, length) if length else b""
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _introduced(answers: socket.socket) -> int:
    """The worker's own descriptor, which it sends before it looks at the clip."""
    answers.settimeout(_FORK_S)
    try:
        _, descriptors, _, _ = socket.recv_fds(answers, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise WorkersUnavailableError(str(error)) from error
    if not descriptors:
        raise WorkersUnavailableError("it could not be forked")
    return descriptors[0]


def _collect(answers: socket.socket, deadline: float) -> tuple[bytes, bool]:
    """All that the worker says until it ends, and whether it was cut off at its wall limit."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(answers, selectors.EVENT_READ)
        while len(said) <= _REPORT_BYTES:
            ready = selector.select(max(0.0, min(LOOK_S, deadline - time.monotonic())))
            deadlines.check()
            if ready:
                with contextlib.suppress(ConnectionResetError):
                    if chunk := answers.recv(_REPORT_BYTES):
                        said += chunk
                        continue
                return said, False
            if time.monotonic() >= deadline:
                return said, True
    return said, False


def _checked(said: bytes, frames: int) -> Report | None:
    try:
        report = Report.model_validate_json(said)
    except ValidationError:
        return None
    answers = (report.count > 0, report.too_large is not None, report.not_sure is not None)
    return report if sum(answers) == 1 and report.count <= frames else None


def _end(process: int) -> None:
    """Kill it, if it still runs, and wait until the kernel has done so; `process` is a pidfd."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    with selectors.DefaultSelector() as selector:
        selector.register(process, selectors.EVENT_READ)
        selector.select(_FORK_S)
    os.close(process)
