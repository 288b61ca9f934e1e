"""Objects as an API server gives them, small."""

from __future__ import annotations

from typing import Any

from planner.manifests.read import of_object
from planner.manifests.schema import GpuJob, GpuPool

H100 = "NVIDIA-H100-80GB-HBM3"
Raw = dict[str, Any]


def node(
    name: str,
    *,
    product: str = H100,
    gpus: int = 8,
    cpu: str = "192",
    memory: str = "2048Gi",
    labels: dict[str, str] | None = None,
    allocatable: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    unschedulable: bool = False,
    ready: bool = True,
) -> Raw:
    has = {"cpu": cpu, "memory": memory, "pods": "110"}
    has |= {"nvidia.com/gpu": str(gpus)} if allocatable is None else allocatable
    spec: Raw = {"taints": taints or []}
    if unschedulable:
        spec["unschedulable"] = True
    status = "True" if ready else "Unknown"
    known = {"nvidia.com/gpu.product": product} if product else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": f"host-{name}", **known, **(labels or {})},
        },
        "spec": spec,
        "status": {
            "allocatable": has,
            "conditions": [{"type": "Ready", "status": status, "message": "kubelet stopped"}],
        },
    }


def pod(
    name: str,
    on: str,
    *,
    phase: str = "Running",
    labels: dict[str, str] | None = None,
    owner: str = "ReplicaSet",
    gpus: int = 0,
    cpu: str = "0",
) -> Raw:
    asked = {"cpu": cpu, "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "other",
            "labels": labels or {},
            "ownerReferences": [{"kind": owner, "name": "x"}],
        },
        "spec": {
            "nodeName": on,
            "containers": [{"name": "c", "resources": {"requests": asked}}],
        },
        "status": {"phase": phase},
    }


def pool(name: str = "h100", **spec: Any) -> GpuPool:
    raw = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": name},
        "spec": {"accelerator": "h100", "gpusPerNode": 8, **spec},
    }
    made = of_object(raw)
    assert isinstance(made, GpuPool), made
    return made


def job(name: str = "train", *, labels: dict[str, str] | None = None, **spec: Any) -> GpuJob:
    if not {"training", "inference", "task"} & spec.keys():
        spec["task"] = {"replicas": 2, "gpus": 8, "hours": {"h100": 2.0}}
    raw = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name, "namespace": "ml", "labels": labels or {}},
        "spec": spec,
    }
    made = of_object(raw)
    assert isinstance(made, GpuJob), made
    return made
