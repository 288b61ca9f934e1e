"""What is free of every node at an instant, in columns.

A row a node, a column a resource; of GPUs a row has one number a device. The same columns say what
is free over a stretch of time, when each holds the least that is free in it. An `Inventory` and
`planner.occupancy.Occupancy` are the mutable values of the planner: this one for one instant,
that one over time.

A device is *whole*, *shared* in thousandths with its memory, or *partitioned* into the MIG
instances of one geometry. An empty device is whole: it may become either, and so may be
repartitioned. Which geometry it gets is part of the decision, so that `take` and `release` are
exact inverses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from planner.plan import Placement
from planner.problem import GPU_MILLI, Amounts, Node, Pool
from planner.topology import HOSTNAME, NOWHERE, domains

WHOLE = -1  # the geometry of a device that is not partitioned

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A gang: ``replicas`` times ``amounts``, all of them or none.

    ``amounts`` are whole GPUs of one node, or a share of one device, or instances of one MIG
    profile. Empty ``pools`` and ``accelerators`` allow any.
    """

    amounts: Amounts
    replicas: int = 1
    pools: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    together: str = ""  # topology level that holds the gang, or empty
    together_required: bool = False
    spread: str = ""  # topology level that no two replicas share, or empty

    def __post_init__(self) -> None:
        amounts = self.amounts
        if self.replicas < 1:
            raise ValueError("a request is for one replica at least")
        if amounts.gpu_milli > GPU_MILLI and amounts.gpu_milli % GPU_MILLI:
            raise ValueError(f"{amounts.gpu_milli} GPU thousandths: neither whole GPUs nor a share")
        if len(amounts.mig) > 1 or (amounts.mig and amounts.gpu_milli):
            raise ValueError("a replica takes GPUs, or instances of one MIG profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Replicas of a request on one node."""

    row: int
    replicas: int
    devices: tuple[int, ...] = ()  # what each replica touches, in turn; shares may repeat one
    geometries: tuple[int, ...] = ()  # MIG: of each of these devices, a row of ``geometries``


@dataclass(slots=True, kw_only=True, eq=False)
class Inventory:
    """What is free: n nodes, d devices a node at most, p MIG profiles.

    The columns above the line change with `take` and `release`; a `copy` shares those below it.
    """

    cpu_milli: Ints  # (n)
    memory_bytes: Ints  # (n)
    gpu_milli: Ints  # (n, d); 0 where a device is missing, unhealthy or partitioned
    gpu_memory_bytes: Ints  # (n, d)
    geometry: Ints  # (n, d); a row of ``geometries``, or WHOLE
    instances: Ints  # (n, d, p); free in a partitioned device
    touched: Ints  # (n); the ``tick`` of the last change
    tick: int = 0
    # ----
    names: tuple[str, ...]
    row_of: dict[str, int]
    pools: tuple[str, ...]
    accelerators: tuple[str, ...]  # of each pool
    pool: Ints  # (n); an index into ``pools``
    open: Flags  # (n); there, and not cordoned
    devices: Flags  # (n, d); there, and healthy
    whole: tuple[Ints, Ints, Ints]  # (n) each: CPU, memory, memory of a device, with all free
    levels: tuple[str, ...]  # of the topology, near to far
    domains: Ints  # (levels, n); equal numbers are one domain
    profiles: tuple[str, ...]  # of MIG
    geometries: Ints  # (geometries, p); instances of each profile
    allowed: Flags  # (pools, geometries)
    stated: Ints  # (pools, geometries); where `Pool.mig_geometries` has it, or -1

    @classmethod
    def of(cls, nodes: Sequence[Node], pools: Sequence[Pool], slot: int | None = None) -> Inventory:
        """All of ``nodes`` free. With ``slot``, a node that is not there during it is closed."""
        number = {p.name: i for i, p in enumerate(pools)}
        levels, of_level = _topology(nodes, pools)
        profiles, geometries, stated = _mig(pools)
        devices = _healthy(nodes)
        cpu = np.array([n.capacity.cpu_milli for n in nodes], dtype=np.int64)
        memory = np.array([n.capacity.memory_bytes for n in nodes], dtype=np.int64)
        gpu_memory = np.array([n.capacity.gpu_memory_bytes for n in nodes], dtype=np.int64)
        there = [
            not n.cordoned and (slot is None or n.index < pools[number[n.pool]].nodes_at(slot))
            for n in nodes
        ]
        return cls(
            cpu_milli=cpu.copy(),
            memory_bytes=memory.copy(),
            gpu_milli=devices * np.int64(GPU_MILLI),
            gpu_memory_bytes=devices * gpu_memory[:, None],
            geometry=np.full(devices.shape, WHOLE, dtype=np.int64),
            instances=np.zeros((*devices.shape, len(profiles)), dtype=np.int64),
            touched=np.zeros(len(nodes), dtype=np.int64),
            names=tuple(n.name for n in nodes),
            row_of={n.name: row for row, n in enumerate(nodes)},
            pools=tuple(number),
            accelerators=tuple(p.accelerator for p in pools),
            pool=np.array([number[n.pool] for n in nodes], dtype=np.int64),
            open=np.array(there, dtype=bool),
            devices=devices,
            whole=(cpu, memory, gpu_memory),
            levels=levels,
            domains=of_level,
            profiles=profiles,
            geometries=geometries,
            allowed=stated >= 0,
            stated=stated,
        )

    def pools_for(self, request: Request) -> Flags:
        """(pools): whether ``request`` may run there, by name and by accelerator."""
        return np.array(
            [
                (not request.pools or pool in request.pools)
                and (not request.accelerators or accelerator in request.accelerators)
                for pool, accelerator in zip(self.pools, self.accelerators, strict=True)
            ],
            dtype=bool,
        )

    def copy(self) -> Inventory:
        """One that changes apart from this: a what-if costs the columns of what is free."""
        return replace(
            self,
            cpu_milli=self.cpu_milli.copy(),
            memory_bytes=self.memory_bytes.copy(),
            gpu_milli=self.gpu_milli.copy(),
            gpu_memory_bytes=self.gpu_memory_bytes.copy(),
            geometry=self.geometry.copy(),
            instances=self.instances.copy(),
            touched=self.touched.copy(),
        )

    def emptied(self) -> Inventory:
        """The same nodes with all of it free."""
        cpu, memory, gpu_memory = self.whole
        return replace(
            self,
            cpu_milli=cpu.copy(),
            memory_bytes=memory.copy(),
            gpu_milli=self.devices * np.int64(GPU_MILLI),
            gpu_memory_bytes=self.devices * gpu_memory[:, None],
            geometry=np.full_like(self.geometry, WHOLE),
            instances=np.zeros_like(self.instances),
            touched=np.zeros_like(self.touched),
            tick=0,
        )

    def take(self, request: Request, spots: Iterable[Spot]) -> None:
        """Use ``spots``, as `planner.place.place` gave them for ``request``."""
        for spot in spots:
            self._add(request.amounts, spot, -1)

    def release(self, request: Request, spots: Iterable[Spot]) -> None:
        """Undo `take`."""
        for spot in spots:
            self._add(request.amounts, spot, 1)

    def _add(self, amounts: Amounts, spot: Spot, sign: int) -> None:
        row = spot.row
        self.tick += 1
        self.touched[row] = self.tick
        self.cpu_milli[row] += sign * spot.replicas * amounts.cpu_milli
        self.memory_bytes[row] += sign * spot.replicas * amounts.memory_bytes
        if amounts.mig:
            profile = self.profiles.index(amounts.mig[0][0])
            for device, geometry in zip(spot.devices, spot.geometries, strict=True):
                self._add_instance(row, device, geometry, profile, sign)
            return
        for device in spot.devices:
            self.gpu_milli[row, device] += sign * min(amounts.gpu_milli, GPU_MILLI)
            self.gpu_memory_bytes[row, device] += sign * amounts.gpu_memory_bytes

    def _add_instance(self, row: int, device: int, geometry: int, profile: int, sign: int) -> None:
        """The first instance partitions the device, the last one given back makes it whole."""
        instances = self.instances[row, device]
        if self.geometry[row, device] == WHOLE:
            self.geometry[row, device] = geometry
            self.gpu_milli[row, device] = 0
            instances[:] = self.geometries[geometry]
        instances[profile] += sign
        if (instances == self.geometries[geometry]).all():
            self.geometry[row, device] = WHOLE
            self.gpu_milli[row, device] = GPU_MILLI
            instances[:] = 0

    def placements(self, spots: Iterable[Spot]) -> tuple[Placement, ...]:
        """The same by name, in the order of the rows."""
        return tuple(
            Placement(
                node=self.names[s.row],
                replicas=s.replicas,
                devices=s.devices,
                geometries=tuple(int(self.stated[self.pool[s.row], g]) for g in s.geometries),
            )
            for s in sorted(spots, key=lambda s: s.row)
        )


def _healthy(nodes: Sequence[Node]) -> Flags:
    """(n, d): whether a node has the device, in health. One not described yet is healthy."""
    most = max((n.capacity.gpu_milli // GPU_MILLI for n in nodes), default=0)
    there = np.zeros((len(nodes), most), dtype=bool)
    for row, node in enumerate(nodes):
        there[row, : node.capacity.gpu_milli // GPU_MILLI] = True
        for number, device in enumerate(node.devices):
            there[row, number] &= not device.unhealthy
    return there


def _topology(nodes: Sequence[Node], pools: Sequence[Pool]) -> tuple[tuple[str, ...], Ints]:
    """Levels near to far, the node itself the nearest, and the domain of each node at each."""
    levels = (
        HOSTNAME,
        *dict.fromkeys(x for p in pools for x in p.topology_levels if x != HOSTNAME),
    )
    found = np.full((len(levels), len(nodes)), NOWHERE, dtype=np.int64)
    found[0] = np.arange(len(nodes))
    for i, level in enumerate(levels[1:], start=1):
        begin = 0
        for pool in pools:
            rows = [row for row, node in enumerate(nodes) if node.pool == pool.name]
            local = np.array(domains(pool, [nodes[row] for row in rows], level), dtype=np.int64)
            found[i, rows] = np.where(local == NOWHERE, NOWHERE, local + begin)
            begin += len(rows)
    return levels, found


def _mig(pools: Sequence[Pool]) -> tuple[tuple[str, ...], Ints, Ints]:
    """Profiles, the instances in each geometry (the whole ones of all pools), and where each is."""
    geometries = list(dict.fromkeys(tuple(sorted(g)) for p in pools for g in p.mig_geometries))
    profiles = tuple(sorted({profile for geometry in geometries for profile in geometry}))
    counts = np.zeros((len(geometries), len(profiles)), dtype=np.int64)
    stated = np.full((len(pools), len(geometries)), -1, dtype=np.int64)
    for i, geometry in enumerate(geometries):
        counts[i] = [geometry.count(profile) for profile in profiles]
        for n, pool in enumerate(pools):
            listed = [_sorted(g) for g in pool.mig_geometries]
            stated[n, i] = listed.index(geometry) if geometry in listed else -1
    return profiles, counts, stated


def _sorted(geometry: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(geometry))
