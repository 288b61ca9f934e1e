"""An API server that a test writes itself, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.manifests.write import plain_yaml
from scheduler.kube.client import Kube
from scheduler.kube.kubeconfig import connect
from tests.scheduler.kube.serving import Server, config_for


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.hold.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(plain_yaml(config_for(server.url)))
    return path


@pytest.fixture
def kube(kubeconfig: Path) -> Kube:
    made = connect(kubeconfig=str(kubeconfig))
    made._sleep = lambda seconds: None
    return made
