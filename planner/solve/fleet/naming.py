"""From pools to nodes: on which GPUs each gang runs, pool by pool.

Where GPUs are all that counts (the gangs take whole ones, of any node), compiled loops give the
tightest nodes; else `planner.place` decides, whose rule that is.

Gangs whose replicas are of one size, on nodes that stay, are taken in order of start: what has
ended is given back first, so what is free is free until something that starts later takes it. Whole
GPUs over time are an interval graph: this order never runs out (`give_in_turn`). Where sizes differ
or nodes leave, the larger replicas choose first, over the whole horizon, and what counts is the
GPUs that are free for all of a stretch (`give_over`).
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
    layer: bool = False


Named = list[tuple[Placement, ...] | None]  # by item; None: no room on the nodes


Stays = tuple[int, int, int, int]  # job, start, end, replicas
Known = dict[str, tuple[list[Stays], Named]]  # what a pool was asked last, and what it gave


def name(problem: Problem, items: Sequence[Item], known: Known) -> Named:
    """Nodes and GPUs for every item; a pool that is asked the same again gives the same."""
    found: Named = [None] * len(items)
    of_pool: dict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        of_pool[item.mode.pool].append(n)
    for pool in problem.pools:
        ours = of_pool[pool.name]
        here = [items[n] for n in ours]
        asked = [(item.job, item.start, item.end, item.replicas) for item in here]
        if pool.name not in known or known[pool.name][0] != asked:
            nodes = [node for node in problem.nodes_of(pool.name) if not node.cordoned]
            named = _by_count if _only_gpus(pool, nodes, here) else _by_place
            known[pool.name] = (asked, named(pool, nodes, here))
        for n, placed in zip(ours, known[pool.name][1], strict=True):
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
    """Items in the order in which they choose (n)."""

    start: Longs
    end: Longs
    replicas: Longs
    gpus: Longs  # of one replica
    by_end: Longs  # items in order of end


class Lists(NamedTuple):
    """Nodes by their number of free GPUs."""

    mask: Longs  # (nodes) free GPUs, a bit each
    head: Longs  # (GPUs + 1) first node of each list, -1: none
    after: Longs  # (nodes)
    before: Longs  # (nodes)


class Given(NamedTuple):
    """What items got: item n has rows ``first[n]`` to ``first[n] + rows[n]``."""

    first: Longs
    rows: Longs
    node: Ints
    mask: Longs


def _by_count(pool: Pool, nodes: Sequence[Node], items: Sequence[Item]) -> Named:
    sizes = {item.mode.amounts.gpus for item in items}
    alike = len(sizes) <= 1 and len({w.nodes for w in pool.windows}) == 1
    order = sorted(range(len(items)), key=lambda n: _rank(items[n], alike))
    ranked = [items[n] for n in order]
    end = np.array([item.end for item in ranked], dtype=np.int64)
    asked = Asked(
        start=np.array([item.start for item in ranked], dtype=np.int64),
        end=end,
        replicas=np.array([item.replicas for item in ranked], dtype=np.int64),
        gpus=np.array([item.mode.amounts.gpus for item in ranked], dtype=np.int64),
        by_end=np.argsort(end, kind="stable"),
    )
    masks = np.array([sum(1 << d for d in node.healthy_gpus()) for node in nodes], dtype=np.int64)
    room = int((asked.replicas * asked.gpus).sum() // max(1, pool.gpus_per_node)) + len(items) + 1
    absent = None if alike else _absences(pool, nodes, masks)
    while (given := _give(asked, masks, absent, pool.gpus_per_node, room)) is None:
        room *= 2
    return _placements(nodes, order, ranked, given)


def _rank(item: Item, alike: bool) -> tuple[int, ...]:
    """Who chooses first: by start; else the larger, and services, which cannot go anywhere else."""
    first = () if alike else (-item.mode.amounts.gpus, not item.layer)
    return (*first, item.start, -item.replicas, item.job)


def _absences(pool: Pool, nodes: Sequence[Node], masks: Longs) -> Longs:
    """(nodes, slots): GPUs that are not there."""
    index = np.array([node.index for node in nodes], dtype=np.int64)
    found = np.zeros((len(nodes), pool.windows[-1].end), dtype=np.int64)
    for window in pool.windows:
        gone = index >= window.nodes
        found[gone, window.start : window.end] = masks[gone, None]
    return found


def _give(asked: Asked, masks: Longs, held: Longs | None, gpus: int, room: int) -> Given | None:
    """What each item gets; None where ``room`` rows do not hold it."""
    given = Given(
        first=np.zeros(asked.start.size, dtype=np.int64),
        rows=np.zeros(asked.start.size, dtype=np.int64),
        node=np.zeros(room, dtype=np.int32),
        mask=np.zeros(room, dtype=np.int64),
    )
    if held is not None:
        free = np.zeros(masks.size, dtype=np.int64)
        return given if give_over(asked, masks, held.copy(), free, gpus, given) else None
    lists = Lists(
        mask=masks.copy(),
        head=np.full(gpus + 1, -1, dtype=np.int64),
        after=np.full(masks.size, -1, dtype=np.int64),
        before=np.full(masks.size, -1, dtype=np.int64),
    )
    for n in range(masks.size - 1, -1, -1):
        link(lists, n)
    return given if give_in_turn(asked, lists, given) else None


@lean
def bits(mask: int) -> int:
    """How many bits are set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


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
def link(lists: Lists, n: int) -> None:
    """Put a node into the list that it belongs to."""
    free = bits(lists.mask[n])
    first = lists.head[free]
    lists.after[n], lists.before[n] = first, -1
    if first >= 0:
        lists.before[first] = n
    lists.head[free] = n


@lean
def unlink(lists: Lists, n: int) -> None:
    before, after = lists.before[n], lists.after[n]
    if after >= 0:
        lists.before[after] = before
    if before >= 0:
        lists.after[before] = after
    else:
        lists.head[bits(lists.mask[n])] = after


@lean
def give_in_turn(asked: Asked, lists: Lists, given: Given) -> bool:
    """Fill ``given`` in order of start; whether its rows were enough."""
    at, ended = 0, 0
    for n in range(asked.start.size):
        while ended < asked.end.size and asked.end[asked.by_end[ended]] <= asked.start[n]:
            give_back(lists, given, asked.by_end[ended])
            ended += 1
        given.first[n] = at
        left, each = asked.replicas[n], asked.gpus[n]
        for free in range(each, lists.head.size):
            while lists.head[free] >= 0 and left > 0:
                if at == given.node.size:
                    return False
                node = lists.head[free]
                here = min(left, free // each)
                taken = lowest(lists.mask[node], here * each)
                unlink(lists, node)
                lists.mask[node] ^= taken
                link(lists, node)
                given.node[at], given.mask[at] = node, taken
                given.rows[n] += 1
                at += 1
                left -= here
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


@lean
def free_over(masks: Longs, held: Longs, start: int, end: int, each: int, free: Longs) -> int:
    """Fill ``free`` (nodes) with GPUs that are free throughout: replicas that they hold."""
    room = 0
    for node in range(masks.size):
        left = masks[node]
        for t in range(start, end):
            left &= ~held[node, t]
            if left == 0:
                break
        free[node] = left
        room += bits(free[node]) // each
    return room


@lean
def give_over(
    asked: Asked, masks: Longs, held: Longs, free: Longs, gpus: int, given: Given
) -> bool:
    """Fill ``given`` by what is free for all of each stretch; whether its rows were enough.

    ``held`` (nodes, slots): GPUs that are taken or away. Of equally tight nodes the last go first:
    those leave first. ``free`` is scratch.
    """
    at = 0
    for n in range(asked.start.size):
        start, end, each = asked.start[n], asked.end[n], asked.gpus[n]
        given.first[n], left = at, asked.replicas[n]
        if free_over(masks, held, start, end, each, free) < left:
            continue
        for count in range(each, gpus + 1):
            for node in range(masks.size - 1, -1, -1):
                if left == 0 or bits(free[node]) != count:
                    continue
                if at == given.node.size:
                    return False
                here = min(left, count // each)
                taken = lowest(free[node], here * each)
                for t in range(start, end):
                    held[node, t] |= taken
                given.node[at], given.mask[at] = node, taken
                given.rows[n] += 1
                at += 1
                left -= here
            if left == 0:
                break
    return True


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
        placed, each = [], item.mode.amounts.gpus
        for row in range(first, end):
            node, mask = rows_node[row], rows_mask[row]
            if mask not in devices:
                devices[mask] = tuple(d for d in range(MASK_GPUS) if mask >> d & 1)
            key = (node, mask, each)
            if key not in known:
                replicas = len(devices[mask]) // each
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
