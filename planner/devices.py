"""GPUs told apart: what a replica takes of single devices, and what is free of each over time.

A device is *whole*, taken by one replica or shared in thousandths and memory, or *partitioned* into
the MIG instances of one of its pool's geometries. It is partitioned anew only where it is empty: of
two that hold it at once, both are in one geometry or neither is in any.

Only the pools in which a job takes less than a GPU are kept so. In the others GPUs are counted:
whole ones over time are an interval graph, which can always be coloured by that many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.inventory import WHOLE, Flags, Ints, Inventory, Spot
from planner.plan import Placement
from planner.problem import GPU_MILLI, Amounts, Node, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a replica takes of devices, ``count`` times: a whole GPU, a share, or a MIG instance."""

    count: int
    milli: int = 0  # thousandths of one device
    memory_bytes: int = 0  # of its memory
    profile: str = ""  # of MIG

    def fits(self, pool: Pool, geometry: int) -> int:
        """Units that an empty device holds, whole or in one of the pool's geometries."""
        if self.profile:
            return 0 if geometry == WHOLE else pool.mig_geometries[geometry].count(self.profile)
        if geometry != WHOLE or self.memory_bytes > pool.capacity.gpu_memory_bytes:
            return 0
        by_memory = pool.capacity.gpu_memory_bytes // self.memory_bytes if self.memory_bytes else 0
        most = GPU_MILLI // self.milli
        return min(most, by_memory) if self.memory_bytes else most

    def replicas(self, pool: Pool, devices: int) -> int:
        """Replicas that this many empty devices hold."""
        states = range(WHOLE, len(pool.mig_geometries))
        return devices * max(self.fits(pool, g) for g in states) // self.count


def unit_of(amounts: Amounts) -> Unit | None:
    """The unit that replicas of ``amounts`` take; None where they take no GPU."""
    if amounts.mig:
        ((profile, count),) = amounts.mig
        return Unit(count=count, profile=profile)
    if not amounts.gpu_milli:
        return None
    return Unit(
        count=amounts.gpus,
        milli=min(amounts.gpu_milli, GPU_MILLI),
        memory_bytes=amounts.gpu_memory_bytes,
    )


def distinct_geometries(pool: Pool) -> tuple[int, ...]:
    """The pool's geometries without repetition: by row of its `Inventory`, the first that it is."""
    found: dict[tuple[str, ...], int] = {}
    for i, geometry in enumerate(pool.mig_geometries):
        found.setdefault(tuple(sorted(geometry)), i)
    return tuple(found.values())


def spot_of(pool: Pool, row: int, place: Placement) -> Spot:
    """A plan's placement on the node of ``row``, as `Inventory` has it."""
    stated = [sorted(pool.mig_geometries[i]) for i in distinct_geometries(pool)]
    return Spot(
        row=row,
        replicas=place.replicas,
        devices=place.devices,
        geometries=tuple(stated.index(sorted(pool.mig_geometries[g])) for g in place.geometries),
    )


class Devices:
    """What is free of each device of a pool, in the columns of time that `Occupancy` keeps.

    ``milli``, ``memory`` and ``geometry`` have shape (nodes, devices, columns), ``instances``
    (nodes, devices, profiles, columns): as in `Inventory`, of which each column is one.
    """

    def __init__(self, pool: Pool, nodes: Sequence[Node], columns: int) -> None:
        self.empty = Inventory.of(nodes, [pool])
        self.milli = _repeated(self.empty.gpu_milli, columns)
        self.memory = _repeated(self.empty.gpu_memory_bytes, columns)
        self.geometry = _repeated(self.empty.geometry, columns)
        self.instances = _repeated(self.empty.instances, columns)

    def split(self, column: int) -> None:
        """A column more, like the one before it."""
        for name in ("milli", "memory", "geometry", "instances"):
            kept = getattr(self, name)
            setattr(self, name, np.insert(kept, column, kept[..., column - 1], axis=-1))

    def keep(self, columns: Flags) -> None:
        """Only these columns."""
        for name in ("milli", "memory", "geometry", "instances"):
            setattr(self, name, getattr(self, name)[..., columns])

    def differs(self) -> Flags:
        """(columns - 1): whether each column says something else than the one before it."""
        changed: Flags = np.zeros(self.milli.shape[-1] - 1, dtype=bool)
        for kept in (self.milli, self.memory, self.geometry):
            changed |= np.any(np.diff(kept, axis=-1) != 0, axis=(0, 1))
        changed |= np.any(np.diff(self.instances, axis=-1) != 0, axis=(0, 1, 2))
        return changed

    def least(self, first: int, end: int, usable: Flags, cpu: Ints, memory: Ints) -> Inventory:
        """The least that is free over columns [first, end), as what is free at an instant.

        ``usable`` nodes only, which have ``cpu`` and host ``memory`` free.
        """
        geometry = self.geometry[..., first:end]
        milli = self.milli[..., first:end]
        parts = geometry != WHOLE
        state = geometry.max(axis=-1)
        shared = ~parts & (milli < GPU_MILLI)
        clash = (shared | (parts & (geometry != state[..., None]))).any(axis=-1)
        instances = np.where(parts[:, :, None], self.instances[..., first:end], GPU_MILLI)
        free = (state != WHOLE) & ~clash
        return replace(
            self.empty,
            cpu_milli=cpu,
            memory_bytes=memory,
            gpu_milli=milli.min(axis=-1),
            gpu_memory_bytes=self.memory[..., first:end].min(axis=-1),
            geometry=np.where(free, state, WHOLE),
            instances=np.where(free[..., None], instances.min(axis=-1), 0),
            touched=self.empty.touched.copy(),
            open=self.empty.open & usable,
        )

    def add(self, amounts: Amounts, spots: Iterable[Spot], first: int, end: int, sign: int) -> None:
        """Take (-1) or give back (1) what replicas of ``amounts`` hold over [first, end)."""
        for spot in spots:
            if amounts.mig:
                profile = self.empty.profiles.index(amounts.mig[0][0])
                for device, geometry in zip(spot.devices, spot.geometries, strict=True):
                    self._add_instance(spot.row, device, geometry, profile, first, end, sign)
                continue
            for device in spot.devices:
                milli = min(amounts.gpu_milli, GPU_MILLI)
                self.milli[spot.row, device, first:end] += sign * milli
                self.memory[spot.row, device, first:end] += sign * amounts.gpu_memory_bytes

    def _add_instance(
        self, row: int, device: int, geometry: int, profile: int, first: int, end: int, sign: int
    ) -> None:
        """The first instance partitions the device, the last one given back makes it whole."""
        state = self.geometry[row, device, first:end]
        milli = self.milli[row, device, first:end]
        instances = self.instances[row, device, :, first:end]
        all_of_it = self.empty.geometries[geometry][:, None]
        fresh = state == WHOLE
        state[fresh], milli[fresh] = geometry, 0
        instances[:, fresh] = all_of_it
        instances[profile] += sign
        empty = (instances == all_of_it).all(axis=0)
        state[empty], milli[empty] = WHOLE, GPU_MILLI
        instances[:, empty] = 0


def _repeated(column: Ints, columns: int) -> Ints:
    return np.repeat(column[..., None], columns, axis=-1)
