"""Who has the GPUs, from a kubelet's socket, an API server and processes, as one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Any

import grpc
import pytest

from telemetry import apiserver
from telemetry.apiserver import ApiServer, ApiServerError, in_cluster
from telemetry.cgroups import Cgroup, Origin
from telemetry.owners import Basis, Pod, shares
from telemetry.podresources import PodResources
from telemetry.samples import GpuProcess, GpuSample
from telemetry.watch import Watch, devices, with_instances
from tests.telemetry.fake_api_server import OLD_SLICES, PODS, SLICES, FakeApiServer
from tests.telemetry.fake_kubelet import FakeKubelet, claim, container, pod

ONE = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"
SAMPLE = GpuSample(
    time=datetime(2026, 12, 1, tzinfo=UTC),
    node="node-1",
    uuid="GPU-a",
    name="NVIDIA L4",
    processes=(
        GpuProcess(pid=1, utilisation_fraction=0.6),
        GpuProcess(pid=2, utilisation_fraction=0.2),
    ),
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    if which("openssl") is None:
        pytest.skip("no openssl for a certificate: apt install openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()


@pytest.fixture
def server(tmp_path: Path, certificate: tuple[bytes, bytes]) -> Iterator[FakeApiServer]:
    fake = FakeApiServer(tmp_path, *certificate)
    yield fake
    fake.close()


def api_of(server: FakeApiServer) -> ApiServer:
    return ApiServer(host="127.0.0.1", port=server.port, account=server.account)


def manifest(name: str, uid: str, phase: str = "Running", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ml",
            "name": name,
            "uid": uid,
            "labels": {f"flopwise.dev/{key}": value for key, value in labels.items()},
        },
        "status": {"phase": phase},
    }


def test_pods_of_the_node_are_read_page_by_page(server: FakeApiServer) -> None:
    server.lists[PODS] = [
        manifest("one", ONE, team="nlp"),
        manifest("other", OTHER, phase="Succeeded"),
        {"metadata": {"namespace": "ml", "name": "bare", "uid": "3"}},
    ]
    assert api_of(server).pods("node-1") == (
        Pod(namespace="ml", name="one", uid=ONE, labels={"flopwise.dev/team": "nlp"}),
        Pod(namespace="ml", name="other", uid=OTHER, has_ended=True),
        Pod(namespace="ml", name="bare", uid="3"),
    )
    assert [query["fieldSelector"] for query in server.queries] == [["spec.nodeName=node-1"]] * 2


def test_a_static_pod_is_known_by_the_uid_that_its_cgroup_has(server: FakeApiServer) -> None:
    static = manifest("static-node-1", ONE)
    static["metadata"]["annotations"] = {"kubernetes.io/config.hash": "f" * 32}
    server.lists[PODS] = [static]
    assert [found.uid for found in api_of(server).pods("node-1")] == ["f" * 32]


@pytest.mark.parametrize("path", [SLICES, OLD_SLICES])
def test_claimed_devices_have_their_uuids_from_resource_slices(
    server: FakeApiServer, path: str
) -> None:
    attributes = {"attributes": {"uuid": {"string": "GPU-a"}, "type": {"string": "gpu"}}}
    device = {"name": "gpu-0", **(attributes if path == SLICES else {"basic": attributes})}
    server.lists[path] = [
        {"spec": {"pool": {"name": "node-1"}, "devices": [device, {"name": "no-uuid"}]}}
    ]
    assert api_of(server).claimed("node-1") == {("node-1", "gpu-0"): "GPU-a"}


def test_a_cluster_without_resource_slices_has_no_claimed_devices(server: FakeApiServer) -> None:
    assert api_of(server).claimed("node-1") == {}


def test_an_api_server_that_we_may_not_ask_is_named(server: FakeApiServer) -> None:
    (server.account / "token").write_text("another")
    with pytest.raises(ApiServerError, match=r"/api/v1/pods: found status 401, allowed: a list"):
        api_of(server).pods("node-1")


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff"])
def test_an_answer_that_is_no_list_is_an_error(server: FakeApiServer, body: bytes) -> None:
    server.lists[PODS], server.body = [], body
    with pytest.raises(ApiServerError, match=PODS):
        api_of(server).pods("node-1")


def test_an_answer_that_is_too_long_is_not_read(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apiserver, "ANSWER_BYTES_MOST", 100)
    server.lists[PODS] = [manifest("one", ONE, team="x" * 100)]
    with pytest.raises(ApiServerError, match="more than 100 bytes"):
        api_of(server).pods("node-1")


def test_outside_of_a_cluster_there_is_no_api_server() -> None:
    assert in_cluster({}) is None
    assert in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == ApiServer(
        host="10.0.0.1", port=443
    )


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "kubelet.sock") as fake:
        fake.pods = [
            pod("ml", "one", container("c", {"nvidia.com/gpu": ["GPU-a::0"]})),
            pod("ml", "other", container("c", {"nvidia.com/gpu": ["GPU-a::1"]})),
        ]
        yield fake


def processes(folder: Path) -> Path:
    for pid, uid in ((1, ONE), (2, OTHER)):
        (folder / str(pid)).mkdir(parents=True)
        (folder / str(pid) / "cgroup").write_text(f"0::/kubepods/pod{uid}/{'a' * 64}\n")
    return folder


def test_two_pods_on_one_gpu_are_told_apart_from_socket_api_and_processes(
    kubelet: FakeKubelet, server: FakeApiServer, tmp_path: Path
) -> None:
    server.lists[PODS] = [manifest("one", ONE, team="nlp"), manifest("other", OTHER)]
    proc = processes(tmp_path / "proc")
    with PodResources(kubelet.socket) as resources:
        watch = Watch(resources, node="node-1", api=api_of(server), proc=proc)
        watch.ask()
        told = watch.told((SAMPLE,))
    one, other = shares((SAMPLE,), told.known)
    # 0.6 and 0.2 of SM time: 3/4 and 1/4.
    assert (one.owner.pod, one.owner.team) == ("one", "nlp")
    assert one.share_fraction == pytest.approx(0.75)
    assert (other.owner.pod, other.owner.team, other.basis) == ("other", "", Basis.SM)


def test_devices_of_claims_are_asked_for_where_a_pod_has_some(
    kubelet: FakeKubelet, server: FakeApiServer, tmp_path: Path
) -> None:
    kubelet.pods = [
        pod("ml", "one", container("c", claims=[claim("ml", "c", "gpu.nvidia.com", "p", "gpu-0")]))
    ]
    server.lists[PODS] = [manifest("one", ONE, team="nlp")]
    uuid = {"attributes": {"uuid": {"string": "GPU-a"}}}
    server.lists[SLICES] = [
        {"spec": {"pool": {"name": "p"}, "devices": [{"name": "gpu-0", **uuid}]}}
    ]
    with PodResources(kubelet.socket) as resources:
        watch = Watch(resources, node="node-1", api=api_of(server), proc=tmp_path)
        watch.ask()
        (found,) = shares((SAMPLE,), watch.told((SAMPLE,)).known)
    assert (found.owner.team, found.basis) == ("nlp", Basis.WHOLE)


def test_what_fails_is_told_once_and_so_is_its_end(
    kubelet: FakeKubelet, server: FakeApiServer, tmp_path: Path
) -> None:
    lines: list[str] = []
    now = 0.0
    resources = PodResources(kubelet.socket, clock=lambda: now)
    watch = Watch(
        resources, node="n", api=api_of(server), proc=tmp_path, tell=lines.append, clock=lambda: now
    )
    server.lists[PODS] = [manifest("one", ONE, team="nlp")]
    watch.ask()
    assert lines == []
    server.lists = {}
    kubelet.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED
    now = 10.0
    watch.ask()
    now = 20.0
    watch.ask()
    assert len(lines) == 2
    assert lines[0].startswith("the kubelet does not say who has the GPUs: ")
    assert lines[1].startswith("the API server does not say who has the GPUs: ")
    # The last answers stay, with their age.
    told = watch.told((SAMPLE,))
    assert told.pods_age_seconds == 20.0
    assert {found.owner.team for found in shares((SAMPLE,), told.known)} == {"nlp", ""}
    kubelet.refusal, now = None, 200.0
    watch.ask()
    resources.close()
    assert lines[2:] == ["the kubelet answers again"]


def test_a_process_is_looked_up_again_after_a_minute_for_its_pid_may_be_anothers(
    kubelet: FakeKubelet, tmp_path: Path
) -> None:
    now = 0.0
    proc = processes(tmp_path / "proc")
    watch = Watch(PodResources(kubelet.socket), node="n", proc=proc, clock=lambda: now)
    assert watch.told((SAMPLE,)).known.origins[1] == Origin(
        cgroup=Cgroup(pod_uid=ONE, container_id="a" * 64)
    )
    (proc / "1" / "cgroup").write_text("0::/\n")
    now = 59.0
    assert watch.told((SAMPLE,)).known.origins[1].cgroup.pod_uid == ONE
    now = 60.0
    assert watch.told((SAMPLE,)).known.origins[1] == Origin()


def test_devices_are_named_by_what_the_drivers_own_files_say(tmp_path: Path) -> None:
    for address, minor, uuid in (("0000:01:00.0", 1, "GPU-b"), ("0000:41:00.0", 0, "GPU-a")):
        folder = tmp_path / "driver" / "nvidia" / "gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA L4\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        )
    assert devices(tmp_path) == {"nvidia0": "GPU-a", "nvidia1": "GPU-b"}
    assert devices(tmp_path / "none") == {}


def test_instances_are_named_by_their_gpus_device_and_their_number() -> None:
    def instance(uuid: str, number: int | None, parent: str = "GPU-a") -> GpuSample:
        return GpuSample(
            time=datetime(2026, 12, 1, tzinfo=UTC),
            node="node-1",
            uuid=uuid,
            name="NVIDIA A100",
            parent_uuid=parent,
            gpu_instance_id=number,
        )

    told = [instance("MIG-1", 3), instance("MIG-2", None), instance("MIG-3", 3, "GPU-elsewhere")]
    found = with_instances({"nvidia0": "GPU-a"}, told)
    assert found == {"nvidia0": "GPU-a", "nvidia0/gi3": "MIG-1"}


@pytest.mark.parametrize(
    "items", [[7], [None], [{"metadata": 7}], [{"metadata": {"labels": [1]}}], "text", {"a": 1}]
)
def test_pods_of_no_form_are_the_api_servers_error(server: FakeApiServer, items: Any) -> None:
    server.lists[PODS] = []
    server.body = json.dumps({"items": items}).encode()
    with pytest.raises(ApiServerError, match="allowed: a list"):
        api_of(server).pods("node-1")
