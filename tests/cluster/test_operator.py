"""The operator on a real control plane: jobs run where it says, whatever happens to it."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import Object, Refused, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.cluster.process import Process

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
FLOPWISE = "/apis/flopwise.dev/v1alpha1"


@dataclass
class Operators:
    """Operators of one namespace's jobs, as processes."""

    cluster: Cluster
    namespace: str
    folder: Path
    started: list[Process] = field(default_factory=list)

    def start(self, *more: str) -> Process:
        """Another one; it may take a moment until it acts."""
        name = f"operator-{len(self.started)}"
        command = [
            *(sys.executable, "-m", "flopwise", "operator", "run"),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--namespaces={self.namespace}",
            f"--lease-namespace={self.namespace}",
            *("--kube-api-qps=500", "--kube-api-burst=1000"),
            *("--metrics-port=0", "--health-port=0"),
            *("--lease-seconds=3", "--renew-seconds=2", "--retry-seconds=0.3"),
            *("--notice-seconds=1", "--node-lost-seconds=2", "--plan-every-seconds=0"),
            *more,
        ]
        made = Process(name, command, self.folder / f"{name}.log", {"PYTHONPATH": str(ROOT)})
        self.started.append(made)
        made.start()
        return made

    def port(self, operator: Process, what: str = "healthPort") -> int:
        """Where it answers; it has started."""

        def stated() -> int:
            operator.check()
            lines = [json.loads(each) for each in operator.tail(1000).splitlines()]
            return next((line[what] for line in lines if line["message"] == "started"), 0)

        return int(eventually(stated, "the operator has started", within_seconds=60))

    def ask(self, operator: Process, path: str, what: str = "healthPort") -> tuple[int, str]:
        """What it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(operator, what), timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def wait_until_ready(self, operator: Process) -> None:
        """Returns when it acts, or stands by."""
        eventually(
            lambda: self.ask(operator, "/readyz")[0] == http.client.OK,
            "the operator is ready",
            within_seconds=60,
        )


@pytest.fixture
def operators(kinds: Cluster, namespace: str, tmp_path: Path) -> Iterator[Operators]:
    """Starts operators; they end with the test, and what they wrote is shown where it failed."""
    made = Operators(kinds, namespace, tmp_path)
    yield made
    for each in made.started:
        each.kill()
        print(each.tail(60))  # noqa: T201  # pytest shows it where the test failed


@pytest.fixture
def fleet(kinds: Cluster, namespace: str) -> Iterator[str]:
    """A pool of the nodes with a label that is this test's own, and a queue: their name."""
    put(kinds, "GpuPool", namespace, "", pool_spec(namespace))
    put(kinds, "GpuQueue", namespace, "", {})
    yield namespace
    kinds.remove(f"{FLOPWISE}/gpupools/{namespace}")
    kinds.remove(f"{FLOPWISE}/gpuqueues/{namespace}")


def pool_spec(name: str) -> Object:
    return {
        "accelerator": "h100",
        "gpusPerNode": 8,
        "nodeSelector": {"tests.flopwise.dev/pool": name},
        "price": {"purchase": "on_demand", "usdPerGpuHour": 2.0},
    }


def put(cluster: Cluster, kind: str, name: str, namespace: str, spec: Object) -> Object:
    """An object of ours, made or changed."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    inside = f"/namespaces/{namespace}" if namespace else ""
    raw = {"apiVersion": "flopwise.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    return cluster.api.apply(f"{FLOPWISE}{inside}/{kind.lower()}s/{name}", raw)


def of_pool(name: str) -> dict[str, object]:
    return {"labels": {"tests.flopwise.dev/pool": name}, "prefix": name}


def task(queue: str, replicas: int = 1, gpus: int = 8, hours: float = 1.0, **more: Any) -> Object:
    """A task whose pods run until they are deleted, or as `lasts` says."""
    return {
        "queue": queue,
        "task": {"replicas": replicas, "gpus": gpus, "hours": {"h100": hours}},
        **more,
    }


RAY = {"entrypoint": "python train.py", "image": "rayproject/ray:2.60.0"}


def plain(lasts: str = "") -> Object:
    """A pod template for a Job without Ray."""
    notes = {"tests.flopwise.dev/succeeds-after": lasts} if lasts else {}
    containers = [{"name": "main", "image": "none"}]
    return {"podTemplate": {"metadata": {"annotations": notes}, "spec": {"containers": containers}}}


def suspended_job(name: str, queue: str, gpus: int = 8, lasts: str = "", pods: int = 1) -> Object:
    """A Job of somebody who has never heard of GpuJobs."""
    notes = {"tests.flopwise.dev/succeeds-after": lasts} if lasts else {}
    limits = {"nvidia.com/gpu": str(gpus)}
    container = {"name": "main", "image": "none", "resources": {"limits": limits}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {"flopwise.dev/queue": queue},
            "annotations": {"flopwise.dev/hours": "1"},
        },
        "spec": {
            "suspend": True,
            "parallelism": pods,
            "completions": pods,
            "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": notes},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def add_job(cluster: Cluster, namespace: str, raw: Object) -> Object:
    return cluster.api.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", raw)


def condition(cluster: Cluster, namespace: str, name: str, kind: str) -> Object:
    """A condition of a GpuJob; without fields where it is not stated."""
    raw = cluster.api.get(f"{FLOPWISE}/namespaces/{namespace}/gpujobs/{name}")
    found = raw.get("status", {}).get("conditions", ())
    return next((each for each in found if each["type"] == kind), {})


def holds(cluster: Cluster, namespace: str, name: str, kind: str) -> bool:
    return bool(condition(cluster, namespace, name, kind).get("status") == "True")


def nodes_of(cluster: Cluster, namespace: str, job: str) -> list[str]:
    """Where the pods with GPUs of a job run."""
    found = cluster.api.get(
        f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"flopwise.dev/job={job}"
    )["items"]
    return sorted(
        pod["spec"]["nodeName"]
        for pod in found
        if pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            "nvidia.com/gpu" in each.get("resources", {}).get("limits", {})
            for each in pod["spec"]["containers"]
        )
    )


def job_of(cluster: Cluster, namespace: str, name: str) -> Object:
    try:
        return cluster.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")
    except Refused:
        return {}


# -- what it is for --------------------------------------------------------------------------------


def test_a_gpu_job_becomes_a_ray_job_on_nodes_of_its_pool(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 3, **of_pool(fleet))
    operators.start()
    put(kinds, "GpuJob", "train", fleet, task(fleet, replicas=2, run=RAY))
    eventually(lambda: len(nodes_of(kinds, fleet, "train")) == 2, "a worker runs on each node", 60)
    raw = kinds.api.get(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/train")
    assert raw["status"]["plan"]["nodes"] == nodes_of(kinds, fleet, "train")
    assert set(raw["status"]["plan"]["nodes"]) <= set(hosts)
    assert raw["status"]["plan"]["costUsd"] == 2 * 8 * 2.0  # two nodes of 8 GPUs, an hour, $2
    assert raw["status"]["launched"] == {"kind": "RayJob", "name": "train", "attempt": 1}
    assert holds(kinds, fleet, "train", "Launched")


def test_suspended_jobs_are_pinned_released_and_followed_to_their_end_and_kueue_s_are_left_alone(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 2, **of_pool(fleet))
    kueue = suspended_job("kueue", fleet)
    kueue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "theirs"
    before = add_job(kinds, fleet, kueue)
    for number in range(6):
        add_job(kinds, fleet, suspended_job(f"j{number}", fleet, gpus=8, lasts="1s"))
    operators.start()

    def ended() -> bool:
        jobs = [job_of(kinds, fleet, f"j{number}") for number in range(6)]
        return all(job["status"].get("succeeded") == 1 for job in jobs)

    eventually(ended, "six jobs have run one after the other on two nodes", 60)
    pods = kinds.api.get(f"/api/v1/namespaces/{fleet}/pods")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == set(hosts)
    assert len(pods) == 6
    after = job_of(kinds, fleet, "kueue")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"]["suspend"] is True
