"""Which MIG instance each replica holds, once its device and the geometry of that are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest

from planner import cost
from planner.inventory import WHOLE
from planner.plan import Placement, Segment
from planner.problem import Mode, Problem


def name_instances(problem: Problem, made: Iterable[Segment]) -> tuple[Segment, ...]:
    """In order of start, each segment on MIG with the lowest free instances of its devices.

    A service keeps those that it has, while its mode is the same.

    Instances of one profile on a device over time are an interval graph, as whole GPUs are.
    """
    ordered = tuple(sorted(made, key=lambda s: (s.start, s.job)))
    if not any(pool.mig_geometries for pool in problem.pools):
        return ordered
    busy: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)  # device -> instance -> until
    had: dict[tuple[str, int, str, int], Placement] = {}  # by job, mode, node and until when
    named: list[Segment] = []
    for _, group in groupby(ordered, key=lambda s: s.start):
        together = list(group)
        kept = {
            (s.job, s.mode, p.node): _kept_instances(p, had.get((s.job, s.mode, p.node, s.start)))
            for s in together
            for p in s.placement
        }
        for s in together:
            for p in s.placement:
                for device, instance in zip(p.devices, kept[s.job, s.mode, p.node], strict=True):
                    if instance is not None:
                        busy[p.node, device][instance] = s.end
        for s in together:
            mode = cost.mode_of(problem, s)
            geometries = problem.pool_by_name[mode.pool].mig_geometries
            places = tuple(
                _name_instances(mode, geometries, s, p, kept[s.job, s.mode, p.node], busy)
                for p in s.placement
            )
            had |= {(s.job, s.mode, p.node, s.end): p for p in places}
            named.append(replace(s, placement=places))
    return tuple(named)


def _kept_instances(p: Placement, had: Placement | None) -> list[int | None]:
    """For each of the devices, the instance that the job had there, if any."""
    left: dict[tuple[int, int], list[int]] = defaultdict(list)
    if had is not None:
        for device, geometry, instance in zip(
            had.devices, had.geometries, had.instances, strict=False
        ):
            left[device, geometry].append(instance)
    wanted = zip_longest(p.devices, p.geometries, fillvalue=WHOLE)
    return [left[at].pop(0) if left[at] else None for at in wanted]


def _name_instances(
    mode: Mode,
    geometries: Sequence[Sequence[str]],
    s: Segment,
    p: Placement,
    kept: Sequence[int | None],
    busy: dict[tuple[str, int], dict[int, int]],
) -> Placement:
    if not p.geometries:
        return p
    ((profile, _),) = mode.amounts.mig
    instances = []
    for device, geometry, instance in zip(p.devices, p.geometries, kept, strict=True):
        until = busy[p.node, device]
        fits = (i for i, name in enumerate(geometries[geometry]) if name == profile)
        named = (
            next(i for i in fits if until.get(i, 0) <= s.start) if instance is None else instance
        )
        until[named] = s.end
        instances.append(named)
    return replace(p, instances=tuple(instances))
