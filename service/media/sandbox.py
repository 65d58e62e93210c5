"""Runs one untrusted child process and always gets its descriptors, memory and time back.

Knows Linux's means of confinement; knows nothing of video. What the machine does not allow is left
out and reported, never silently assumed. A child ends with the request that it works for.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from service import deadlines
from service.errors import UnavailableError
from service.media.landlock import confine_thread

# Programs and libraries of the system, which hold nothing of anybody's.
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LOOK_S = 0.1  # between looks whether the child's work is still wanted
_HEAD_BYTES = 128_000
_TAIL_BYTES = 64_000
_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class SandboxLimits:
    """What one child may use. `wall_s` is kept by the parent, the rest by the kernel."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    open_files: int = 64
    file_bytes: int = 4_000_000


@dataclass(frozen=True)
class Finished:
    """What a child left behind; `cut` names the limit it was killed at, None if it ended itself."""

    output: bytearray
    log: str
    cut: str | None


class Sandbox:
    """A way to start children with every layer of confinement that this machine allows.

    Each layer is tried once, here; `layers` says which hold. Of the file system a child has the
    system's programs and `readable`, by the first means that works: bubblewrap or Landlock,
    `file_system` says which. Both hold whatever the child is told to open.
    """

    def __init__(self, limits: SandboxLimits, readable: Sequence[str] = ()) -> None:
        self._limits = limits
        # Children are started on a thread of their own, for Landlock takes a thread's rights.
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="lpr-sandbox")
        bubblewrap = _usable(_bubblewrap(readable))
        self.file_system = "bubblewrap" if bubblewrap else self._landlock(readable)
        wrappers = {
            "no_network": ["unshare", "--user", "--net"],
            "resource_limits": _prlimit(limits),
            # The death signal ends a decoder whose service was killed outright.
            "no_new_privileges": ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"],
        }
        self.layers: dict[str, bool] = {
            "own_session": True,
            "memory_file": hasattr(os, "memfd_create"),
            "own_file_system": self.file_system is not None,
        }
        self._prefix: list[str] = []
        for layer, wrapper in wrappers.items():
            if layer == "no_network" and bubblewrap:
                found: list[str] | None = bubblewrap
            else:
                found = self._launcher.submit(_usable, wrapper).result()
            self.layers[layer] = found is not None
            self._prefix += found or []

    def run(
        self, command: Sequence[str], *, output_bytes: int, inherit: Sequence[int] = ()
    ) -> Finished:
        """Run `command` to its end or to the first limit, blocking.

        At most `output_bytes` of its standard output are kept, one byte more ends it; of its
        standard error the beginning and the end are kept. It inherits the descriptors `inherit`
        and nothing else: no input, no environment. Raises UnavailableError if it cannot start,
        and what `deadlines.check` raises once the caller's request is over.
        """
        deadline = time.monotonic() + self._limits.wall_s
        try:
            child = self._launcher.submit(self._start, command, inherit).result()
        except OSError as error:
            raise UnavailableError(f"The decoder could not be started: {error}.") from error
        try:
            return _collect(child, deadline, output_bytes)
        finally:
            end_group(child)

    def launch(self, command: Sequence[str], inherit: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start a child that is not waited for, without output; `end_group` ends it.

        It must not outlive this object: its parent is a thread of it. Raises OSError.
        """
        return self._launcher.submit(self._start, command, inherit, subprocess.DEVNULL).result()

    def _start(
        self, command: Sequence[str], inherit: Sequence[int], output: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - the command is ours, the input a descriptor
            [*self._prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=tuple(inherit),
            env={"LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
        )

    def _landlock(self, readable: Sequence[str]) -> str | None:
        """Confine the launcher, and see that it is."""

        def confine() -> None:
            # subprocess finds the descriptors to close in /proc.
            confine_thread(readable=(*_SYSTEM, *readable), devices=_DEVICES, listable=("/proc",))

        try:
            self._launcher.submit(confine).result()
        except OSError:  # a kernel without it, or a container that forbids it
            return None
        try:
            self._launcher.submit(os.listdir, "/").result()
        except PermissionError:
            return "landlock"
        return None


@contextlib.contextmanager
def private_file(data: bytes = b"") -> Iterator[int]:
    """A file without a name that holds `data`, read only if there is any; its descriptor.

    In memory where the machine has memfd, else an unlinked temporary file: nothing to clean up,
    however the process ends. Raises UnavailableError if there is no room for it.
    """
    try:
        file = _unnamed_file()
    except OSError as error:
        raise UnavailableError(f"No file for the decoder could be made: {error}.") from error
    with file:
        if data:
            _fill(file, data)
        yield file.fileno()


def _unnamed_file() -> IO[bytes]:
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile(buffering=0)
    descriptor = os.memfd_create("lpr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    return open(descriptor, "w+b", buffering=0)  # noqa: PTH123 - a descriptor has no path


def _fill(file: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
    except OSError as error:
        raise UnavailableError(f"The clip could not be given to the decoder: {error}.") from error
    if hasattr(os, "memfd_create"):
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def _prlimit(limits: SandboxLimits) -> list[str]:
    return [
        "prlimit",
        f"--cpu={math.ceil(limits.cpu_s) + 1}",
        f"--as={limits.memory_bytes}",
        f"--nofile={limits.open_files}",
        f"--fsize={limits.file_bytes}",
        "--core=0",
    ]


def _bubblewrap(readable: Sequence[str]) -> list[str]:
    """A file system of the system's programs and `readable`, and no network."""
    binds = [word for path in (*_SYSTEM, *readable) for word in ("--ro-bind-try", path, path)]
    namespaces = ["--unshare-user", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return ["bwrap", *namespaces, "--die-with-parent", "--dev", "/dev", *binds, "--"]


def _usable(wrapper: list[str]) -> list[str] | None:
    """The wrapper with its full path if it runs a command here, else None."""
    program, true = shutil.which(wrapper[0]), shutil.which("true")
    if program is None or true is None:
        return None
    resolved = [program, *wrapper[1:]]
    try:
        tried = subprocess.run([*resolved, true], capture_output=True, timeout=10, check=False)  # noqa: S603 - fixed commands
    except (OSError, subprocess.TimeoutExpired):
        return None
    return resolved if tried.returncode == 0 else None


def _collect(child: subprocess.Popen[bytes], deadline: float, output_bytes: int) -> Finished:
    """Read both pipes side by side, so that neither can fill up and block the child."""
    assert child.stdout is not None  # noqa: S101 - both are pipes by construction
    assert child.stderr is not None  # noqa: S101
    output, log, cut = bytearray(), _Ends(), None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while selector.get_map() and cut is None:
            ready = selector.select(max(0.0, min(LOOK_S, deadline - time.monotonic())))
            deadlines.check()
            for key, _ in ready:
                chunk = os.read(key.fd, _READ_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    output += chunk
                else:
                    log.add(chunk)
            if len(output) > output_bytes:
                cut = "output"
            elif time.monotonic() >= deadline:
                cut = "time"
    del output[output_bytes:]
    return Finished(output, log.text(), cut)


class _Ends:
    """The beginning and the end of a text that may be endless."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        room = _HEAD_BYTES - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]

    def text(self) -> str:
        joint = b"\n...\n" if self._tail else b""
        return (self._head + joint + self._tail).decode("utf-8", "replace")


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and all it started, if they still run, then reap it and close the pipes.

    The group is killed before the child is reaped: until then its number cannot be taken by others.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
