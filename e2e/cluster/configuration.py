"""The configuration files of containerd, CNI, kubelet, kube-proxy and BuildKit, as values rendered to text."""

import json
from pathlib import Path

import yaml

from cluster.places import Places

NODE_ADDRESS = "10.88.0.1"  # the bridge: node address and the pods' gateway in one
POD_CIDR = "10.88.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
BRIDGE = "bowsprit0"
PAUSE_IMAGE = "localhost/pause:1"
IMAGE_NAMESPACE = "k8s.io"
# An engine image's layers, unpacked and as blobs, are 12 GB; room for a second set would double that.
BUILD_CACHE_MEGABYTES = 16_000


def write(places: Places) -> None:
    """Write every file the node's components read."""
    (places.run / "manifests").mkdir(parents=True, exist_ok=True)
    network = places.run / "cni" / "net.d"
    network.mkdir(parents=True, exist_ok=True)
    # No cluster DNS yet: a resolver that refuses at once, instead of one that lets a lookup hang.
    (places.run / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (network / "10-bowsprit.conflist").write_text(json.dumps(_network(places), indent=1))
    (places.run / "containerd.toml").write_text(_containerd(places))
    (places.run / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(places)))
    (places.run / "kube-proxy.yaml").write_text(yaml.safe_dump(_kube_proxy(places)))
    (places.run / "buildkitd.toml").write_text(_buildkit(places))
    wrapper = runc_on_host_network(places)
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={host_network(places)} -- runc "$@"\n')
    wrapper.chmod(0o755)


def host_network(places: Places) -> Path:
    """Where the init mounts the machine's own network namespace, visible only inside the cluster's mount namespace."""
    return places.run / "host-network"


def runc_on_host_network(places: Places) -> Path:
    """BuildKit's runtime: its RUN steps download packages, and the node's network has no way out."""
    return places.run / "runc-on-host-network"


def _network(places: Places) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(places.run / "cni" / "data"),
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": addresses,
    }
    return {"cniVersion": "0.4.0", "name": "bowsprit", "plugins": [bridge]}


def _containerd(places: Places) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE sandboxes die with "can't get final child's PID from pipe: EOF".
    disabled = (
        "io.containerd.nri.v1.nri",
        "io.containerd.snapshotter.v1.erofs",
        "io.containerd.tracing.processor.v1.otlp",
        "io.containerd.internal.v1.tracing",
    )
    return f"""\
version = 3
root = "{places.image_store}"
state = "{places.run}/containerd"
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "{places.containerd_socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{places.run}/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _buildkit(places: Places) -> str:
    return f"""\
root = "{places.build_cache}"
[grpc]
  address = ["unix://{places.buildkit_socket}"]
[worker.oci]
  enabled = false
[worker.containerd]
  enabled = true
  address = "{places.containerd_socket}"
  namespace = "{IMAGE_NAMESPACE}"
  networkMode = "host"
  defaultCgroupParent = "/{places.cgroup}/buildkit"
  gc = true
  maxUsedSpace = "{BUILD_CACHE_MEGABYTES}MB"
  [worker.containerd.runtime]
    name = "io.containerd.runc.v2"
    options = {{ BinaryName = "{runc_on_host_network(places)}" }}
"""


def _kubelet(places: Places) -> dict[str, object]:
    certificates = places.certificates
    authentication = {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": str(certificates / "ca.crt")},
    }
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{places.cgroup}",
        "containerRuntimeEndpoint": f"unix://{places.containerd_socket}",
        "clusterDNS": ["127.0.0.1"],
        "clusterDomain": "cluster.local",
        "resolvConf": str(places.run / "resolv.conf"),
        "failSwapOn": False,
        "authentication": authentication,
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet-server.key"),
        "staticPodPath": str(places.run / "manifests"),
        "volumePluginDir": str(places.run / "volume-plugins"),
        "podLogsDir": str(places.run / "pod-logs"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "seccompDefault": False,
        "serializeImagePulls": False,
        "syncFrequency": "10s",  # how soon a changed ConfigMap reaches a running pod
        "nodeStatusUpdateFrequency": "10s",
    }


def _kube_proxy(places: Places) -> dict[str, object]:
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "nodePortAddresses": ["primary"],
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": places.node,
        "clientConnection": {"kubeconfig": str(places.certificates / "proxy.kubeconfig")},
        "conntrack": untouched,  # those sysctls are the whole machine's
    }
