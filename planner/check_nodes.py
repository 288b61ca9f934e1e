"""Is a plan true on its nodes? Who holds which GPUs of each, and how much of all that it has.

A part of `planner.check`: plain arithmetic, that shares nothing with the solver. Most nodes hold
whole GPUs and nothing is wrong there: one look at all of a pool's nodes at once finds these, and
only what is left is gone through replica by replica, which says what is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from planner.plan import Placement, Plan, Segment
from planner.problem import GPU_MILLI, Amounts, Mode, Node, Pool, Problem

WHAT = ("gpu_milli", "cpu_milli", "memory_bytes")
MASK_GPUS = 62  # of a node, that a mask of bits holds


def is_part(mode: Mode) -> bool:
    """Whether a replica takes less than a whole GPU."""
    return bool(mode.amounts.mig) or mode.amounts.gpu_milli % GPU_MILLI > 0


def at_starts(held: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """What is held (from, to, how much) at each slot at which something starts, in their order."""
    change: dict[int, int] = defaultdict(int)
    for start, end, amount in held:
        change[start] += amount
        change[end] -= amount
    starts, slots = {start for start, _, _ in held}, sorted(change)
    for at, used in zip(slots, accumulate(change[at] for at in slots), strict=True):
        if at in starts:
            yield at, used


class _Held(NamedTuple):
    """Replicas of a segment on one node."""

    job: str
    start: int
    end: int
    place: Placement
    mode: Mode
    amounts: Amounts  # of one replica


def nodes(problem: Problem, plan: Plan) -> Iterator[str]:
    """What is wrong on the nodes, pool by pool, each violation a sentence."""
    of_pool: dict[str, list[Segment]] = defaultdict(list)
    for s in sorted(plan.segments, key=lambda s: (s.start, s.job)):
        of_pool[problem.job_by_name[s.job].modes[s.mode].pool].append(s)
    for name in sorted(of_pool):
        yield from _nodes_of(problem, problem.pool_by_name[name], of_pool[name])


def _nodes_of(problem: Problem, pool: Pool, segments: list[Segment]) -> Iterator[str]:
    """Node by node; ``segments`` are the pool's, in order of start."""
    right = _plainly_right(problem, pool, segments)
    held: dict[str, list[_Held]] = defaultdict(list)
    for s in segments:
        mode = problem.job_by_name[s.job].modes[s.mode]
        for p in s.placement:
            if p.node not in right:
                held[p.node].append(_Held(s.job, s.start, s.end, p, mode, mode.amounts))
    for name in sorted(held):
        node = problem.node_by_name[name]
        yield from _presence(pool, node, held[name])
        yield from _load(node, held[name])
        why = {d: device.unhealthy for d, device in enumerate(node.devices) if device.unhealthy}
        for h in held[name]:
            yield from _named(pool, node, why, h)
        yield from _devices(node, held[name])


def _plainly_right(problem: Problem, pool: Pool, segments: list[Segment]) -> set[str]:
    """Nodes of the pool where all is as on most, and nothing wrong: a look at all of them at once.

    Such a node is whole and always there, and each replica has named GPUs that it holds alone, with
    no more of anything than goes with these. Where this does not hold, something may be wrong.
    """
    count = pool.capacity.gpu_milli // GPU_MILLI
    if not 0 < count <= MASK_GPUS:
        return set()
    nodes = problem.nodes_of(pool.name)
    row_of = {node.name: row for row, node in enumerate(nodes)}
    places = [p for s in segments for p in s.placement]
    each = np.array([_whole_gpus(problem, pool, s) for s in segments], dtype=np.int64)
    many = [len(s.placement) for s in segments]
    mask_of = {devices: _mask(devices, count) for devices in {p.devices for p in places}}
    row = np.array([row_of[p.node] for p in places], dtype=np.int64)
    mask = np.array([mask_of[p.devices] for p in places], dtype=np.int64)
    named = np.array([len(p.devices) for p in places], dtype=np.int64)
    taken = np.array([p.replicas for p in places], dtype=np.int64) * np.repeat(each, many)
    mig = np.array([bool(p.geometries or p.instances) for p in places], dtype=bool)
    odd = np.array([not _is_whole(pool, node) for node in nodes], dtype=bool)
    odd[row[(mask == 0) | (named != taken) | mig]] = True
    order = np.argsort(row, kind="stable")  # by node, and of each in order of start
    row, mask = row[order], mask[order]
    start = np.repeat(np.array([s.start for s in segments], dtype=np.int64), many)[order]
    end = np.repeat(np.array([s.end for s in segments], dtype=np.int64), many)[order]
    for device in range(count):
        on = np.flatnonzero(mask >> device & 1)
        twice = (row[on[:-1]] == row[on[1:]]) & (end[on[:-1]] > start[on[1:]])
        odd[row[on[1:]][twice]] = True
    return {nodes[n].name for n in np.flatnonzero(~odd)}


def _whole_gpus(problem: Problem, pool: Pool, s: Segment) -> int:
    """GPUs of a replica; 0 if it shares one, or takes more of something than goes with them."""
    mode = problem.job_by_name[s.job].modes[s.mode]
    has, takes = pool.capacity, mode.amounts
    even = all(
        getattr(takes, what) * has.gpu_milli <= getattr(has, what) * takes.gpu_milli
        for what in WHAT
    )
    fits = takes.gpu_memory_bytes <= has.gpu_memory_bytes
    return takes.gpus if even and fits and not is_part(mode) else 0


def _mask(devices: tuple[int, ...], count: int) -> int:
    """A bit for each GPU; 0 if one stands twice, or is none of the first ``count``."""
    there = all(0 <= d < count for d in devices) and len(set(devices)) == len(devices)
    return sum(1 << d for d in devices) if there else 0


def _is_whole(pool: Pool, node: Node) -> bool:
    """Whether the node is always there, with all that the pool says of one."""
    there = not node.cordoned and all(node.index < w.nodes for w in pool.windows)
    alike = node.capacity is pool.capacity or node.capacity == pool.capacity
    return there and alike and not any(d.unhealthy for d in node.devices)


def _presence(pool: Pool, node: Node, held: list[_Held]) -> Iterator[str]:
    if not node.cordoned and all(node.index < w.nodes for w in pool.windows):
        return
    for h in held:
        if node.cordoned:
            yield f"{h.job}: on {node.name}, which is cordoned: {node.cordoned}"
        if any(w.start < h.end and h.start < w.end and node.index >= w.nodes for w in pool.windows):
            yield f"{h.job}: on {node.name}, which is not there for all of [{h.start}, {h.end})"


def _load(node: Node, held: list[_Held]) -> Iterator[str]:
    """What all that runs on the node takes of it, at each slot at which something starts."""
    for what in WHAT:
        most = getattr(node.capacity, what)
        takes = ((h, h.place.replicas * getattr(h.amounts, what)) for h in held)
        for at, used in at_starts([(h.start, h.end, amount) for h, amount in takes if amount]):
            if used > most:
                yield f"{node.name}: {what} overbooked at slot {at}"


def _named(pool: Pool, node: Node, why: dict[int, str], h: _Held) -> Iterator[str]:
    """Whether a placement names the GPUs that its replicas take, and such as there are.

    ``why``: what is wrong with those that are out of order.
    """
    devices, amounts, replicas = h.place.devices, h.amounts, h.place.replicas
    count = node.capacity.gpu_milli // GPU_MILLI
    twice = not is_part(h.mode) and len(set(devices)) != len(devices)
    if twice or (devices and not 0 <= min(devices) <= max(devices) < count):
        yield f"{h.job}: names a GPU of {node.name} twice, or one it does not have"
    taken = replicas * amounts.gpus
    if len(devices) != taken:
        yield f"{h.job}: {len(devices)} GPUs named on {node.name}, {taken} taken"
    if amounts.gpu_memory_bytes > node.capacity.gpu_memory_bytes:
        yield f"{h.job}: needs more memory than a GPU of {node.name} has"
    if bad := [d for d in devices if d in why]:
        yield f"{h.job}: on GPU {bad[0]} of {node.name}: {why[bad[0]]}"
    wanted = len(devices) if amounts.mig else 0
    if not len(h.place.geometries) == len(h.place.instances) == wanted:
        yield f"{h.job}: {wanted} MIG instances on {node.name}, named are others"
    for g, i in zip(h.place.geometries, h.place.instances, strict=False):
        geometry = pool.mig_geometries[g] if 0 <= g < len(pool.mig_geometries) else ()
        if not 0 <= i < len(geometry) or geometry[i] not in dict(amounts.mig):
            yield f"{h.job}: instance {i} of geometry {g} on {node.name} is not what it takes"


@dataclass(frozen=True, slots=True)
class _Use:
    """What one replica, or one of its GPUs or MIG instances, takes of a device."""

    held: _Held
    geometry: int  # -1: the device is not partitioned
    instance: int


def _devices(node: Node, held: list[_Held]) -> Iterator[str]:
    """Device by device, what holds it at once; ``held`` is in order of start."""
    if _apart(held):
        return
    on: dict[int, list[_Use]] = {}  # what held each device last
    for h in held:
        devices = h.place.devices
        if not is_part(h.mode):
            devices = tuple(dict.fromkeys(devices))
        states = [*zip(h.place.geometries, h.place.instances, strict=False)]
        states += [(-1, -1)] * (len(devices) - len(states))
        entire = _Use(h, -1, -1)
        for device, (geometry, instance) in zip(devices, states, strict=False):
            use = entire if geometry < 0 else _Use(h, geometry, instance)
            beside = [u for u in on.get(device, ()) if u.held.end > h.start]
            if beside:
                yield from _beside(node, device, use, beside)
            on[device] = [*beside, use]


def _apart(held: list[_Held]) -> bool:
    """Whether each takes whole devices that nothing else holds meanwhile, as on most nodes."""
    busy: set[int] = set()
    ends: list[tuple[int, int]] = []  # (until when, which of ``held``), a heap
    for number, h in enumerate(held):
        while ends and ends[0][0] <= h.start:
            busy.difference_update(held[heappop(ends)[1]].place.devices)
        if is_part(h.mode) or not busy.isdisjoint(h.place.devices):
            return False
        busy.update(h.place.devices)
        heappush(ends, (h.end, number))
    return True


def _beside(node: Node, device: int, use: _Use, beside: list[_Use]) -> Iterator[str]:
    """What is wrong with a use of a device beside those that hold it already."""
    at = use.held.start
    for other in beside:
        both = f"{node.name}: {use.held.job} and {other.held.job}"
        if other.geometry != use.geometry:
            yield f"{both} on GPU {device} in two partitions at slot {at}"
        elif use.geometry >= 0 and other.instance == use.instance:
            yield f"{both} on one MIG instance of GPU {device} at slot {at}"
    whole = [u.held for u in (use, *beside) if u.geometry < 0]
    if sum(min(h.amounts.gpu_milli, GPU_MILLI) for h in whole) > GPU_MILLI:
        names = " and ".join(dict.fromkeys(h.job for h in whole))
        yield f"{node.name}: {names} overbook GPU {device} at slot {at}"
    memory = sum(h.amounts.gpu_memory_bytes for h in whole)
    if len(whole) > 1 and memory > node.capacity.gpu_memory_bytes:
        yield f"{node.name}: memory of GPU {device} overbooked at slot {at}"
