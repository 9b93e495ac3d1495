"""What the cluster driver decides without starting anything."""

import json
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography import x509

from cluster import build, certificates, plan
from cluster.control import Init
from cluster.errors import ClusterError, tail
from cluster.places import Places
from cluster.plan import ALL_PARTS, Part

PROGRAMS = {
    name: Path("/programs") / name
    for name in (*build.MULTI_CALL, "containerd", "containerd-shim-runc-v2", "ctr", "buildkitd", "buildctl", "pause")
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWSPRIT_CACHE", str(tmp_path))


def composed(*parts: Part, host_network_fd: int | None = None) -> plan.Plan:
    """The plan of these parts."""
    places = Places(name="some")
    return plan.compose(places, parts=parts, programs=PROGRAMS, host_network_fd=host_network_fd, owner_fd=None)


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-dash", "dash-", "a/b", "x" * 41])
def test_a_name_that_cannot_be_a_host_name_is_refused(name: str) -> None:
    """The message holds the name, since it becomes a folder, a cgroup and a node."""
    with pytest.raises(ClusterError, match="must match"):
        Places(name=name)


def test_sockets_of_a_cluster_fit_the_kernels_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unix socket's path is at most 107 bytes, so the longest name must do in an ordinary home."""
    monkeypatch.setenv("BOWSPRIT_CACHE", "/home/somebody-here/.cache/bowsprit")
    places = Places(name="x" * 39)
    longest = max(len(str(path)) for path in (places.control_socket, places.containerd_socket, places.buildkit_socket))
    assert longest <= 107


def test_a_control_plane_has_no_node() -> None:
    """Without the node part nothing mounts, bridges or runs pods."""
    control_plane = composed(Part.ETCD, Part.CONTROL_PLANE)
    names = [component.name for component in control_plane.components]
    assert names == ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
    assert [command[0] for command in control_plane.commands] == ["ip", "ip"]


def test_every_component_waits_only_for_components_of_the_plan() -> None:
    """A name in `after` that nothing carries would wait for ever."""
    whole = composed(*ALL_PARTS)
    names = {component.name for component in whole.components}
    assert {name for component in whole.components for name in component.after} <= names


def test_a_plan_survives_the_way_to_the_init() -> None:
    """The init reads JSON, so the plan must be nothing else."""
    whole = composed(*ALL_PARTS, host_network_fd=7)
    assert json.loads(json.dumps(asdict(whole)))["host_network_fd"] == 7


def test_containerds_own_shim_comes_before_debians() -> None:
    """The folder of the built programs leads PATH."""
    containerd = next(part for part in composed(*ALL_PARTS).components if part.name == "containerd")
    assert containerd.environment["PATH"].split(":")[0] == "/programs"


def test_a_modules_key_follows_its_flags() -> None:
    """Programs built otherwise are other programs; the same ones are found again."""
    module = build.KUBERNETES
    assert module.key() == replace(module).key()
    assert module.key() != replace(module, ldflags="-s").key()


def test_the_api_servers_certificate_names_every_way_to_it(tmp_path: Path) -> None:
    """Clients reach it by loopback, by the node, and as a Service."""
    certificates.write(
        tmp_path, node="n", node_address="10.88.0.1", service_address="10.96.0.1", api_url="https://127.0.0.1:6443"
    )
    certificate = x509.load_pem_x509_certificate((tmp_path / "apiserver.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "10.88.0.1", "10.96.0.1"}
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_private_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    """So is a kubeconfig, which holds one."""
    certificates.write(
        tmp_path, node="n", node_address="10.88.0.1", service_address="10.96.0.1", api_url="https://127.0.0.1:6443"
    )
    secret = [path for path in tmp_path.iterdir() if path.suffix in {".key", ".kubeconfig"}]
    assert {oct(path.stat().st_mode & 0o777) for path in secret} == {"0o600"}


def test_a_log_is_told_by_its_last_lines(tmp_path: Path) -> None:
    """A failure shows the end of the log, where the reason is."""
    log = tmp_path / "some.log"
    log.write_text("first\nsecond\nthird\n")
    assert tail(log, lines=2) == "    second\n    third"


def test_no_cluster_answers_where_none_was_started(tmp_path: Path) -> None:
    """A socket file that a killed machine left behind is not a cluster."""
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "init.sock"))
    assert not Init(tmp_path / "init.sock").is_alive()
