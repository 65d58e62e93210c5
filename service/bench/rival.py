"""torch as a rival: a child that runs `lpr-train eager` and is asked in turns.

The service knows no torch. What it knows is a command of the other package and its protocol, one
JSON object a line; where that command cannot run there is no rival.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.bench.bare import Pixels
from service.errors import RivalMissingError

_LAST_WORDS = 300
_END_S = 10.0


class Rival:
    """A running child; what it computes with is in `setting`."""

    def __init__(self, child: subprocess.Popen[str], log: Path) -> None:
        """Raises RivalMissingError if it ends before its first word."""
        self._child = child
        self._log = log
        self.setting: dict[str, Any] = self._read()

    def ask(self, do: str, **more: object) -> dict[str, Any]:
        """What it did, with the milliseconds it took as `ms`. Raises RivalMissingError."""
        if self._child.stdin is None:
            raise RivalMissingError("torch is not listening")
        with contextlib.suppress(BrokenPipeError):  # the read tells its last words
            self._child.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._child.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._child.stdout.readline() if self._child.stdout else ""
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            last_words = self._log.read_text(errors="replace").strip()[-_LAST_WORDS:]
            raise RivalMissingError(f"torch ended: {last_words or line}") from error
        return answer


@contextmanager
def torch_rival(source: str, pictures: Pixels, frames: Pixels, threads: int) -> Iterator[Rival]:
    """torch with a checkpoint or the random weights of a recipe, `source`, and this material.

    Raises RivalMissingError.
    """
    command = shutil.which("lpr-train", path=str(Path(sys.executable).parent)) or shutil.which(
        "lpr-train"
    )
    if command is None:
        raise RivalMissingError("torch is no part of what serves: pip install 'lpr[training]'")
    with tempfile.TemporaryDirectory(prefix="lpr-bench-") as scratch:
        inputs, log = Path(scratch) / "inputs.npz", Path(scratch) / "log"
        np.savez(inputs, pictures=pictures, frames=frames)
        arguments = [command, "eager", source, "--inputs", str(inputs), "--threads", str(threads)]
        with log.open("w") as errors, _child(arguments, errors) as child:
            yield Rival(child, log)


@contextmanager
def _child(arguments: list[str], errors: Any) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(  # noqa: S603 - our own command, no shell
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    try:
        yield child
    finally:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            child.communicate(timeout=_END_S)  # the end of its input is the end of its work
        child.kill()
        child.wait()
