"""JobSets of people who never heard of GpuJobs, with JobSet's own controller."""

from __future__ import annotations

import pytest

from tests.cluster import job_sets
from tests.cluster.api import eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes, Helm
from tests.cluster.job_sets import PATIENCE
from tests.cluster.rights import refused
from tests.cluster.test_operator import (
    Operators,
    fleet,
    granted_to,
    holds,
    nodes_of,
    of_pool,
    operators,
    plain,
    put,
    task,
)

__all__ = ["fleet", "operators"]  # fixtures
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900, func_only=True)]

LEASE = ("--lease-seconds=15", "--renew-seconds=10")  # a busy machine does not lose it


def test_a_job_set_is_planned_pinned_released_stopped_for_a_dearer_job_and_ends(
    kinds: Cluster,
    operators: Operators,
    fleet: str,
    nodes: AddNodes,
    helm: Helm,
    sets: None,
) -> None:
    (host,) = nodes("h100", 1, **of_pool(fleet))
    account = granted_to(kinds, helm, fleet)
    since = kinds.audit_offset()
    operator = operators.start(f"--kubeconfig={kinds.kubeconfig_of(account, fleet)}", *LEASE)
    kinds.api.post(job_sets.path(fleet), job_sets.job_set("theirs", fleet))
    eventually(lambda: nodes_of(kinds, fleet, "theirs_jobset") == [host], "it runs", PATIENCE)
    put(kinds, "GpuJob", "dear", fleet, task(fleet, run=plain("1s"), priority=10))
    eventually(lambda: holds(kinds, fleet, "dear", "Succeeded"), "a dearer job ran", PATIENCE)
    eventually(lambda: nodes_of(kinds, fleet, "theirs_jobset") == [host], "it goes on", PATIENCE)
    kinds.remove(job_sets.path(fleet, "theirs"))
    kinds.api.post(job_sets.path(fleet), job_sets.job_set("short", fleet, "1s"))
    eventually(
        lambda: job_sets.condition(kinds.api, fleet, "short", "Completed"),
        "the next one ends, by its controller's own word",
        PATIENCE,
    )
    notes = kinds.api.get(job_sets.path(fleet, "short"))["metadata"]["annotations"]
    assert notes["flopwise.dev/attempt"] == "1"
    pods = f"/api/v1/namespaces/{fleet}/pods"
    (pod,) = kinds.api.get(pods, labelSelector="jobset.sigs.k8s.io/jobset-name=short")["items"]
    assert pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] == host
    assert pod["status"]["phase"] == "Succeeded"
    operator.stop()
    events = kinds.audit(f"system:serviceaccount:{fleet}:{account}", since)
    assert refused(events) == set()
