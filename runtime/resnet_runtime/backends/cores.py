"""How many cores this process may use: a container's share of a large host is not what the host has.

Libraries count the cores that they see. Under a quota of 2 on a host of 64 they start 64 threads, which the system
stops for most of each period.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def visible_cores() -> int:
    """The cores that the process may run on, which is what libraries see."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_in_cores(cgroup: Path = _CGROUP) -> int | None:
    """The control group's quota of time, rounded up to cores; None where it is no less than ``visible_cores``.

    Args:
        cgroup: where the process's own control group is mounted, of version 2 or 1.
    """
    quota = _quota(cgroup)
    cores = None if quota is None else max(1, math.ceil(quota))
    return cores if cores is not None and cores < visible_cores() else None


def usable_cores() -> int:
    """The cores that are worth a thread each."""
    return quota_in_cores() or visible_cores()


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time, or None where there is no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        return int(limit) / int(period) if int(limit) > 0 and int(period) > 0 else None
    except ValueError:  # "max"
        return None
