"""What a node touches outside its namespaces: cgroups and a few sysctls. Made on `up`, put back on `down`."""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.places import Places, cache

CGROUPS = Path("/sys/fs/cgroup")
SYSCTLS = Path("/proc/sys")
# kubelet sets these for the whole machine.
KUBELET_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def make_cgroups(places: Places) -> None:
    """A folder for kubelet's tree in each hierarchy of version 1, or one in the unified one."""
    if (CGROUPS / "cgroup.controllers").exists():
        controllers = (CGROUPS / "cgroup.controllers").read_text().split()
        wanted = [f"+{name}" for name in controllers if name in {"cpu", "cpuset", "io", "memory", "pids"}]
        (CGROUPS / "cgroup.subtree_control").write_text(" ".join(wanted))
        (CGROUPS / places.cgroup).mkdir(exist_ok=True)
        return
    for hierarchy in _hierarchies():
        folder = hierarchy / places.cgroup
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())


def remove_cgroups(places: Places, deadline_seconds: float = 10) -> None:
    """Remove the tree bottom-up; the kernel lets go of a dead process' cgroup late. Raises ClusterError if never."""
    ends = time.monotonic() + deadline_seconds
    while left := [tree for tree in cgroup_trees(places) if not _removed(tree)]:
        if time.monotonic() > ends:
            raise ClusterError(f"cgroups still in use after {deadline_seconds} s: {', '.join(map(str, left))}")
        time.sleep(0.05)


def cgroup_trees(places: Places) -> list[Path]:
    """The roots of this cluster's cgroups that exist."""
    # runc makes a folder in the unified hierarchy too, beside those of version 1.
    hierarchies = (CGROUPS, CGROUPS / "unified", *_hierarchies())
    return [tree for hierarchy in hierarchies if (tree := hierarchy / places.cgroup).is_dir()]


def _hierarchies() -> list[Path]:
    return [path for path in sorted(CGROUPS.iterdir()) if (path / "cgroup.procs").exists() and path.name != "unified"]


def _removed(tree: Path) -> bool:
    folders = [path for path in tree.rglob("*") if path.is_dir()]
    for folder in sorted([*folders, tree], key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):  # busy or gone: the caller looks again
            folder.rmdir()
    return not tree.exists()


def save_sysctls(places: Places) -> None:
    """Remember what the machine had before the first node; several nodes share one memory."""
    with _shared() as state:
        if not state:
            state["values"] = {name: (SYSCTLS / name).read_text() for name in KUBELET_SYSCTLS}
        state["nodes"] = sorted({*state.get("nodes", []), places.name})


def restore_sysctls(places: Places) -> None:
    """Put them back when the last node goes."""
    with _shared() as state:
        nodes = [name for name in state.get("nodes", []) if name != places.name]
        if state and not nodes:
            for name, value in state["values"].items():
                (SYSCTLS / name).write_text(value)
            state.clear()
        elif state:
            state["nodes"] = nodes


@contextlib.contextmanager
def _shared() -> Iterator[dict[str, Any]]:
    path = cache() / "clusters" / "sysctls.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        yield state
        file.truncate(0)
        file.write(json.dumps(state) if state else "")
