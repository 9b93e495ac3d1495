"""Talks to a cluster's init over its unix socket, and hands it listening sockets of the host's network."""

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStatus:
    """What the init says of one component. pid is as seen inside the cluster's process namespace."""

    name: str
    state: str  # stopped | waiting | starting | ready | failed
    pid: int | None
    restarts: int
    exit_code: int | None
    ready_seconds: float | None
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A port of the host's loopback that leads to an address in the cluster; as a context it yields the port.

    A held one ends with `close` or with this process, a persistent one (no connection) with the cluster.
    """

    port: int
    connection: socket.socket | None

    def __enter__(self) -> int:
        return self.port

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class Init:
    """The first process of a cluster, reached through its socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_alive(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0

    def pid(self) -> int:
        """Its process id out here: the kernel translates the credentials of the peer that listens."""
        with self._connect() as client:
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def components(self) -> tuple[ComponentStatus, ...]:
        answer = self._ask({"do": "status"})
        return tuple(_status(fields) for fields in answer["components"])

    def change(self, action: str, component: str, **more: int) -> ComponentStatus:
        """Start or stop a component (returns when it is ready or gone), or kill it with a signal."""
        return _status(self._ask({"do": action, "component": component, **more}))

    def forward(self, address: str, port: int, *, local_port: int, is_held: bool) -> Forward:
        """Listen on the loopback of this process' network; port 0 takes a free one.

        Raises ClusterError when the port is taken.
        """
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, local_port))
            except OSError as error:
                raise ClusterError(f"port {local_port} on {LOOPBACK}: {error.strerror}") from error
            listener.listen(128)
            listener.setblocking(False)
            taken: int = listener.getsockname()[1]
            request = {"do": "forward", "address": address, "port": port, "is_held": is_held}
            client = self._connect()
            _exchange(client, request, [listener.fileno()])
        finally:
            listener.close()
        if is_held:
            return Forward(port=taken, connection=client)
        client.close()
        return Forward(port=taken, connection=None)

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(self.path))
        except OSError as error:
            client.close()
            raise ClusterError(f"no cluster answers at {self.path}: {error.strerror}") from error
        return client

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._connect() as client:
            return _exchange(client, request, [])


def _exchange(client: socket.socket, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    socket.send_fds(client, [json.dumps(request).encode() + b"\n"], descriptors)
    received = b""
    while not received.endswith(b"\n"):
        data = client.recv(1 << 16)
        if not data:
            raise ClusterError(f"the cluster's init closed its socket during {request['do']!r}")
        received += data
    answer: dict[str, Any] = json.loads(received)
    if "error" in answer:
        raise ClusterError(f"the cluster's init refused {request}: {answer['error']}")
    return answer


def _status(fields: dict[str, Any]) -> ComponentStatus:
    return ComponentStatus(**{**fields, "log": Path(fields["log"])})
