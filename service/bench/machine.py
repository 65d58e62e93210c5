"""The machine that a figure was measured on, as far as it tells."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from service.bench.bare import ONNXRUNTIME
from service.cores import cores

_CPU_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def describe(providers: list[str]) -> dict[str, Any]:
    """`providers`: onnxruntime's, as the sessions use them."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "onnxruntime": ONNXRUNTIME,
        "provider": providers[0],
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        found = _CPU_NAME.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
