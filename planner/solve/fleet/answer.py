"""What the search found, as a `Plan`: nodes named, costs added up anew, reasons and prices said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from planner import cost
from planner.plan import Placement, Price, QueuePrice, Reason, Segment, Unplaced
from planner.problem import GPU_MILLI, Job, Mode, Problem, Work, work_left
from planner.quotas import caps
from planner.reasons import guarantees_in_the_way, why_not
from planner.solve.fleet.columns import Columns, Floats, Ints
from planner.solve.fleet.naming import Item, Known, Places, layers, name
from planner.solve.fleet.parting import Cut, works
from planner.table import build as tabulate

LEAST_PRICE = 1e-4  # USD per GPU-hour that are worth a line
SAME_PRICE = 0.005  # of the price: less is one line


Parts = Sequence[tuple[Item, Places]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Where each job's replicas are, by job number, and for whom the nodes had no room."""

    placed: Mapping[int, Parts]
    failed: tuple[int, ...]
    known: Known
    cuts: Mapping[int, Cut]  # of jobs that change their mode


def named(
    problem: Problem,
    c: Columns,
    mode: Ints,
    start: Ints,
    known: Known,
    cuts: Mapping[int, Cut] = MappingProxyType({}),
) -> Named:
    """Nodes for every job that is placed, as they are ``known`` where they can be.

    Jobs with ``cuts`` are where these say, whatever ``mode`` and ``start`` do.
    """
    whole = mode >= 0
    whole[list(cuts)] = False
    there = np.flatnonzero(whole)
    of_job: dict[int, list[tuple[Item, Places]]] = {j: [] for j in sorted({*there.tolist(), *cuts})}
    m = c.modes[mode[there]]
    columns = (there, mode[there], start[there], m["number"], m["length"], m["profile"])
    items: list[Item] = []
    for row in zip(*(column.tolist() for column in columns), strict=True):
        items += _items(problem, c, *row)
    for j, cut in cuts.items():
        items += _pieces(problem, c, j, cut)
    places, known = name(problem, items, known)
    failed: dict[int, None] = {}
    for item, place in zip(items, places, strict=True):
        if place is None:
            failed[item.job] = None
        else:
            of_job[item.job].append((item, place))
    for j in failed:
        del of_job[j]
    return Named(placed=of_job, failed=tuple(failed), known=known, cuts=cuts)


def segments(problem: Problem, c: Columns, mode: Ints, start: Ints, named: Named) -> list[Segment]:
    """What runs, job by job."""
    found: list[Segment] = []
    chosen, starts = mode.tolist(), start.tolist()
    for j, parts in named.placed.items():
        if j in named.cuts:
            found += _changing(problem, c, j, named.cuts[j], parts)
        else:
            found += _segments(problem, c, j, chosen[j], starts[j], parts)
    return found


def _pieces(problem: Problem, c: Columns, j: int, cut: Cut) -> Iterator[Item]:
    job = problem.jobs[j]
    for i, first, end in ((cut.a, cut.start, cut.change), (cut.b, cut.change, cut.end)):
        mode = job.modes[int(c.modes["number"][i])]
        yield Item(job=j, name=job.name, mode=mode, start=first, end=end, replicas=mode.replicas)


def _changing(problem: Problem, c: Columns, j: int, cut: Cut, parts: Parts) -> Iterator[Segment]:
    """The two pieces of a job that changes its mode."""
    job, brought = problem.jobs[j], ""
    for n, (i, work) in enumerate(zip(cut[:2], works(problem, c, j, cut), strict=True)):
        (item, places), number = parts[n], int(c.modes["number"][i])
        yield Segment(
            job=job.name,
            mode=number,
            replicas=item.replicas,
            start=item.start,
            end=item.end,
            work=work,
            placement=places,
            restart_seconds=job.interruption.restart_seconds if n else 0.0,
            save_seconds=0.0 if n else job.interruption.save_seconds,
            egress_usd=0.0 if item.mode.pool == brought else float(c.modes["egress_usd"][i]),
        )
        brought = item.mode.pool


def _items(
    problem: Problem, c: Columns, j: int, i: int, start: int, number: int, length: int, profile: int
) -> Iterator[Item]:
    name, mode, end = problem.jobs[j].name, problem.jobs[j].modes[number], start + length
    if profile < 0:
        yield Item(
            job=j,
            name=name,
            mode=mode,
            start=start,
            end=end,
            replicas=mode.replicas,
            held=problem.running_by_job[name].nodes if problem.running and _goes_on(c, i) else (),
        )
        return
    replicas = _replicas(c, i)[start:end]
    if _tied(mode) and any(replicas):
        yield Item(job=j, name=name, mode=mode, start=start, end=end, replicas=max(replicas))
        return
    for first, last, count in layers(replicas, start):
        yield Item(job=j, name=name, mode=mode, start=first, end=last, replicas=count, layer=True)


def _goes_on(c: Columns, i: int) -> bool:
    """Whether a job in mode ``i`` stays on the nodes that it runs on."""
    extra = int(c.modes["extra"][i])
    return extra >= 0 and bool(c.extras["held"][extra])


def _tied(mode: Mode) -> bool:
    """Whether where one replica may be depends on where the others are."""
    return mode.together_required or bool(mode.spread)


def _replicas(c: Columns, i: int) -> list[int]:
    """Replicas of a service by slot."""
    found: list[int] = c.replicas[c.modes["profile"][i]].tolist()
    return found


def _segments(
    problem: Problem, c: Columns, j: int, i: int, start: int, parts: Parts
) -> Iterator[Segment]:
    """One for batch work; for a service one each time that its replicas change, be they none."""
    m, job = c.modes[i], problem.jobs[j]
    number, length, egress = int(m["number"]), int(m["length"]), float(m["egress_usd"])
    running = problem.running_by_job.get(job.name)
    if running is not None and isinstance(job.need, Work):
        kept = _goes_on(c, i)
        yield Segment(
            job=job.name,
            mode=number,
            replicas=job.modes[number].replicas,
            start=start,
            end=start + length,
            work=work_left(problem, job, kept=kept),
            placement=parts[0][1],
            restart_seconds=0.0 if kept else job.interruption.restart_seconds,
            redone_work=0.0 if kept else running.work_since_checkpoint,
            egress_usd=egress,
        )
        return
    mode, edges = job.modes[number], [start, start + length]
    wanted = {start: mode.replicas}
    if m["profile"] >= 0:
        wanted = dict(enumerate(_replicas(c, i)))
        edges[1:1] = [t for t in range(start + 1, edges[1]) if wanted[t] != wanted[t - 1]]
    for first, end, places in _stretches(edges, parts):
        yield Segment(
            job=job.name,
            mode=number,
            replicas=wanted[first],
            start=first,
            end=end,
            work=cost.served(problem, job, first, end),
            placement=_first(places, wanted[first], mode.amounts.gpus) if _tied(mode) else places,
            egress_usd=egress if first == start else 0.0,
        )


def _stretches(edges: Sequence[int], parts: Parts) -> Iterator[tuple[int, int, Places]]:
    """From edge to edge, where the parts that are there then have their replicas."""
    if len(parts) == 1 and parts[0][0].end - parts[0][0].start == edges[-1] - edges[0]:
        yield from ((first, end, parts[0][1]) for first, end in pairwise(edges))
        return
    change: dict[int, list[tuple[bool, Places]]] = defaultdict(list)
    for item, places in parts:
        change[item.start].append((True, places))
        change[item.end].append((False, places))
    there: dict[str, list[Placement]] = defaultdict(list)
    together: dict[str, Placement] = {}
    for first, end in pairwise(edges):
        changed: set[str] = set()
        for comes, places in change[first]:
            for place in places:
                changed.add(place.node)
                if comes:
                    there[place.node].append(place)
                else:
                    there[place.node].remove(place)
        for node in changed:
            together.pop(node, None)
            if there[node]:
                together[node] = _together(there[node])
        yield first, end, tuple(together[node] for node in sorted(together))


def _first(places: Places, replicas: int, gpus: int) -> Places:
    """The first ``replicas`` of ``places``: fewer are always some of more."""
    found = []
    for place in places:
        here = min(replicas, place.replicas)
        replicas -= here
        if here:
            devices, states = place.devices[: here * gpus], place.geometries[: here * gpus]
            found.append(replace(place, replicas=here, devices=devices, geometries=states))
    return tuple(found)


def _together(parts: Sequence[Placement]) -> Placement:
    """Placements on one node as one."""
    if len(parts) == 1:
        return parts[0]
    pairs = sorted(pair for p in parts for pair in zip(p.devices, p.geometries, strict=False))
    return Placement(
        node=parts[0].node,
        replicas=sum(p.replicas for p in parts),
        devices=tuple(sorted(d for p in parts for d in p.devices)),
        geometries=tuple(g for _, g in pairs),
    )


# -- prices ----------------------------------------------------------------------------------------


def prices(problem: Problem, values: Floats) -> tuple[Price, ...]:
    """Shadow prices of the pools from ``values`` (R, T), in lines of about one price."""
    found = []
    for p, pool in enumerate(problem.pools):
        by_hour = values[p] * GPU_MILLI / problem.grid.slot_hours
        for start, end, usd in lines(by_hour):
            found.append(Price(pool=pool.name, start=start, end=end, usd_per_gpu_hour=usd))
    return tuple(found)


def lines(values: Floats) -> Iterator[tuple[int, int, float]]:
    """Runs of about equal values above `LEAST_PRICE`: (first, end, mean)."""
    begin = 0
    for t in range(1, values.size + 1):
        near = t < values.size and abs(values[t] - values[begin]) <= SAME_PRICE * max(
            values[begin], values[t]
        )
        if not near:
            mean = float(values[begin:t].mean())
            if mean > LEAST_PRICE:
                yield begin, t, mean
            begin = t


def queue_prices(problem: Problem, values: Floats) -> tuple[QueuePrice, ...]:
    """What one more GPU of a limit, or one kept back less, over the whole grid saves by hour."""
    by_hour = values[len(problem.pools) :].mean(axis=1) * GPU_MILLI / problem.grid.slot_hours
    return tuple(
        QueuePrice(queue=cap.queue, what=cap.accelerator, usd=float(usd), keepers=cap.keepers)
        for cap, usd in zip(caps(problem), by_hour, strict=True)
        if usd > LEAST_PRICE
    )


# -- reasons ---------------------------------------------------------------------------------------


def unplaced(problem: Problem, c: Columns, placed: Mapping[int, object]) -> tuple[Unplaced, ...]:
    """Why each job that is left out is."""
    out = [j for j in range(len(problem.jobs)) if j not in placed]
    impossible = [j for j in out if c.jobs["first"][j] == c.jobs["end"][j]]
    found = list(_impossible(problem, [problem.jobs[j] for j in impossible]))
    known = set(impossible)
    found += [_crowded_out(problem, c, placed, j) for j in out if j not in known]
    return tuple(sorted(found, key=lambda u: u.job))


def _impossible(problem: Problem, jobs: Sequence[Job]) -> Iterator[Unplaced]:
    """Jobs without an option have their reason whoever else runs."""
    if not jobs:
        return
    alone = tuple(replace(job, after=()) for job in jobs)
    names = {job.name for job in jobs}
    running = tuple(r for r in problem.running if r.job in names)
    yield from why_not(tabulate(replace(problem, jobs=alone, running=running)), {}, proved=True)


def _crowded_out(problem: Problem, c: Columns, placed: Mapping[int, object], j: int) -> Unplaced:
    job = problem.jobs[j]
    number = {other.name: n for n, other in enumerate(problem.jobs)} if job.after else {}
    missing = tuple(name for name in job.after if number[name] not in placed)
    if missing:
        message = f"waits for {', '.join(missing)}, which is not in the plan"
        return Unplaced(job=job.name, reason=Reason.DEPENDENCY, message=message, binds=missing)
    modes = c.modes[c.jobs["first"][j] : c.jobs["end"][j]]
    pools = tuple(dict.fromkeys(job.modes[m["number"]].pool for m in modes))
    lead = " and ".join(pools[:3]) + (" and others" if len(pools) > 3 else "")
    full = "is full" if len(pools) == 1 else "are full"
    message = f"{lead} {full} when it could run (as far as the search found)"
    message += guarantees_in_the_way(problem, job, ())
    return Unplaced(job=job.name, reason=Reason.CAPACITY, message=message, binds=pools)
