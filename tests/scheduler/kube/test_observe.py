"""A cluster's nodes as machines, in pools, as the planner has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.problem import Grid
from scheduler.kube import observe
from scheduler.kube.names import JOB
from scheduler.kube.observe import (
    Fleet,
    Machine,
    fleet,
    machines,
    manifests,
    mig_resource,
    profile_of,
)
from tests.scheduler.kube.objects import H100, node, pod, pool

GRID = Grid(start=datetime(2026, 12, 1, tzinfo=UTC), slot_seconds=3600, slots=24)


def only(*nodes: dict[str, Any], **more: Any) -> Machine:
    (found,) = machines(nodes, more.pop("pods", ()), **more)
    return found


def out_of_order(found: Fleet) -> dict[str, list[str]]:
    """Why, of each node's GPUs that may not be used."""
    _, nodes = found.on(GRID)
    return {n.name: [d.unhealthy for d in n.devices if d.unhealthy] for n in nodes}


def test_a_node_is_what_its_labels_and_its_kubelet_say() -> None:
    found = only(node("a", labels={"topology.kubernetes.io/zone": "z1"}))
    assert (found.accelerator, found.gpus, found.hostname) == ("h100-sxm5-80gb", 8, "host-a")
    assert (found.cpu_milli, found.memory_bytes, found.away) == (192_000, 2048 * 2**30, "")


def test_nodes_without_gpus_are_none_of_ours() -> None:
    assert machines([node("cpu", gpus=0, product="")], []) == ()


def test_an_unknown_product_is_a_machine_of_no_known_accelerator() -> None:
    found = only(node("a", product="NVIDIA-X999"))
    assert (found.accelerator, found.product) == ("", "NVIDIA-X999")
    outside = fleet([found], [pool()])
    assert outside.outside == ("a",)


def test_time_slices_are_parts_of_physical_gpus() -> None:
    # 8 GPUs, 4 pods each: the plugin advertises 32.
    shared = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}
    found = only(node("a", product=f"{H100}-SHARED", gpus=32, labels=shared))
    assert (found.gpus, found.shares, found.resource) == (8, 4, "nvidia.com/gpu")
    renamed = only(node("a", labels=shared, allocatable={"nvidia.com/gpu.shared": "16"}))
    assert (renamed.gpus, renamed.shares, renamed.resource) == (4, 4, "nvidia.com/gpu.shared")
    unshared = only(node("a", labels={"nvidia.com/gpu.replicas": "1"}))
    assert (unshared.gpus, unshared.shares) == (8, 1)


def test_mig_by_profile_and_partitioned_alike() -> None:
    mixed = only(
        node(
            "a",
            labels={"nvidia.com/gpu.count": "2"},
            allocatable={"nvidia.com/mig-3g.40gb": "2", "nvidia.com/mig-1g.10gb": "7"},
        )
    )
    assert (mixed.gpus, mixed.mig) == (2, (("1g.10gb", 7), ("3g.40gb", 2)))
    single = only(node("a", product=f"{H100}-MIG-3g.40gb", gpus=4))
    assert (single.gpus, single.mig, single.single_profile) == (2, (("3g.40gb", 4),), "3g.40gb")
    assert single.accelerator == "h100-sxm5-80gb"
    assert profile_of(mig_resource("1g.10gb+me")) == "1g.10gb+me"


def test_each_gpu_of_a_partitioned_node_has_its_geometry() -> None:
    geometries = [["7g.80gb"], ["3g.40gb", "3g.40gb"], ["1g.10gb"] * 7]
    found = only(
        node(
            "a",
            labels={"nvidia.com/gpu.count": "2"},
            allocatable={"nvidia.com/mig-3g.40gb": "2", "nvidia.com/mig-1g.10gb": "7"},
        )
    )
    sorted_in = fleet([found], [pool(gpusPerNode=2, migGeometries=geometries)])
    (made,) = sorted_in.on(GRID)[1]
    assert [d.mig_geometry for d in made.devices] == [("3g.40gb", "3g.40gb"), ("1g.10gb",) * 7]


def test_whole_and_partitioned_gpus_of_one_kind_are_two_pools() -> None:
    whole, parts = node("a"), node("b", product=f"{H100}-MIG-1g.10gb", gpus=56)
    pools = [pool("whole"), pool("parts", migGeometries=[["1g.10gb"] * 7])]
    found = fleet(machines([whole, parts], []), pools)
    assert {name: [m.name for m in ms] for name, ms in found.machines.items()} == {
        "whole": ["a"],
        "parts": ["b"],
    }


def test_what_pods_of_others_hold_is_out_of_order_and_ours_is_not() -> None:
    pods = [
        pod("theirs", "a", gpus=3),
        pod("done", "a", phase="Succeeded", gpus=4),
        pod("ours", "a", labels={JOB: "x"}, gpus=2),
        pod("pending", "", gpus=8),
    ]
    found = fleet(machines([node("a")], pods), [pool()])
    assert out_of_order(found) == {"a": ["held by pods of others"] * 3}


def test_a_part_of_a_gpu_that_others_hold_takes_the_whole_of_it() -> None:
    shared = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "mps"}
    one = node("a", product=f"{H100}-SHARED", gpus=32, labels=shared)
    found = fleet(machines([one], [pod("p", "a", gpus=5)]), [pool()])
    assert out_of_order(found) == {"a": ["held by pods of others"] * 2}  # 5 / 4, rounded up


def test_daemons_lessen_every_node_and_other_pods_their_own() -> None:
    # 192 CPUs less 2 of the daemon on each: 190 on the pool's nodes. A pod takes 48 on node b:
    # 142 left, 48 short; each GPU goes with 190 / 8 = 23.75: 48 / 23.75 = 2.02, three GPUs.
    pods = [
        pod("d1", "a", owner="DaemonSet", cpu="2"),
        pod("d2", "b", owner="DaemonSet", cpu="2"),
        pod("big", "b", cpu="48"),
    ]
    found = fleet(machines([node("a"), node("b")], pods), [pool()])
    assert found.pools[0].spec.cpus_per_node == 190.0
    assert out_of_order(found) == {
        "a": [],
        "b": ["its CPUs or memory are held by pods of others"] * 3,
    }


def test_gpus_that_are_held_cover_the_cpus_that_go_with_them() -> None:
    pods = [pod("gpu", "a", gpus=4, cpu="96")]  # half of the node, in both
    found = fleet(machines([node("a"), node("b")], pods), [pool()])
    assert out_of_order(found) == {"a": ["held by pods of others"] * 4, "b": []}


def test_a_node_with_fewer_gpus_than_its_pool_lacks_the_last_ones() -> None:
    found = fleet(machines([node("a", gpus=7)], []), [pool()])
    assert out_of_order(found) == {"a": ["the node has 7 GPUs"]}
    (made,) = found.on(GRID)[1]
    assert made.healthy_gpus() == tuple(range(7))


def test_nodes_are_counted_live_and_those_that_are_away_say_why() -> None:
    nodes = [
        node("a"),
        node("b", unschedulable=True),
        node("c", ready=False),
    ]
    found = fleet(machines(nodes, []), [pool(nodes=100, startupSeconds=300)])
    pools, made = found.on(GRID)
    assert [(p.name, p.nodes_at(0), p.startup_seconds) for p in pools] == [("h100", 3, 0)]
    assert {n.name: n.cordoned for n in made} == {
        "a": "",
        "b": "cordoned",
        "c": "not ready: kubelet stopped",
    }


def test_nodes_lie_in_the_order_of_their_domains() -> None:
    labelled = [
        node("a", labels={"clique": "2", "zone": "z"}),
        node("b", labels={"clique": "1", "zone": "z"}),
        node("c", labels={"zone": "z"}),
    ]
    found = fleet(machines(labelled, []), [pool(topologyLevels=["clique", "zone"])])
    _, made = found.on(GRID)
    assert [(n.name, n.index, n.topology) for n in made] == [
        ("c", 0, ()),  # its clique is not known, so neither is where it lies
        ("b", 1, ("1", "z")),
        ("a", 2, ("2", "z")),
    ]


def test_the_selector_with_the_most_labels_decides_and_a_draw_is_said() -> None:
    mine = node("a", labels={"pool": "mine", "too": "x"})
    found = machines([mine, node("b")], [])
    nested = fleet(found, [pool("all"), pool("some", nodeSelector={"pool": "mine"})])
    assert {name: [m.name for m in ms] for name, ms in nested.machines.items()} == {
        "all": ["b"],
        "some": ["a"],
    }
    assert nested.faults == ()
    drawn = fleet(
        found, [pool("y", nodeSelector={"too": "x"}), pool("x", nodeSelector={"pool": "mine"})]
    )
    assert [m.name for m in drawn.machines["x"]] == ["a"]
    assert drawn.outside == ("b",)
    (fault,) = drawn.faults
    assert (fault.place, fault.path) == ("GpuPool y", "spec.nodeSelector")
    assert fault.message.startswith("found node a, which GpuPool x has; allowed:")


def test_a_pool_that_its_nodes_do_not_bear_out_is_said() -> None:
    nodes = [node("a", labels={"p": "x"}), node("b", product="NVIDIA-L4", labels={"p": "x"})]
    found = fleet(machines(nodes, []), [pool(gpusPerNode=4, nodeSelector={"p": "x"})])
    assert [str(fault) for fault in found.faults] == [
        "GpuPool h100: spec.accelerator: found l4 on its nodes, allowed: nodes of h100-sxm5-80gb",
        "GpuPool h100: spec.gpusPerNode: found nodes of 8 GPUs, of which 4 are used",
    ]


def dra_slice(on: str, generation: int, *devices: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{on}-{generation}"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": on,
            "pool": {"name": on, "generation": generation},
            "devices": list(devices),
        },
    }


def gpu(name: str, **more: Any) -> dict[str, Any]:
    attributes = {"type": {"string": "gpu"}, "productName": {"string": "NVIDIA H100 80GB HBM3"}}
    return {"name": name, "attributes": attributes, **more}


def test_gpus_that_only_a_dra_driver_tells_of_are_counted_from_its_newest_slices() -> None:
    bare = node("a", product="", allocatable={})
    xid = [{"key": "gpu.nvidia.com/xid", "effect": "NoExecute"}]
    slices = [
        dra_slice("a", 1, gpu("gpu-0"), gpu("gpu-1"), gpu("gpu-2")),
        dra_slice("a", 2, gpu("gpu-0"), gpu("gpu-1", taints=xid), gpu("gpu-2")),
    ]
    claim = {
        "metadata": {"name": "c"},
        "status": {
            "allocation": {
                "devices": {
                    "results": [{"driver": "gpu.nvidia.com", "pool": "a", "device": "gpu-2"}]
                }
            }
        },
    }
    found = only(bare, slices=slices, claims=[claim])
    assert (found.accelerator, found.gpus, found.from_slices) == ("h100-sxm5-80gb", 3, True)
    assert out_of_order(fleet([found], [pool(gpusPerNode=3)])) == {
        "a": ["its driver says gpu.nvidia.com/xid", "held by a claim of others"]
    }


def test_slices_do_not_double_what_the_kubelet_advertises() -> None:
    found = only(node("a"), slices=[dra_slice("a", 1, gpu("gpu-0"))])
    assert (found.gpus, found.from_slices) == (8, False)


def test_one_bad_object_does_not_stop_the_others() -> None:
    def raw(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {
            "name": name,
            "uid": "u",
            "resourceVersion": "3",
            "generation": 1,
            "creationTimestamp": "2026-12-01T00:00:00Z",
        }
        if kind == "GpuJob":
            metadata["namespace"] = "ml"
        return {
            "apiVersion": "flopwise.dev/v1alpha1",
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
            "status": {"conditions": []},
        }

    found = manifests(
        [
            raw("GpuPool", "h100", {"accelerator": "h100", "gpusPerNode": 8}),
            raw("GpuQueue", "research", {}),
            raw("GpuJob", "good", {"task": {"hours": {"h100": 1}}}),
            raw("GpuJob", "bad", {"task": {"hours": {"h100": 1}, "gpuss": 3}}),
            raw("GpuPool", "worse", {"accelerator": "h999", "gpusPerNode": 8}),
        ]
    )
    assert [p.metadata.name for p in found.pools] == ["h100"]
    assert [q.metadata.name for q in found.queues] == ["research"]
    assert [(j.metadata.namespace, j.metadata.name) for j in found.jobs] == [("ml", "good")]
    assert [fault.path for fault in found.faults] == ["spec.task.gpuss", "spec.accelerator"]
    assert found.faults[0].place == "GpuJob ml/bad"


@pytest.mark.parametrize("missing", ["kind", "apiVersion", "metadata", "spec"])
def test_an_object_that_lacks_the_most_basic_is_a_fault(missing: str) -> None:
    raw: dict[str, Any] = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": "a"},
        "spec": {"accelerator": "h100", "gpusPerNode": 8},
    }
    del raw[missing]
    assert len(manifests([raw]).faults) == 1


def test_a_trace_is_for_files_only() -> None:
    inference = {
        "model": "llama-3.1-8b",
        "promptTokens": 1,
        "outputTokens": 1,
        "requestTrace": "/etc/passwd",
    }
    raw = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "chat", "namespace": "ml"},
        "spec": {"inference": inference},
    }
    (fault,) = manifests([raw]).faults
    assert fault.path == "spec.inference.requestTrace"


# -- which pool a node is in -----------------------------------------------------------------------

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)


@given(st.lists(LABELS, max_size=6), st.lists(LABELS, max_size=6))
def test_a_node_is_in_the_pool_of_the_most_labels_of_those_that_select_it(
    selectors: list[dict[str, str]], labels: list[dict[str, str]]
) -> None:
    pools = [pool(f"p{i}", nodeSelector=each) for i, each in enumerate(selectors)]
    found = machines([node(f"n{i}", labels=each) for i, each in enumerate(labels)], ())
    made = fleet(found, pools)
    for machine in found:
        mine = [each for each in pools if observe.selects(each, machine)]
        first = min(mine, key=lambda p: (-len(p.spec.node_selector), p.metadata.name), default=None)
        there = [name for name, inside in made.machines.items() if machine in inside]
        assert there == ([] if first is None else [first.metadata.name])


def test_of_many_pools_each_node_is_held_against_those_alone_that_may_select_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 50 pools that all ask for one label, and each for one of its own: 50 looks, not 2,500.
    looks: list[str] = []
    selects = observe.selects

    def counted(of: Any, machine: Machine) -> bool:
        looks.append(machine.name)
        return selects(of, machine)

    monkeypatch.setattr(observe, "selects", counted)
    names = [f"p{i}" for i in range(50)]
    pools = [pool(name, nodeSelector={"all": "yes", "pool": name}) for name in names]
    nodes = [node(name, labels={"all": "yes", "pool": name}) for name in names]
    made = fleet(machines(nodes, ()), pools)
    assert {name: [m.name for m in made.machines[name]] for name in names} == {
        name: [name] for name in names
    }
    assert len(looks) == 50
