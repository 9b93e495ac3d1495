"""How many processors this process may use, from its affinity and its cgroup's quota (v1 and v2).

Decides the default number of threads, and whether to pin them: only when the processors are the process's own (a
cpuset smaller than the machine and a thread for each). Otherwise two engines would pin to the same ones.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


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
    quotas = [quota for folder in _folders(root, own) if (quota := _quota(folder)) is not None]
    return min(quotas) if quotas else None


def _folders(root: Path, own: Path) -> list[Path]:
    """Folders that may hold this process's quota. Inside a container its own cgroup is often the mount's root."""
    folders = [root, root / "cpu", root / "cpu,cpuacct"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / "cpu", root / "cpu,cpuacct"] if controllers else [root]
        parts = Path(path).relative_to("/").parts if path.startswith("/") else ()
        folders += [mount.joinpath(*parts[:depth]) for mount in mounts for depth in range(1, len(parts) + 1)]
    return folders


def _quota(folder: Path) -> float | None:
    unified = _read(folder / "cpu.max").split()
    if len(unified) == 2 and unified[0] != "max":
        return int(unified[0]) / int(unified[1])
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
