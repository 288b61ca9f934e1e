"""The test cluster as fixtures: `wide`, `deep`, and what a test puts in and takes away again.

Mark a test with ``@pytest.mark.cluster`` and take what it needs::

    @pytest.mark.cluster
    def test_a_pod_runs(wide: Cluster, namespace: str, nodes: AddNodes) -> None:
        nodes("h100", 2)                                   # ready when this returns
        wide.api.post(f"/api/v1/namespaces/{namespace}/pods", {...})
        eventually(lambda: ..., "the pod runs")

- ``wide.api`` speaks JSON as the administrator; ``wide.api_as(account, namespace)`` as a service
  account. Programs get ``wide.kubeconfig`` or ``wide.kubeconfig_of(account, namespace)``.
- ``wide.processes["kube-apiserver"]`` can be paused, killed and started; ``wide.stop_api_server``
  and ``wide.restart_etcd`` wait until all is well again.
- ``kinds`` is ``wide`` with our custom resources, as the chart has them.
- ``sets`` has JobSets served, and JobSet's controller run, for the test that takes it.
- ``wide.audit(user=...)`` yields what that user asked of the API server.
- A pod runs until it is deleted, or ends after as long as its annotations say:
  ``tests.flopwise.dev/succeeds-after: 3s``, ``tests.flopwise.dev/fails-after: 3s``.
- A Ray cluster gets ready, but no dashboard answers, since nothing really runs: jobs with results
  need the `deep` cluster.

``@pytest.mark.deep`` with the fixtures `deep` and `deep_space` (its `namespace`) is the same with
one real node, `tests.cluster.deep.NODE`, that has two ``nvidia.com/gpu`` in name. Its pods use the
image `tests.cluster.image.RAY` with ``imagePullPolicy: Never``, ask for 1.5 CPUs in all, and set
``terminationGracePeriodSeconds: 3``. Where the machine cannot have such a node the test skips with
the reason; with ``CI=true`` it fails.

There is one wide cluster a test run, started when the first test asks for it (about ten seconds,
and once some minutes to build its programs). Tests that change what others see (a stopped API
server, cluster-wide objects) put it back before they end.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from scheduler.kube.crds import CHART_CRDS
from tests.cluster import build, image, job_sets
from tests.cluster import deep as real
from tests.cluster.cluster import WIDE, Cluster
from tests.flopwise.command import Command, in_process

# The cluster's Go programs collect garbage when they hold five times as much, not twice: a fifth of
# their work less, for memory that they give back where they come near a gibibyte.
RARELY_COLLECTING = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}


class AddNodes(Protocol):
    """Adds nodes to a cluster as `Cluster.add_nodes` does, until the test ends."""

    def __call__(self, accelerator: str, count: int, **more: Any) -> list[str]:
        """The nodes' names; they are ready."""


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> build.Say:
    """Writes a line on the terminal, in spite of captured output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            build.to_standard_error(line)

    return write


@contextmanager
def can_be_built() -> Iterator[None]:
    """Skips what cannot be built here, with the reason; with ``CI=true`` that is an error."""
    try:
        yield
    except build.CannotBuild as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def wide(say: build.Say) -> Iterator[Cluster]:
    """A control plane with nodes that only exist in the API server; see the module's head."""
    with can_be_built():
        build.ensure(*WIDE, say=say)
    with Cluster(RARELY_COLLECTING) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def deep(say: build.Say) -> Iterator[real.Deep]:
    """The same with one real node; see the module's head."""
    with can_be_built():
        if why := real.why_not():
            raise build.CannotBuild(why)
        build.ensure(*real.DEEP, say=say)
        image.ensure(say)
        cluster = real.Deep(say, RARELY_COLLECTING)
    with cluster:
        yield cluster


@pytest.fixture
def deep_space(deep: real.Deep) -> Iterator[str]:
    """A namespace of the deep cluster that is this test's own."""
    with fresh_namespace(deep) as name:
        yield name


@pytest.fixture
def namespace(wide: Cluster) -> Iterator[str]:
    """A namespace of the wide cluster that is this test's own."""
    with fresh_namespace(wide) as name:
        yield name


@contextmanager
def fresh_namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace, deleted in the end with all that is in it."""
    name = cluster.add_namespace(f"test-{secrets.token_hex(4)}")
    try:
        yield name
    finally:
        cluster.remove_namespace(name)


@pytest.fixture(scope="session")
def kinds(wide: Cluster) -> Cluster:
    """The wide cluster with the custom resources of the chart."""
    wide.install(*sorted(CHART_CRDS.glob("*.yaml")))
    return wide


@pytest.fixture
def sets(wide: Cluster, say: build.Say, tmp_path: Path) -> Iterator[None]:
    """JobSets are served, and JobSet's controller runs: for this test alone."""
    with can_be_built():
        build.ensure("jobset", say=say)
    with job_sets.controller(wide, tmp_path):
        yield


@pytest.fixture
def nodes(wide: Cluster) -> Iterator[AddNodes]:
    """``nodes("h100", 4)`` adds four nodes of eight H100 to the wide cluster for this test."""
    added: list[str] = []

    def add(accelerator: str, count: int, **more: Any) -> list[str]:
        names = wide.add_nodes(accelerator, count, **more)
        added.extend(names)
        wide.wait_for_nodes(names)
        return names

    yield add
    _remove_with_pods(wide, added)


def _remove_with_pods(cluster: Cluster, names: Sequence[str]) -> None:
    """Deletes nodes, and first the pods on them: without a node nobody would end those."""
    gone = set(names)
    for pod in cluster.api.get("/api/v1/pods")["items"]:
        if pod["spec"].get("nodeName") in gone:
            own = pod["metadata"]
            path = f"/api/v1/namespaces/{own['namespace']}/pods/{own['name']}"
            cluster.remove(path, grace_seconds=0)
    cluster.remove_nodes(names)


@pytest.fixture
def flopwise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``flopwise("get", "jobs")`` as a shell would run it, in this process."""
    return in_process(monkeypatch, capsys)


# -- Helm -----------------------------------------------------------------------------------------

RELEASE = "test"
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm(say: build.Say, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs Helm with those arguments, in a home of its own; its failure is the test's business."""
    with can_be_built():
        build.ensure("helm", say=say)
    home = tmp_path_factory.mktemp("helm")
    folders = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(build.path_of("helm")), *map(str, arguments)],
            env={**os.environ, **folders},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def on_cluster(helm: Helm, wide: Cluster, namespace: str, nodes: AddNodes) -> Iterator[Helm]:
    """Helm on the wide cluster, in a namespace that takes restricted pods alone."""
    nodes("l4", 3, prefix="chart")
    own = f"/api/v1/namespaces/{namespace}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    wide.api.patch(own, {"metadata": {"labels": restricted}})

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        where = (f"--kubeconfig={wide.kubeconfig}", f"--namespace={namespace}")
        return helm(*arguments, *where)

    yield run
    run("uninstall", RELEASE, "--ignore-not-found", "--wait")
