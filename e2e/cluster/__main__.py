"""The cluster on the command line: `PYTHONPATH=e2e python -m cluster up`. What it does is in driver.py."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster import build, project_images
from cluster.driver import Cluster, ClusterStatus, running_clusters
from cluster.errors import ClusterError
from cluster.plan import ALL_PARTS

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Name = Annotated[str, typer.Option("--name", envvar="BOWSPRIT_CLUSTER", help="Which instance.")]
DEFAULT = "bowsprit"


@app.command()
def up(
    name: Name = DEFAULT,
    part: Annotated[list[str] | None, typer.Option(help=f"Only these of {', '.join(ALL_PARTS)}.")] = None,
    port: Annotated[int, typer.Option(help="The API server's port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Start the cluster, building what is missing; nothing happens when it is up."""
    cluster = Cluster(name, part or ALL_PARTS)
    cluster.up(port=port)
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"kubectl is {build.KUBERNETES.output / 'kubectl'}")


@app.command()
def down(name: Name = DEFAULT) -> None:
    """Remove the cluster and every trace of it but its cached images."""
    Cluster(name).down()


@app.command()
def status(name: Name = DEFAULT) -> None:
    """Show what runs. Exits with 1 when the cluster is not up."""
    found = Cluster(name).status()
    _show(found)
    if not found.is_up:
        others = [other for other in running_clusters() if other != name]
        print(f"cluster {name} is not up" + (f"; running: {', '.join(others)}" if others else ""))
        raise typer.Exit(1)


@app.command()
def kubeconfig(name: Name = DEFAULT) -> None:
    """Print the path of the administrator's kubeconfig."""
    print(Cluster(name).kubeconfig)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def kubectl(context: typer.Context, name: Name = DEFAULT) -> None:
    """Run the cluster's own kubectl on it: `python -m cluster kubectl -- get pods -A`."""
    program = str(build.KUBERNETES.output / "kubectl")
    raise typer.Exit(subprocess.run([program, *context.args], env=Cluster(name).environment(), check=False).returncode)


@app.command()
def images(name: Name = DEFAULT) -> None:
    """Build the operator's and the engine's image in the cluster, which starts if it is down."""
    cluster = Cluster(name)
    cluster.up()
    project_images.build(cluster.images)


@app.command()
def load_image(archive: Path, name: Name = DEFAULT) -> None:
    """Import a Docker or OCI archive."""
    Cluster(name).images.load(archive)


@app.command()
def build_image(
    dockerfile: Path,
    context: Path,
    tag: str,
    build_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None,
    name: Name = DEFAULT,
) -> None:
    """Build an image from a Dockerfile, for pods of this cluster."""
    pairs = [argument.partition("=") for argument in build_arg or []]
    Cluster(name).images.build(dockerfile, context, tag, {key: value for key, _, value in pairs})


@app.command()
def forward(
    address: Annotated[str, typer.Argument(help="An address in the cluster, or NAMESPACE/SERVICE.")],
    port: int,
    local_port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    name: Name = DEFAULT,
) -> None:
    """Lead a port of 127.0.0.1 to a Service or an address in the cluster, until `down`."""
    cluster = Cluster(name)
    namespace, slash, service = address.partition("/")
    if slash:
        made = cluster.forward_service(namespace, service, port, local_port=local_port, is_persistent=True)
    else:
        made = cluster.forward(address, port, local_port=local_port, is_persistent=True)
    print(f"127.0.0.1:{made.port}")


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def exec_(context: typer.Context, name: Name = DEFAULT) -> None:
    """Run a program on the node: in its network, mounts and processes."""
    done = Cluster(name).exec(context.args, check=False)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    raise typer.Exit(done.returncode)


@app.command()
def restart(component: str, name: Name = DEFAULT) -> None:
    """Restart one component and wait until it is ready."""
    Cluster(name).restart(component)


@app.command("build")
def build_(
    only_control_plane: Annotated[bool, typer.Option(help="Without containerd and BuildKit.")] = False,
) -> None:
    """Build the cluster's programs into the cache, and print where they are."""
    for folder in build.build((build.KUBERNETES,) if only_control_plane else build.ALL_MODULES):
        print(folder)


def _show(found: ClusterStatus) -> None:
    if not found.is_up:
        return
    table = Table("component", "state", "pid", "restarts", "ready after", "log")
    for part in found.components:
        after = "" if part.ready_seconds is None else f"{part.ready_seconds:.1f} s"
        table.add_row(part.name, part.state, str(part.pid or ""), str(part.restarts), after, str(part.log))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    node = {None: "none", True: "Ready", False: "NotReady"}[found.is_node_ready]
    console.print(f"API server {found.api_url}, node {node}")
    console.print(f"export KUBECONFIG={shlex.quote(str(found.kubeconfig))}", soft_wrap=True)


def main() -> None:
    """Run a command; an expected failure is its message and exit code 1, never a traceback."""
    try:
        app()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
