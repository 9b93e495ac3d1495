"""The memory that this process may have: its cgroup's, the machine's or a GPU's. Refuses to know what for."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bowsprit_engine.cgroups import CGROUP_ROOT, OWN_CGROUP, limit_folders, read
from bowsprit_engine.core.memory_budget import MemoryLimit

LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")  # cgroup v2, v1


def memory_limit(device: str) -> MemoryLimit:
    """A GPU's: what is free there, with what this process holds of it already."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return MemoryLimit(
            num_bytes=free + torch.cuda.memory_reserved(torch.device(device)),
            source=f"what is free on {torch.cuda.get_device_name(torch.device(device))}",
        )
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cgroup = cgroup_limit()
    if cgroup is not None and cgroup < machine:
        return MemoryLimit(num_bytes=cgroup, source="the container's memory limit")
    return MemoryLimit(num_bytes=machine, source="the machine's memory")


def cgroup_limit(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> int | None:
    """Bytes; None when unlimited or unknown. v1 writes "unlimited" as a number above any machine's memory."""
    texts = [
        read(folder / name).strip()
        for folder in limit_folders("memory", ("memory",), root=root, own=own)
        for name in LIMIT_FILES
    ]
    limits = [int(text) for text in texts if text.isdecimal()]
    return min(limits) if limits else None
