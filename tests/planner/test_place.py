"""Placement at an instant: against exhaustive search, and by answers worked out by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.inventory import Inventory, Request, Spot
from planner.outlook import Outlook
from planner.place import Refused, place, share_out
from planner.plan import Placement, Reason
from planner.problem import Amounts, Billing, Device, Node, Pool, Window
from planner.topology import HOSTNAME

GIB = 2**30
HALVES, SEVENTHS = ("3g.40gb", "3g.40gb"), ("1g.10gb",) * 7


def pool(
    name: str = "h100",
    gpus: int = 8,
    cpus: int = 96,
    mig: tuple[tuple[str, ...], ...] = (),
    levels: tuple[str, ...] = (),
) -> Pool:
    return Pool(
        name=name,
        accelerator=f"{name}-gpu",
        gpus_per_node=gpus,
        capacity=Amounts(
            gpu_milli=gpus * 1000,
            cpu_milli=cpus * 1000,
            memory_bytes=512 * GIB,
            gpu_memory_bytes=80 * GIB,
        ),
        windows=(
            Window(start=0, end=9, nodes=99, usd_per_node_hour=0.0, marginal_usd_per_node_hour=0.0),
        ),
        billing=Billing.SUNK,
        purchase="owned",
        mig_geometries=mig,
        topology_levels=levels,
    )


def fleet(*parts: tuple[Pool, int], racks_of: int = 2) -> Inventory:
    """So many nodes of each pool, ``racks_of`` in a rack where the pool has racks."""
    nodes = [
        Node(
            name=f"{p.name}-{i}",
            pool=p.name,
            index=i,
            capacity=p.capacity,
            topology=(f"rack{i // racks_of}",) if p.topology_levels else (),
        )
        for p, count in parts
        for i in range(count)
    ]
    return Inventory.of(nodes, [p for p, _ in parts])


def asks(gpus: float = 1.0, cpus: int = 0, gib: int = 0, each: int = 0, **more: Any) -> Request:
    amounts = Amounts(
        gpu_milli=round(gpus * 1000),
        cpu_milli=cpus * 1000,
        memory_bytes=gib * GIB,
        gpu_memory_bytes=each * GIB,
    )
    return Request(amounts=amounts, **more)


def mig(profile: str, count: int = 1, **more: Any) -> Request:
    return Request(amounts=Amounts(mig=((profile, count),)), **more)


def placed(inventory: Inventory, request: Request, outlook: Outlook | None = None) -> list[Spot]:
    """Placed and taken."""
    spots = place(inventory, request, outlook)
    assert not isinstance(spots, Refused), spots
    inventory.take(request, spots)
    return list(spots)


def refused(inventory: Inventory, request: Request) -> Refused:
    answer = place(inventory, request)
    assert isinstance(answer, Refused)
    return answer


def columns(inventory: Inventory) -> list[list[object]]:
    """All that changes, to compare."""
    names = ("cpu_milli", "memory_bytes", "gpu_milli", "gpu_memory_bytes", "geometry", "instances")
    return [getattr(inventory, name).tolist() for name in names]


# -- one replica ---------------------------------------------------------------------------------


def test_the_fullest_node_that_still_fits_is_used_so_that_empty_ones_stay_empty() -> None:
    inventory = fleet((pool(gpus=4), 3))
    placed(inventory, asks(2))
    assert inventory.placements(placed(inventory, asks(2))) == (
        Placement(node="h100-0", replicas=1, devices=(2, 3)),
    )
    assert placed(inventory, asks(1))[0].row == 1


def test_a_share_goes_on_the_fullest_device_with_the_memory_for_it() -> None:
    inventory = fleet((pool(gpus=3), 1))
    placed(inventory, asks(0.5, each=60))  # device 0: 500 thousandths and 20 GiB left
    placed(inventory, asks(0.6, each=10))  # device 1: 400 and 70 GiB
    assert placed(inventory, asks(0.4, each=30))[0].devices == (1,)  # 0 has not the memory
    assert placed(inventory, asks(0.5, each=20))[0].devices == (0,)


def test_only_open_nodes_of_the_pools_and_accelerators_allowed_are_used() -> None:
    inventory = fleet((pool("a"), 1), (pool("b"), 1), (pool("c"), 1))
    assert placed(inventory, asks(pools=("b", "c"), accelerators=("c-gpu", "a-gpu")))[0].row == 2
    assert refused(inventory, asks(pools=("a",), accelerators=("b-gpu",))).binds == ("nodes",)
    inventory.open[:] = False
    assert refused(inventory, asks()).binds == ("nodes",)


def test_an_unhealthy_device_a_cordoned_node_and_one_that_is_not_there_hold_nothing() -> None:
    p = pool(gpus=2)
    devices = (Device(uuid="x", unhealthy="Xid 79"), Device(uuid="y"))
    nodes = [
        Node(name="sick", pool="h100", index=0, capacity=p.capacity, devices=devices),
        Node(name="shut", pool="h100", index=1, capacity=p.capacity, cordoned="repair"),
        Node(name="away", pool="h100", index=99, capacity=p.capacity),
    ]
    inventory = Inventory.of(nodes, [p], slot=0)
    assert placed(inventory, asks(1)) == [Spot(row=0, replicas=1, devices=(1,))]
    assert refused(inventory, asks(0.1)).binds == ("gpu",)


@given(st.data())
def test_one_replica_is_placed_wherever_exhaustive_search_finds_room(data: st.DataObject) -> None:
    inventory = fleet((pool("a", gpus=2, cpus=8), 1), (pool("b", gpus=3, cpus=6), 2))
    draw = data.draw
    inventory.cpu_milli[:] = draw(st.lists(st.integers(0, 8), min_size=3, max_size=3))
    inventory.cpu_milli *= 1000
    free = st.sampled_from([0, 200, 500, 1000])
    for row, device in product(range(3), range(3)):
        if inventory.devices[row, device]:
            inventory.gpu_milli[row, device] = draw(free)
            inventory.gpu_memory_bytes[row, device] = draw(st.integers(0, 3)) * GIB
    request = asks(
        draw(st.sampled_from([0.0, 0.2, 0.5, 1.0, 2.0, 3.0])),
        cpus=draw(st.integers(0, 8)),
        each=draw(st.integers(0, 2)),
        pools=draw(st.sampled_from([(), ("a",), ("b",)])),
    )
    exists = any(_holds(inventory, request, row) for row in range(3))
    for outlook in (None, Outlook.of_mix(inventory, {request: 1.0})):
        spots = place(inventory, request, outlook)
        assert isinstance(spots, tuple) == exists
        if isinstance(spots, tuple):
            assert _holds(inventory, request, spots[0].row)
            after = inventory.copy()
            after.take(request, spots)
            for left in (after.cpu_milli, after.gpu_milli, after.gpu_memory_bytes):
                assert np.min(left) >= 0


def _holds(inventory: Inventory, request: Request, row: int) -> bool:
    amounts = request.amounts
    if request.pools and inventory.pools[inventory.pool[row]] not in request.pools:
        return False
    if inventory.cpu_milli[row] < amounts.cpu_milli:
        return False
    needed = min(amounts.gpu_milli, 1000)
    good = [
        d
        for d in range(3)
        if inventory.gpu_milli[row, d] >= needed
        and inventory.gpu_memory_bytes[row, d] >= amounts.gpu_memory_bytes
    ]
    return len(good) >= amounts.gpus


# -- taking and giving back ----------------------------------------------------------------------

REQUESTS = [
    asks(1, cpus=2, replicas=2),
    asks(0.3, cpus=1, gib=4, each=10),
    asks(0.5, replicas=3),
    asks(2, each=70),
    asks(0, cpus=3),
    mig("3g.40gb"),
    mig("1g.10gb", 3, replicas=2),
]


@given(st.lists(st.tuples(st.sampled_from(REQUESTS), st.integers(0, 5)), max_size=25))
def test_what_is_taken_and_given_back_in_any_order_leaves_no_trace(
    steps: list[tuple[Request, int]],
) -> None:
    inventory = fleet((pool(gpus=4, cpus=24, mig=(HALVES, SEVENTHS)), 3))
    before, held = columns(inventory), []
    for request, gone in steps:
        spots = place(inventory, request)
        if isinstance(spots, tuple):
            inventory.take(request, spots)
            held.append((request, spots))
        if held and gone < 2:
            inventory.release(*held.pop(gone % len(held)))
        assert min(map(np.min, (inventory.cpu_milli, inventory.gpu_milli))) >= 0
        _assert_legal(inventory)
    for request, spots in reversed(held):
        inventory.release(request, spots)
    assert columns(inventory) == before


def _assert_legal(inventory: Inventory) -> None:
    """A device holds instances of one allowed geometry and no more than it has, or shares."""
    for row, device in zip(*np.nonzero(inventory.geometry >= 0), strict=True):
        geometry = inventory.geometry[row, device]
        free, has = inventory.instances[row, device], inventory.geometries[geometry]
        assert inventory.allowed[inventory.pool[row], geometry]
        assert ((free >= 0) & (free <= has)).all()
        assert (free < has).any()
        assert inventory.gpu_milli[row, device] == 0
    assert inventory.instances[inventory.geometry < 0].sum() == 0


def test_a_copy_changes_apart_from_what_it_was_copied_from() -> None:
    inventory = fleet((pool(), 2))
    before = columns(inventory)
    placed(inventory.copy(), asks(8))
    assert columns(inventory) == before
    placed(inventory, asks(8))
    assert columns(inventory.emptied()) == before


# -- MIG -----------------------------------------------------------------------------------------


def test_an_empty_device_is_partitioned_for_what_is_asked_and_only_an_empty_one() -> None:
    inventory = fleet((pool(gpus=2, mig=(HALVES, SEVENTHS)), 1))
    assert placed(inventory, mig("3g.40gb"))[0].devices == (0,)
    assert placed(inventory, mig("3g.40gb"))[0].devices == (0,)  # the other half of it
    small = placed(inventory, mig("1g.10gb", replicas=7))
    assert small[0].devices == (1,) * 7
    assert refused(inventory, mig("1g.10gb")).binds == ("mig",)
    inventory.release(mig("1g.10gb", replicas=7), small)
    assert placed(inventory, asks(1))[0].devices == (1,)  # empty again, so whole again


def test_a_pool_without_geometries_is_never_partitioned() -> None:
    inventory = fleet((pool("plain"), 1), (pool("split", mig=(HALVES,)), 1))
    assert placed(inventory, mig("3g.40gb"))[0].row == 1
    answer = refused(inventory, mig("3g.40gb", pools=("plain",)))
    assert (answer.reason, answer.binds) == (Reason.NO_OPTION, ("mig",))
    assert refused(inventory, mig("9g.99gb")).binds == ("mig",)


# -- gangs ---------------------------------------------------------------------------------------


def test_a_gang_that_must_be_together_gets_the_tightest_domain_that_holds_it() -> None:
    # Racks of two nodes of 8: 16, 16, 16 GPUs. 3 are taken of rack 1: it holds 13 and is tightest.
    inventory = fleet((pool(levels=("rack",)), 6))
    inventory.gpu_milli[2, :3] = 0
    gang = asks(1, replicas=10, together="rack", together_required=True)
    assert {spot.row for spot in placed(inventory, gang)} == {2, 3}
    big = asks(1, replicas=17, together="rack", together_required=True)
    answer = refused(inventory, big)
    assert (answer.reason, answer.binds) == (Reason.NO_OPTION, ("rack",))


def test_a_gang_that_would_be_together_takes_few_domains_where_one_is_not_enough() -> None:
    # Racks hold 16, 16 and, with one node left out, 8: 20 replicas go into the two large ones.
    inventory = fleet((pool(levels=("rack",)), 5))
    spots = placed(inventory, asks(1, replicas=20, together="rack"))
    assert {spot.row for spot in spots} <= {0, 1, 2, 3}
    assert sum(spot.replicas for spot in spots) == 20


def test_replicas_that_must_be_apart_share_no_domain() -> None:
    inventory = fleet((pool(levels=("rack",)), 6))
    spots = placed(inventory, asks(1, replicas=3, spread="rack"))
    assert sorted(spot.row // 2 for spot in spots) == [0, 1, 2]
    assert refused(inventory, asks(1, replicas=4, spread="rack")).binds == ("rack",)
    assert len(placed(inventory, asks(1, replicas=6, spread=HOSTNAME))) == 6
    assert refused(inventory, asks(1, replicas=2, spread="nowhere")).binds == ("nowhere",)


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_a_gang_is_placed_exactly_where_some_domain_holds_it(
    room: list[int], replicas: int, together: bool, apart: bool
) -> None:
    racks, blocks = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    counts = share_out(
        np.array(room),
        replicas,
        np.arange(6.0),
        together=blocks[None] if together else None,
        required=together,
        apart=racks if apart else None,
    )
    groups = [range(4), range(4, 6)] if together else [range(6)]
    exists = any(
        sum(counted) == replicas
        and (not apart or all(counted[i] + counted[i + 1] <= 1 for i in (0, 2, 4)))
        for group in groups
        for counted in product(*(range(r + 1) if i in group else (0,) for i, r in enumerate(room)))
    )
    assert (counts is not None) == exists
    if counts is not None:
        assert counts.sum() == replicas
        assert (counts <= room).all()


# -- reasons -------------------------------------------------------------------------------------


def test_a_job_of_eighty_gpus_is_told_that_no_node_is_that_large() -> None:
    answer = refused(fleet((pool(), 100)), asks(80))
    assert (answer.reason, answer.binds) == (Reason.NO_OPTION, ("gpu",))
    assert answer.message == (
        "80 GPU: room by gpu for 0 of 1; 800 GPU free in all, 8 whole on one node at most"
    )


@pytest.mark.parametrize(
    ("request_", "binds"),
    [
        (asks(1, cpus=97), ("cpu",)),
        (asks(1, gib=513), ("memory",)),
        (asks(1, each=81), ("gpu-memory",)),
        (asks(9, cpus=97), ("gpu", "cpu")),
        (asks(8, replicas=3), ("gpu",)),
    ],
)
def test_the_resources_that_bind_are_named(request_: Request, binds: tuple[str, ...]) -> None:
    answer = refused(fleet((pool(), 2)), request_)
    assert (answer.reason, answer.binds) == (Reason.NO_OPTION, binds)


def test_resources_that_bind_only_together_are_named_together() -> None:
    # Node 0 has GPUs and no CPUs, node 1 the reverse: without either need there would be room.
    inventory = fleet((pool(), 2))
    inventory.cpu_milli[0], inventory.gpu_milli[1] = 0, 0
    answer = refused(inventory, asks(1, cpus=1))
    assert (answer.reason, answer.binds) == (Reason.CAPACITY, ("gpu", "cpu"))


@pytest.mark.parametrize(
    "amounts",
    [
        Amounts(gpu_milli=1500),
        Amounts(mig=(("a", 1), ("b", 1))),
        Amounts(gpu_milli=1, mig=(("a", 1),)),
    ],
)
def test_a_replica_that_no_device_could_hold_is_no_request(amounts: Amounts) -> None:
    with pytest.raises(ValueError, match="GPU"):
        Request(amounts=amounts)
