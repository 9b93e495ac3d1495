"""Where everything lies: one folder per cluster that goes with `down`, and caches beside it that stay.

Nothing is written into the checkout. BOWSPRIT_CACHE names another place than ~/.cache/bowsprit.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

MODULES = Path(__file__).parent / "modules"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def cache() -> Path:
    """The root of everything that outlives a cluster."""
    return Path(os.environ.get("BOWSPRIT_CACHE") or Path.home() / ".cache" / "bowsprit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The paths of one cluster, all derived from its name."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ClusterError(
                f"cluster name {self.name!r} must match {NAME.pattern} (it becomes host and cgroup names)"
            )

    @property
    def run(self) -> Path:
        """Everything `down` removes."""
        return cache() / "clusters" / self.name

    @property
    def certificates(self) -> Path:
        return self.run / "certificates"

    @property
    def logs(self) -> Path:
        return self.run / "log"

    @property
    def control_socket(self) -> Path:
        """The init's own socket."""
        return self.run / "init.sock"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def buildkit_socket(self) -> Path:
        return self.run / "buildkit.sock"

    @property
    def kubeconfig(self) -> Path:
        """Credentials of an administrator, at the port forwarded to the host's loopback."""
        return self.run / "kubeconfig"

    @property
    def volumes(self) -> Path:
        return self.run / "volumes"

    @property
    def image_store(self) -> Path:
        """containerd's root: images and build cache survive `down`. One containerd per folder, hence one per name."""
        return cache() / "containerd" / self.name

    @property
    def build_cache(self) -> Path:
        """BuildKit's own records beside that store."""
        return cache() / "buildkit" / self.name

    @property
    def cgroup(self) -> str:
        return f"bowsprit-{self.name}"

    @property
    def node(self) -> str:
        return f"{self.name}-node"
