"""Where each engine under test lives: an environment of its own, installed once from requirement files pinned by hash.

Decides how a peer is installed and with what environment variables it runs at its best. An environment is named after
its requirement files' content, and complete or absent. Refuses to know what is asked of a peer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import plan
from bench.exported_weights import ExportedWeights

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
INSTALL_SECONDS = 3600.0  # llama.cpp compiles: 9 minutes of processor time


class PeerUnavailableError(Exception):
    """A peer can't be installed here; says why and where the log is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPackage:
    """How a peer is installed. `build_variables` are for packages that compile."""

    name: str
    build_variables: Mapping[str, str] = field(default_factory=dict)


PACKAGES: Mapping[plan.Peer, PeerPackage] = {
    "transformers": PeerPackage(name="transformers"),
    # Compiled here, so that it uses all that this processor has. tinyBLAS is what makes bfloat16 fast.
    "llama_cpp": PeerPackage(
        name="llama_cpp",
        build_variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF"},
    ),
    "vllm": PeerPackage(name="vllm"),
}


def cache_folder() -> Path:
    """$BOWSPRIT_CACHE or ~/.cache/bowsprit, and in it what belongs to peers."""
    configured = os.environ.get("BOWSPRIT_CACHE")
    return (Path(configured) if configured else Path.home() / ".cache" / "bowsprit") / "peers"


def num_processors() -> int:
    """Of this process: everybody gets as many threads."""
    return len(os.sched_getaffinity(0))


# Predicts tokens and serves nothing, so it is in no plan. Its build asks torch where its CMake files are and uses none
# of them: the environment that has ours on its path spares a second torch.
SUFFIX_DECODING = PeerPackage(name="suffix_decoding", build_variables={"PYTHONPATH": sysconfig.get_paths()["purelib"]})


def python_of(peer: plan.Peer, *, cache: Path, log: Path) -> Path:
    """The interpreter that a peer's worker runs in, installed now if it isn't. Raises PeerUnavailableError."""
    return Path(sys.executable) if peer == "bowsprit" else installed(PACKAGES[peer], cache=cache, log=log)


def installed(package: PeerPackage, *, cache: Path, log: Path) -> Path:
    """The interpreter of a package's environment, which is made now if it isn't there. Raises PeerUnavailableError."""
    folder = cache / f"{package.name}-{_key(package)}"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _install(package, folder, log)
        (folder / "installed").touch()
    return folder / "bin" / "python"


def command_of(participant: plan.Participant, python: Path, weights: ExportedWeights) -> list[str]:
    """-P keeps the worker's own folder out of the path: a file there is called like the package that it imports."""
    threads = str(num_processors())
    length = str(plan.LONGEST_SEQUENCE)
    words = {
        "bowsprit": [str(weights.hf_folder), participant.mode, length],
        "transformers": [str(weights.hf_folder), participant.mode, threads],
        "llama_cpp": [str(weights.gguf), threads],
        "vllm": [str(weights.hf_folder), participant.mode, length],
    }[participant.peer]
    return [str(python), "-P", "-m", f"bench.peers.{participant.peer}", *words]


def variables_of(peer: plan.Peer, python: Path, *, cache: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment that a worker runs in: each engine's own advice for a CPU."""
    threads = str(num_processors())
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT / "engine")}
    openmp = {"OMP_NUM_THREADS": threads, "OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
    by_peer: Mapping[plan.Peer, Mapping[str, str]] = {
        "bowsprit": {"BOWSPRIT_LOG_LEVEL": "warning"},
        "transformers": openmp,
        "llama_cpp": openmp,
        "vllm": {
            # By default it leaves a processor to its front end: of two, half the machine. The caller's own choice wins.
            "VLLM_CPU_OMP_THREADS_BIND": base.get("VLLM_CPU_OMP_THREADS_BIND", _every_processor()),
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CACHE_ROOT": str(cache / "vllm-compiled"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            **_preloaded(python, base),
        },
    }
    return {**base, **offline, **by_peer[peer]}


def _every_processor() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def _preloaded(python: Path, base: Mapping[str, str]) -> dict[str, str]:
    """vLLM's documentation asks for Intel's OpenMP before all others; the wheel depends on it but doesn't load it."""
    library = python.parents[1] / "lib" / "libiomp5.so"
    if not library.exists():
        return {}
    return {"LD_PRELOAD": ":".join(filter(None, [str(library), base.get("LD_PRELOAD", "")]))}


def _files(package: PeerPackage) -> list[Path]:
    """What builds need comes first, in a file of its own, so that it is pinned too."""
    names = (f"peer-{package.name}-build.txt", f"peer-{package.name}.txt")
    return [path for name in names if (path := REQUIREMENTS / name).exists()]


def _key(package: PeerPackage) -> str:
    digest = hashlib.sha256(repr((sorted(package.build_variables.items()), sys.version_info[:2])).encode())
    for path in _files(package):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _install(package: PeerPackage, folder: Path, log: Path) -> None:
    uv = [str(Path(sys.executable).parent / "uv")]
    version = ".".join(map(str, sys.version_info[:2]))
    python = folder / "bin" / "python"
    steps = [[*uv, "venv", "--python", version, str(folder)]]
    for path in _files(package):
        # --no-deps: the files name everything; vLLM's own demand for a torch that PyPI lacks must not be asked again.
        options = ["--require-hashes", "--no-deps", *(["--no-build-isolation"] if package.build_variables else [])]
        steps.append([*uv, "pip", "install", "--python", str(python), *options, "-r", str(path)])
    variables = {**os.environ, **package.build_variables, "VIRTUAL_ENV": str(folder)}
    variables["PATH"] = f"{folder / 'bin'}:{variables.get('PATH', '')}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for step in steps:
            _run(step, variables, file.fileno(), name=package.name, log=log)


def _run(step: Sequence[str], variables: Mapping[str, str], output: int, *, name: str, log: Path) -> None:
    try:
        process = subprocess.run(
            ["nice", "-n", "19", *step], env=variables, stdout=output, stderr=output, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailableError(f"{name}: not installed within {INSTALL_SECONDS:.0f} s; log: {log}") from error
    if process.returncode != 0:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1].strip()
        raise PeerUnavailableError(f"{name}: {' '.join(step[1:3])} exits {process.returncode}: {last}; log: {log}")
