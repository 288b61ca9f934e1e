"""Workloads of others, pinned and released on a real API server with the real controllers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from scheduler.kube import adopt, names
from scheduler.kube.adopt import Adopted, Declined, Places
from scheduler.kube.client import Kube
from scheduler.kube.errors import Conflict
from scheduler.kube.kubeconfig import connect
from scheduler.kube.names import JOB, QUEUE, RESOURCES, Resource
from scheduler.kube.observe import fleet, machines
from scheduler.kube.phases import Phase, phase_of
from tests.cluster.api import eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.scheduler.kube.objects import pool

pytestmark = pytest.mark.cluster

Raw = dict[str, Any]


@pytest.fixture
def kube(wide: Cluster) -> Kube:
    return connect(kubeconfig=str(wide.kubeconfig), qps=1000, burst=1000)


def template(gpus: int = 8) -> Raw:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "1"}
    return {
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "resources": {"limits": limits}}],
        },
    }


def workload(namespace: str, kind: str, spec: Raw, version: str = "ray.io/v1") -> Raw:
    metadata = {"name": "train", "namespace": namespace, "labels": {QUEUE: "research"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def a_job(namespace: str) -> Raw:
    spec = {"suspend": True, "parallelism": 2, "completions": 2, "template": template()}
    return workload(namespace, "Job", spec, "batch/v1")


def ray_cluster(workers: int = 1) -> Raw:
    group: Raw = {"groupName": "w", "rayStartParams": {}, "template": template()}
    counts = {"replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    head: Raw = {"rayStartParams": {}, "template": template(0)}
    for each in (group, head):
        del each["template"]["spec"]["restartPolicy"]
    return {"rayVersion": "2.60.0", "headGroupSpec": head, "workerGroupSpecs": [group | counts]}


def as_read(kube: Kube, raw: Raw) -> tuple[Resource, Raw]:
    resource = RESOURCES[raw["apiVersion"], raw["kind"]]
    return resource, kube.get(resource, raw["metadata"]["name"], raw["metadata"]["namespace"])


def change(kube: Kube, raw: Raw, patch: Raw) -> None:
    resource = RESOURCES[raw["apiVersion"], raw["kind"]]
    kube.patch(resource, raw["metadata"]["name"], patch, raw["metadata"]["namespace"])


def release(kube: Kube, raw: Raw, hosts: Sequence[str]) -> None:
    """As a controller does it: read anew where somebody, here KubeRay's status, was faster."""
    for _ in range(20):
        try:
            change(kube, raw, adopt.release(as_read(kube, raw)[1], hosts))
        except Conflict:
            continue
        return
    raise AssertionError("in conflict twenty times")


def runs_on(kube: Kube, raw: Raw, host: str) -> bool:
    return nodes_of(kube, raw) == [host]


def nodes_of(kube: Kube, raw: Raw) -> list[str]:
    """Where its pods with GPUs are, those that run and are not about to end."""
    label = f"{JOB}={adopt.adopted_label(raw)}"
    found = kube.list(names.PODS, raw["metadata"]["namespace"], labels=label).items
    return sorted(
        pod["spec"]["nodeName"]
        for pod in found
        if pod["status"]["phase"] == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and "nvidia.com/gpu" in pod["spec"]["containers"][0]["resources"].get("limits", {})
    )


def planned(kube: Kube, raw: Raw) -> Adopted | Declined | None:
    found = fleet(machines(kube.list(names.NODES).items, ()), [pool()])
    return adopt.adopt(as_read(kube, raw)[1], Places(found))


def test_a_job_is_released_onto_its_nodes_and_after_a_stop_onto_others(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 4)
    raw = a_job(namespace)
    kube.create(names.JOBS, raw)
    before = planned(kube, raw)
    assert isinstance(before, Adopted)
    release(kube, raw, hosts[:2])
    eventually(lambda: nodes_of(kube, raw) == hosts[:2], "its pods are where they were sent")
    assert planned(kube, raw) == before  # still the same job to us
    change(kube, raw, adopt.suspend(raw))
    eventually(lambda: phase_of(as_read(kube, raw)[1]).phase is Phase.SUSPENDED, "it has stopped")
    kube.patch_status(names.JOBS, "train", adopt.forget_start()["status"], namespace)
    release(kube, raw, hosts[2:])
    eventually(lambda: nodes_of(kube, raw) == hosts[2:], "it goes on on the other nodes")


def test_a_release_of_what_was_changed_meanwhile_is_refused(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 2)
    raw = a_job(namespace)
    kube.create(names.JOBS, raw)
    patch = adopt.release(as_read(kube, raw)[1], hosts)
    change(kube, raw, {"metadata": {"labels": {"somebody": "else"}}})
    with pytest.raises(Conflict):
        change(kube, raw, patch)
    assert as_read(kube, raw)[1]["spec"]["suspend"] is True


def test_what_its_owner_pinned_still_holds_when_it_runs(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 4, per_clique=2)
    raw = a_job(namespace)
    clique = kube.get(names.NODES, hosts[2])["metadata"]["labels"]["nvidia.com/gpu.clique"]
    raw["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.clique": clique}
    kube.create(names.JOBS, raw)
    found = planned(kube, raw)
    assert isinstance(found, Adopted)
    assert list(found.nodes) == hosts[2:]
    release(kube, raw, found.nodes)
    eventually(lambda: nodes_of(kube, raw) == hosts[2:], "it runs where its owner lets it")


def test_a_ray_job_is_released_stopped_and_released_elsewhere(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 3)
    spec = {
        "entrypoint": "python train.py",
        "suspend": True,
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": ray_cluster(),
    }
    raw = workload(namespace, "RayJob", spec)
    kube.create(names.RAY_JOBS, raw)
    assert isinstance(planned(kube, raw), Adopted)
    eventually(
        lambda: phase_of(as_read(kube, raw)[1]).phase is Phase.SUSPENDED, "KubeRay has seen it"
    )
    for host in (hosts[1], hosts[2]):
        release(kube, raw, [host])
        eventually(partial(runs_on, kube, raw, host), f"it runs on {host}")
        change(kube, raw, adopt.suspend(raw))
        eventually(
            lambda: (
                phase_of(as_read(kube, raw)[1]).phase is Phase.SUSPENDED and not nodes_of(kube, raw)
            ),
            "it has stopped",
        )


def test_a_ray_service_is_released_onto_its_node_and_stopped(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 2)
    config = {"serveConfigV2": "applications: []\n"}
    cluster = {**ray_cluster(), "suspend": True}
    raw = workload(namespace, "RayService", config | {"rayClusterConfig": cluster})
    kube.create(names.RAY_SERVICES, raw)
    assert isinstance(planned(kube, raw), Adopted)

    def clusters() -> tuple[Raw, ...]:
        return kube.list(names.RAY_CLUSTERS, namespace).items

    def renew() -> None:
        for name in adopt.outdated(as_read(kube, raw)[1], clusters()):
            kube.delete(names.RAY_CLUSTERS, name, namespace)

    eventually(clusters, "KubeRay has seen it")
    assert nodes_of(kube, raw) == []
    release(kube, raw, [hosts[1]])
    renew()
    eventually(lambda: nodes_of(kube, raw) == [hosts[1]], "it runs where it was sent")
    renew()
    assert nodes_of(kube, raw) == [hosts[1]]  # what is as it should be stays
    change(kube, raw, adopt.suspend(as_read(kube, raw)[1]))
    renew()
    eventually(lambda: nodes_of(kube, raw) == [], "it has stopped")


def test_a_gated_pod_goes_to_the_node_that_it_is_sent_to(
    kube: Kube, namespace: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 2)
    spec = {**template()["spec"], "schedulingGates": [{"name": adopt.GATE}]}
    metadata = {"name": "w-0", "namespace": namespace}
    kube.create(names.PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    (waiting,) = adopt.gated(kube.list(names.PODS, namespace).items)
    kube.patch(names.PODS, "w-0", adopt.pin_pod(waiting, hosts[1]), namespace)
    eventually(
        lambda: kube.get(names.PODS, "w-0", namespace)["spec"].get("nodeName") == hosts[1],
        "it is on its node",
    )


def test_what_others_hold_is_not_offered(kube: Kube, namespace: str, nodes: AddNodes) -> None:
    (host,) = nodes("h100", 1)
    foreign = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "theirs", "namespace": namespace},
        "spec": template(3)["spec"],
    }
    kube.create(names.PODS, foreign)
    eventually(
        lambda: kube.get(names.PODS, "theirs", namespace)["spec"].get("nodeName") == host,
        "their pod runs",
    )
    (found,) = machines(kube.list(names.NODES).items, kube.list(names.PODS).items)
    assert (found.gpus, found.taken["nvidia.com/gpu"]) == (8, 3)
