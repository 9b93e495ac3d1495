"""How many processors this process may use, from its affinity and its cgroup's quota (v1 and v2).

Decides the default number of threads, and whether to pin them: only when the processors are the process's own (a
cpuset smaller than the machine and a thread for each). Otherwise two engines would pin to the same ones.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from bowsprit_engine.cgroups import CGROUP_ROOT, OWN_CGROUP, limit_folders, read


def available_cpus() -> int:
    """At least 1: the affinity's processors, or fewer under a quota (2.5 processors of quota are 2 threads)."""
    allowed = len(os.sched_getaffinity(0))
    quota = quota_cpus()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cpus_to_pin(num_threads: int) -> list[int]:
    """One processor per thread, or none: then the kernel places them."""
    allowed = sorted(os.sched_getaffinity(0))
    has_own = len(allowed) < (os.cpu_count() or 1)
    return allowed if has_own and quota_cpus() is None and num_threads == len(allowed) else []


def quota_cpus(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> float | None:
    """The cgroup's processor quota, None when unlimited or unknown. The tightest of the path's levels holds."""
    folders = limit_folders("cpu", ("cpu", "cpu,cpuacct"), root=root, own=own)
    quotas = [quota for folder in folders if (quota := _quota(folder)) is not None]
    return min(quotas) if quotas else None


def _quota(folder: Path) -> float | None:
    unified = read(folder / "cpu.max").split()
    if len(unified) == 2 and unified[0] != "max":
        return int(unified[0]) / int(unified[1])
    quota, period = read(folder / "cpu.cfs_quota_us").strip(), read(folder / "cpu.cfs_period_us").strip()
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None
