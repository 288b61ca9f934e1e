"""``flopwise init --from-cluster``: the GpuPools of a cluster, as a draft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flopwise.context import Context, Kubeconfig, connected
from flopwise.errors import BAD_INPUT, NOT_FOUND, Fail


def init(
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Look at the nodes of a cluster.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the pools there; else standard output.")
    ] = None,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Draft the GpuPools of a cluster; what a person has to complete goes to standard error."""
    if not from_cluster:
        raise Fail("nothing to start from, allowed: --from-cluster", BAD_INPUT)
    from planner.manifests.errors import plain
    from planner.manifests.write import dump
    from scheduler.kube import names
    from scheduler.kube.observe import machines
    from scheduler.kube.survey import survey

    with connected(context, kubeconfig) as kube:
        nodes = kube.list(names.NODES).items
        by_dra = kube.serves(names.RESOURCE_SLICES)
        slices = kube.list(names.RESOURCE_SLICES).items if by_dra else ()
    drafted = survey(machines(nodes, (), slices))
    for note in drafted.notes:
        typer.echo(plain(note), err=True)
    if not drafted.pools:
        raise Fail("found no node with known GPUs (flopwise doctor says why)", NOT_FOUND)
    text = dump(drafted.pools)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text)
