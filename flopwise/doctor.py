"""``flopwise doctor``: is the cluster ready, and what to mend."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.columns import NONE, table
from flopwise.context import Context, Kubeconfig, connected
from flopwise.errors import FAILED
from planner.manifests.errors import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.kube.doctor import Check


class Output(StrEnum):
    """How the findings are printed."""

    TABLE = "table"
    JSON = "json"


def doctor(
    output: Annotated[
        Output, typer.Option("-o", "--output", help="table or json.", case_sensitive=False)
    ] = Output.TABLE,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Check a cluster: permissions, GPUs, KubeRay, clock, Prometheus; exit 1 where one fails."""
    from scheduler.kube.doctor import Verdict, checks, look

    with connected(context, kubeconfig) as kube:
        found = checks(look(kube))
    if output is Output.JSON:
        typer.echo(json.dumps({"checks": [asdict(each) for each in found]}, indent=2))
    else:
        typer.echo(_text(found), nl=False)
    if any(each.verdict is Verdict.FAIL for each in found):
        raise typer.Exit(FAILED)


def _text(found: Sequence[Check]) -> str:
    lines = [("CHECK", "VERDICT", "FOUND")]
    lines += [(each.name, str(each.verdict), each.found or NONE) for each in found]
    mends = [f"{each.name}: {plain(each.mend)}" for each in found if each.mend]
    return table(lines) + "".join(f"\nto mend {mend}" for mend in mends) + "\n" * bool(mends)
