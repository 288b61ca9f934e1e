"""The planted schedule as a plan, down to the GPU: what follows a solve, measured without one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from planner import cost
from planner.plan import Bound, Placement, Plan, Segment, Status
from planner.problem import Pool, Problem, Work
from tests.benchmarks.planted import Planted


def plan_of(problem: Problem, planted: Iterable[Planted]) -> Plan:
    """Each job on the lowest free GPUs of its pool; for instances of one-GPU replicas.

    Intervals taken in order of their start never need more GPUs than the most at once.
    """
    by_pool: dict[str, list[Planted]] = defaultdict(list)
    for p in planted:
        by_pool[p.pool].append(p)
    segments = tuple(
        sorted(
            (s for p in problem.pools for s in _placed(problem, p, by_pool[p.name])),
            key=lambda s: (s.start, s.job),
        )
    )
    costs = cost.costs(problem, segments, ())
    return Plan(
        status=Status.FEASIBLE,
        segments=segments,
        costs=costs,
        full_cost_usd=costs.money,
        bound=Bound(usd=0.0, method="none"),
    )


def _placed(problem: Problem, pool: Pool, planted: list[Planted]) -> Iterator[Segment]:
    nodes = problem.nodes_of(pool.name)
    free = list(range(len(nodes) * pool.gpus_per_node))
    heapify(free)
    held: list[tuple[int, str, list[int]]] = []  # until when, by whom, which GPUs
    for p in sorted(planted, key=lambda p: (p.start, p.job)):
        while held and held[0][0] <= p.start:
            for gpu in heappop(held)[2]:
                heappush(free, gpu)
        gpus = [heappop(free) for _ in range(p.gpus)]
        heappush(held, (p.end, p.job, gpus))
        yield _segment(problem, pool, p, gpus)


def _segment(problem: Problem, pool: Pool, p: Planted, gpus: list[int]) -> Segment:
    job, nodes = problem.job_by_name[p.job], problem.nodes_of(pool.name)
    if not isinstance(job.need, Work):
        raise TypeError(f"{job.name} is a service: its replicas are not placed here")
    mode = next(m for m in job.modes if m.pool == pool.name and m.gpus == p.gpus)
    devices: dict[str, list[int]] = defaultdict(list)
    for gpu in sorted(gpus):
        devices[nodes[gpu // pool.gpus_per_node].name].append(gpu % pool.gpus_per_node)
    return Segment(
        job=job.name,
        mode=job.modes.index(mode),
        replicas=mode.replicas,
        start=p.start,
        end=p.end,
        work=job.need.amount,
        placement=tuple(
            Placement(node=node, replicas=len(ours), devices=tuple(ours))
            for node, ours in devices.items()
        ),
    )
