"""The real service with a fault inside: `python -m tests.faults.failing serve ...` as a child.

The service's own code knows nothing of it: functions are replaced before it starts, as the
environment says.

- `FAIL_KILL=module:name.name:when:nth` kills the process `before` or `after` the nth call.
- `FAIL_SESSIONS=path`: while there is such a file, each run of more than as many pictures as it
  says fails the way CUDA does when its memory is full.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from service.cli import app


def kill_at(point: str) -> None:
    """Replace one function by itself and the end of the process."""
    module_name, path, when, nth = point.split(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module_name))
    original = getattr(owner, name)
    calls = itertools.count(1)

    @functools.wraps(original)
    def failing(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == int(nth)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, failing)


def fail_sessions(switch: Path) -> None:
    """Make onnxruntime's runs fail for as long as `switch` is there."""
    original: Callable[..., Any] = onnxruntime.InferenceSession.run

    def run(self: Any, names: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        pictures = len(next(iter(inputs.values())))
        if switch.exists() and pictures > int(switch.read_text()):
            raise RuntimeException("CUDA failure 2: out of memory")
        return original(self, names, inputs, *rest)

    onnxruntime.InferenceSession.run = run


if __name__ == "__main__":
    if "FAIL_KILL" in os.environ:
        kill_at(os.environ["FAIL_KILL"])
    if "FAIL_SESSIONS" in os.environ:
        fail_sessions(Path(os.environ["FAIL_SESSIONS"]))
    app()
