"""What the chart grants the operator is what it uses: no right is missing, and none is spare.

Every kind of work that it knows is started, stopped, moved and ended under the chart's own roles,
and the API server's audit log says which rights that took.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import job_sets
from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes, Helm
from tests.cluster.job_sets import PATIENCE
from tests.cluster.rights import Right, granted, refused, rights_of, used
from tests.cluster.test_chart import rendered, the
from tests.cluster.test_operator import (
    FLOPWISE,
    RAY,
    Operators,
    add_job,
    fleet,
    granted_to,
    holds,
    nodes_of,
    of_pool,
    operators,
    plain,
    put,
    suspended_job,
    task,
)

__all__ = ["fleet", "operators"]  # fixtures
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900, func_only=True)]

# What is granted for what cannot be brought about here, and why it is granted all the same.
UNUSED: dict[Right, str] = {
    ("batch/jobs/status", "patch"): "before Kubernetes 1.36, which forgets a start itself",
    ("ray.io/rayjobs", "delete"): "one that failed is tried again: no Ray runs here that could",
}
LEASE = ("--lease-seconds=15", "--renew-seconds=10")  # a busy machine does not lose it
SAVES = {"intervalSeconds": 60, "saveSeconds": 1, "restartSeconds": 1}


def template(gpus: int) -> Object:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "1"}
    main = {"name": "main", "image": "none", "resources": {"limits": limits}}
    return {"spec": {"containers": [main]}}


def their_service(name: str, queue: str) -> Object:
    """A suspended RayService of somebody who has never heard of GpuJobs."""
    counts = {"replicas": 1, "minReplicas": 1, "maxReplicas": 1}
    group = {"groupName": "w", "rayStartParams": {}, "template": template(8), **counts}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": name,
            "labels": {"flopwise.dev/queue": queue},
            "annotations": {"flopwise.dev/hours": "1"},
        },
        "spec": {
            "serveConfigV2": "applications: []\n",
            "rayClusterConfig": {
                "suspend": True,
                "rayVersion": "2.60.0",
                "headGroupSpec": {"rayStartParams": {}, "template": template(0)},
                "workerGroupSpecs": [group],
            },
        },
    }


def our_service(queue: str) -> Object:
    return {
        "queue": queue,
        "inference": {
            "model": "llama-3.1-8b",
            "precision": "bf16",
            "promptTokens": 128,
            "outputTokens": 128,
            "requestsPerSecond": 1,
            "objective": {"ttftMs": 5000, "tpotMs": 500, "percentile": 50},
        },
        "run": {"entrypoint": "serve:app", "image": "rayproject/ray:2.60.0"},
    }


class Work:
    """All kinds of work in one namespace, on two nodes of eight GPUs."""

    def __init__(self, cluster: Cluster, space: str, run: Operators, account: str) -> None:
        self.cluster, self.space, self.run = cluster, space, run
        self.kubeconfig = f"--kubeconfig={cluster.kubeconfig_of(account, space)}"
        self.operator = run.start(self.kubeconfig, *LEASE)

    def put(self, name: str, **spec: Any) -> None:
        put(self.cluster, "GpuJob", name, self.space, task(self.space, **spec))

    def runs(self, name: str) -> None:
        """Returns when it runs on one node."""
        eventually(
            lambda: len(nodes_of(self.cluster, self.space, name)) == 1, f"{name} runs", PATIENCE
        )

    def remove(self, name: str, path: str) -> None:
        """Takes a GpuJob away, and waits until what carried it out is gone too."""
        self.cluster.remove(f"{FLOPWISE}/namespaces/{self.space}/gpujobs/{name}")
        eventually(lambda: name not in self.named(path), f"{name} is gone", PATIENCE)

    def all_give_way(self, name: str) -> None:
        """A gang that needs both nodes comes, and ends."""
        self.put(name, replicas=2, run=plain("1s"), priority=10)
        eventually(
            lambda: holds(self.cluster, self.space, name, "Succeeded"), f"{name} ends", PATIENCE
        )

    def named(self, path: str) -> list[str]:
        """The names of what is there of a kind and does not go."""
        group, _, plural = path.rpartition("/")
        found = self.cluster.api.get(f"/apis/{group}/namespaces/{self.space}/{plural}")["items"]
        own = [each["metadata"] for each in found]
        return [each["name"] for each in own if "deletionTimestamp" not in each]

    def of_ours(self) -> None:
        """A Ray job and a plain one give way to a gang, and go on; a cluster; a service."""
        self.put("ray", run=RAY, checkpoint=SAVES)
        self.put("plain", run=plain(), checkpoint=SAVES)
        self.runs("ray")
        self.runs("plain")
        self.all_give_way("gang")
        self.runs("ray")
        self.runs("plain")
        self.remove("plain", "batch/v1/jobs")
        self.put("cluster")  # neither a program nor pods: a Ray to work on
        self.runs("cluster")
        self.remove("cluster", "ray.io/v1/rayclusters")
        put(self.cluster, "GpuJob", "service", self.space, our_service(self.space))
        self.runs("service")
        self.all_give_way("other")
        self.runs("service")
        self.remove("service", "ray.io/v1/rayservices")
        self.remove("ray", "ray.io/v1/rayjobs")

    def of_others(self) -> None:
        """A Job of somebody's is stopped and pinned anew; a RayService; a JobSet."""
        add_job(self.cluster, self.space, suspended_job("theirs", self.space))
        self.runs("theirs_job")
        self.all_give_way("urgent")
        self.runs("theirs_job")
        self.cluster.remove(f"/apis/batch/v1/namespaces/{self.space}/jobs/theirs")
        services = f"/apis/ray.io/v1/namespaces/{self.space}/rayservices"
        self.cluster.api.post(services, their_service("answers", self.space))
        self.runs("answers_rayservice")
        self.all_give_way("last")  # KubeRay does not stop the Ray of a service: we delete it
        self.cluster.remove(f"{services}/answers")
        made = job_sets.job_set("several", self.space)
        self.cluster.api.post(job_sets.path(self.space), made)
        self.runs("several_jobset")
        self.cluster.remove(job_sets.path(self.space, "several"))

    def of_one_who_comes_anew(self) -> None:
        """An operator that was killed says again what it has said."""
        self.put("huge", replicas=9, run=RAY)
        eventually(lambda: self.events("huge"), "it is told", PATIENCE)
        self.operator.kill()
        self.operator = self.run.start(self.kubeconfig, *LEASE)
        eventually(
            lambda: any(each.get("series") for each in self.events("huge")), "once more", PATIENCE
        )

    def events(self, name: str) -> list[Object]:
        found = self.cluster.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.space}/events")
        return [each for each in found["items"] if each["regarding"]["name"] == name]


def test_no_right_of_the_chart_is_missing_and_none_is_spare(
    kinds: Cluster,
    operators: Operators,
    fleet: str,
    nodes: AddNodes,
    helm: Helm,
    sets: None,
) -> None:
    nodes("h100", 2, **of_pool(fleet))
    account = granted_to(kinds, helm, fleet)
    since = kinds.audit_offset()
    work = Work(kinds, fleet, operators, account)
    work.of_ours()
    work.of_others()
    work.of_one_who_comes_anew()
    work.operator.stop()
    events = list(kinds.audit(f"system:serviceaccount:{fleet}:{account}", since))
    assert refused(events) == set()
    made = rendered(helm)
    roles = [the(made, "ClusterRole", name) for name in ("-cluster", "-workloads")]
    verbs = [granted(role) for role in (*roles, the(made, "Role"))]
    rights = {right for each in verbs for right in rights_of(each)}
    assert rights >= set(UNUSED)
    assert rights - used(events) <= set(UNUSED)  # a race may use what is named there
