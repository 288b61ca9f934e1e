"""The whole way on a real node: a queue, a pool and a job are applied, and a bill comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from scheduler.kube.crds import CHART_CRDS
from tests.cluster import image
from tests.cluster.api import eventually
from tests.cluster.deep import GPUS, NODE, Deep
from tests.cluster.test_operator import FLOPWISE, Operators
from tests.flopwise.command import Ended, on_its_own

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200, func_only=True)]

USD_PER_GPU_HOUR = 3.0
# Counts to 12, about one a second, on the GPUs of its worker; saves when it is told to stop.
PROGRAM = '''python -u -c "
import os, pathlib, time, ray
ray.init()
folder = pathlib.Path(os.environ['FLOPWISE_CHECKPOINT_DIR'])
folder.mkdir(parents=True, exist_ok=True)
saved = folder / 'count'
count = int(saved.read_text()) if saved.exists() else 0
add = ray.remote(num_gpus=2)(lambda n: (n + 1, len(ray.get_gpu_ids())))
print('attempt', os.environ['FLOPWISE_ATTEMPT'], 'from', count, 'of', os.environ['FLOPWISE_GPUS'])
while count < 12 or not (folder / 'enough').exists():
    count, gpus = ray.get(add.remote(count))
    (folder / 'now').write_text(str(count))
    if os.path.getsize(os.environ['FLOPWISE_DRAIN_FILE']):
        saved.write_text(str(count))
        pathlib.Path(os.environ['FLOPWISE_SAVED_FILE']).touch()
        time.sleep(3600)
    time.sleep(1)
print('ended on', gpus, 'GPUs')
"'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the checkpoints, on this machine; anybody may write there, as pods do."""
    made = tmp_path / "checkpoints"
    made.mkdir()
    made.chmod(0o777)
    for above in made.parents[:3]:
        above.chmod(0o755)
    return made


@pytest.fixture
def operators(deep: Deep, deep_space: str, tmp_path: Path) -> Iterator[Operators]:
    """Of the deep cluster, with our kinds; they end with the test."""
    deep.install(*sorted(CHART_CRDS.glob("*.yaml")))
    made = Operators(deep, deep_space, tmp_path)
    yield made
    for each in made.started:
        each.kill()
        print(each.tail(200))  # noqa: T201  # pytest shows it where the test failed
    for kind in ("gpupools", "gpuqueues"):
        deep.remove(f"{FLOPWISE}/{kind}/walk")


def manifest(kind: str, name: str, spec: dict[str, Any], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


def pool() -> dict[str, Any]:
    spec = {
        "accelerator": "h100",
        "gpusPerNode": GPUS,
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "price": {
            "purchase": "on_demand",
            "usdPerGpuHour": USD_PER_GPU_HOUR,
            "billing": "gpu",
        },
    }
    return manifest("GpuPool", "walk", spec)


def counting(name: str, namespace: str, folder: Path) -> dict[str, Any]:
    """Counts on all GPUs of the node, behind a head of its own."""
    mounts = [{"name": "checkpoints", "mountPath": "/checkpoints"}]
    volume = {"name": "checkpoints", "hostPath": {"path": str(folder)}}
    main = {"name": "main", "volumeMounts": mounts, "imagePullPolicy": "Never"}
    spec = {
        "queue": "walk",
        "checkpoint": {"intervalSeconds": 1, "saveSeconds": 15, "restartSeconds": 1},
        "task": {
            "replicas": 1,
            "gpus": GPUS,
            "cpus": 0.5,
            "memoryGib": 2,
            "hours": {"h100": 0.5},
        },
        "run": {
            "image": image.RAY,
            "entrypoint": PROGRAM,
            "podTemplate": {"spec": {"volumes": [volume], "containers": [main]}},
        },
    }
    return manifest("GpuJob", name, spec, namespace)


def dearer(namespace: str) -> dict[str, Any]:
    """Needs all GPUs for some seconds, without Ray; a higher priority."""
    main = {
        "name": "main",
        "image": image.RAY,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo dear on $NVIDIA_VISIBLE_DEVICES; sleep 3"],
    }
    spec = {
        "queue": "walk",
        "priority": 100,
        "unplacedUsd": 1000,
        "task": {"gpus": GPUS, "cpus": 0.2, "memoryGib": 1, "hours": {"h100": 0.1}},
        "run": {"podTemplate": {"spec": {"containers": [main]}}},
    }
    return manifest("GpuJob", "dear", spec, namespace)


def apply(deep: Deep, *documents: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    deep.kubectl("apply", "--server-side", "-f", "-", stdin=text)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_from_kubectl_apply_to_the_bill(
    deep: Deep, deep_space: str, operators: Operators, folder: Path, tmp_path: Path
) -> None:
    def flopwise(*arguments: object) -> Ended:
        ended = on_its_own("--kubeconfig", deep.kubeconfig, *arguments)
        assert ended.code == 0, ended.err
        return ended

    def log(name: str) -> str:
        return flopwise("logs", name, "-n", deep_space).out

    def held(name: str) -> str:
        """The first condition of a job that holds, as kubectl shows it."""
        raw = deep.api.get(f"{FLOPWISE}/namespaces/{deep_space}/gpujobs/{name}")
        found = raw.get("status", {}).get("conditions", ())
        return next((c["type"] for c in found if c["status"] == "True"), "")

    def becomes(name: str, state: str, seconds: float) -> None:
        eventually(lambda: held(name) == state, f"{name} is {state}", seconds, 0.5)

    operators.start("--checkpoint-root=/checkpoints", "--head-cpu=500m", "--head-memory=2Gi")
    queue = manifest("GpuQueue", "walk", {})
    apply(deep, queue, pool(), counting("count", deep_space, folder))
    becomes("count", "Running", 400)
    mine = folder / deep_space / "count"
    eventually(lambda: int((mine / "now").read_text()) >= 3, "it counts", 60, 0.5)

    apply(deep, dearer(deep_space))
    becomes("count", "Preempted", 60)
    becomes("dear", "Succeeded", 240)
    saved = int((mine / "count").read_text())
    assert saved >= 3
    listed = {each["name"]: each for each in json.loads(flopwise("get", "-A", "-o", "json").out)}
    assert listed["dear"]["state"] == "Succeeded"
    eventually(lambda: f"attempt 2 from {saved} of {GPUS}\n" in log("count"), "it goes on", 400, 1)
    (mine / "enough").touch()
    assert f"ended on {GPUS} GPUs\n" in flopwise("logs", "-f", "count", "-n", deep_space).out
    becomes("count", "Succeeded", 60)

    # Each stretch is on the bill: twice the counting, once what came between.
    bill = json.loads(flopwise("report", "json").out)
    lines = [(line["job"].partition("/")[2], line["gpus"]) for line in bill["lines"]]
    assert lines == [("count", GPUS), ("dear", GPUS), ("count", GPUS)]
    starts, ends = ([moment(line[key]) for line in bill["lines"]] for key in ("from", "to"))
    assert ends[0] <= starts[1] < ends[1] <= starts[2] < ends[2]
    for line, start, end in zip(bill["lines"], starts, ends, strict=True):
        usd = GPUS * USD_PER_GPU_HOUR * (end - start).total_seconds() / 3600
        assert line["costUsd"] == pytest.approx(usd, abs=1e-5)
    billed = sum(line["costUsd"] for line in bill["lines"])
    assert bill["plan"]["costUsd"] == pytest.approx(billed, abs=1e-6)
    page = tmp_path / "report.html"
    flopwise("report", "html", "--out", page)
    assert "2 jobs held GPUs" in page.read_text().replace("\u00a0", " ")

    # And the same job by the command line alone.
    again = tmp_path / "again.json"
    again.write_text(json.dumps(counting("again", "", folder)))
    submitted = flopwise("submit", "-f", again, "-n", deep_space)
    assert submitted.out == "again\n"
    becomes("again", "Running", 400)
    eventually(lambda: "attempt 1 from 0" in log("again"), "it writes", 60, 0.5)
    (folder / deep_space / "again" / "enough").touch()
    followed = flopwise("logs", "-f", "again", "-n", deep_space).out
    assert f"ended on {GPUS} GPUs\n" in followed
    (row,) = json.loads(flopwise("status", "again", "-n", deep_space, "-o", "json").out)
    assert (row["state"], row["pool"], row["attempts"]) == ("Succeeded", "walk", 1)
    assert flopwise("cancel", "count", "-n", deep_space).err.startswith("nothing to cancel")
