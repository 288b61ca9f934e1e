"""The deep cluster does what others pretend to: pods with GPUs in name, Ray jobs with results."""

from __future__ import annotations

import pytest

from tests.cluster import image
from tests.cluster.api import Object, eventually
from tests.cluster.deep import NODE, Deep

pytestmark = pytest.mark.deep

SUBMITTER = "batch.kubernetes.io/job-name"
# What a task sees of its GPU, and 0 + 1 + 4 + ... + 361 = 2,470 computed by twenty tasks.
ENTRYPOINT = """python -c "
import os, ray
ray.init()
seen = ray.remote(num_gpus=1)(lambda: (ray.get_gpu_ids(), os.environ['NVIDIA_VISIBLE_DEVICES']))
print('seen', ray.get(seen.remote()))
square = ray.remote(lambda x: x * x)
print('sum', sum(ray.get([square.remote(x) for x in range(20)])))
"
"""


def template(name: str, **limits: str) -> Object:
    container = {
        "name": name,
        "image": image.RAY,
        "imagePullPolicy": "Never",
        "resources": {
            "requests": {"cpu": "500m", "memory": "2Gi", **limits},
            "limits": {"cpu": "1", "memory": "2Gi", **limits},
        },
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 3,  # else `ray start --block` takes 30 s to die
        "containers": [container],
    }
    return {"spec": spec}


def ray_job(name: str, entrypoint: str) -> Object:
    group = {
        "groupName": "gpus",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "rayStartParams": {},
        "template": template("ray-worker", **{"nvidia.com/gpu": "1"}),
    }
    cluster = {
        "rayVersion": "2.60.0",
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},
            "template": template("ray-head"),
        },
        "workerGroupSpecs": [group],
    }
    spec = {"entrypoint": entrypoint, "shutdownAfterJobFinishes": True, "rayClusterSpec": cluster}
    metadata = {"name": name}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def test_a_pod_on_the_real_node_runs_and_its_log_can_be_read(deep: Deep, deep_space: str) -> None:
    pods = f"/api/v1/namespaces/{deep_space}/pods"
    container = {
        "name": "main",
        "image": image.RAY,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo it computes $((6 * 7)) on $NVIDIA_VISIBLE_DEVICES"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    spec = {"restartPolicy": "Never", "containers": [container]}
    deep.api.post(
        pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    )
    ended = eventually(
        lambda: (pod := deep.api.get(f"{pods}/one"))["status"]["phase"] == "Succeeded" and pod,
        "the pod succeeds",
        within_seconds=60,
    )
    assert ended["spec"]["nodeName"] == NODE
    assert deep.api.text(f"{pods}/one/log").startswith("it computes 42 on GPU-test-")


def test_a_ray_job_gets_its_gpu_computes_and_succeeds(deep: Deep, deep_space: str) -> None:
    path = f"/apis/ray.io/v1/namespaces/{deep_space}/rayjobs"
    deep.api.post(path, ray_job("squares", ENTRYPOINT))
    status = eventually(
        lambda: (
            (status := deep.api.get(f"{path}/squares").get("status", {})).get("jobStatus")
            in ("SUCCEEDED", "FAILED", "STOPPED")
            and status
        ),
        "the Ray job ends",
        within_seconds=240,
        every_seconds=0.5,
    )
    assert status["jobStatus"] == "SUCCEEDED", status.get("message")
    pods = f"/api/v1/namespaces/{deep_space}/pods"
    submitter = deep.api.get(pods, labelSelector=f"{SUBMITTER}=squares")["items"][0]
    log = eventually(  # the job has ended a moment before its submitter has told of it
        lambda: (
            (text := deep.api.text(f"{pods}/{submitter['metadata']['name']}/log"))
            and "sum 2470" in text
            and text
        ),
        "its submitter has told the sum",
    )
    assert "seen ([0], 'GPU-test-" in log


def test_nodes_that_do_not_exist_keep_pods_off(deep: Deep, deep_space: str) -> None:
    names = deep.add_nodes("l4", 1)
    try:
        deep.wait_for_nodes(names)
        taints = deep.api.get(f"/api/v1/nodes/{names[0]}")["spec"]["taints"]
        assert [taint["key"] for taint in taints] == ["kwok.x-k8s.io/node"]
    finally:
        deep.remove_nodes(names)
