"""How many cores this process may keep busy, which is often fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Those that it may run on, or fewer where a control group has a quota of their time.

    A quota is what `cpus:` of compose, a pod's limit and `CPUQuota=` of systemd set; it is read as
    version 2 of Linux's control groups tells it, and rounded up.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([count or 1, *_quotas(groups, own)])


def _quotas(groups: Path, own: Path) -> list[int]:
    """Of the process's group and those around it, in cores."""
    try:
        [group] = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return []
    folder = groups / group.lstrip("/")
    found = []
    for each in (folder, *folder.parents):
        if not each.is_relative_to(groups):
            break
        try:
            quota, period = (each / "cpu.max").read_text().split()
            found.append(max(1, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError):  # none there, or "max": no quota
            continue
    return found
