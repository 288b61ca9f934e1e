"""The cluster that a command talks to, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.errors import BAD_INPUT, FAILED, NOT_FOUND, Fail

if TYPE_CHECKING:
    from scheduler.kube.client import Kube

Context = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig; else its current one.")
]
Kubeconfig = Annotated[
    str, typer.Option("--kubeconfig", help="File; else KUBECONFIG, ~/.kube/config, or the pod's.")
]
Namespace = Annotated[
    str, typer.Option("-n", "--namespace", help="In a cluster; else that of the context.")
]


class DryRun(StrEnum):
    """How far a command goes."""

    NONE = "none"
    CLIENT = "client"
    SERVER = "server"


DryRunOption = Annotated[
    DryRun,
    typer.Option(
        "--dry-run", help="client: send nothing; server: have it checked, change nothing."
    ),
]


def for_all_commands(root: Any, stated: dict[str, str]) -> dict[str, Any]:
    """``stated`` as the defaults of all commands below the group ``root``.

    So that ``flopwise --context NAME submit`` is ``flopwise submit --context NAME``.
    """
    found: dict[str, Any] = dict(stated)
    for name, command in getattr(root, "commands", {}).items():
        found[name] = for_all_commands(command, stated)
    return found


def talks_to_a_cluster(command: Any) -> bool:
    """Whether the command, or one below it, has a ``--context``."""
    below = getattr(command, "commands", {}).values()
    here = any(each.name == "context" for each in command.params)
    return here or any(map(talks_to_a_cluster, below))


@contextmanager
def connected(context: str, kubeconfig: str) -> Iterator[Kube]:
    """The cluster; what it refuses ends the command in one line."""
    from scheduler.kube.errors import Invalid, KubeError, NotFound
    from scheduler.kube.kubeconfig import connect

    codes = {NotFound: NOT_FOUND, Invalid: BAD_INPUT}
    try:
        yield connect(context=context, kubeconfig=kubeconfig)
    except KubeError as error:
        raise Fail(str(error), codes.get(type(error), FAILED)) from None
