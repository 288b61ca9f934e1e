"""From pools to nodes: on which GPUs each gang runs, pool by pool.

Where GPUs are all that counts (the gangs take whole ones, of any node), compiled loops give the
tightest nodes (`giving`); else `planner.place` decides, whose rule that is.

Where nodes leave, the choice goes out from the moment at which the fewest are there: first whoever
runs then, then who ends before, the last first, then who starts later, the first first. Replicas of
one size so find room in time wherever there is enough by count, as intervals do that are coloured
from a clique outwards; of several sizes the larger choose first.

Whoever was asked for before and is asked for again keeps what it has, as long as that is there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from planner.inventory import WHOLE, Inventory, Request, Spot
from planner.place import Refused, place
from planner.plan import Placement
from planner.problem import GPU_MILLI, Amounts, Mode, Node, Pool, Problem
from planner.solve.fleet.columns import Flags, Ints, Longs
from planner.solve.fleet.giving import Asked, Rows, give, none_held

MASK_GPUS = 62  # of a node, that a mask of bits holds

Places = tuple[Placement, ...]
Named = list[Places | None]  # by item; None: no room on the nodes
Key = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Replicas that come and go together: a gang, or a layer of a service."""

    job: int
    name: str  # of the job
    mode: Mode
    start: int
    end: int
    replicas: int
    layer: bool = False
    held: tuple[str, ...] = ()  # nodes that it runs on and stays on, one for each replica

    @property
    def key(self) -> Key:
        """By which it may be known again: no two of a plan have the same."""
        return self.name, self.start, self.end, self.replicas

    def alike(self, other: Item) -> bool:
        """Whether what suits ``other``, of the same key, suits this one."""
        mine, its = self.mode, other.mode
        return self.held == other.held and (mine is its or _shape(mine) == _shape(its))


def _shape(mode: Mode) -> tuple[object, ...]:
    return mode.amounts, mode.together if mode.together_required else "", mode.spread


Known = Mapping[str, Sequence[tuple[Item, Places]]]  # what each pool gave last


def name(problem: Problem, items: Sequence[Item], known: Known) -> tuple[Named, Known]:
    """Nodes and GPUs for every item, as before where it was ``known``; and what is known now."""
    found: Named = [None] * len(items)
    of_pool: dict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        of_pool[item.mode.pool].append(n)
    now: dict[str, Sequence[tuple[Item, Places]]] = {}
    for pool in problem.pools:
        ours = of_pool[pool.name]
        here = [items[n] for n in ours]
        given = _given(problem, pool, here, _had(here, known.get(pool.name, ())))
        for n, placed in zip(ours, given, strict=True):
            found[n] = placed
        now[pool.name] = [
            (item, placed) for item, placed in zip(here, given, strict=True) if placed
        ]
    return found, now


def _had(items: Sequence[Item], known: Sequence[tuple[Item, Places]]) -> Named:
    """What each item has of a pool, if it is known there."""
    if not known:
        return [None] * len(items)
    before = {item.key: (item, places) for item, places in known}
    found: Named = []
    for item in items:
        was = before.get(item.key)
        found.append(was[1] if was is not None and item.alike(was[0]) else None)
    return found


def _given(
    problem: Problem, pool: Pool, items: Sequence[Item], had: Sequence[Places | None]
) -> Named:
    """What a pool gives; where somebody finds no room beside what others ``had``, all anew."""
    nodes = [node for node in problem.nodes_of(pool.name) if not node.cordoned]
    named = _by_count if _only_gpus(pool, nodes, items) else _by_place
    given = named(pool, nodes, items, had)
    if None not in given or not any(had):
        return given
    anew = named(pool, nodes, items, [None] * len(items))
    return anew if anew.count(None) < given.count(None) else given


def _only_gpus(pool: Pool, nodes: Sequence[Node], items: Iterable[Item]) -> bool:
    """Whether whole GPUs of any node are all that the items need."""
    if pool.gpus_per_node > MASK_GPUS:
        return False
    modes = {id(item.mode.amounts): item.mode for item in items}
    plain = all(_fills_evenly(pool, mode.amounts) for mode in modes.values())
    tied = any(item.mode.together_required or item.mode.spread for item in items)
    return plain and not tied and bool(nodes)


def _fills_evenly(pool: Pool, amounts: Amounts) -> bool:
    """Whether a node's GPUs run out no later than all else that it has."""
    gpus, has = amounts.gpus, pool.capacity
    return (
        gpus > 0
        and not amounts.mig
        and amounts.gpu_milli % GPU_MILLI == 0
        and amounts.gpu_memory_bytes <= has.gpu_memory_bytes
        and amounts.cpu_milli * pool.gpus_per_node <= has.cpu_milli * gpus
        and amounts.memory_bytes * pool.gpus_per_node <= has.memory_bytes * gpus
    )


def _reach(pool: Pool, slots_start: int, slots_end: int) -> int:
    """The least number of nodes from one slot to another: those below it stay throughout."""
    return min(
        (w.nodes for w in pool.windows if w.start < slots_end and slots_start < w.end), default=0
    )


# -- by `planner.place` ----------------------------------------------------------------------------


def _by_place(
    pool: Pool, nodes: Sequence[Node], items: Sequence[Item], had: Sequence[Places | None]
) -> Named:
    """One gang after the other, on an inventory of the pool."""
    nodes = sorted(nodes, key=lambda n: -n.index)  # of equal ones, those that leave first
    inventory = Inventory.of(nodes, [pool])
    index = np.array([node.index for node in nodes], dtype=np.int64)
    found: Named = [None] * len(items)
    ends: dict[int, list[tuple[Request, tuple[Spot, ...]]]] = defaultdict(list)
    given = 0
    for n in sorted(range(len(items)), key=lambda n: _turn(items[n], n)):
        item = items[n]
        for slot in range(given, item.start + 1):
            for request, spots in ends.pop(slot, ()):
                inventory.release(request, spots)
        given = item.start + 1
        mode = item.mode
        request = Request(
            amounts=mode.amounts,
            replicas=item.replicas,
            together=mode.together,
            together_required=mode.together_required,
            spread=mode.spread,
        )
        inventory.open[:] = index < _reach(pool, item.start, item.end)
        placed: tuple[Spot, ...] | Refused | None = _again(inventory, request, had[n])
        if placed is None:
            on = _on_its_nodes if item.held else _anywhere
            placed = on(inventory, request, item)
        if not isinstance(placed, Refused):
            inventory.take(request, placed)
            ends[item.end].append((request, placed))
            found[n] = inventory.placements(placed)
    return found


def _turn(item: Item, n: int) -> tuple[int, ...]:
    """Who chooses first: by start, whoever is there already before all others."""
    return item.start, not item.held, -item.replicas, n


def _anywhere(inventory: Inventory, request: Request, _: Item) -> tuple[Spot, ...] | Refused:
    return place(inventory, request)


def _on_its_nodes(inventory: Inventory, request: Request, item: Item) -> tuple[Spot, ...] | Refused:
    """As many replicas on each node as run there."""
    found: list[Spot] = []
    there = inventory.open.copy()
    for node, replicas in Counter(item.held).items():
        row = inventory.row_of[node]
        inventory.open[:] = False
        inventory.open[row] = there[row]
        here = replace(request, replicas=replicas, together_required=False)
        spots = place(inventory, here)
        if isinstance(spots, Refused):
            return spots
        found += spots
    return tuple(found)


def _again(inventory: Inventory, request: Request, had: Places | None) -> tuple[Spot, ...] | None:
    """The spots of ``had``, if they are there and free."""
    if had is None or any(p.node not in inventory.row_of for p in had):
        return None
    number = {int(g): n for n, g in enumerate(inventory.stated[0])}
    spots = tuple(
        Spot(
            row=inventory.row_of[p.node],
            replicas=p.replicas,
            devices=p.devices,
            geometries=tuple(number[g] for g in p.geometries),
        )
        for p in had
    )
    free = all(inventory.open[s.row] and _free(inventory, request.amounts, s) for s in spots)
    return spots if free else None


def _free(inventory: Inventory, amounts: Amounts, spot: Spot) -> bool:
    """Whether a node has free what a spot takes of it."""
    row = spot.row
    if spot.replicas * amounts.cpu_milli > inventory.cpu_milli[row]:
        return False
    if spot.replicas * amounts.memory_bytes > inventory.memory_bytes[row]:
        return False
    if amounts.mig:
        return _instances_free(inventory, amounts, spot)
    milli = min(amounts.gpu_milli, GPU_MILLI)
    return all(
        spot.devices.count(d) * milli <= inventory.gpu_milli[row, d]
        and spot.devices.count(d) * amounts.gpu_memory_bytes <= inventory.gpu_memory_bytes[row, d]
        for d in set(spot.devices)
    )


def _instances_free(inventory: Inventory, amounts: Amounts, spot: Spot) -> bool:
    """Whether its devices are whole or in its geometries, with that many instances free."""
    profile = inventory.profiles.index(amounts.mig[0][0])
    for device, geometry in set(zip(spot.devices, spot.geometries, strict=True)):
        state = inventory.geometry[spot.row, device]
        whole = state == WHOLE and inventory.gpu_milli[spot.row, device] == GPU_MILLI
        has = inventory.geometries[geometry] if whole else inventory.instances[spot.row, device]
        if not whole and state != geometry:
            return False
        if spot.devices.count(device) > has[profile]:
            return False
    return True


# -- by count --------------------------------------------------------------------------------------


def _by_count(
    pool: Pool, nodes: Sequence[Node], items: Sequence[Item], had: Sequence[Places | None]
) -> Named:
    sizes = {item.mode.amounts.gpus for item in items}
    stay = len({w.nodes for w in pool.windows}) == 1
    pivot = min(pool.windows, key=lambda w: w.nodes).start
    order = sorted(range(len(items)), key=lambda n: _rank(items[n], pivot, len(sizes) > 1))
    ranked = [items[n] for n in order]
    asked = Asked(
        start=np.array([item.start for item in ranked], dtype=np.int64),
        end=np.array([item.end for item in ranked], dtype=np.int64),
        replicas=np.array([item.replicas for item in ranked], dtype=np.int64),
        gpus=np.array([item.mode.amounts.gpus for item in ranked], dtype=np.int64),
        stays=np.array([bool(item.held) for item in ranked], dtype=np.bool_),
        kept=np.zeros(len(ranked), dtype=np.bool_),
    )
    masks = _masks(nodes)
    row_of = {node.name: row for row, node in enumerate(nodes)}
    before = [had[n] for n in order]
    if asked.stays.any():
        _hold_on(ranked, before, {node.name: set(node.healthy_gpus()) for node in nodes})
    held = _held(before, row_of)
    simple = len(sizes) <= 1 and stay
    absent = None if simple else _absences(pool, nodes, masks)
    given = give(asked, masks, absent, pool.gpus_per_node, held)
    placed = _placements(nodes, ranked, given, ~asked.kept)
    found: Named = [None] * len(items)
    for n, places, was, kept in zip(order, placed, before, asked.kept.tolist(), strict=True):
        found[n] = was if kept else places
    return found


def _masks(nodes: Sequence[Node]) -> Longs:
    """(nodes) the GPUs of each that work, a bit each."""
    alike = {count: (1 << count) - 1 for count in range(MASK_GPUS + 1)}
    return np.array(
        [
            sum(1 << d for d in node.healthy_gpus())
            if node.devices
            else alike[node.capacity.gpu_milli // GPU_MILLI]
            for node in nodes
        ],
        dtype=np.int64,
    )


def _hold_on(ranked: Sequence[Item], had: list[Places | None], free: dict[str, set[int]]) -> None:
    """Fill ``had`` with GPUs of the nodes that items run on: those they had, or any of each."""
    for n, item in enumerate(ranked):
        if item.held:
            was = had[n]
            if was is None or not all(free[p.node].issuperset(p.devices) for p in was):
                was = tuple(
                    Placement(
                        node=node,
                        replicas=replicas,
                        devices=tuple(sorted(free[node])[: replicas * item.mode.amounts.gpus]),
                    )
                    for node, replicas in sorted(Counter(item.held).items())
                )
            had[n] = was
            for p in was:
                free[p.node].difference_update(p.devices)


def _rank(item: Item, pivot: int, mixed: bool) -> tuple[int, ...]:
    """Who chooses first: who runs, the larger, and services, which go nowhere else; then by time.

    From ``pivot`` outwards: who runs then, who ends before, and who starts later.
    """
    if item.held:
        return (-MASK_GPUS - 1, item.job)
    first = (-item.mode.amounts.gpus, not item.layer) if mixed else ()
    if item.end <= pivot:
        return (*first, 1, -item.end, -item.replicas, item.job)
    later = 2 if item.start > pivot else 0
    return (*first, later, item.start, -item.replicas, item.job)


def _held(had: Sequence[Places | None], row_of: Mapping[str, int]) -> Rows:
    """The placements as rows; those on nodes that are no more are left out, item by item."""
    item: list[int] = []
    node: list[int] = []
    mask: list[int] = []
    masks: dict[tuple[int, ...], int] = {}
    for n, places in enumerate(had):
        if places is None:
            continue
        there = [row_of.get(p.node, -1) for p in places]
        if -1 in there:
            continue
        item += [n] * len(there)
        node += there
        for p in places:
            if p.devices not in masks:
                masks[p.devices] = sum(1 << d for d in p.devices)
            mask.append(masks[p.devices])
    if not item:
        return none_held()
    return Rows(
        item=np.array(item, dtype=np.int32),
        node=np.array(node, dtype=np.int32),
        mask=np.array(mask, dtype=np.int64),
        used=np.array([len(item)], dtype=np.int64),
    )


def _absences(pool: Pool, nodes: Sequence[Node], masks: Longs) -> Longs:
    """(slots, nodes): GPUs that are not there."""
    index = np.array([node.index for node in nodes], dtype=np.int64)
    found = np.zeros((pool.windows[-1].end, len(nodes)), dtype=np.int64)
    for window in pool.windows:
        found[window.start : window.end] = np.where(index >= window.nodes, masks, 0)
    return found


def _placements(
    nodes: Sequence[Node], ranked: Sequence[Item], given: Rows, wanted: Flags
) -> list[Places | None]:
    """The rows of ``wanted`` items as values, each item's by name of node; equal are one object."""
    there = wanted[given.item]
    item, node, mask = given.item[there], given.node[there], given.mask[there]
    gpus = np.array([each.mode.amounts.gpus for each in ranked], dtype=np.int64)[item]
    by_name = np.empty(len(nodes), dtype=np.int64)
    by_name[sorted(range(len(nodes)), key=lambda n: nodes[n].name)] = np.arange(len(nodes))
    order = np.lexsort((by_name[node], item))
    item, columns = item[order], (node[order], mask[order], gpus[order])
    values = _distinct(nodes, *columns)
    ends = np.searchsorted(item, np.arange(len(ranked) + 1)).tolist()
    return [tuple(values[begin:end]) or None for begin, end in pairwise(ends)]


def _distinct(nodes: Sequence[Node], node: Ints, mask: Longs, gpus: Longs) -> list[Placement]:
    """The placement of each row; equal ones are one object."""
    _, node_mask = np.unique(mask, return_inverse=True)
    key = (node_mask * len(nodes) + node) * (MASK_GPUS + 1) + gpus
    _, first, row = np.unique(key, return_index=True, return_inverse=True)
    devices: dict[int, tuple[int, ...]] = {}
    values = np.empty(first.size, dtype=object)
    columns = (node[first].tolist(), mask[first].tolist(), gpus[first].tolist())
    for n, (at, bits, each) in enumerate(zip(*columns, strict=True)):
        if bits not in devices:
            devices[bits] = tuple(d for d in range(MASK_GPUS) if bits >> d & 1)
        held = devices[bits]
        values[n] = Placement(node=nodes[at].name, replicas=len(held) // each, devices=held)
    found: list[Placement] = values[row].tolist()
    return found


def layers(replicas: Sequence[int], first: int) -> Iterator[tuple[int, int, int]]:
    """Replicas that come and go together: (start, end, how many); the last come leave first."""
    open_: list[tuple[int, int]] = []  # (start, how many), a stack
    for at, (before, now) in enumerate(pairwise([0, *replicas, 0]), start=first):
        if now > before:
            open_.append((at, now - before))
        gone = before - now
        while gone > 0:
            start, number = open_.pop()
            if number > gone:
                open_.append((start, number - gone))
            yield start, at, min(number, gone)
            gone -= number
