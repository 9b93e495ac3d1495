"""The local stand-in for python:3.12-slim, made of Debian packages, since no registry is asked for images.

The machine's certificate authorities and pip settings go into this local image only, so that RUN steps can download;
the project's Dockerfiles know nothing of them.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from cluster import host_packages
from cluster.errors import ClusterError
from cluster.images import ImageStore
from cluster.places import cache
from cluster.progress import step

NAME = "localhost/bowsprit-base"
PACKAGES = ("ca-certificates", "libgomp1", "libstdc++6", "python3", "python3-pip", "python3-venv")
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
OMITTED = ("man", "doc", "locale", "info")
HOST_FILES = tuple(
    Path(name)
    for name in (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pip.conf",
        "/etc/uv/uv.toml",
        "/etc/apt/apt.conf.d/proxy.conf",
    )
)
HOOK = " && ".join(
    (
        'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        'ln -sf python3 "$1"/usr/bin/python',
        'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log',
    )
)
DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
COPY host/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \\
    PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
"""


def ensure(images: ImageStore) -> str:
    """The base image's name, after building whatever of it is missing."""
    name = f"{NAME}:{_key()}"
    if name not in images.names():
        folder = cache() / "rootfs" / _key()
        _make_context(folder)
        images.build(folder / "Dockerfile", folder, name)
        images.remove(*[old for old in images.names() if old.startswith(f"{NAME}:") and old != name])
    return name


def _rootfs_key() -> str:
    return hashlib.sha256(repr((PACKAGES, OMITTED, HOOK)).encode()).hexdigest()[:12]


def _key() -> str:
    digest = hashlib.sha256(f"{_rootfs_key()} {DOCKERFILE}".encode())
    for file in HOST_FILES:
        digest.update(file.read_bytes() if file.exists() else b"-")
    return digest.hexdigest()[:12]


def _make_context(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    for file in (file for file in HOST_FILES if file.exists()):
        copy = folder / "host" / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    rootfs = cache() / "rootfs" / f"{_rootfs_key()}.tar"
    if not rootfs.exists():
        _make_rootfs(rootfs)
    (folder / "rootfs.tar").unlink(missing_ok=True)
    (folder / "rootfs.tar").hardlink_to(rootfs)


def _make_rootfs(target: Path) -> None:
    host_packages.ensure(host_packages.BASE_IMAGE)
    partial, log = target.with_suffix(".partial.tar"), target.with_suffix(".log")
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in OMITTED]
    command += [f"--customize-hook={HOOK}", "bookworm", str(partial)]
    command += [str(SOURCES)] if SOURCES.exists() else []
    with step("Debian base, by mmdebstrap"), log.open("wb") as output:
        result = subprocess.run(command, stdout=output, stderr=output, check=False)
    if result.returncode != 0:
        raise ClusterError(f"mmdebstrap exited with {result.returncode}; its log is {log}:\n{log.read_text()[-2000:]}")
    partial.rename(target)
