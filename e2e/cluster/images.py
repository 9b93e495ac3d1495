"""The node's image store: the pause image, archives, and builds by BuildKit over the same store.

buildkitd runs inside the cluster's namespaces and only while something is built.
"""

import fcntl
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from cluster import build
from cluster.configuration import BUILD_CACHE_MEGABYTES, IMAGE_NAMESPACE, PAUSE_IMAGE
from cluster.control import Init
from cluster.errors import ClusterError, tail
from cluster.places import Places
from cluster.progress import step

CONTAINERD, BUILDKIT, PAUSE = build.NODE_MODULES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStore:
    """Images of one running cluster, by name."""

    places: Places
    init: Init

    def names(self) -> list[str]:
        """What pods can use."""
        return self._ctr("images", "list", "--quiet").split()

    def load(self, archive: Path) -> None:
        """Import a Docker or OCI archive. Raises ClusterError when containerd refuses it."""
        with step(f"load {archive.name}"):
            self._ctr("images", "import", "--local", str(archive))

    def remove(self, *names: str) -> None:
        if names:
            self._ctr("images", "remove", "--sync", *names)

    def remove_untagged(self) -> None:
        """Let go of images whose name went to a newer build: the engine's are gigabytes. Running pods keep theirs."""
        rows = [line.split() for line in self._ctr("images", "list").splitlines()[1:]]
        digests = {row[0]: row[2] for row in rows}
        named = {digest for name, digest in digests.items() if not name.startswith("sha256:")}
        self.remove(*[name for name, digest in digests.items() if digest not in named])

    def ensure_pause(self) -> None:
        """Every pod's first container; there is no registry to pull it from."""
        if PAUSE_IMAGE in self.names():
            return
        archive = self.places.run / "pause.tar"
        archive.write_bytes(_archive(PAUSE_IMAGE, PAUSE.output / "pause"))
        self._ctr("images", "import", "--local", str(archive))

    def build(self, dockerfile: Path, context: Path, tag: str, build_args: dict[str, str] | None = None) -> None:
        """Build an image for pods to use, with BuildKit's cache. Raises ClusterError with the end of its log."""
        log = self.places.logs / f"build-{tag.rpartition('/')[2].replace(':', '-')}.log"
        options = [f"build-arg:{name}={value}" for name, value in sorted((build_args or {}).items())]
        # Images are local ones; nothing is pushed, so compressing would only cost time.
        output = f"type=image,name={tag},compression=uncompressed,oci-mediatypes=true,unpack=true"
        buildctl = [str(BUILDKIT.output / "buildctl"), "--addr", f"unix://{self.places.buildkit_socket}"]
        command = [*buildctl, "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}"]
        command += [f"--local=dockerfile={dockerfile.parent}", f"--opt=filename={dockerfile.name}"]
        command += [*(f"--opt={option}" for option in options), f"--output={output}", "--opt=image-resolve-mode=local"]
        with step(f"build {tag}"), (self.places.run / "build.lock").open("w") as lock, log.open("wb") as file:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.init.change("start", "buildkitd")
            result = subprocess.run(command, stdout=file, stderr=file, check=False)
            # The daemon's own collection comes a minute later, when it is no longer there.
            prune = [*buildctl, "prune", f"--keep-storage={BUILD_CACHE_MEGABYTES}"]
            subprocess.run(prune, stdout=file, stderr=file, check=False)
            self.init.change("stop", "buildkitd")
        if result.returncode != 0:
            raise ClusterError(f"building {tag} from {dockerfile} failed; its log is {log}:\n{tail(log, 30)}")

    def _ctr(self, *arguments: str) -> str:
        command = [str(CONTAINERD.output / "ctr"), "--address", str(self.places.containerd_socket)]
        command += ["--namespace", IMAGE_NAMESPACE, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"ctr {' '.join(arguments)} exited with {result.returncode}: {result.stderr.strip()}")
        return result.stdout


def _archive(name: str, program: Path) -> bytes:
    """An OCI archive of an image that holds one static program, which it runs."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    prefix = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{prefix}.manifest.v1+json",
            "config": _descriptor(f"{prefix}.config.v1+json", config),
            "layers": [_descriptor(f"{prefix}.layer.v1.tar", layer)],
        }
    )
    entry = _descriptor(f"{prefix}.manifest.v1+json", manifest) | {"annotations": {"io.containerd.image.name": name}}
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    return _tar({"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **blobs}, mode=0o644)


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
