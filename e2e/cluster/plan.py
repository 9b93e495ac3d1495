"""What runs in the namespaces: each component's command line, what it waits for, and how one sees it is ready.

Values only; init.py carries them out. The flags were measured in a laboratory before; the traps among them are
commented.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from cluster import configuration
from cluster.configuration import BRIDGE, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR
from cluster.places import Places

INNER_API = "https://127.0.0.1:6443"
ETCD = "http://127.0.0.1:2379"


class Part(StrEnum):
    """Groups of components that an instance can do without."""

    ETCD = "etcd"
    CONTROL_PLANE = "control-plane"
    NODE = "node"


ALL_PARTS = (Part.ETCD, Part.CONTROL_PLANE, Part.NODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One process for the init to supervise."""

    name: str
    argv: tuple[str, ...]
    check: dict[str, str]
    log: str
    environment: dict[str, str]
    after: tuple[str, ...] = ()
    on_demand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that the init does, as it is handed over."""

    components: tuple[ComponentSpec, ...]
    commands: tuple[tuple[str, ...], ...]
    sysctls: dict[str, str]
    control_socket: str
    host_network_file: str
    host_network_fd: int | None
    owner_fd: int | None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def compose(
    places: Places,
    *,
    parts: tuple[Part, ...],
    programs: dict[str, Path],
    host_network_fd: int | None,
    owner_fd: int | None,
) -> Plan:
    """The plan for these parts; programs maps a component to its executable."""
    components = _Components(places, programs)
    chosen: list[ComponentSpec] = []
    if Part.ETCD in parts:
        chosen.append(components.etcd())
    if Part.CONTROL_PLANE in parts:
        chosen += [components.api_server(), components.controller_manager(), components.scheduler()]
    if Part.NODE in parts:
        chosen += [components.containerd(), components.kubelet(), components.kube_proxy(), components.buildkit()]
    is_node = Part.NODE in parts
    return Plan(
        components=tuple(chosen),
        commands=(*_mounts(places), *_bridge()) if is_node else _loopback(),
        sysctls={"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"} if is_node else {},
        control_socket=str(places.control_socket),
        host_network_file=str(configuration.host_network(places)),
        host_network_fd=host_network_fd,
        owner_fd=owner_fd,
    )


def _mounts(places: Places) -> tuple[tuple[str, ...], ...]:
    # Stray writes of kubelet, containerd and CNI (/var/lib/kubelet, /etc/cni, /run/netns, …) land in the run folder.
    overlays = []
    for folder in ("etc", "var"):
        upper, work = places.run / "overlay" / folder / "upper", places.run / "overlay" / folder / "work"
        options = f"lowerdir=/{folder},upperdir={upper},workdir={work}"
        overlays += [
            ("mkdir", "-p", str(upper), str(work)),
            ("mount", "-t", "overlay", "overlay", "-o", options, f"/{folder}"),
        ]
    return (
        ("mount", "--make-rprivate", "/"),
        ("mount", "--make-rshared", "/"),  # kubelet wants / shared; its peers are all in here
        *overlays,
        ("mount", "-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", "/run"),
        ("mkdir", "/run/lock"),
    )


def _bridge() -> tuple[tuple[str, ...], ...]:
    return (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "link", "add", BRIDGE, "type", "bridge"),
        ("ip", "address", "add", f"{NODE_ADDRESS}/16", "dev", BRIDGE),
        ("ip", "link", "set", BRIDGE, "up"),
        # Without a default route a connect to a Service address would fail before it is translated.
        ("ip", "route", "add", SERVICE_CIDR, "dev", BRIDGE),
    )


def _loopback() -> tuple[tuple[str, ...], ...]:
    return (("ip", "link", "set", "lo", "up"), ("ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", "lo"))


class _Components:
    """Builders of the components of one cluster."""

    def __init__(self, places: Places, programs: dict[str, Path]) -> None:
        self.places = places
        self.programs = programs
        self.keys = places.certificates
        # containerd 2 must find its own shim before Debian's.
        folders = list(dict.fromkeys(str(path.parent) for path in programs.values()))
        self.path = ":".join([*folders, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])

    def etcd(self) -> ComponentSpec:
        peer = "http://127.0.0.1:2380"
        argv = (
            f"--name={self.places.name}",
            f"--data-dir={self.places.run}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self.places.name}={peer}",
            "--unsafe-no-fsync",  # a power cut may cost this cluster its state, and nothing else
        )
        return self._component("etcd", argv, {"url": f"{ETCD}/health"})

    def api_server(self) -> ComponentSpec:
        keys = self.keys
        argv = (
            f"--etcd-servers={ETCD}",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            f"--advertise-address={NODE_ADDRESS}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--allow-privileged=true",
            f"--client-ca-file={keys}/ca.crt",
            f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--kubelet-client-certificate={keys}/apiserver-kubelet.crt",
            f"--kubelet-client-key={keys}/apiserver-kubelet.key",
            f"--kubelet-certificate-authority={keys}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={keys}/service-account.pub",
            f"--service-account-signing-key-file={keys}/service-account.key",
            f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys}/front-proxy.crt",
            f"--proxy-client-key-file={keys}/front-proxy.key",
        )
        return self._component("kube-apiserver", argv, self._https(f"{INNER_API}/readyz"), after=("etcd",))

    def controller_manager(self) -> ComponentSpec:
        keys = self.keys
        argv = (
            *self._identity("controller-manager"),
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={keys}/service-account.key",
            f"--root-ca-file={keys}/ca.crt",
            "--use-service-account-credentials=true",
            f"--cluster-signing-cert-file={keys}/ca.crt",
            f"--cluster-signing-key-file={keys}/ca.key",
            f"--cluster-cidr={POD_CIDR}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--leader-elect=false",
            "--kube-api-qps=200",  # else the ServiceAccount `default` takes five seconds to appear
            "--kube-api-burst=400",
        )
        check = self._https("https://127.0.0.1:10257/healthz")
        return self._component("kube-controller-manager", argv, check, after=("kube-apiserver",))

    def scheduler(self) -> ComponentSpec:
        argv = (*self._identity("scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false")
        return self._component(
            "kube-scheduler", argv, self._https("https://127.0.0.1:10259/healthz"), after=("kube-apiserver",)
        )

    def containerd(self) -> ComponentSpec:
        argv = (f"--config={self.places.run}/containerd.toml",)
        return self._component("containerd", argv, {"socket": str(self.places.containerd_socket)})

    def kubelet(self) -> ComponentSpec:
        argv = (
            f"--config={self.places.run}/kubelet.yaml",
            f"--kubeconfig={self.keys}/kubelet.kubeconfig",
            f"--hostname-override={self.places.node}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={self.places.run}/kubelet",
            f"--cert-dir={self.keys}",
            "-v=1",
        )
        check = {"url": "http://127.0.0.1:10248/healthz"}
        return self._component("kubelet", argv, check, after=("containerd", "kube-apiserver"))

    def kube_proxy(self) -> ComponentSpec:
        argv = (f"--config={self.places.run}/kube-proxy.yaml",)
        return self._component("kube-proxy", argv, {"url": "http://127.0.0.1:10256/livez"}, after=("kube-apiserver",))

    def buildkit(self) -> ComponentSpec:
        argv = (f"--config={self.places.run}/buildkitd.toml",)
        check = {"socket": str(self.places.buildkit_socket)}
        return self._component("buildkitd", argv, check, after=("containerd",), on_demand=True)

    def _identity(self, user: str) -> tuple[str, ...]:
        kubeconfig = f"{self.keys}/{user}.kubeconfig"
        flags = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
        return tuple(f"{flag}={kubeconfig}" for flag in flags)

    def _https(self, url: str) -> dict[str, str]:
        keys = self.keys
        return {
            "url": url,
            "authority": f"{keys}/ca.crt",
            "certificate": f"{keys}/admin.crt",
            "key": f"{keys}/admin.key",
        }

    def _component(
        self,
        name: str,
        argv: tuple[str, ...],
        check: dict[str, str],
        *,
        after: tuple[str, ...] = (),
        on_demand: bool = False,
    ) -> ComponentSpec:
        return ComponentSpec(
            name=name,
            argv=(str(self.programs[name]), *argv),
            check=check,
            log=str(self.places.logs / f"{name}.log"),
            environment={"PATH": self.path, "HOME": str(self.places.run)},
            after=after,
            on_demand=on_demand,
        )
