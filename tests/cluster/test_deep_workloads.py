"""A job of ours on a real node: closed by a token, stopped with notice, and going on from its
checkpoint to its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from planner.problem import Amounts
from scheduler.kube import names
from scheduler.kube.client import Kube
from scheduler.kube.errors import KubeError
from scheduler.kube.kubeconfig import connect
from scheduler.kube.launch import Gang, Launch, Settings, capabilities
from scheduler.kube.names import RESOURCES
from scheduler.kube.phases import Phase, drain_notice, job_info_request, phase_of
from scheduler.kube.ray_status import Heard, asked, heard, marked, token_of
from scheduler.kube.workloads import Auth, auth_of, manifests, suspended, token
from tests.cluster import image
from tests.cluster.api import eventually
from tests.cluster.deep import NODE, Deep
from tests.scheduler.kube.objects import job

pytestmark = pytest.mark.deep

SETTINGS = Settings(
    head_cpu="500m", head_memory="2Gi", checkpoint_root="/checkpoints", stop_seconds=10
)
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
# Counts to 20, about one a second, on a GPU of the worker's; saves when it is told to stop.
PROGRAM = '''python -u -c "
import os, pathlib, time, ray
ray.init()
folder = pathlib.Path(os.environ['FLOPWISE_CHECKPOINT_DIR'])
folder.mkdir(parents=True, exist_ok=True)
saved = folder / 'count'
count = int(saved.read_text()) if saved.exists() else 0
add = ray.remote(num_gpus=1)(lambda n: n + len(ray.get_gpu_ids()))
print('attempt', os.environ['FLOPWISE_ATTEMPT'], 'from', count, 'of', os.environ['FLOPWISE_GPUS'])
while count < 20:
    count = ray.get(add.remote(count))
    (folder / 'now').write_text(str(count))
    if os.path.getsize(os.environ['FLOPWISE_DRAIN_FILE']):
        saved.write_text(str(count))
        pathlib.Path(os.environ['FLOPWISE_SAVED_FILE']).touch()
        time.sleep(3600)
    time.sleep(1)
(folder / 'end').write_text('ended at ' + str(count))
"'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the checkpoints, on this machine; anybody may write there, as pods do."""
    tmp_path.chmod(0o777)
    for above in tmp_path.parents[:2]:
        above.chmod(0o755)
    return tmp_path


def launch(namespace: str, folder: Path, attempt: int) -> Launch:
    mounts = [{"name": "checkpoints", "mountPath": "/checkpoints"}]
    volume = {"name": "checkpoints", "hostPath": {"path": str(folder)}}
    template = {
        "spec": {"volumes": [volume], "containers": [{"name": "main", "volumeMounts": mounts}]}
    }
    made = job(
        "count",
        run={"image": image.RAY, "entrypoint": PROGRAM, "podTemplate": template},
        checkpoint={"intervalSeconds": 1, "saveSeconds": 30, "restartSeconds": 1},
        task={"replicas": 1, "gpus": 1, "hours": {"h100": 1}},
    )
    metadata = made.metadata.model_copy(update={"namespace": namespace})
    gang = Gang(
        pool="real",
        accelerator="h100-sxm5-80gb",
        replicas=((NODE, 1),),
        amounts=Amounts(gpu_milli=1000, cpu_milli=500, memory_bytes=2 * 2**30),
    )
    return Launch(
        job=made.model_copy(update={"metadata": metadata}),
        uid="",
        gangs=(gang,),
        start=datetime.now(UTC),
        attempt=attempt,
    )


def test_a_job_runs_behind_its_token_stops_with_notice_and_goes_on_to_its_end(
    deep: Deep, deep_space: str, folder: Path
) -> None:
    kube = connect(kubeconfig=str(deep.kubeconfig), qps=1000, burst=1000)
    can = capabilities(kube.list(names.CRDS).items)
    first = launch(deep_space, folder, 1)
    secret = token_of(b"a key", first)
    first = marked(first, secret)
    if auth_of(names.RAY_JOBS, can, SETTINGS) is Auth.ENVIRONMENT:
        kube.create(names.SECRETS, token(first, secret))
    start(kube, first)
    counted = folder / deep_space / "count" / "now"
    eventually(lambda: counted.exists() and int(counted.read_text()) >= 3, "it counts", 240, 0.5)

    def ray_job() -> dict[str, Any]:
        return kube.get(names.RAY_JOBS, "count", deep_space)

    running = ray_job()
    at = job_info_request(running)
    assert at is not None
    for wrong in ("", "Bearer wrong"):
        with pytest.raises(KubeError):
            kube.proxied(deep_space, *at, {"x-ray-authorization": wrong})
    assert asked(kube, running, secret) == "RUNNING"
    assert heard(kube, running, first, [b"new", b"a key"]) == Heard(word="RUNNING")
    refused = heard(kube, running, first, [b"new"])
    assert refused.mends
    assert "HTTP 403" in refused.refused
    assert phase_of(running, asked(kube, running, secret)).phase is Phase.RUNNING

    for pod in pods(kube, deep_space):
        kube.patch(names.PODS, pod["metadata"]["name"], drain_notice(UNTIL), deep_space)
    checkpoint = counted.parent / "count"
    eventually(checkpoint.exists, "it was told, and has saved", 90, 0.5)
    kube.patch(names.RAY_JOBS, "count", suspended(stop=True), deep_space)
    eventually(lambda: phase(kube, deep_space) is Phase.SUSPENDED, "it has stopped", 90, 0.5)
    saved = int(checkpoint.read_text())
    assert 3 <= saved < 20

    start(kube, marked(launch(deep_space, folder, 2), secret))
    eventually((counted.parent / "end").exists, "it goes on to its end", 240, 0.5)
    assert (counted.parent / "end").read_text() == "ended at 20"
    eventually(
        lambda: phase_of(last := ray_job(), asked(kube, last, secret)).phase is Phase.SUCCEEDED,
        "Ray says how it ended, and KubeRay need not",
        60,
        0.5,
    )
    logs = "".join(log(kube, deep_space))
    assert f"attempt 2 from {saved} of 1" in logs


def start(kube: Kube, launched: Launch) -> None:
    can = capabilities(kube.list(names.CRDS).items)
    for each in manifests(launched, SETTINGS, can):
        kube.apply(RESOURCES[each["apiVersion"], each["kind"]], each)
    kube.patch(names.RAY_JOBS, launched.name, suspended(stop=False), launched.namespace)


def pods(kube: Kube, namespace: str) -> tuple[dict[str, Any], ...]:
    """Of its Ray."""
    return kube.list(names.PODS, namespace, labels=f"{names.JOB}=count,ray.io/cluster").items


def phase(kube: Kube, namespace: str) -> Phase:
    left = len(pods(kube, namespace))
    return phase_of(kube.get(names.RAY_JOBS, "count", namespace), pods=left).phase


def log(kube: Kube, namespace: str) -> list[str]:
    """What the submitters followed: the program's own log."""
    found = kube.list(names.PODS, namespace, labels="batch.kubernetes.io/job-name=count").items
    return [piece for pod in found for piece in kube.log(pod["metadata"]["name"], namespace)] or [
        json.dumps(found)
    ]
