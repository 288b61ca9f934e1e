"""What goes on a real control plane while somebody's finalizer holds it, and what is made anew."""

from __future__ import annotations

import pytest

from scheduler.kube import errors, names
from scheduler.kube.kubeconfig import connect
from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.cluster.test_operator import (
    FLOPWISE,
    RAY,
    Operators,
    add_job,
    fleet,
    holds,
    job_of,
    nodes_of,
    of_pool,
    operators,
    plain,
    put,
    suspended_job,
    task,
)

__all__ = ["fleet", "operators"]  # fixtures
pytestmark = pytest.mark.cluster

FOREIGN = "example.com/never-goes"
WITHIN = 90  # seconds: an end of waiting on a busy machine, and no figure
GOES: Object = {"metadata": {"finalizers": None}}


def held(cluster: Cluster, path: str) -> None:
    cluster.api.patch(path, {"metadata": {"finalizers": [FOREIGN]}})


def test_what_is_deleted_and_held_gives_its_nodes_back(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    (host,) = nodes("h100", 1, **of_pool(fleet))
    operators.start()
    gpu_job = f"{FLOPWISE}/namespaces/{fleet}/gpujobs/held"
    put(kinds, "GpuJob", "held", fleet, task(fleet, run=RAY))
    eventually(lambda: nodes_of(kinds, fleet, "held") == [host], "it runs", WITHIN)
    held(kinds, gpu_job)
    kinds.remove(gpu_job)
    add_job(kinds, fleet, suspended_job("theirs", fleet))
    eventually(lambda: nodes_of(kinds, fleet, "theirs_job") == [host], "another runs", WITHIN)
    assert kinds.api.exists(gpu_job)
    job = f"/apis/batch/v1/namespaces/{fleet}/jobs/theirs"
    held(kinds, job)
    kinds.remove(job)
    for pod in kinds.api.get(f"/api/v1/namespaces/{fleet}/pods")["items"]:
        kinds.remove(f"/api/v1/namespaces/{fleet}/pods/{pod['metadata']['name']}", 0)
    put(kinds, "GpuJob", "last", fleet, task(fleet, run=plain()))
    eventually(lambda: nodes_of(kinds, fleet, "last") == [host], "a third one runs", WITHIN)
    assert job_of(kinds, fleet, "theirs")["metadata"]["deletionTimestamp"]
    for path in (gpu_job, job):
        kinds.api.patch(path, GOES)


def test_a_gpu_job_that_is_made_anew_as_soon_as_it_has_ended_runs_again(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    nodes("h100", 1, **of_pool(fleet))
    operators.start()
    put(kinds, "GpuJob", "twice", fleet, task(fleet, run=plain("1s")))
    eventually(lambda: holds(kinds, fleet, "twice", "Succeeded"), "it ends", WITHIN)
    first = job_of(kinds, fleet, "twice")["metadata"]["uid"]
    kinds.remove(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/twice")
    put(kinds, "GpuJob", "twice", fleet, task(fleet, run=plain("1s")))
    eventually(
        lambda: (
            holds(kinds, fleet, "twice", "Succeeded")
            and job_of(kinds, fleet, "twice").get("metadata", {}).get("uid") not in (None, first)
        ),
        "another Job has run",
        WITHIN,
    )


def test_that_a_namespace_is_being_deleted_is_told_apart_from_a_right_that_is_missing(
    kinds: Cluster, namespace: str
) -> None:
    kube = connect(kubeconfig=str(kinds.kubeconfig))
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace}}
    first = secret | {"metadata": secret["metadata"] | {"name": "first", "finalizers": [FOREIGN]}}
    kube.create(names.SECRETS, first)
    kinds.remove(f"/api/v1/namespaces/{namespace}")
    second = secret | {"metadata": secret["metadata"] | {"name": "second"}}
    with pytest.raises(errors.Terminating, match="it is being terminated"):
        kube.create(names.SECRETS, second)
    kinds.api.patch(f"/api/v1/namespaces/{namespace}/secrets/first", GOES)
