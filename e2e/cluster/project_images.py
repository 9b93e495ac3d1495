"""The project's own images, from its own Dockerfiles, on the local base."""

from pathlib import Path

from cluster import base_image
from cluster.images import ImageStore

ROOT = Path(__file__).parents[2]
OPERATOR = "localhost/bowsprit-operator:dev"
ENGINE = "localhost/bowsprit-engine:dev"
DOCKERFILES = {OPERATOR: ROOT / "operator" / "Dockerfile", ENGINE: ROOT / "engine" / "Dockerfile"}


def build(images: ImageStore, names: tuple[str, ...] = tuple(DOCKERFILES)) -> None:
    """Build these; what has not changed costs BuildKit a second."""
    arguments = {"BASE_IMAGE": base_image.ensure(images)}
    for name in names:
        images.build(DOCKERFILES[name], ROOT, name, arguments)
    images.remove_untagged()
