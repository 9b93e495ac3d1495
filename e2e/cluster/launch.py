"""Starts the namespaces and their first process, detached; everything it needs is written to the run folder first."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from cluster import certificates, configuration, machine, plan
from cluster.places import Places
from cluster.plan import Part
from cluster.progress import step
from cluster.record import Record

NAMESPACES = "--net --mount --pid --fork --mount-proc --propagation private --kill-child=KILL"
# Isolated, without site packages: the first process needs nothing but the standard library.
PYTHON_FLAGS = "-I -S -u"


def launch(
    places: Places, *, parts: tuple[Part, ...], programs: dict[str, Path], owner_pid: int | None
) -> subprocess.Popen[bytes]:
    """Write certificates, configuration and plan, then start the init. Nothing is ready yet when this returns."""
    for folder in (places.run, places.logs):
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    Record(parts=parts).write(places)
    with step("certificates"):
        certificates.write(
            places.certificates,
            node=places.node,
            node_address=configuration.NODE_ADDRESS,
            service_address=configuration.SERVICE_ADDRESS,
            api_url=plan.INNER_API,
        )
    host_network = None
    if Part.NODE in parts:
        configuration.write(places)
        machine.save_sysctls(places)
        machine.make_cgroups(places)
        host_network = os.open("/proc/self/ns/net", os.O_RDONLY)
    owner = None if owner_pid is None else os.pidfd_open(owner_pid)
    content = plan.compose(places, parts=parts, programs=programs, host_network_fd=host_network, owner_fd=owner)
    (places.run / "plan.json").write_text(json.dumps(asdict(content), indent=1))
    descriptors = tuple(descriptor for descriptor in (host_network, owner) if descriptor is not None)
    try:
        return _spawn(places, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _spawn(places: Places, descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    init = [sys.executable, *PYTHON_FLAGS.split(), str(Path(__file__).with_name("init.py"))]
    with (places.logs / "init.log").open("ab") as log:
        return subprocess.Popen(
            ["unshare", *NAMESPACES.split(), "--", *init, str(places.run / "plan.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=descriptors,
        )
