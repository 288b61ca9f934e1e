"""The GpuPools of a cluster as it is."""

from __future__ import annotations

from typing import Any

from scheduler.kube.observe import fleet, machines
from scheduler.kube.survey import Survey, survey
from tests.scheduler.kube.objects import H100, node

REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"


def aws(name: str, region: str = "us-east-1", **more: Any) -> dict[str, Any]:
    labels = {REGION: region, ZONE: f"{region}a", **more.pop("labels", {})}
    made = node(name, labels=labels, **more)
    made["spec"]["providerID"] = f"aws:///{region}a/i-{name}"
    return made


def drafted(*nodes: dict[str, Any]) -> Survey:
    """The survey, whose pools have to select just the nodes that they were drafted from."""
    found = machines(nodes, ())
    made = survey(found)
    again = fleet(found, made.pools)
    assert again.faults == ()
    assert sum(len(each) for each in again.machines.values()) == sum(
        1 for machine in found if machine.accelerator
    )
    assert all(again.machines.values())
    return made


def test_alike_nodes_are_a_pool_with_what_they_say_of_themselves() -> None:
    (pool,) = drafted(aws("a"), aws("b")).pools
    assert pool.metadata.name == "h100-sxm5-80gb"
    spec = pool.spec
    assert (spec.accelerator, spec.gpus_per_node, spec.nodes) == ("h100-sxm5-80gb", 8, None)
    assert (spec.site.provider, spec.site.region, spec.site.jurisdiction) == (
        "aws",
        "us-east-1",
        "US",
    )
    assert spec.topology_levels == (ZONE,)
    assert spec.node_selector == {}
    assert spec.price is not None
    assert spec.price.purchase == "on_demand"


def test_what_differs_is_another_pool_that_selects_only_its_own() -> None:
    spot = {"karpenter.sh/capacity-type": "spot"}
    pools = drafted(
        aws("a"),
        aws("b", region="eu-north1"),
        aws("c", labels=spot),
        aws("d", product="NVIDIA-L4", gpus=1, labels={"nvidia.com/gpu.count": "1"}),
        aws("e", product="NVIDIA-L4", gpus=4, labels={"nvidia.com/gpu.count": "4"}),
    ).pools
    assert [p.metadata.name for p in pools] == [
        "h100-sxm5-80gb-eu-north1",
        "h100-sxm5-80gb-us-east-1",
        "h100-sxm5-80gb-us-east-1-spot",
        "l4-1x",
        "l4-4x",
    ]
    assert pools[2].spec.price is not None
    assert pools[2].spec.price.purchase == "spot"


def test_partitioned_nodes_have_their_geometry() -> None:
    (pool,) = drafted(node("m", product=f"{H100}-MIG-3g.40gb", gpus=4)).pools
    assert (pool.spec.gpus_per_node, pool.spec.mig_geometries) == (2, (("3g.40gb", "3g.40gb"),))


def test_hardware_of_one_s_own_has_to_be_priced_by_a_person() -> None:
    made = drafted(node("a"))
    (pool,) = made.pools
    assert (pool.spec.site.kind, pool.spec.price) == ("onprem", None)
    assert "GpuPool h100-sxm5-80gb: 1 node of 8 h100-sxm5-80gb" in made.notes
    assert any("state price and owned" in note for note in made.notes)


def test_unknown_gpus_are_a_note_and_no_pool() -> None:
    made = survey(machines([node("x", product="NVIDIA-X999")], ()))
    assert made.pools == ()
    assert made.notes[0].startswith("node x: NVIDIA-X999 is no accelerator of the catalog")


def test_an_empty_cluster_is_empty() -> None:
    assert survey(()) == Survey(pools=(), notes=())
