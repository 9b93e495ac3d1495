"""First process of a cluster's namespaces: mounts, network, supervision, forwarding. Standard library only.

It decides when a component starts (when those before it are ready) and starts again what exits. It does not know what
the components are: the driver hands it a plan (JSON, see plan.py) and talks to it over one unix socket, one JSON line
each way. Listening sockets that belong to the host's network arrive over that socket, so that 127.0.0.1 out there
leads to an address in here without any veth or route.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

MS_BIND = 4096
RESTART_SECONDS = (0.2, 1.0, 3.0, 5.0)
PROBE_SECONDS = 0.05


def log(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


class Component:
    """One supervised process: waiting → starting → ready; after an exit starting again, or failed if never ready."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self.state = "stopped" if spec["on_demand"] else "waiting"
        self.is_wanted = not spec["on_demand"]
        self.pid: int | None = None
        self.restarts = 0
        self.exit_code: int | None = None
        self.ready_seconds: float | None = None
        self.ready = asyncio.Event()
        self.wanted = asyncio.Event()
        self.exited = asyncio.Event()
        if self.is_wanted:
            self.wanted.set()

    def status(self) -> dict[str, Any]:
        fields = ("name", "state", "pid", "restarts", "exit_code", "ready_seconds")
        return {field: getattr(self, field) for field in fields} | {"log": self.spec["log"]}

    def spawn(self) -> None:
        spec = self.spec
        self.exited.clear()
        self.ready.clear()
        output = (os.POSIX_SPAWN_OPEN, 1, spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), output, (os.POSIX_SPAWN_DUP2, 1, 2)]
        self.pid = os.posix_spawn(spec["argv"][0], spec["argv"], spec["environment"], file_actions=files, setsid=True)
        self.state = "starting"

    def on_exit(self, status: int) -> None:
        self.exit_code = os.waitstatus_to_exitcode(status)
        self.pid = None
        self.ready.clear()
        self.exited.set()
        log(f"{self.name} exited with {self.exit_code}")

    async def supervise(self, before: list["Component"]) -> None:
        for other in before:
            await other.ready.wait()
        failures = 0
        while True:
            await self.wanted.wait()
            started = time.monotonic()
            self.spawn()
            probe = asyncio.create_task(self.probe(started))
            await self.exited.wait()
            probe.cancel()
            if not self.is_wanted:
                self.state = "stopped"
                continue
            if self.ready_seconds is None:
                self.state = "failed"
                return
            failures = 0 if time.monotonic() - started > 10 else min(failures + 1, len(RESTART_SECONDS) - 1)
            self.state = "starting"
            self.restarts += 1
            await asyncio.sleep(RESTART_SECONDS[failures])

    async def probe(self, started: float) -> None:
        check = self.spec["check"]
        while not await asyncio.to_thread(answers, check):  # noqa: ASYNC110 - other processes set no Event
            await asyncio.sleep(PROBE_SECONDS)
        self.state = "ready"
        self.ready_seconds = time.monotonic() - started
        self.ready.set()
        log(f"{self.name} ready after {self.ready_seconds:.2f} s")

    def want(self, is_wanted: bool) -> None:
        self.is_wanted = is_wanted
        if is_wanted:
            self.wanted.set()
        else:
            self.wanted.clear()

    def kill(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def answers(check: dict[str, str]) -> bool:
    """Whether a component's URL answers 200, or its unix socket accepts."""
    if "socket" in check:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(check["socket"]) == 0
    context = None
    if check["url"].startswith("https:"):
        context = ssl.create_default_context(cafile=check["authority"])
        context.check_hostname = False  # manager and scheduler serve a certificate of their own making
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(check["certificate"], check["key"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(check["url"], timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def forward(listener: socket.socket, address: str, port: int) -> asyncio.Server:
    """Serve a socket of the host's network by connections to an address in here; one that fails is just closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(address, port)
        except OSError as error:
            log(f"forward to {address}:{port}: {error}")
            writer.close()
            return
        await asyncio.gather(pipe(reader, target_writer), pipe(target_reader, writer))
        for side in (writer, target_writer):
            side.close()

    return await asyncio.start_server(serve, sock=listener)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:  # one end is gone: take the other with it
        writer.transport.abort()


class Control:
    """The driver's requests."""

    def __init__(self, components: dict[str, Component]) -> None:
        self.components = components
        self.forwards: set[asyncio.Server] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def listen(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(64)
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self.accept, listener)

    def accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        asyncio.get_running_loop().add_reader(connection, self.receive, connection)

    def receive(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
        if not data:
            connection.close()
            return
        task = asyncio.create_task(self.answer(connection, json.loads(data), descriptors))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
        loop = asyncio.get_running_loop()
        held: asyncio.Server | None = None
        try:
            reply: dict[str, Any] = {}
            if request["do"] == "status":
                reply = {"components": [component.status() for component in self.components.values()]}
            elif request["do"] == "forward":
                server = await forward(socket.socket(fileno=descriptors[0]), request["address"], request["port"])
                self.forwards.add(server)
                held = server if request["is_held"] else None
            else:
                reply = await self.change(request)
        except (KeyError, OSError, ValueError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        await loop.sock_sendall(connection, json.dumps(reply).encode() + b"\n")
        if held is not None:
            await loop.sock_recv(connection, 1)  # returns when the driver closes its end
            held.close()
            self.forwards.discard(held)
        connection.close()

    async def change(self, request: dict[str, Any]) -> dict[str, Any]:
        component = self.components[request["component"]]
        if request["do"] == "kill":
            component.kill(request["signal"])
            if component.pid is not None and request["signal"] == signal.SIGKILL:
                await component.exited.wait()
        elif request["do"] == "start":
            component.want(True)
            await component.ready.wait()
        elif request["do"] == "stop":
            component.want(False)
            if component.pid is not None:
                component.kill(signal.SIGTERM)
                await component.exited.wait()
        else:
            raise ValueError(f"unknown request {request['do']!r}")
        return component.status()


def prepare(plan: dict[str, Any]) -> None:
    """Mounts and network, before anything runs. Raises CalledProcessError with the command that failed."""
    if plan["host_network_fd"] is not None:
        # BuildKit's RUN steps need the machine's network. Only root in these namespaces gets at it; pods never do.
        target = Path(plan["host_network_file"])
        target.touch()
        libc = ctypes.CDLL(None, use_errno=True)
        source = f"/proc/self/fd/{plan['host_network_fd']}".encode()
        if libc.mount(source, bytes(target), None, MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), f"bind mount of the host's network namespace to {target}")
        os.close(plan["host_network_fd"])
    for command in plan["commands"]:
        log(" ".join(command))
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    for path, value in plan["sysctls"].items():
        Path("/proc/sys", path).write_text(value)


async def run(plan: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    components = {spec["name"]: Component(spec) for spec in plan["components"]}
    by_pid = components.values

    def reap() -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for component in by_pid():
                if component.pid == pid:
                    component.on_exit(status)

    loop.add_signal_handler(signal.SIGCHLD, reap)
    if plan["owner_fd"] is not None:
        # A pidfd turns readable when its process ends. Leaving as first process ends everything in here.
        loop.add_reader(plan["owner_fd"], os._exit, 0)
    control = Control(components)
    control.listen(plan["control_socket"])
    await asyncio.gather(
        *(part.supervise([components[name] for name in part.spec["after"]]) for part in components.values())
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    the_plan = json.loads(Path(sys.argv[1]).read_text())
    prepare(the_plan)
    asyncio.run(run(the_plan))
