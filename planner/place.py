"""THE placement function: where a gang runs, or what stands in its way. Books nothing.

1. *Room*: how many replicas each node holds, by every resource at once, device by device.
2. *Rank*: which nodes are used first. Without an outlook the tightest, so that nodes that are empty
   stay empty; with one, those whose use takes least from what will be asked next.
3. *Share out*: as many replicas as there is room for, node by node in that order, inside one domain
   of the topology where they are to be together, one in a domain where they are to be apart.

A gang is placed whole or not at all. What is refused is refused for a reason: the resources, or the
level, without which it would fit. All of it takes time linear in the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner.compiled import compiled
from planner.inventory import Flags, Ints, Inventory, Request, Spot
from planner.outlook import Outlook, one_replica
from planner.plan import Reason
from planner.problem import GPU_MILLI, Amounts
from planner.topology import NOWHERE

Floats = npt.NDArray[np.float64]
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a request has no place."""

    reason: Reason  # NO_OPTION: not even with all free; CAPACITY: others hold what it needs
    message: str
    binds: tuple[str, ...]  # resources (gpu, cpu, memory, gpu-memory, mig), a level, or "nodes"


def place(
    inventory: Inventory, request: Request, outlook: Outlook | None = None
) -> tuple[Spot, ...] | Refused:
    """Nodes and devices for ``request``: all replicas, or why not."""
    if request.amounts.mig:  # no outlook judges MIG instances
        outlook = None
    if outlook is not None and request == one_replica(request):
        found = outlook.best(inventory, request)
        if found is None:
            return refusal(inventory, request)
        return (spot_of(inventory, request, found.row, found.device),)
    rank = outlook.rank(inventory, request) if outlook else tightness(inventory)
    room = rooms(inventory, request)
    spots = fill(inventory, request, room, rank)
    return refusal(inventory, request) if spots is None else spots


def fill(
    inventory: Inventory, request: Request, room: Ints, rank: npt.NDArray[np.generic]
) -> tuple[Spot, ...] | None:
    """Nodes with ``room``, lowest ``rank`` first, and their devices; None where it does not fit."""
    counts = share_out(
        room,
        request.replicas,
        rank,
        together=_levels_from(inventory, request.together),
        required=request.together_required,
        apart=_level(inventory, request.spread),
    )
    if counts is None:
        return None
    return tuple(
        _spot(inventory, request, int(row), int(counts[row])) for row in np.flatnonzero(counts)
    )


def rooms(inventory: Inventory, request: Request) -> Ints:
    """(n): replicas of ``request`` that each node holds by itself, at most all of them."""
    amounts = request.amounts
    usable = usable_nodes(inventory, request)
    if amounts.mig:
        units, each = _free_instances(inventory, amounts.mig[0][0]), amounts.mig[0][1]
    else:
        units = _free_devices(
            inventory.gpu_milli,
            inventory.gpu_memory_bytes,
            min(amounts.gpu_milli, GPU_MILLI),
            amounts.gpu_memory_bytes,
        )
        each = amounts.gpus
    return _rooms(
        usable,
        units,
        inventory.cpu_milli,
        inventory.memory_bytes,
        each,
        amounts.cpu_milli,
        amounts.memory_bytes,
        request.replicas,
    )


def usable_nodes(inventory: Inventory, request: Request) -> Flags:
    """(n): open nodes of the pools and accelerators that ``request`` allows."""
    if not request.pools and not request.accelerators:
        return inventory.open
    usable: Flags = inventory.open & inventory.pools_for(request)[inventory.pool]
    return usable


@compiled
def _free_devices(gpu_milli: Ints, gpu_memory: Ints, milli: int, memory: int) -> Ints:
    """(n): how often ``milli`` thousandths of one device, and memory on it, are free."""
    units = np.zeros(gpu_milli.shape[0], dtype=np.int64)
    if milli == 0:
        return units
    for row in range(gpu_milli.shape[0]):
        for device in range(gpu_milli.shape[1]):
            fits = gpu_milli[row, device] // milli
            if memory > 0:
                fits = min(fits, gpu_memory[row, device] // memory)
            units[row] += fits
    return units


@compiled
def _rooms(
    usable: Flags,
    units: Ints,
    cpu: Ints,
    memory: Ints,
    each: int,
    need_cpu: int,
    need_memory: int,
    most: int,
) -> Ints:
    room = np.zeros(usable.size, dtype=np.int64)
    for row in range(usable.size):
        if usable[row]:
            fits = most
            if each > 0:
                fits = min(fits, units[row] // each)
            if need_cpu > 0:
                fits = min(fits, cpu[row] // need_cpu)
            if need_memory > 0:
                fits = min(fits, memory[row] // need_memory)
            room[row] = max(fits, 0)
    return room


def _free_instances(inventory: Inventory, profile: str) -> Ints:
    """(n): MIG instances of ``profile`` that are free, or would be once a device is partitioned."""
    if profile not in inventory.profiles:
        return np.zeros(len(inventory.names), dtype=np.int64)
    p = inventory.profiles.index(profile)
    best = np.where(inventory.allowed, inventory.geometries[:, p], 0).max(axis=1)
    empty = inventory.gpu_milli == GPU_MILLI
    free: Ints = (inventory.instances[:, :, p] + empty * best[inventory.pool][:, None]).sum(axis=1)
    return free


def tightness(inventory: Inventory) -> Floats:
    """(n): the least free first: GPUs, then CPUs."""
    most = 1.0 + float(np.max(inventory.cpu_milli, initial=0))
    found: Floats = inventory.gpu_milli.sum(axis=1) + inventory.cpu_milli / most
    return found


def share_out(
    room: Ints,
    replicas: int,
    rank: npt.NDArray[np.generic],
    *,
    together: Ints | None = None,
    required: bool = False,
    apart: Ints | None = None,
) -> Ints | None:
    """(n): replicas on each node, lowest rank first; None where they cannot all be placed.

    ``together`` (levels, n): domains that hold the gang, tried from the nearest level; only that
    one where it is ``required``. ``apart`` (n): domains of which each holds one replica at most.
    """
    if apart is not None:
        room = _one_a_domain(room, rank, apart)
    if int(room.sum()) < replicas:
        return None
    keys = [rank]
    if together is not None:
        inside = _inside(room, replicas, together[:1] if required else together)
        if inside is not None:
            room = np.where(inside, room, 0)
        elif required:
            return None
        else:  # in as few domains as will do
            keys.append(-_totals(room, together[0])[together[0]])
    order = np.lexsort(keys)
    before = np.cumsum(room[order]) - room[order]
    counts = np.zeros_like(room)
    counts[order] = np.clip(replicas - before, 0, room[order])
    return counts


def _totals(room: Ints, domain: Ints) -> Ints:
    """Replicas that each domain holds; behind them, for ``NOWHERE``, none."""
    known = domain != NOWHERE
    most = int(np.max(domain, initial=0)) + 2
    return np.bincount(domain[known], room[known], most).astype(np.int64)


def _inside(room: Ints, replicas: int, levels: Ints) -> Flags | None:
    """Nodes of the smallest domain that holds the gang, of the nearest level that has one."""
    for domain in levels:
        totals = _totals(room, domain)
        enough = np.flatnonzero(totals >= replicas)
        if enough.size:
            found: Flags = domain == enough[np.argmin(totals[enough])]
            return found
    return None


def _one_a_domain(room: Ints, rank: npt.NDArray[np.generic], domain: Ints) -> Ints:
    """Room for one replica on the first node of each domain; none where the domain is unknown."""
    rows = np.flatnonzero((room > 0) & (domain != NOWHERE))
    rows = rows[np.argsort(rank[rows], kind="stable")]
    _, first = np.unique(domain[rows], return_index=True)
    one = np.zeros_like(room)
    one[rows[first]] = 1
    return one


def _level(inventory: Inventory, level: str) -> Ints | None:
    """(n): the domain of each node at ``level``; each in none where no pool has the level."""
    if not level:
        return None
    if level not in inventory.levels:
        return np.full(len(inventory.names), NOWHERE, dtype=np.int64)
    found: Ints = inventory.domains[inventory.levels.index(level)]
    return found


def _levels_from(inventory: Inventory, level: str) -> Ints | None:
    """(levels, n): the domains at ``level`` and at those farther out."""
    first = _level(inventory, level)
    if first is None or level not in inventory.levels:
        return None if first is None else first[None]
    found: Ints = inventory.domains[inventory.levels.index(level) :]
    return found


def _spot(inventory: Inventory, request: Request, row: int, replicas: int) -> Spot:
    amounts = request.amounts
    if amounts.mig:
        profile, each = amounts.mig[0]
        devices, geometries = instances_of(inventory, row, profile, replicas * each)
        return Spot(row=row, replicas=replicas, devices=devices, geometries=geometries)
    if amounts.gpu_milli % GPU_MILLI:
        return Spot(row=row, replicas=replicas, devices=_shares(inventory, request, row, replicas))
    enough = inventory.gpu_memory_bytes[row] >= amounts.gpu_memory_bytes
    whole = np.flatnonzero((inventory.gpu_milli[row] == GPU_MILLI) & enough)
    return Spot(
        row=row, replicas=replicas, devices=tuple(whole[: replicas * amounts.gpus].tolist())
    )


def spot_of(inventory: Inventory, request: Request, row: int, device: int) -> Spot:
    """One replica on a node; ``device`` counts for a share."""
    if request.amounts.gpu_milli % GPU_MILLI:
        return Spot(row=row, replicas=1, devices=(device,))
    return _spot(inventory, request, row, 1)


def _shares(inventory: Inventory, request: Request, row: int, replicas: int) -> tuple[int, ...]:
    """The device of each replica: the fullest that still holds it."""
    milli, memory = request.amounts.gpu_milli, request.amounts.gpu_memory_bytes
    free, free_memory = inventory.gpu_milli[row].copy(), inventory.gpu_memory_bytes[row].copy()
    devices: list[int] = []
    for _ in range(replicas):
        fits = (free >= milli) & (free_memory >= memory)
        device = int(np.argmin(np.where(fits, free, 2 * GPU_MILLI)))
        free[device] -= milli
        free_memory[device] -= memory
        devices.append(device)
    return tuple(devices)


def instances_of(
    inventory: Inventory, row: int, profile: str, count: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Devices and geometries of ``count`` instances: first of what is partitioned already."""
    p = inventory.profiles.index(profile)
    usable = inventory.allowed[inventory.pool[row]]
    best = int(np.argmax(np.where(usable, inventory.geometries[:, p], -1)))
    most = int(inventory.geometries[best, p])
    free = inventory.instances[row, :, p]
    there = sorted(np.flatnonzero(free), key=lambda d: (inventory.instances[row, d].sum(), d))
    empty = np.flatnonzero(inventory.gpu_milli[row] == GPU_MILLI)
    found = [(int(d), int(inventory.geometry[row, d])) for d in there for _ in range(free[d])]
    found += [(int(d), best) for d in empty for _ in range(most)]
    devices, geometries = zip(*found[:count], strict=True)
    return devices, geometries


def refusal(inventory: Inventory, request: Request) -> Refused:
    """What binds: the resources, or else the level, without which the gang would fit."""
    if not usable_nodes(inventory, request).any():
        message = "no open node of the pools and accelerators allowed"
        return Refused(reason=Reason.NO_OPTION, message=message, binds=("nodes",))
    binds = _short(inventory, request)
    if binds:
        message = f"{_wanted(request)}: {_lets_in(inventory, request, binds)}"
    else:
        binds = tuple(dict.fromkeys(filter(None, (request.together, request.spread))))
        message = f"{_wanted(request)}: room for all, not as {' and '.join(binds)} asks"
    fits = _fits(inventory.emptied(), request)
    return Refused(
        reason=Reason.CAPACITY if fits else Reason.NO_OPTION, message=message, binds=binds
    )


def _fits(inventory: Inventory, request: Request) -> bool:
    room = rooms(inventory, request)
    counts = share_out(
        room,
        request.replicas,
        room,
        together=_levels_from(inventory, request.together),
        required=request.together_required,
        apart=_level(inventory, request.spread),
    )
    return counts is not None


def _short(inventory: Inventory, request: Request) -> tuple[str, ...]:
    """Resources that bind: each too little by itself, or else each enough if it did not count."""
    if _enough(inventory, request, request.amounts):
        return ()
    parts = _parts(request.amounts)
    alone = [what for what, part in parts.items() if not _enough(inventory, request, part)]
    if alone:
        return tuple(alone)
    rest = {what: _without(request.amounts, what) for what in parts}
    beside = [what for what, part in rest.items() if _enough(inventory, request, part)]
    return tuple(beside or parts)


def _enough(inventory: Inventory, request: Request, amounts: Amounts) -> bool:
    return int(rooms(inventory, replace(request, amounts=amounts)).sum()) >= request.replicas


def _parts(amounts: Amounts) -> dict[str, Amounts]:
    """What is asked of each resource alone; device memory with the devices that it is on."""
    found = {
        "gpu": Amounts(gpu_milli=amounts.gpu_milli),
        "mig": Amounts(mig=amounts.mig),
        "gpu-memory": Amounts(
            gpu_milli=amounts.gpu_milli, gpu_memory_bytes=amounts.gpu_memory_bytes
        ),
        "cpu": Amounts(cpu_milli=amounts.cpu_milli),
        "memory": Amounts(memory_bytes=amounts.memory_bytes),
    }
    if not amounts.gpu_memory_bytes:
        del found["gpu-memory"]
    return {what: part for what, part in found.items() if part != Amounts()}


def _without(amounts: Amounts, what: str) -> Amounts:
    if what == "cpu":
        return replace(amounts, cpu_milli=0)
    if what == "memory":
        return replace(amounts, memory_bytes=0)
    if what == "gpu-memory":
        return replace(amounts, gpu_memory_bytes=0)
    return replace(amounts, gpu_milli=0, gpu_memory_bytes=0, mig=())


def _wanted(request: Request) -> str:
    """The request as a person would say it."""
    amounts = request.amounts
    words = {
        f"{amounts.gpu_milli / GPU_MILLI:g} GPU": amounts.gpu_milli,
        f"{amounts.gpu_memory_bytes / GIB:g} GiB on each": amounts.gpu_memory_bytes,
        " ".join(f"{count} x {profile}" for profile, count in amounts.mig): len(amounts.mig),
        f"{amounts.cpu_milli / 1000:g} CPU": amounts.cpu_milli,
        f"{amounts.memory_bytes / GIB:g} GiB": amounts.memory_bytes,
    }
    each = ", ".join(text for text, amount in words.items() if amount)
    return f"{request.replicas} x ({each})" if request.replicas > 1 else each


def _lets_in(inventory: Inventory, request: Request, binds: tuple[str, ...]) -> str:
    """How many replicas each resource that binds has room for."""
    parts = _parts(request.amounts)
    said = []
    for what in binds:
        asked = replace(request, amounts=parts[what])
        said.append(f"{what} for {int(rooms(inventory, asked).sum())} of {request.replicas}")
    if "gpu" not in binds:
        return f"room by {', by '.join(said)}"
    free = inventory.gpu_milli[usable_nodes(inventory, request)]
    whole = int(np.max((free == GPU_MILLI).sum(axis=1), initial=0))
    pieces = f"{free.sum() / GPU_MILLI:g} GPU free in all, {whole} whole on one node at most"
    return f"room by {', by '.join(said)}; {pieces}"
