"""The kubelet's API over a real gRPC server on a socket: what is read, and what a refusal does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import podresources
from telemetry.podresources import (
    ClaimedDevice,
    Container,
    PodDevices,
    PodResources,
    parsed,
)
from tests.telemetry.fake_kubelet import API, FakeKubelet, claim, container, pod

TRAINER = pod(
    "ml",
    "train-0",
    container("main", {"nvidia.com/gpu": ["GPU-aaaa", "GPU-bbbb"]}),
    container("sidecar"),
)
TRAINER_READ = PodDevices(
    namespace="ml",
    name="train-0",
    containers=(
        Container(
            name="main",
            devices=(("nvidia.com/gpu", "GPU-aaaa"), ("nvidia.com/gpu", "GPU-bbbb")),
        ),
    ),
)


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "kubelet.sock") as fake:
        yield fake


class Clock:
    """A clock that is set by hand, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pods_gpus_are_read_and_containers_without_any_left_out(kubelet: FakeKubelet) -> None:
    kubelet.pods = [TRAINER]
    with PodResources(kubelet.socket) as resources:
        held = resources.held()
    assert held.pods == (TRAINER_READ,)
    assert held.failure is None


def test_shared_and_mig_devices_count_and_those_of_others_do_not(kubelet: FakeKubelet) -> None:
    given = {
        "nvidia.com/gpu.shared": ["GPU-aaaa::3"],
        "nvidia.com/mig-1g.10gb": ["MIG-cccc"],
        "nvidia.com/mig-1g.10gb.me": ["MIG-dddd::0"],
        "intel.com/sriov": ["0000:01:00.0"],
    }
    kubelet.pods = [pod("ml", "many", container("main", given))]
    with PodResources(kubelet.socket) as resources:
        (found,) = resources.held().pods[0].containers
    assert found.devices == (
        ("nvidia.com/gpu.shared", "GPU-aaaa::3"),
        ("nvidia.com/mig-1g.10gb", "MIG-cccc"),
        ("nvidia.com/mig-1g.10gb.me", "MIG-dddd::0"),
    )


def test_a_resource_of_another_name_counts_where_it_is_named(kubelet: FakeKubelet) -> None:
    kubelet.pods = [pod("ml", "renamed", container("main", {"example.com/h100": ["GPU-aaaa"]}))]
    with PodResources(kubelet.socket, resources=("example.com/h100",)) as resources:
        (found,) = resources.held().pods[0].containers
    assert found.devices == (("example.com/h100", "GPU-aaaa"),)


def test_devices_of_a_claim_are_read_and_those_of_another_driver_left_out(
    kubelet: FakeKubelet,
) -> None:
    claims = (
        claim("ml", "one-gpu", "gpu.nvidia.com", "node-1", "gpu-0"),
        claim("ml", "a-network", "dra.net", "node-1", "eth1"),
    )
    kubelet.pods = [pod("ml", "claims", container("main", claims=claims))]
    with PodResources(kubelet.socket) as resources:
        (found,) = resources.held().pods[0].containers
    assert found.claimed == (
        ClaimedDevice(
            driver="gpu.nvidia.com",
            pool="node-1",
            device="gpu-0",
            claim="one-gpu",
            claim_namespace="ml",
        ),
    )


def test_a_kubelet_that_limits_its_rate_leaves_the_last_answer_and_is_left_alone(
    kubelet: FakeKubelet,
) -> None:
    clock = Clock()
    kubelet.pods = [TRAINER]
    with PodResources(kubelet.socket, clock=clock) as resources:
        resources.held()
        kubelet.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED
        clock.now = 30.0
        held = resources.held()
        assert held.pods == (TRAINER_READ,)
        assert held.age_seconds == 30.0
        assert held.failure == (f"{kubelet.socket}: RESOURCE_EXHAUSTED: rejected by rate limit")
        clock.now = 31.9  # it waits 2 s
        resources.held()
        assert kubelet.calls == 2
        clock.now = 32.0  # and then 4 s, until 36
        resources.held()
        clock.now = 35.9
        resources.held()
        assert kubelet.calls == 3
        kubelet.refusal, clock.now = None, 36.0
        held = resources.held()
    assert (kubelet.calls, held.age_seconds, held.failure) == (4, 0.0, None)


def test_a_kubelet_that_hangs_costs_no_more_than_the_time_limit(kubelet: FakeKubelet) -> None:
    kubelet.hangs = True
    with PodResources(kubelet.socket, call_seconds=0.1) as resources:
        held = resources.held()
    assert held.pods == ()
    assert held.age_seconds is None
    assert "DEADLINE_EXCEEDED" in str(held.failure)


def test_a_kubelet_that_restarts_is_found_again_at_its_new_socket(tmp_path: Path) -> None:
    clock, socket = Clock(), tmp_path / "kubelet.sock"
    with PodResources(socket, clock=clock) as resources:
        assert resources.held().failure == (f"{socket}: found no socket, allowed: the kubelet's")
        clock.now = 10.0
        with FakeKubelet(socket) as first:
            first.pods = [TRAINER]
            assert resources.held().pods == (TRAINER_READ,)
        clock.now = 20.0
        assert resources.held().failure is not None
        clock.now = 40.0
        with FakeKubelet(socket) as second:
            held = resources.held()
            assert (second.calls, held.pods, held.failure) == (1, (), None)


def test_an_answer_that_is_none_is_said_and_the_last_one_stays(kubelet: FakeKubelet) -> None:
    clock = Clock()
    kubelet.pods = [TRAINER]
    with PodResources(kubelet.socket, clock=clock) as resources:
        resources.held()
        kubelet.answer, clock.now = b"\x0a\x7f\x01", 60.0
        held = resources.held()
    assert held.pods == (TRAINER_READ,)
    assert str(held.failure).endswith(
        "found an answer that ends within a field, allowed: a whole one"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x0a", "without its end"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "without its end"),
        (b"\x0b", "kind 3"),
        (b"\x0d\x01", "ends within a field"),
        (b"\x0a\x03\x0a\x01\xff", "invalid start byte"),
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parsed(answer)


def test_a_cut_off_answer_is_never_taken_for_a_whole_one_of_other_pods() -> None:
    whole = API["ListPodResourcesResponse"](pod_resources=[TRAINER, TRAINER]).SerializeToString()
    read = parsed(whole)
    for length in range(len(whole)):
        try:
            found = parsed(whole[:length])
        except ValueError:
            continue
        assert found == read[: len(found)]


def test_fields_of_later_versions_are_passed_over() -> None:
    later = b"\x98\x06\x05" + b"\xa1\x06" + 8 * b"\0" + b"\xad\x06" + 4 * b"\0"  # 99, 100, 101
    data = API["PodResources"](name="p", namespace="n").SerializeToString() + later
    answer = b"\x0a" + bytes([len(data)]) + data + later
    assert parsed(answer) == (PodDevices(namespace="n", name="p"),)


def test_grpc_is_loaded_only_when_there_is_a_kubelet_to_ask(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from telemetry.podresources import PodResources\n"
        f"PodResources(Path({str(tmp_path / 'none')!r})).held()\n"
        "sys.exit('grpc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_answer_without_an_end_is_given_up_by_its_size(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podresources, "ANSWER_BYTES_MOST", 2**16)
    clock = Clock()
    kubelet.pods = [TRAINER]
    with PodResources(kubelet.socket, clock=clock) as resources:
        resources.held()
        kubelet.answer, clock.now = b"\x0a\x02ab" * 2**16, 60.0
        held = resources.held()
    assert held.pods == (TRAINER_READ,)
    assert "RESOURCE_EXHAUSTED" in str(held.failure)


@given(st.binary(max_size=200))
def test_whatever_bytes_are_an_answer_or_are_refused(answer: bytes) -> None:
    try:
        found = parsed(answer)
    except ValueError:
        return
    assert all(len(pod.name) <= podresources.TEXT_CHARACTERS_MOST for pod in found)


def test_names_are_one_line_and_not_endless() -> None:
    name = b"a\x1b[31m\nb" + b"x" * 5000
    inner = b"\x0a" + _length(len(name)) + name
    (found,) = parsed(b"\x0a" + _length(len(inner)) + inner)
    assert found.name.startswith("a?[31m?bx")
    assert len(found.name) == 1024


def _length(number: int) -> bytes:
    return bytes([number & 127 | 128, number >> 7])
