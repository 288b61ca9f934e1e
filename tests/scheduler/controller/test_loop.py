"""The operator's steps on an API server in memory: what it writes, tells, and goes on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scheduler.controller import state as states
from scheduler.controller.loop import Settings
from scheduler.controller.readings import Reading
from scheduler.kube.errors import KubeError, NotFound, Refused, error_of
from scheduler.kube.launch import Capabilities
from scheduler.kube.names import GPU_JOBS, JOBS
from scheduler.kube.ray_objects import token_of_job
from scheduler.kube.ray_status import HEADER
from telemetry.idle import IdleWorkload
from telemetry.uses import Owner
from tests.scheduler.controller.fake import Cluster, Play
from tests.scheduler.controller.test_sight import batch_job
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


def test_where_the_api_server_does_not_ask_ray_for_us_nothing_is_said_of_a_token(
    cluster: Cluster, start: Start
) -> None:
    def answer(headers: Mapping[str, str]) -> bytes:
        raise refusals.pop()

    refusals = [
        Refused("may not get services/proxy", status=403, reason="Forbidden"),
        Refused("https://a: HTTP 403: address not allowed", status=403),
    ] * 3
    play = start(ray_keys=(b"key",))
    cluster.add(gpu_job(run=RAY, checkpoint=SAVES))
    play.until(lambda: released(cluster), "it is launched")
    cluster.dashboard = answer
    runs(cluster)
    play.until(lambda: len(refusals) < 2, "it has asked")
    assert cluster.condition("ml/train", "TokenRefused") == {}


# -- idle jobs, and an operator that is started again ----------------------------------------------


def leaves_idle(play: Play, job: str) -> None:
    """Prometheus says that the GPUs of a job's pods do nothing since long before it came."""
    since = datetime.now(UTC) - timedelta(hours=1)
    owner = Owner(namespace="ml", job=job)
    idle = IdleWorkload(owner=owner, since=since, until=datetime.now(UTC), gpus=())
    play.operator.inbox.put(("reading", ""), Reading(at=datetime.now(UTC), idle=(idle,)))


def strict_queue(cluster: Cluster) -> None:
    idle: Any = {"afterSeconds": 1, "action": "Suspend"}
    cluster.add(of_ours("GpuQueue", "strict", idle=idle))


def theirs(cluster: Cluster) -> dict[str, Any]:
    """The Job of somebody who has never heard of GpuJobs, as it is now."""
    return cluster.objects["jobs", "ml/theirs"]


def works(cluster: Cluster, key: str) -> None:
    began = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    cluster.becomes("jobs", key, startTime=began, active=1, ready=1)


AT_ONCE: Any = {"decisions": states.Settings(notice_seconds=0.0)}


def test_a_workload_that_was_suspended_for_being_idle_stays_so_whoever_comes_and_goes_on_at_a_word(
    cluster: Cluster, start: Start
) -> None:
    strict_queue(cluster)
    raw = batch_job()
    raw["metadata"]["labels"]["flopwise.dev/queue"] = "strict"
    cluster.add(raw)
    first = start(**AT_ONCE)
    first.until(lambda: not theirs(cluster)["spec"]["suspend"], "it is released")
    works(cluster, "ml/theirs")
    first.until(lambda: first.operator.state.jobs["ml/theirs:job"].started, "it works")
    leaves_idle(first, "theirs_job")
    first.until(lambda: theirs(cluster)["spec"]["suspend"], "it is suspended")
    cluster.becomes("jobs", "ml/theirs", active=0)
    first.step(3)
    (event,) = cluster.events("Idle")
    assert "its annotation flopwise.dev/idle taken away" in event["note"]
    first.end()

    second = start(**AT_ONCE)  # all GPUs are free
    second.step(5)
    assert theirs(cluster)["spec"]["suspend"]
    why = theirs(cluster)["metadata"]["annotations"]["flopwise.dev/idle"]
    assert "its GPUs did nothing" in why
    taken_away: Any = {"metadata": {"annotations": {"flopwise.dev/idle": None}}}
    cluster.patch(JOBS, "theirs", taken_away, "ml")
    second.until(lambda: not theirs(cluster)["spec"]["suspend"], "it goes on")
    assert theirs(cluster)["metadata"]["annotations"]["flopwise.dev/attempt"] == "2"


def idle_gpu_job(cluster: Cluster, play: Play) -> None:
    """A GpuJob of a Job, suspended for leaving its GPUs idle."""
    strict_queue(cluster)
    containers = [{"name": "main", "image": "none"}]
    run: Any = {"podTemplate": {"spec": {"containers": containers}}}
    cluster.add(gpu_job(queue="strict", run=run))
    jobs = cluster.objects
    play.until(
        lambda: ("jobs", "ml/train") in jobs and not jobs["jobs", "ml/train"]["spec"]["suspend"],
        "it is released",
    )
    works(cluster, "ml/train")
    play.until(lambda: cluster.condition("ml/train", "Running").get("status") == "True", "it works")
    leaves_idle(play, "train")
    play.until(lambda: jobs["jobs", "ml/train"]["spec"]["suspend"], "it is suspended")
    cluster.becomes("jobs", "ml/train", active=0)
    play.until(lambda: cluster.condition("ml/train", "Preempted")["reason"] == "Idle", "it is told")


def suspended_again(cluster: Cluster) -> bool:
    found = cluster.objects.get(("jobs", "ml/train"))
    return found is not None and bool(found["spec"]["suspend"])


def test_a_gpu_job_that_was_suspended_for_being_idle_stays_so_whoever_comes(
    cluster: Cluster, start: Start
) -> None:
    first = start(**AT_ONCE)
    idle_gpu_job(cluster, first)
    first.step(3)
    first.end()
    second = start(**AT_ONCE)
    second.step(5)
    assert suspended_again(cluster)
    assert second.operator.state.jobs["ml/train"].attempt == 1


def test_a_gpu_job_that_its_owner_has_changed_while_nobody_looked_goes_on(
    cluster: Cluster, start: Start
) -> None:
    first = start(**AT_ONCE)
    idle_gpu_job(cluster, first)
    first.step(3)
    first.end()
    cluster.patch(GPU_JOBS, "train", {"spec": {"priority": 1}}, "ml")
    second = start(**AT_ONCE)
    second.until(lambda: second.operator.state.jobs["ml/train"].attempt == 2, "it goes on")


# -- notices ---------------------------------------------------------------------------------------


def test_a_clock_that_jumps_ahead_ends_no_notice_early(cluster: Cluster, start: Start) -> None:
    play = start(decisions=states.Settings(notice_seconds=600.0))
    cluster.add(gpu_job(run=RAY, checkpoint=SAVES))
    play.until(lambda: released(cluster), "it is launched")
    runs(cluster)
    cluster.objects["rayjobs", "ml/train"]["status"]["jobStatus"] = "RUNNING"
    play.until(lambda: cluster.condition("ml/train", "Running").get("status") == "True", "it runs")
    cluster.add(gpu_job("urgent", run=RAY, priority=10))
    told = "flopwise.dev/drain"
    play.until(
        lambda: told in cluster.objects["rayjobs", "ml/train"]["metadata"]["annotations"],
        "it is told",
    )
    play.operator.state = replace(
        play.operator.state, now=play.operator.state.now + timedelta(hours=1)
    )
    play.step(5)
    assert released(cluster)


# -- what others do meanwhile ----------------------------------------------------------------------


def test_a_workload_that_goes_while_it_is_stopped_is_known_to_have_gone(
    cluster: Cluster, start: Start
) -> None:
    play = start(**AT_ONCE)
    cluster.add(gpu_job(run=RAY))
    play.until(lambda: released(cluster), "it is launched")
    play.step(2)
    asked, go = threading.Event(), threading.Event()

    def gone(_: Any) -> KubeError:
        asked.set()
        assert go.wait(10)
        return NotFound("rayjobs train not found", status=404)

    cluster.refuses["patch", "rayjobs"] = gone
    del cluster.objects["gpujobs", "ml/train"]
    play.tell()
    play.operator.step(0.0)
    assert asked.wait(10)
    del cluster.objects["rayjobs", "ml/train"]  # garbage collection, and its watch, are faster
    play.tell()
    play.operator.step(0.0)
    go.set()
    play.until(lambda: "ml/train" not in play.operator.state.jobs, "its nodes are free")


def launching(cluster: Cluster, play: Play) -> threading.Event:
    """A GpuJob whose workload is just being created, until the event is set."""
    asked, go = threading.Event(), threading.Event()

    def held(_: Any) -> None:
        asked.set()
        assert go.wait(30)

    cluster.refuses["create", "rayjobs"] = held
    cluster.add(gpu_job(run=RAY))
    while not asked.is_set():
        play.tell()
        play.operator.step(0.01)
    return go


def test_a_gpu_job_that_is_deleted_while_it_is_launched_is_never_let_run(
    cluster: Cluster, start: Start
) -> None:
    play = start()
    go = launching(cluster, play)
    del cluster.objects["gpujobs", "ml/train"]
    play.tell()
    play.operator.step(0.0)
    go.set()
    play.until(lambda: "ml/train" not in play.operator.state.jobs, "its nodes are free")
    play.step(3)
    made = cluster.objects.get(("rayjobs", "ml/train"))  # its owner is gone: it will be collected
    assert made is None or made["spec"]["suspend"]
    cluster.add(gpu_job("next", run=RAY))
    del cluster.refuses["create", "rayjobs"]
    play.until(lambda: ("rayjobs", "ml/next") in cluster.objects, "another has its nodes")


def test_one_that_is_made_anew_under_its_name_waits_for_what_is_left_of_the_first(
    cluster: Cluster, start: Start
) -> None:
    # The first has succeeded; its RayJob is still there when the second comes.
    play = start()
    cluster.add(gpu_job(run=RAY))
    play.until(lambda: released(cluster), "it is launched")
    cluster.becomes("rayjobs", "ml/train", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    play.until(lambda: cluster.condition("ml/train", "Succeeded").get("status") == "True", "ended")
    again = gpu_job(run=RAY)
    again["metadata"]["uid"] = "another"
    cluster.add(again)
    play.until(lambda: cluster.events("NameTaken"), "it is told that its name is taken")
    assert cluster.condition("ml/train", "Succeeded") == {}
    del cluster.objects["rayjobs", "ml/train"]
    play.until(lambda: released(cluster), "it runs")
    owner = cluster.objects["rayjobs", "ml/train"]["metadata"]["ownerReferences"][0]
    assert owner["uid"] == "another"


FOREIGN = "example.com/never-goes"


def test_a_gpu_job_that_somebody_s_finalizer_holds_is_stopped_and_its_nodes_are_free(
    cluster: Cluster, start: Start
) -> None:
    play = start(**AT_ONCE)
    held = gpu_job(run=RAY, checkpoint={**SAVES, "saveSeconds": 0})
    held["metadata"]["finalizers"] = [FOREIGN]
    cluster.add(held)
    play.until(lambda: released(cluster), "it is launched")
    play.step(2)
    cluster.delete(GPU_JOBS, "train", "ml")
    play.end()
    other = start(**AT_ONCE)  # who comes after us sees it for the first time so
    other.until(lambda: ("rayjobs", "ml/train") not in cluster.objects, "its workload is deleted")
    other.until(lambda: "ml/train" not in other.operator.state.jobs, "its nodes are free")
    assert ("gpujobs", "ml/train") in cluster.objects
    asked = len(cluster.asked)
    other.step(20)
    assert len(cluster.asked) == asked


def test_a_workload_that_somebody_s_finalizer_holds_keeps_no_nodes_once_nothing_of_it_runs(
    cluster: Cluster, start: Start
) -> None:
    play = start(**AT_ONCE)
    cluster.add(batch_job())
    play.until(lambda: not theirs(cluster)["spec"]["suspend"], "it is released")
    works(cluster, "ml/theirs")
    play.step(2)
    theirs(cluster)["metadata"]["finalizers"] = [FOREIGN]
    cluster.delete(JOBS, "theirs", "ml")
    cluster.add(gpu_job(run=RAY))
    play.step(5)
    assert play.operator.state.jobs["ml/theirs:job"].holds  # its pod runs
    cluster.becomes("jobs", "ml/theirs", active=0)
    play.until(lambda: ("rayjobs", "ml/train") in cluster.objects, "another has its nodes")
    assert ("jobs", "ml/theirs") in cluster.objects
    assert "ml/theirs:job" not in play.operator.state.jobs


def test_in_a_namespace_that_is_being_deleted_a_launch_is_tried_once_and_told(
    cluster: Cluster, start: Start
) -> None:
    def refused(raw: dict[str, Any]) -> KubeError:
        said = "forbidden: unable to create new content in namespace ml because it is being "
        causes = [{"reason": "NamespaceTerminating", "message": "", "field": "metadata.namespace"}]
        status = {"reason": "Forbidden", "message": f"{said}terminated"}
        return error_of(403, {**status, "details": {"causes": causes}}, {})

    for plural in ("rayjobs", "secrets", "networkpolicies", "events"):
        cluster.refuses["create", plural] = refused
    play = start()
    cluster.add(gpu_job(run=RAY))
    play.until(lambda: cluster.condition("ml/train", "Failed").get("status") == "True", "it failed")
    assert "it is being terminated" in cluster.condition("ml/train", "Failed")["message"]
    play.step(20)
    assert [each[:2] for each in cluster.asked].count(("create", "secrets")) == 1
