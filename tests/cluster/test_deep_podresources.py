"""Who holds a GPU, as the real kubelet says it: pod, namespace, container and the device's id."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.owners import Basis, Known, Share, shares
from telemetry.podresources import Container, PodDevices, PodResources
from telemetry.samples import GpuSample
from telemetry.uses import Owner
from tests.cluster import image
from tests.cluster.api import eventually
from tests.cluster.deep import NODE, Deep

pytestmark = pytest.mark.deep


@pytest.fixture
def kubelet(deep: Deep) -> Iterator[Path]:
    """The socket of the real node's kubelet, by a path that is short enough for one."""
    folder = deep.path / "node" / "lib" / "kubelet" / "pod-resources"
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        link = Path(short) / "here"
        link.symlink_to(folder)
        yield link / "kubelet.sock"


def test_a_pod_that_holds_a_gpu_is_named_with_its_container_and_device(
    deep: Deep, deep_space: str, kubelet: Path
) -> None:
    pods = f"/api/v1/namespaces/{deep_space}/pods"
    containers = [
        {
            "name": name,
            "image": image.RAY,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES; sleep 600"],
            "resources": {"limits": limits},
        }
        for name, limits in (("main", {"nvidia.com/gpu": "1"}), ("beside", {"cpu": "100m"}))
    ]
    spec = {"terminationGracePeriodSeconds": 0, "containers": containers}
    deep.api.post(
        pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "holder"}, "spec": spec}
    )
    device = eventually(
        lambda: (
            deep.api.get(f"{pods}/holder")["status"]["phase"] == "Running"
            and deep.api.text(f"{pods}/holder/log", container="main").strip()
        ),
        "the pod says which GPU it has",
        within_seconds=120,
    )
    with PodResources(kubelet) as resources:
        held = resources.held()
        assert held.failure is None
        assert [pod for pod in held.pods if pod.namespace == deep_space] == [
            PodDevices(
                namespace=deep_space,
                name="holder",
                containers=(Container(name="main", devices=(("nvidia.com/gpu", device),)),),
            )
        ]
        sample = GpuSample(time=datetime.now(UTC), node=NODE, uuid=device, name="NVIDIA H100")
        assert shares([sample], Known(held=held.pods)) == (
            Share(
                uuid=device,
                owner=Owner(namespace=deep_space, pod="holder"),
                share_fraction=1.0,
                basis=Basis.WHOLE,
            ),
        )
        deep.api.delete(f"{pods}/holder")
        eventually(
            lambda: all(pod.namespace != deep_space for pod in resources.held().pods),
            "the kubelet lets the GPU go",
            within_seconds=120,
        )
