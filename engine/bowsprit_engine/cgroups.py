"""Which folders may hold this process's limits, by cgroup v1 and v2. Knows no controller's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def limit_folders(controller: str, mounts: Sequence[str], *, root: Path, own: Path) -> list[Path]:
    """`mounts`: the v1 controller's mount points under `root`. Inside a container its own cgroup is often the root."""
    own_mounts = [root / mount for mount in mounts]
    folders = [root, *own_mounts]
    for line in read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        parts = Path(path).relative_to("/").parts if path.startswith("/") else ()
        for mount in own_mounts if controllers else [root]:
            folders += [mount.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def read(path: Path) -> str:
    """The file's text, empty when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
