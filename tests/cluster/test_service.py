"""A service's replicas on a real KubeRay: what it honours without a restart, and a whole day."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from planner.problem import Amounts
from scheduler.controller import loop, sight
from scheduler.controller import state as states
from scheduler.controller.log import Log
from scheduler.controller.told import placed_text
from scheduler.kube import names
from scheduler.kube.client import Kube
from scheduler.kube.kubeconfig import connect
from scheduler.kube.launch import Capabilities, Gang, Launch, capabilities
from scheduler.kube.workloads import manifests, scaled
from tests.cluster.api import eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.cluster.test_operator import FLOPWISE, condition, fleet, of_pool, plain, put
from tests.scheduler.kube.objects import job

pytestmark = pytest.mark.cluster

__all__ = ["fleet"]
CHAT = {"model": "llama-3.1-8b", "promptTokens": 500, "outputTokens": 100}
# A replica on an H100 serves 56 requests a second: 30 take one, 150 three.
DAY = [30.0] * 6 + [150.0] * 14 + [30.0] * 4
SAVES = {"intervalSeconds": 60, "saveSeconds": 2, "restartSeconds": 1}
NOTICE_SECONDS = 4.0
Raw = dict[str, Any]


@pytest.fixture
def kube(wide: Cluster) -> Kube:
    return connect(kubeconfig=str(wide.kubeconfig), qps=1000, burst=1000)


def clusters(kube: Kube, namespace: str) -> list[Raw]:
    return list(kube.list(names.RAY_CLUSTERS, namespace).items)


def uids(kube: Kube, namespace: str) -> list[str]:
    """Of its Rays."""
    return [each["metadata"]["uid"] for each in clusters(kube, namespace)]


def workers(kube: Kube, namespace: str) -> Counter[str]:
    """Replicas that run, by node."""
    found = kube.list(names.PODS, namespace, labels="ray.io/node-type=worker").items
    return Counter(
        pod["spec"]["nodeName"]
        for pod in found
        if pod["status"]["phase"] == "Running" and not pod["metadata"].get("deletionTimestamp")
    )


# -- what KubeRay honours --------------------------------------------------------------------------


def service(namespace: str, hosts: list[str], can: Capabilities) -> Raw:
    """A RayService with a replica on each of these nodes."""
    made = job(inference={**CHAT, "requestsPerSecond": 1})
    metadata = made.metadata.model_copy(update={"namespace": namespace})
    gang = Gang(
        pool="h100",
        accelerator="h100-sxm5-80gb",
        replicas=tuple((host, 1) for host in hosts),
        amounts=Amounts(gpu_milli=1000),
    )
    launch = Launch(
        job=made.model_copy(update={"metadata": metadata}),
        uid="",
        gangs=(gang,),
        start=datetime(2026, 12, 1, tzinfo=UTC),
    )
    raw = manifests(launch, can=can)[-1]
    places = tuple((host, 1) for host in hosts)
    raw["metadata"]["annotations"][names.PLACED] = placed_text(places)
    return raw


@pytest.fixture
def can(kube: Kube) -> Capabilities:
    return capabilities(kube.list(names.CRDS).items)


def test_more_and_fewer_replicas_are_had_from_the_ray_that_is_there(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    hosts = nodes("h100", 3, gpus=1)
    small, large = service(namespace, hosts[:1], can), service(namespace, hosts, can)
    kube.apply(names.RAY_SERVICES, small)
    eventually(lambda: workers(kube, namespace) == Counter(hosts[:1]), "its one replica runs")
    (ray,) = uids(kube, namespace)

    def scale(to: Raw, places: list[str]) -> None:
        (now,) = clusters(kube, namespace)
        pods = kube.list(names.PODS, namespace).items
        patch = scaled(now, to, pods, dict.fromkeys(places, 1))
        kube.patch(names.RAY_CLUSTERS, now["metadata"]["name"], patch, namespace)
        kube.apply(names.RAY_SERVICES, to)

    scale(large, hosts)
    eventually(lambda: workers(kube, namespace) == Counter(hosts), "all three run")
    kept = [hosts[1]]
    scale(service(namespace, kept, can), kept)
    eventually(lambda: workers(kube, namespace) == Counter(kept), "just that one is left")
    assert uids(kube, namespace) == [ray]


def test_only_another_template_is_another_ray_to_kuberay(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    # It makes a second Ray of a service whose hash is not the one that it noted at the first.
    hosts = nodes("h100", 2, gpus=1)
    raw = service(namespace, hosts[:1], can)
    more, elsewhere = copy.deepcopy(raw), service(namespace, hosts[1:], can)
    group = more["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    group |= {"replicas": 2, "minReplicas": 2, "maxReplicas": 2}
    group["scaleStrategy"] = {"workersToDelete": ["no-such-pod"]}
    for name, each in (("first", raw), ("more", more), ("elsewhere", elsewhere)):
        each["metadata"]["name"] = name
        kube.apply(names.RAY_SERVICES, each)
    noted = eventually(lambda: hashes(kube, namespace, 3), "a Ray of each")
    assert noted["first"] == noted["more"] != noted["elsewhere"]


def hashes(kube: Kube, namespace: str, count: int) -> dict[str, str]:
    """What KubeRay noted at the Rays that it made, by the service; nothing until there are all."""
    found = {
        each["metadata"]["labels"]["ray.io/originated-from-cr-name"]: each["metadata"][
            "annotations"
        ]["ray.io/hash-without-replicas-and-workers-to-delete"]
        for each in clusters(kube, namespace)
    }
    return found if len(found) == count else {}


# -- a day -----------------------------------------------------------------------------------------


@dataclass
class Day:
    """A clock that is told what time it is, and goes on from there."""

    midnight: datetime
    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def turn_to(self, hour: float) -> None:
        self.ahead = self.midnight + timedelta(hours=hour) - datetime.now(UTC)


@pytest.fixture
def day(kinds: Cluster, fleet: str) -> Iterator[Day]:  # the fixture of that name
    """The next day, just after its beginning, with an operator that lives in it."""
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    made = Day(midnight=tomorrow + timedelta(days=1))
    made.turn_to(0.5)
    lines: list[str] = []
    kube = connect(kubeconfig=str(kinds.kubeconfig), qps=500, burst=1000)
    operator = loop.Operator(
        kube,
        loop.Settings(
            namespaces=(fleet,),
            plan_every_seconds=0,
            decisions=states.Settings(notice_seconds=NOTICE_SECONDS),
            sight=sight.Settings(notice_seconds=NOTICE_SECONDS),
        ),
        can=capabilities(kube.list(names.CRDS).items),
        log=Log(lines.append),
        clock=made.now,
    )
    thread = threading.Thread(target=operator.run, daemon=True)
    thread.start()
    yield made
    operator.stop()
    thread.join(10)
    print("".join(lines[-80:]))  # noqa: T201  # pytest shows it where the test failed


def events(kube: Kube, namespace: str, reason: str) -> list[str]:
    found = kube.list(names.EVENTS, namespace).items
    return [each.get("note", "") for each in found if each.get("reason") == reason]


def test_a_service_follows_its_day_and_a_job_borrows_the_night(
    kinds: Cluster,
    kube: Kube,
    fleet: str,  # the fixture of that name
    day: Day,
    nodes: AddNodes,
) -> None:
    hosts = nodes("h100", 3, gpus=1, **of_pool(fleet))
    put(kinds, "GpuPool", fleet, "", pool_of_one(fleet))
    chat = {"queue": fleet, "inference": {**CHAT, "hourlyRequestsPerSecond": DAY}}
    chat["checkpoint"] = {"restartSeconds": 240}
    put(kinds, "GpuJob", "chat", fleet, chat)
    eventually(lambda: sum(workers(kube, fleet).values()) == 1, "one replica by night", 60)
    (ray,) = uids(kube, fleet)
    night = set(workers(kube, fleet))

    hours = {"replicas": 2, "gpus": 1, "hours": {"h100": 1000}}
    stated = {"queue": fleet, "task": hours, "checkpoint": SAVES, "run": plain()}
    put(kinds, "GpuJob", "borrower", fleet, stated)
    lent = set(hosts) - night
    eventually(lambda: on(kube, fleet, "borrower") == lent, "the job has the other nodes", 60)

    day.turn_to(5.75)
    assert condition(kinds, fleet, "borrower", "Preempted") == {}
    day.turn_to(6 - (300 + NOTICE_SECONDS) / 3600)  # a slot of five minutes to load, and the notice
    eventually(
        lambda: condition(kinds, fleet, "borrower", "Preempted").get("reason") == "Reclaimed",
        "the job is given notice",
        60,
    )
    eventually(lambda: set(workers(kube, fleet)) == set(hosts), "three replicas by day", 90)
    assert on(kube, fleet, "borrower") == set()
    plan = {"replicas": 3, "readyReplicas": 3, "gpus": 3.0}
    eventually(lambda: plan.items() <= told(kinds, fleet).items(), "its owner is told", 60)

    day.turn_to(20 + 5 / 3600)
    eventually(lambda: set(workers(kube, fleet)) == night, "one replica in the evening", 90)
    eventually(lambda: on(kube, fleet, "borrower") == lent, "the job goes on", 60)
    assert uids(kube, fleet) == [ray]
    said = "\n".join(eventually(lambda: events(kube, fleet, "Scaled"), "it is told in Events"))
    assert "3 replicas, 1 before: for up to 150 requests a second" in said
    assert "1 replicas, 3 before: for up to 30 requests a second" in said


def pool_of_one(name: str) -> Raw:
    return {
        "accelerator": "h100",
        "gpusPerNode": 1,
        "nodeSelector": {"tests.flopwise.dev/pool": name},
        "price": {"purchase": "on_demand", "usdPerGpuHour": 2.0},
    }


def on(kube: Kube, namespace: str, name: str) -> set[str]:
    """Where the pods of a job run."""
    found = kube.list(names.PODS, namespace, labels=f"{names.JOB}={name}").items
    return {
        pod["spec"]["nodeName"]
        for pod in found
        if pod["status"]["phase"] == "Running" and not pod["metadata"].get("deletionTimestamp")
    }


def told(cluster: Cluster, namespace: str) -> Raw:
    raw = cluster.api.get(f"{FLOPWISE}/namespaces/{namespace}/gpujobs/chat")
    plan: Raw = (raw.get("status") or {}).get("plan") or {}
    return plan
