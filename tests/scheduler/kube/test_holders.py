"""Which workload a pod is of, and what it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.kube.holders import Holders, holdings
from scheduler.kube.observe import machines
from tests.scheduler.kube.objects import node, pod

BEGAN = "2026-12-01T00:00:00Z"


def workload(kind: str, name: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "other", "uid": f"uid-{name}"}
    return {"kind": kind, "metadata": metadata, "spec": {}, "status": status}


def held(
    raw: dict[str, Any], *workloads: tuple[str, dict[str, Any]], on: dict[str, Any] | None = None
) -> list[tuple[str, float]]:
    raw["status"]["startTime"] = BEGAN
    found = holdings([raw], Holders.of(workloads), machines([on or node("n0")], []))
    assert all(each.since == datetime(2026, 12, 1, tzinfo=UTC) for each in found)
    return [(each.job, each.gpus) for each in found]


def test_a_job_s_pods_are_known_by_their_owner() -> None:
    raw = pod("p", "n0", gpus=2)
    raw["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "j", "uid": "uid-j"}]
    assert held(raw, ("ml/j.job", workload("Job", "j"))) == [("ml/j.job", 2.0)]


@pytest.mark.parametrize(
    ("label", "made"),
    [
        ("jobset.sigs.k8s.io/jobset-name", workload("JobSet", "x")),
        ("ray.io/cluster", workload("RayJob", "j", rayClusterName="x")),
        (
            "ray.io/cluster",
            workload("RayService", "s", activeServiceStatus={"rayClusterName": "x"}),
        ),
    ],
)
def test_others_are_known_by_the_label_that_their_controller_sets(
    label: str, made: dict[str, Any]
) -> None:
    assert held(pod("p", "n0", gpus=1, labels={label: "x"}), ("a", made)) == [("a", 1.0)]
    assert held(pod("p", "n0", gpus=1, labels={label: "y"}), ("a", made)) == [("", 1.0)]


def test_what_has_ended_or_asks_for_no_gpu_holds_none() -> None:
    assert held(pod("p", "n0", gpus=1, phase="Succeeded")) == []
    assert held(pod("p", "n0", cpu="4")) == []
    assert held(pod("p", "elsewhere", gpus=1)) == []


def test_shares_and_instances_count_as_parts_of_a_gpu() -> None:
    labels = {"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.replicas": "4"}
    shared = node("n0", gpus=0, labels=labels, allocatable={"nvidia.com/gpu.shared": "32"})
    raw = pod("p", "n0")
    raw["spec"]["containers"][0]["resources"]["requests"] = {"nvidia.com/gpu.shared": "1"}
    assert held(raw, on=shared) == [("", 0.25)]
    mixed = node("n0", allocatable={"nvidia.com/mig-3g.40gb": "2"})
    raw["spec"]["containers"][0]["resources"]["requests"] = {"nvidia.com/mig-3g.40gb": "1"}
    assert held(raw, on=mixed) == [("", 3 / 7)]
