"""The cluster that a command talks to, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.errors import FAILED, Fail

if TYPE_CHECKING:
    from scheduler.kube.client import Kube

Context = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig; else its current one.")
]
Kubeconfig = Annotated[
    str, typer.Option("--kubeconfig", help="File; else KUBECONFIG, ~/.kube/config, or the pod's.")
]


@contextmanager
def connected(context: str, kubeconfig: str) -> Iterator[Kube]:
    """The cluster; what it refuses ends the command in one line."""
    from scheduler.kube.client import connect
    from scheduler.kube.errors import KubeError

    try:
        yield connect(context=context, kubeconfig=kubeconfig)
    except KubeError as error:
        raise Fail(str(error), FAILED) from None
