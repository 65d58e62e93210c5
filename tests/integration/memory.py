"""What a process's memory did meanwhile, as the kernel counts it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def grown_at_most(pid: int, most: int) -> Iterator[None]:
    """Asserts that the process's resident memory never rose by more than `most` bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak begins anew
    before = _bytes(pid, "VmRSS")
    yield
    assert _bytes(pid, "VmHWM") - before <= most


def _bytes(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
