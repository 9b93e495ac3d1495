"""The local Kubernetes keeps its promises: quick, isolated, repairable, and gone without a trace."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster import base_image, machine
from cluster.driver import Cluster
from cluster.errors import ClusterError, ComponentError
from cluster.plan import Part

SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"


def pod(name: str, image: str, command: list[str], *, claim: str | None = None) -> str:
    """A pod with the strictest settings that the project's own pods run with, as JSON."""
    container = {
        "name": "main",
        "image": image,
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}] if claim else [],
    }
    identity = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": identity | {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else [],
    }
    metadata = {"name": name, "labels": {"app": name}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def run_to_end(cluster: Cluster, namespace: str, manifest: str, name: str) -> str:
    """Run a pod until it succeeds; what it printed."""
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)
    cluster.kubectl("wait", f"pod/{name}", "-n", namespace, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    return cluster.kubectl("logs", name, "-n", namespace)


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    """Any image with Python in it."""
    return base_image.ensure(cluster.images)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security standard, for one test."""
    name = f"cluster-test-{time.monotonic_ns()}"
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    cluster.kubectl("wait", f"--namespace={name}", "--for=create", "serviceaccount/default", "--timeout=10s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_a_second_up_changes_nothing_and_is_quick(cluster: Cluster) -> None:
    """`up` on a running cluster looks, finds it Ready, and returns."""
    before = cluster.init.pid()
    started = time.monotonic()
    Cluster(cluster.places.name).up()
    assert (before, True) == (cluster.init.pid(), time.monotonic() - started < 10)


def test_a_pod_writes_to_a_volume_that_this_machine_reads(cluster: Cluster, namespace: str, image: str) -> None:
    """A claim made by the driver is writable for group 65532 and is a folder out here."""
    folder = cluster.create_volume("data", namespace)
    write = pod("writer", image, ["python3", "-c", "open('/data/note', 'w').write('from the pod')"], claim="data")
    run_to_end(cluster, namespace, write, "writer")
    assert (folder / "note").read_text() == "from the pod"


def test_a_pod_cannot_leave_the_cluster(cluster: Cluster, namespace: str, image: str) -> None:
    """The node's network has no way out, so a pod's connect to anywhere else fails at once."""
    reach = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 5)\nexcept OSError as e: print(e.strerror)"
    printed = run_to_end(cluster, namespace, pod("escaper", image, ["python3", "-c", reach]), "escaper")
    assert printed.strip() == "Network is unreachable"


def test_a_forwarded_service_finds_a_replaced_pod(cluster: Cluster, namespace: str, image: str) -> None:
    """A forward to a Service outlives the pod behind it."""
    serve = pod("web", image, ["python3", "-c", SERVE])
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=serve)
    cluster.kubectl("expose", "pod", "web", "-n", namespace, "--port=80", "--target-port=8080")
    with cluster.forward_service(namespace, "web", 80) as port:
        first = answer(port)
        cluster.kubectl("delete", "pod", "web", "-n", namespace)
        cluster.kubectl("apply", "-n", namespace, "-f", "-", input=serve)
        assert (first, answer(port)) == (200, 200)


def test_the_api_server_comes_back_at_the_same_address(cluster: Cluster) -> None:
    """A killed API server is started again and answers at the port that the kubeconfig names."""
    address = cluster.kubeconfig.read_text()
    cluster.kill("kube-apiserver")
    cluster.up()
    names = cluster.kubectl("get", "namespace", "default", "-o", "name")
    assert (address, "namespace/default") == (cluster.kubeconfig.read_text(), names.strip())


def test_down_leaves_nothing_behind() -> None:
    """After `down` there is no process, mount, link, cgroup, file or changed setting of a node that ran a pod."""
    node = Cluster(f"tests-node-{os.getpid()}")
    settings = {name: (machine.SYSCTLS / name).read_text() for name in machine.KUBELET_SYSCTLS}
    before = links()
    try:
        node.up(owner_pid=os.getpid())
        inside = node.init.pid()
        node.kubectl("run", "sleeper", "--image=localhost/pause:1")
        node.kubectl("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=60s")
    finally:
        node.down()
        shutil.rmtree(node.places.image_store)
    left = {
        "process": Path(f"/proc/{inside}").exists(),
        "processes": [line for line in command_lines() if str(node.places.run) in line],
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if node.places.name in line],
        "links": links() - before,
        "cgroups": machine.cgroup_trees(node.places),
        "files": node.places.run.exists(),
        "settings": {name for name in settings if (machine.SYSCTLS / name).read_text() != settings[name]},
    }
    assert {name: found for name, found in left.items() if found} == {}


def test_a_cluster_ends_with_its_owner() -> None:
    """A test process that is killed leaves no cluster running."""
    name = f"tests-owned-{os.getpid()}"
    program = (
        "import os, sys, time; from cluster.driver import Cluster;"
        f"Cluster({name!r}, ('etcd',)).up(owner_pid=os.getpid()); print('up', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    instance = Cluster(name, (Part.ETCD,))
    owner = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        descriptor = os.pidfd_open(instance.init.pid())
        owner.send_signal(signal.SIGKILL)
        assert ended(descriptor)
    finally:
        owner.kill()
        owner.wait()
        instance.down()


def test_a_component_that_fails_is_named_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What doesn't start is said by name, with the path of its log."""
    instance = Cluster(f"tests-broken-{os.getpid()}", (Part.ETCD,))
    monkeypatch.setattr(instance, "_programs", lambda: {"etcd": Path("/bin/false")})
    try:
        with pytest.raises(ComponentError, match="etcd exited with 1 before it was ready") as raised:
            instance.up(owner_pid=os.getpid())
        assert raised.value.log == instance.places.logs / "etcd.log"
    finally:
        instance.down()


def test_a_build_that_fails_shows_its_end(cluster: Cluster, tmp_path: Path, image: str) -> None:
    """A failing RUN step is in the message, with the log's path."""
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nRUN echo the reason && exit 3\n")
    with pytest.raises(ClusterError, match="the reason"):
        cluster.images.build(tmp_path / "Dockerfile", tmp_path, "localhost/broken:test")


def test_a_run_step_reaches_the_machines_network(cluster: Cluster, tmp_path: Path, image: str) -> None:
    """Builds can download while the cluster is up: RUN sees this machine's network, not the node's."""
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nRUN ls /sys/class/net > /links\n")
    cluster.images.build(tmp_path / "Dockerfile", tmp_path, "localhost/links:test")
    cluster.kubectl("delete", "pod", "links", "--ignore-not-found")
    shown = run_to_end(cluster, "default", pod("links", "localhost/links:test", ["cat", "/links"]), "links")
    cluster.kubectl("delete", "pod", "links")
    assert set(shown.split()) == links()


def answer(port: int, seconds: float = 60) -> int:
    """The status of GET / at the port as soon as something answers; raises the last error when nothing does."""
    transport = httpx.HTTPTransport()
    ends = time.monotonic() + seconds
    with httpx.Client(transport=transport, trust_env=False, timeout=5) as client:
        while True:
            try:
                return client.get(f"http://127.0.0.1:{port}/").status_code
            except httpx.TransportError:
                if time.monotonic() > ends:
                    raise


def links() -> set[str]:
    """The names of this machine's network interfaces."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def command_lines() -> list[str]:
    """Every process' command line; a zombie has none."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def ended(descriptor: int) -> bool:
    """Whether the process of a pidfd ends within a while."""
    return bool(select.select([descriptor], [], [], 30)[0])
