"""The operator's steps on an API server in memory: what it writes, tells, and goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from scheduler.controller import state as states
from scheduler.controller.loop import Settings
from scheduler.kube.errors import Refused
from scheduler.kube.launch import Capabilities
from scheduler.kube.ray_objects import token_of_job
from scheduler.kube.ray_status import HEADER
from tests.scheduler.controller.fake import Cluster, Play
from tests.scheduler.kube.objects import node

Start = Callable[..., Play]
SAVES = {"intervalSeconds": 60, "saveSeconds": 1, "restartSeconds": 1}
RAY = {"entrypoint": "python train.py", "image": "rayproject/ray:2.60.0"}


@pytest.fixture
def cluster() -> Cluster:
    """A node of eight H100 in a pool."""
    made = Cluster()
    made.add(node("n0"))
    price: Any = {"usdPerGpuHour": 2.0}
    made.add(of_ours("GpuPool", "h100", accelerator="h100", gpusPerNode=8, price=price))
    return made


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """Starts operators on it; they end with the test."""
    made: list[Play] = []

    def one(can: Capabilities | None = None, **settings: Any) -> Play:
        given = {"plan_every_seconds": 0.0, "ask_seconds": 0.0, **settings}
        made.append(Play(cluster, Settings(**given), can or Capabilities()))
        return made[-1]

    yield one
    for each in made:
        each.end()


def of_ours(kind: str, name: str, namespace: str = "", /, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    head = {"apiVersion": "flopwise.dev/v1alpha1", "kind": kind}
    return {**head, "metadata": metadata, "spec": spec}


def gpu_job(name: str = "train", **spec: Any) -> dict[str, Any]:
    task = {"gpus": 8, "hours": {"h100": 2.0}}
    return of_ours("GpuJob", name, "ml", **{"task": task, **spec})


# -- Rays that do not take our token ---------------------------------------------------------------


def runs(cluster: Cluster, name: str = "train") -> None:
    """Its Ray is up; KubeRay, which has no token, has no word of how the job does."""
    cluster.becomes(
        "rayjobs",
        f"ml/{name}",
        jobDeploymentStatus="Running",
        jobId="id",
        rayClusterName=f"{name}-x",
    )


def secrets(cluster: Cluster) -> dict[str, str]:
    """Tokens by the name of their Secret."""
    return {
        raw["metadata"]["name"]: raw["stringData"]["auth_token"]
        for (plural, _), raw in cluster.objects.items()
        if plural == "secrets"
    }


def dashboard(cluster: Cluster, started_with: str) -> None:
    """The Ray that runs was started with this token, and answers as Ray 2.60 does."""

    def answer(headers: Mapping[str, str]) -> bytes:
        if headers[HEADER] != f"Bearer {started_with}":
            raise Refused("HTTP 403: Forbidden: Invalid authentication token", status=403)
        return b'{"status": "RUNNING"}'

    cluster.dashboard = answer


def released(cluster: Cluster, attempt: int = 1) -> bool:
    raw = cluster.objects.get(("rayjobs", "ml/train"))
    notes = {} if raw is None else raw["metadata"]["annotations"]
    return bool(
        raw and notes["flopwise.dev/attempt"] == str(attempt) and not raw["spec"]["suspend"]
    )


def test_a_ray_that_was_started_with_a_key_that_is_lost_goes_on_with_a_new_token(
    cluster: Cluster, start: Start
) -> None:
    first = start(ray_keys=(b"old",))
    cluster.add(gpu_job(run=RAY, checkpoint={**SAVES, "saveSeconds": 0}))
    first.until(lambda: released(cluster), "it is launched")
    ((named, token),) = secrets(cluster).items()
    dashboard(cluster, token)
    runs(cluster)
    first.until(lambda: cluster.condition("ml/train", "Running").get("status") == "True", "it runs")
    assert cluster.condition("ml/train", "TokenRefused") == {}
    first.end()

    second = start(ray_keys=(b"new",), decisions=states.Settings(notice_seconds=0.0))
    second.until(lambda: cluster.events("TokenRefused"), "its owner is told")
    (event,) = cluster.events("TokenRefused")
    assert event["type"] == "Warning"
    assert f"Secret {named}" in event["note"]
    assert "HTTP 403" in event["note"]
    told = second.until(lambda: cluster.condition("ml/train", "TokenRefused"), "by a condition")
    assert (told["status"], told["reason"]) == ("True", "Refused")
    second.until(lambda: cluster.objects["rayjobs", "ml/train"]["spec"]["suspend"], "it is stopped")
    cluster.becomes("rayjobs", "ml/train", jobDeploymentStatus="Suspended")
    second.until(lambda: released(cluster, attempt=2), "it goes on")
    (other,) = secrets(cluster).keys() - {named}
    assert token_of_job(cluster.objects["rayjobs", "ml/train"]) == other
    dashboard(cluster, secrets(cluster)[other])
    runs(cluster)
    second.until(
        lambda: cluster.condition("ml/train", "Running").get("status") == "True", "it runs"
    )
    assert cluster.condition("ml/train", "TokenRefused")["status"] == "False"


def test_where_it_could_not_go_on_it_runs_and_its_owner_is_told(
    cluster: Cluster, start: Start
) -> None:
    first = start(ray_keys=(b"old",))
    cluster.add(gpu_job(run=RAY))  # it saves nothing
    first.until(lambda: released(cluster), "it is launched")
    dashboard(cluster, *secrets(cluster).values())
    runs(cluster)
    first.end()
    second = start(ray_keys=(b"new",))
    told = second.until(lambda: cluster.condition("ml/train", "TokenRefused"), "it is told")
    assert told["status"] == "True"
    second.step(5)
    assert released(cluster)
    assert len(cluster.events("TokenRefused")) == 1  # the same said again is not said
    second.end()

    third = start(ray_keys=(b"new", b"old"))  # the key of then, behind the one of now
    third.until(
        lambda: cluster.condition("ml/train", "TokenRefused").get("status") == "False", "it hears"
    )
    assert cluster.condition("ml/train", "Running")["status"] == "True"


def test_a_ray_that_refuses_the_token_of_its_own_secret_is_not_started_again_for_that(
    cluster: Cluster, start: Start
) -> None:
    # Somebody made the Secret anew: to start again would give it the same token of theirs.
    play = start(ray_keys=(b"key",))
    cluster.add(gpu_job(run=RAY, checkpoint=SAVES))
    play.until(lambda: released(cluster), "it is launched")
    dashboard(cluster, "theirs")
    runs(cluster)
    play.until(lambda: cluster.events("TokenRefused"), "its owner is told")
    play.step(5)
    assert released(cluster)


def test_where_the_api_server_does_not_let_us_ask_nothing_is_said_of_a_token(
    cluster: Cluster, start: Start
) -> None:
    def answer(headers: Mapping[str, str]) -> bytes:
        raise Refused("may not get services/proxy", status=403, reason="Forbidden")

    play = start(ray_keys=(b"key",))
    cluster.add(gpu_job(run=RAY, checkpoint=SAVES))
    play.until(lambda: released(cluster), "it is launched")
    cluster.dashboard = answer
    runs(cluster)
    play.step(5)
    assert cluster.condition("ml/train", "TokenRefused") == {}
