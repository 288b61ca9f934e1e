"""From pools to nodes: on which GPUs each gang runs, pool by pool, in order of start.

At each start what has ended is given back first, so what is free is free until something that
starts later takes it: an instant is enough to place a stretch. Where GPUs are all that counts (the
gangs take whole ones, of any node), compiled lists of the nodes by their free GPUs give the
tightest in O(1); else `planner.place` decides, whose rule that is. Nodes that leave before the
horizon ends are used first by those that end in time, and never by others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from planner.compiled import lean
from planner.inventory import Inventory, Request, Spot
from planner.place import Refused, place
from planner.plan import Placement
from planner.problem import GPU_MILLI, Amounts, Mode, Node, Pool, Problem
from planner.solve.fleet.columns import Ints, Longs

MASK_GPUS = 62  # of a node, that a mask of bits holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Replicas that come and go together: a gang, or a layer of a service."""

    job: int
    mode: Mode
    start: int
    end: int
    replicas: int


Named = list[tuple[Placement, ...] | None]  # by item; None: no room on the nodes


def name(problem: Problem, items: Sequence[Item]) -> Named:
    """Nodes and GPUs for every item."""
    found: Named = [None] * len(items)
    of_pool: dict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        of_pool[item.mode.pool].append(n)
    for pool in problem.pools:
        ours = of_pool[pool.name]
        nodes = [node for node in problem.nodes_of(pool.name) if not node.cordoned]
        named = _by_count if _only_gpus(pool, nodes, [items[n] for n in ours]) else _by_place
        for n, placed in zip(ours, named(pool, nodes, [items[n] for n in ours]), strict=True):
            found[n] = placed
    return found


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


def _by_place(pool: Pool, nodes: Sequence[Node], items: Sequence[Item]) -> Named:
    """One gang after the other, on an inventory of the pool."""
    nodes = sorted(nodes, key=lambda n: -n.index)  # of equal ones, those that leave first
    inventory = Inventory.of(nodes, [pool])
    index = np.array([node.index for node in nodes], dtype=np.int64)
    found: Named = [None] * len(items)
    ends: dict[int, list[tuple[Request, tuple[Spot, ...]]]] = defaultdict(list)
    given = 0
    for n in sorted(range(len(items)), key=lambda n: (items[n].start, -items[n].replicas, n)):
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
        placed = place(inventory, request)
        if not isinstance(placed, Refused):
            inventory.take(request, placed)
            ends[item.end].append((request, placed))
            found[n] = inventory.placements(placed)
    return found


# -- by count --------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """Items in order of start (n)."""

    start: Longs
    end: Longs
    replicas: Longs
    gpus: Longs  # of one replica
    reach: Longs  # nodes below it stay while the item runs
    by_end: Longs  # items in order of end


class Lists(NamedTuple):
    """Nodes by group (0: they stay to the end; 1: they leave) and number of free GPUs."""

    mask: Longs  # (nodes) free GPUs, a bit each
    group: Longs  # (nodes)
    head: Longs  # (2, GPUs + 1) first node of each list, -1: none
    after: Longs  # (nodes)
    before: Longs  # (nodes)


class Given(NamedTuple):
    """What items got: item n has rows ``first[n]`` to ``first[n] + rows[n]``."""

    first: Longs
    rows: Longs
    node: Ints
    mask: Longs


def _by_count(pool: Pool, nodes: Sequence[Node], items: Sequence[Item]) -> Named:
    order = sorted(
        range(len(items)),
        key=lambda n: (items[n].start, -items[n].mode.amounts.gpus, -items[n].replicas, n),
    )
    ranked = [items[n] for n in order]
    reach = {span: _reach(pool, *span) for span in {(item.start, item.end) for item in ranked}}
    end = np.array([item.end for item in ranked], dtype=np.int64)
    asked = Asked(
        start=np.array([item.start for item in ranked], dtype=np.int64),
        end=end,
        replicas=np.array([item.replicas for item in ranked], dtype=np.int64),
        gpus=np.array([item.mode.amounts.gpus for item in ranked], dtype=np.int64),
        reach=np.array([reach[item.start, item.end] for item in ranked], dtype=np.int64),
        by_end=np.argsort(end, kind="stable"),
    )
    stay = min((window.nodes for window in pool.windows), default=0)
    masks = np.array([sum(1 << d for d in node.healthy_gpus()) for node in nodes], dtype=np.int64)
    index = np.array([node.index for node in nodes], dtype=np.int64)
    room = int((asked.replicas * asked.gpus).sum() // max(1, pool.gpus_per_node)) + len(items) + 1
    while (given := _give(asked, masks, index, stay, pool.gpus_per_node, room)) is None:
        room *= 2
    return _placements(nodes, order, ranked, given)


def _give(
    asked: Asked, masks: Longs, index: Longs, stay: int, gpus: int, room: int
) -> Given | None:
    """What each item gets; None where ``room`` rows do not hold it."""
    lists = Lists(
        mask=masks.copy(),
        group=(index >= stay).astype(np.int64),
        head=np.full((2, gpus + 1), -1, dtype=np.int64),
        after=np.full(masks.size, -1, dtype=np.int64),
        before=np.full(masks.size, -1, dtype=np.int64),
    )
    given = Given(
        first=np.zeros(asked.start.size, dtype=np.int64),
        rows=np.zeros(asked.start.size, dtype=np.int64),
        node=np.zeros(room, dtype=np.int32),
        mask=np.zeros(room, dtype=np.int64),
    )
    for n in range(masks.size - 1, -1, -1):
        link(lists, n)
    return given if give_all(asked, index, lists, given) else None


@lean
def bits(mask: int) -> int:
    """How many bits are set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@lean
def link(lists: Lists, n: int) -> None:
    """Put a node into the list that it belongs to."""
    group, free = lists.group[n], bits(lists.mask[n])
    first = lists.head[group, free]
    lists.after[n], lists.before[n] = first, -1
    if first >= 0:
        lists.before[first] = n
    lists.head[group, free] = n


@lean
def unlink(lists: Lists, n: int) -> None:
    before, after = lists.before[n], lists.after[n]
    if after >= 0:
        lists.before[after] = before
    if before >= 0:
        lists.after[before] = after
    else:
        lists.head[lists.group[n], bits(lists.mask[n])] = after


@lean
def lowest(mask: int, count: int) -> int:
    """The ``count`` lowest bits that are set."""
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken


@lean
def give_all(asked: Asked, index: Longs, lists: Lists, given: Given) -> bool:
    """Fill ``given``; whether its rows were enough."""
    at, ended = 0, 0
    for n in range(asked.start.size):
        while ended < asked.end.size and asked.end[asked.by_end[ended]] <= asked.start[n]:
            give_back(lists, given, asked.by_end[ended])
            ended += 1
        given.first[n] = at
        left = asked.replicas[n]
        for group in range(1, -1, -1):
            for free in range(asked.gpus[n], lists.head.shape[1]):
                node = lists.head[group, free]
                while node >= 0 and left > 0:
                    following = lists.after[node]
                    if index[node] < asked.reach[n]:
                        if at == given.node.size:
                            return False
                        here = min(left, free // asked.gpus[n])
                        taken = lowest(lists.mask[node], here * asked.gpus[n])
                        unlink(lists, node)
                        lists.mask[node] ^= taken
                        link(lists, node)
                        given.node[at], given.mask[at] = node, taken
                        given.rows[n] += 1
                        at += 1
                        left -= here
                    node = following
        if left > 0:  # all or none
            give_back(lists, given, n)
            at = given.first[n]
            given.rows[n] = 0
    return True


@lean
def give_back(lists: Lists, given: Given, n: int) -> None:
    for row in range(given.first[n], given.first[n] + given.rows[n]):
        node = given.node[row]
        unlink(lists, node)
        lists.mask[node] |= given.mask[row]
        link(lists, node)


def _placements(
    nodes: Sequence[Node], order: Sequence[int], ranked: Sequence[Item], given: Given
) -> Named:
    """The rows as values; equal ones are one object."""
    devices: dict[int, tuple[int, ...]] = {}
    known: dict[tuple[int, int, int], Placement] = {}
    found: Named = [None] * len(ranked)
    rows_node, rows_mask = given.node.tolist(), given.mask.tolist()
    ends = (given.first + given.rows).tolist()
    for n, (first, end, item) in enumerate(zip(given.first.tolist(), ends, ranked, strict=True)):
        placed = []
        for row in range(first, end):
            node, mask = rows_node[row], rows_mask[row]
            if mask not in devices:
                devices[mask] = tuple(d for d in range(MASK_GPUS) if mask >> d & 1)
            key = (node, mask, item.mode.amounts.gpus)
            if key not in known:
                replicas = len(devices[mask]) // item.mode.amounts.gpus
                known[key] = Placement(
                    node=nodes[node].name, replicas=replicas, devices=devices[mask]
                )
            placed.append(known[key])
        if placed:
            found[order[n]] = tuple(sorted(placed, key=lambda p: p.node))
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
