"""One cluster: up, down, and everything that people and tests do with it between.

`up` and `down` may be called at any time, from any process, after any crash: they look at what is there. The cluster
outlives the process that started it, unless an owner is named.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import build, certificates, host_packages, machine
from cluster.api import Api
from cluster.control import ComponentStatus, Forward, Init
from cluster.errors import ClusterError, tail
from cluster.images import ImageStore
from cluster.launch import launch
from cluster.places import Places, cache
from cluster.plan import ALL_PARTS, Part
from cluster.progress import say
from cluster.readiness import Patience
from cluster.record import Record, read
from cluster.volumes import STORAGE_CLASS, volume_objects

READY_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What there is of a cluster right now."""

    name: str
    is_up: bool
    components: tuple[ComponentStatus, ...] = ()
    is_node_ready: bool | None = None  # None: an instance without a node
    api_url: str | None = None
    kubeconfig: Path | None = None


class Cluster:
    """A named instance. Instances share the caches and nothing else."""

    def __init__(self, name: str = "bowsprit", parts: Sequence[str] = ALL_PARTS) -> None:
        self.places = Places(name=name)
        self.parts = tuple(part for part in ALL_PARTS if part in {Part(name) for name in parts})
        self.init = Init(self.places.control_socket)
        self._process: subprocess.Popen[bytes] | None = None

    # --- coming and going ---

    def up(self, *, port: int = 0, owner_pid: int | None = None) -> None:
        """From whatever is there to Ready.

        port: the API server's on 127.0.0.1 (0: a free one). owner_pid: the cluster ends with that process.
        Raises ClusterError, saying what failed and where its log is; what did come up stays for a look until `down`.
        """
        with self._lock():
            if self.init.is_alive():
                self._check_parts()
                self._wait_ready(time.monotonic(), port)
                self._furnish()
                return
            if self.places.run.exists():
                self._remove_traces()
            programs = self._programs()
            started = time.monotonic()
            say(f"cluster {self.places.name}: starting {', '.join(self.parts)}")
            self._process = launch(self.places, parts=self.parts, programs=programs, owner_pid=owner_pid)
            self._wait_ready(started, port)
            self._furnish()
            say(f"cluster {self.places.name}: up in {time.monotonic() - started:.1f} s")

    def down(self) -> None:
        """Remove it: processes, mounts, network, cgroups, files; restore the machine's settings. Images stay cached."""
        with self._lock():
            if not self.places.run.exists() and not machine.cgroup_trees(self.places):
                return
            started = time.monotonic()
            self._kill_init()
            self._remove_traces()
            say(f"cluster {self.places.name}: down in {time.monotonic() - started:.1f} s")

    def status(self) -> ClusterStatus:
        """What is there, asked anew."""
        if not self.init.is_alive():
            return ClusterStatus(name=self.places.name, is_up=False)
        record = read(self.places)
        api = self.api
        return ClusterStatus(
            name=self.places.name,
            is_up=True,
            components=self.init.components(),
            is_node_ready=api.is_node_ready(self.places.node) if api and record and Part.NODE in record.parts else None,
            api_url=api.url if api else None,
            kubeconfig=self.places.kubeconfig if self.places.kubeconfig.exists() else None,
        )

    # --- using it ---

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig that works on this machine. Never the user's own."""
        return self.places.kubeconfig

    @property
    def api(self) -> Api | None:
        """The API server at its forwarded port; None before there is one."""
        record = read(self.places)
        if record is None or record.api_url is None:
            return None
        return Api(url=record.api_url, certificates=self.places.certificates)

    @property
    def images(self) -> ImageStore:
        """The images that pods of this cluster can use."""
        return ImageStore(places=self.places, init=self.init)

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """What kubectl printed. Raises ClusterError with its complaint when it fails; check=False: both outputs."""
        command = [str(build.KUBERNETES.output / "kubectl"), *arguments]
        result = subprocess.run(
            command, input=input, env=self.environment(), capture_output=True, text=True, check=False
        )
        if not check:
            return result.stdout + result.stderr
        if result.returncode != 0:
            raise ClusterError(
                f"kubectl {' '.join(arguments)} exited with {result.returncode}: {result.stderr.strip()}"
            )
        return result.stdout

    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and clients reach this cluster and leave the user's home alone."""
        paths = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.places.run / "kubectl-cache")}
        return {**os.environ, **paths, "PATH": f"{build.KUBERNETES.output}:{os.environ['PATH']}"}

    def exec(
        self, command: Sequence[str], *, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root on the node: in its network, mounts and processes."""
        entry = ["nsenter", "--target", str(self.init.pid()), "--net", "--mount", "--pid", "--"]
        result = subprocess.run([*entry, *command], input=input, capture_output=True, text=True, check=False)
        if check and result.returncode != 0:
            raise ClusterError(
                f"{' '.join(command)} exited with {result.returncode} on the node: {result.stderr.strip()}"
            )
        return result

    def forward(self, address: str, port: int, *, local_port: int = 0, is_persistent: bool = False) -> Forward:
        """Lead a port of 127.0.0.1 to an address in the cluster (of a pod, a Service, the node).

        Each connection reaches for the target anew, so a restarted one is found again. Persistent: until `down`.
        """
        return self.init.forward(address, port, local_port=local_port, is_held=not is_persistent)

    def forward_service(
        self, namespace: str, name: str, port: int, *, local_port: int = 0, is_persistent: bool = False
    ) -> Forward:
        """The same to a Service, by its name."""
        address = self.kubectl("get", "service", name, "--namespace", namespace, "--output=jsonpath={.spec.clusterIP}")
        return self.forward(address, port, local_port=local_port, is_persistent=is_persistent)

    def create_volume(self, name: str, namespace: str, size: str = "1Gi") -> Path:
        """A bound claim of that name in a namespace that exists; returns its folder on this machine (group 65532)."""
        folder = self.places.volumes / namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, 65532, 65532)
        folder.chmod(0o2775)
        objects = volume_objects(name=name, namespace=namespace, size=size, folder=folder, node=self.places.node)
        self.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(objects))
        claim = f"persistentvolumeclaim/{name}"
        self.kubectl("wait", claim, "--namespace", namespace, "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
        return folder

    # --- hurting it ---

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a component's process; the init starts it again, and `start` waits until it is ready."""
        self.init.change("kill", component, signal=int(number))

    def stop(self, component: str) -> None:
        """Take a component away until `start`."""
        self.init.change("stop", component)

    def start(self, component: str) -> None:
        """Bring it back; returns when it is ready."""
        self.init.change("start", component)

    def restart(self, component: str) -> None:
        """Stop and start; returns when it is ready again."""
        self.stop(component)
        self.start(component)

    # --- how ---

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        path = cache() / "clusters" / f".{self.places.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
            if not self.places.run.exists():
                path.unlink(missing_ok=True)

    def _check_parts(self) -> None:
        record = read(self.places)
        running = record.parts if record else ()
        if not set(self.parts) <= set(running):
            raise ClusterError(
                f"cluster {self.places.name} runs only {', '.join(running)}; take it down first, to start "
                f"{', '.join(self.parts)}"
            )

    def _programs(self) -> dict[str, Path]:
        if os.geteuid() != 0:
            raise ClusterError("a cluster needs root: it makes namespaces, mounts and a bridge")
        is_node = Part.NODE in self.parts
        host_packages.ensure(host_packages.NODE if is_node else host_packages.CONTROL_PLANE)
        folders = build.build(build.ALL_MODULES if is_node else (build.KUBERNETES,))
        return {path.name: path for folder in folders for path in folder.iterdir() if not path.name.startswith(".")}

    def _wait_ready(self, started: float, port: int) -> None:
        patience = Patience(places=self.places, init=self.init, seconds=READY_SECONDS, deadline=started + READY_SECONDS)
        if self._process is not None:
            patience.for_init(self._process)
        patience.for_components(is_told=self.api is None)
        if Part.CONTROL_PLANE not in self.parts:
            return
        api = self.api or self._publish_api(port)
        patience.until("API server on the host", "kube-apiserver", api.is_ready)
        patience.until("ServiceAccount default", "kube-controller-manager", api.has_default_account)
        if Part.NODE in self.parts:
            patience.until("node Ready", "kubelet", lambda: api.is_node_ready(self.places.node))

    def _furnish(self) -> None:
        if Part.NODE in self.parts:
            self.images.ensure_pause()
            self.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(STORAGE_CLASS))

    def _publish_api(self, port: int) -> Api:
        forward = self.forward("127.0.0.1", 6443, local_port=port, is_persistent=True)
        url = f"https://127.0.0.1:{forward.port}"
        places = self.places
        certificates.write_kubeconfig(places.kubeconfig, places.certificates, user="admin", api_url=url)
        Record(parts=self.parts, api_url=url).write(places)
        return Api(url=url, certificates=places.certificates)

    def _kill_init(self) -> None:
        if not self.init.is_alive():
            if self._process is not None:
                self._process.kill()  # takes an init along that hangs before it answers
                self._process.wait(timeout=10)
            return
        descriptor = os.pidfd_open(self.init.pid())
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            # Readable when it has ended, which is after everything else in its process namespace has.
            if not select.select([descriptor], [], [], 30)[0]:
                raise ClusterError(
                    f"processes of cluster {self.places.name} survive SIGKILL:\n{tail(self.places.logs / 'init.log')}"
                )
        finally:
            os.close(descriptor)
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None

    def _remove_traces(self) -> None:
        machine.remove_cgroups(self.places)
        machine.restore_sysctls(self.places)
        if self.places.run.exists():
            shutil.rmtree(self.places.run)


def running_clusters() -> list[str]:
    """Names of the clusters that answer."""
    folder = cache() / "clusters"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
    return [name for name in names if Init(Places(name=name).control_socket).is_alive()]


def remove_dead(prefix: str) -> None:
    """Remove what is left of instances whose name starts so and that no longer run (their owner was killed)."""
    folder = cache() / "clusters"
    alive = set(running_clusters())
    for path in sorted(folder.glob(f"{prefix}*")) if folder.exists() else []:
        if path.is_dir() and path.name not in alive:
            Cluster(path.name).down()
