"""Whose each GPU is, and that those who share one never get each other's figures."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.cgroups import Cgroup, Origin
from telemetry.owners import Basis, Known, Pod, Share, device_uuid, owner_of, shares, uses
from telemetry.podresources import ClaimedDevice, Container, PodDevices
from telemetry.samples import GpuProcess, GpuSample
from telemetry.uses import NOBODY, Owner, Use

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
GIB = 2**30
NLP = {"flopwise.dev/team": "nlp", "flopwise.dev/job": "sft"}
VISION = {"flopwise.dev/team": "vision", "flopwise.dev/project": "maps"}


def gpu(uuid: str = "GPU-a", *processes: GpuProcess, parent: str | None = None) -> GpuSample:
    return GpuSample(
        time=NOW, node="n", uuid=uuid, name="H100", processes=processes, parent_uuid=parent
    )


def process(pid: int, work: float | None = None, gib: int | None = None) -> GpuProcess:
    return GpuProcess(
        pid=pid,
        utilisation_fraction=work,
        memory_bytes=None if gib is None else gib * GIB,
    )


def pod(name: str, labels: dict[str, str] | None = None, *, has_ended: bool = False) -> Pod:
    return Pod(
        namespace="ml", name=name, uid=f"uid-{name}", labels=labels or {}, has_ended=has_ended
    )


def holds(name: str, *devices: str) -> PodDevices:
    given = tuple(("nvidia.com/gpu", device) for device in devices)
    return PodDevices(namespace="ml", name=name, containers=(Container(name="c", devices=given),))


def of(name: str, ray_job: str = "") -> Origin:
    return Origin(cgroup=Cgroup(pod_uid=f"uid-{name}"), ray_job=ray_job)


ONE, OTHER = pod("one", NLP), pod("other", VISION)
ONES = Owner(namespace="ml", pod="one", team="nlp", job="sft")
OTHERS = Owner(namespace="ml", pod="other", team="vision", project="maps")
SHARED = Known(
    held=(holds("one", "GPU-a::0"), holds("other", "GPU-a::1")),
    pods=(ONE, OTHER),
    origins={1: of("one"), 2: of("other"), 3: of("other")},
)


def test_a_gpu_that_one_pod_holds_is_all_its_own_with_or_without_processes() -> None:
    known = Known(held=(holds("one", "GPU-a"),), pods=(ONE,))
    (found,) = shares((gpu(),), known)
    assert found == Share(uuid="GPU-a", owner=ONES, share_fraction=1.0, basis=Basis.WHOLE)


def test_a_gpu_in_time_slices_is_split_by_the_sm_time_of_each_pods_processes() -> None:
    # 0.6 by one; 0.1 + 0.1 by the other: 0.8 in all, of which 3/4 and 1/4. Memory says otherwise.
    sample = gpu("GPU-a", process(1, 0.6, 10), process(2, 0.1, 20), process(3, 0.1, 30))
    one, other = shares((sample,), SHARED)
    assert (one.owner, other.owner) == (ONES, OTHERS)
    assert (one.share_fraction, other.share_fraction) == pytest.approx((0.75, 0.25))
    assert (one.utilisation_fraction, other.utilisation_fraction) == pytest.approx((0.6, 0.2))
    assert (one.memory_used_bytes, other.memory_used_bytes) == (10 * GIB, 50 * GIB)
    assert {one.basis, other.basis} == {Basis.SM}


def test_where_no_sm_time_is_measured_memory_splits_it() -> None:
    # 10 GiB of 40 and 30 of 40.
    sample = gpu("GPU-a", process(1, None, 10), process(2, 0.0, 30))
    one, other = shares((sample,), SHARED)
    assert (one.share_fraction, other.share_fraction) == (0.25, 0.75)
    assert {one.basis, other.basis} == {Basis.MEMORY}


def test_only_where_nothing_is_measured_are_parts_equal_and_they_are_marked() -> None:
    one, other = shares((gpu("GPU-a", process(1), process(2)),), SHARED)
    assert (one.share_fraction, other.share_fraction) == (0.5, 0.5)
    assert {one.basis, other.basis} == {Basis.EQUAL}
    assert (one.utilisation_fraction, one.memory_used_bytes) == (None, None)


def test_memory_that_one_of_them_hides_does_not_split() -> None:
    one, other = shares((gpu("GPU-a", process(1, None, 10), process(2)),), SHARED)
    assert {one.basis, other.basis} == {Basis.EQUAL}


def test_a_pod_without_processes_has_no_part_of_what_another_one_does() -> None:
    one, other = shares((gpu("GPU-a", process(1, 0.5, 10)),), SHARED)
    assert (one.share_fraction, other.share_fraction) == (1.0, 0.0)
    assert (other.utilisation_fraction, other.memory_used_bytes) == (None, None)


def test_what_a_process_of_nobody_uses_of_a_shared_gpu_is_nobodys() -> None:
    # 0.3 of 0.6 by one, 0.1 by the other, 0.2 by a process that no pod is known to have.
    sample = gpu("GPU-a", process(1, 0.3), process(2, 0.1), process(99, 0.2))
    nobody, one, other = shares((sample,), SHARED)
    assert (nobody.owner, one.owner, other.owner) == (NOBODY, ONES, OTHERS)
    found = (nobody.share_fraction, one.share_fraction, other.share_fraction)
    assert found == pytest.approx((1 / 3, 1 / 2, 1 / 6))


def test_hidden_processes_of_unmeasured_use_take_nothing_from_those_who_hold_the_gpu() -> None:
    known = Known(held=SHARED.held, pods=SHARED.pods)  # no process can be told
    found = {s.owner: s for s in shares((gpu("GPU-a", process(1), process(2)),), known)}
    assert found[ONES].share_fraction == found[OTHERS].share_fraction == 0.5
    assert found[NOBODY].share_fraction == 0.0


def test_two_parts_of_a_gpu_in_one_pod_are_one_share() -> None:
    known = Known(held=(holds("one", "GPU-a::0", "GPU-a::1"),), pods=(ONE,))
    (found,) = shares((gpu(),), known)
    assert (found.owner, found.share_fraction) == (ONES, 1.0)


def test_a_pod_that_has_ended_holds_nothing_though_the_kubelet_lists_it() -> None:
    known = Known(
        held=(holds("old", "GPU-a"), holds("one", "GPU-a")),
        pods=(pod("old", VISION, has_ended=True), ONE),
    )
    (found,) = shares((gpu(),), known)
    assert found.owner == ONES


def test_a_pod_that_the_api_server_did_not_tell_of_still_has_its_gpu() -> None:
    known = Known(held=(holds("one", "GPU-a"),))
    (found,) = shares((gpu(),), known)
    assert found.owner == Owner(namespace="ml", pod="one")


def test_mig_instances_have_owners_and_the_gpu_they_divide_has_none() -> None:
    samples = (gpu(), gpu("MIG-1", parent="GPU-a"), gpu("MIG-2", parent="GPU-a"))
    known = Known(held=(holds("one", "MIG-1"), holds("other", "MIG-2::0")), pods=(ONE, OTHER))
    found = shares(samples, known)
    assert [(s.uuid, s.owner, s.basis) for s in found] == [
        ("MIG-1", ONES, Basis.WHOLE),
        ("MIG-2", OTHERS, Basis.WHOLE),
    ]
    assert [(u.sample.uuid, u.share_fraction) for u in uses(samples, found)] == [
        ("GPU-a", 0.0),
        ("MIG-1", 1.0),
        ("MIG-2", 1.0),
    ]


def test_a_claimed_device_is_found_by_its_pool_and_name() -> None:
    claimed = ClaimedDevice(driver="gpu.nvidia.com", pool="node-1", device="gpu-0")
    held = PodDevices(
        namespace="ml", name="one", containers=(Container(name="c", claimed=(claimed,)),)
    )
    known = Known(held=(held,), pods=(ONE,), claimed={("node-1", "gpu-0"): "GPU-a"})
    assert [found.owner for found in shares((gpu(),), known)] == [ONES]
    # Another node's pool of a device of the same name is another device.
    elsewhere = Known(held=(held,), pods=(ONE,), claimed={("node-2", "gpu-0"): "GPU-a"})
    assert shares((gpu(),), elsewhere) == ()


@pytest.mark.parametrize(
    ("device", "uuid"),
    [
        ("GPU-a", "GPU-a"),
        ("GPU-a::0", "GPU-a"),
        ("GPU-a::12", "GPU-a"),
        ("MIG-b", "MIG-b"),
        ("MIG-b::1", "MIG-b"),
        ("MIG-GPU-a/3/0", "MIG-GPU-a/3/0"),  # drivers before 470
        ("nvidia0", "GPU-zero"),
        ("nvidia0/vgpu2", "GPU-zero"),
        ("nvidia0/gi3", "MIG-three"),
        ("nvidia0/gi3/vgpu1", "MIG-three"),
        ("nvidia10", None),
        ("nvidia0/gi4", None),
        ("", None),
    ],
)
def test_a_device_id_stands_for_a_uuid(device: str, uuid: str | None) -> None:
    assert device_uuid(device, {"nvidia0": "GPU-zero", "nvidia0/gi3": "MIG-three"}) == uuid


def test_without_kubernetes_a_gpu_is_the_ray_jobs_whose_processes_are_on_it() -> None:
    # Two jobs of a local Ray on one GPU: 0.5 and 0.25 of SM time, so 2/3 and 1/3.
    known = Known(origins={1: Origin(ray_job="sft"), 2: Origin(ray_job="eval")})
    found = shares((gpu("GPU-a", process(1, 0.5), process(2, 0.25)),), known)
    assert [s.owner.job for s in found] == ["eval", "sft"]
    assert [s.share_fraction for s in found] == pytest.approx([1 / 3, 2 / 3])


def test_jobs_one_after_another_in_a_pod_of_a_ray_cluster_are_told_apart() -> None:
    cluster = pod("worker", {"ray.io/cluster": "shared", "flopwise.dev/team": "nlp"})
    known = Known(
        held=(holds("worker", "GPU-a"),),
        pods=(cluster,),
        origins={1: of("worker", "02000000"), 2: of("worker", "03000000")},
    )
    found = shares((gpu("GPU-a", process(1, 0.2), process(2, 0.6)),), known)
    assert [(s.owner.job, s.owner.pod) for s in found] == [
        ("02000000", "worker"),
        ("03000000", "worker"),
    ]
    assert [s.share_fraction for s in found] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    ("labels", "ray_job", "job"),
    [
        ({}, "", ""),
        ({}, "01000000", "01000000"),
        ({"job-name": "batch"}, "01000000", "batch"),
        ({"ray.io/cluster": "c", "flopwise.dev/job": "ours"}, "01000000", "ours"),
        ({"ray.io/cluster": "c", "ray.io/originated-from-cr-name": "rayjob"}, "", "rayjob"),
        ({"ray.io/cluster": "c"}, "", "c"),
        ({"ray.io/cluster": "c"}, "01000000", "01000000"),
    ],
)
def test_a_pods_job_is_its_labels_then_rays(labels: dict[str, str], ray_job: str, job: str) -> None:
    assert owner_of(pod("p", labels), ray_job).job == job


def test_a_process_of_a_pod_that_holds_no_gpu_owns_what_it_uses_where_nobody_holds_it() -> None:
    # A privileged pod needs no device of the kubelet's.
    known = Known(pods=(ONE,), origins={1: of("one")})
    (found,) = shares((gpu("GPU-a", process(1, 0.5)),), known)
    assert (found.owner, found.share_fraction) == (ONES, 1.0)


def test_a_gpu_that_nobody_has_is_one_use_of_nobodys() -> None:
    sample = gpu("GPU-a")
    assert shares((sample,), Known()) == ()
    assert uses((sample,), ()) == (Use(sample=sample, owner=NOBODY, share_fraction=1.0),)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 99]),
            st.none() | st.floats(0, 1, allow_subnormal=False),
            st.none() | st.integers(0, 80),
        ),
        max_size=5,
        unique_by=lambda one: one[0],
    )
)
def test_shares_of_a_gpu_add_up_to_it_whatever_is_measured(
    found: list[tuple[int, float | None, int | None]],
) -> None:
    parts = shares((gpu("GPU-a", *(process(*one) for one in found)),), SHARED)
    assert sum(part.share_fraction for part in parts) == pytest.approx(1.0)
    assert {ONES, OTHERS} <= {part.owner for part in parts}
    assert len({part.owner for part in parts}) == len(parts)


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.integers(1, 40), st.integers(1, 40))
def test_two_pods_on_one_gpu_never_have_each_others_figures(
    work: float, other_work: float, gib: int, other_gib: int
) -> None:
    sample = gpu("GPU-a", process(1, work, gib), process(2, other_work, other_gib))
    one, other = shares((sample,), SHARED)
    assert (one.utilisation_fraction, one.memory_used_bytes) == (work, gib * GIB)
    assert (other.utilisation_fraction, other.memory_used_bytes) == (other_work, other_gib * GIB)
    assert (one.share_fraction == other.share_fraction) == (work == other_work)
