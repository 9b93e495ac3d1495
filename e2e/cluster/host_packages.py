"""What the cluster needs from Debian, installed only where it is missing and never silently."""

import os
import shutil
import subprocess
from pathlib import Path

from cluster.errors import ClusterError
from cluster.progress import say

CONTROL_PLANE = {"ip": "iproute2", "unshare": "util-linux"}
NODE = {**CONTROL_PLANE, "runc": "runc", "nft": "nftables", "/usr/lib/cni/bridge": "containernetworking-plugins"}
BASE_IMAGE = {"mmdebstrap": "mmdebstrap"}
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ensure(programs: dict[str, str]) -> None:
    """Install the Debian packages of those programs (name or absolute path -> package) that are not there.

    Raises ClusterError when apt-get is missing, fails, or may not be run.
    """
    missing = sorted({package for program, package in programs.items() if not _is_there(program)})
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"missing on this machine: {', '.join(missing)}; as root, run: {' '.join(command)}")
    say(f"installing Debian packages: {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        result = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0 and step is command:
            raise ClusterError(f"{' '.join(step)} exited with {result.returncode}:\n{result.stderr[-2000:]}")


def _is_there(program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=SEARCH) is not None
