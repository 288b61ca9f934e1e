"""What capacity is worth: the shadow prices of a plan, added up over what something takes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.plan import Plan, Segment
from planner.problem import Job, Mode, Problem
from planner.table import RESOURCES, takes_of

BUDGET = "budget"  # as `QueuePrice.what` has it
PRICED = ("gpu", "cpu", "memory")  # as `Price.resource` names `RESOURCES`


class Worth:
    """The worth of capacity to others, by pool, resource and slot (USD)."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.queues = plan.queue_prices
        self.sums: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
        for price in plan.prices:
            key = price.pool, price.resource
            usd = self.sums.setdefault(key, np.zeros(problem.grid.slots + 1))
            usd[price.start + 1 : price.end + 1] += price.usd_per_gpu_hour * problem.grid.slot_hours
        for key, usd in self.sums.items():
            self.sums[key] = np.cumsum(usd)

    def of_segment(self, segment: Segment) -> float:
        """What a segment of a plan takes, of its pool and of its queues."""
        mode = cost.mode_of(self.problem, segment)
        runs = [(0, segment.end - segment.start, segment.replicas)]
        slots = (segment.end - segment.start) * segment.replicas
        usd = cost.segment_usd(self.problem, segment) + segment.egress_usd
        job = self.problem.job_by_name[segment.job]
        of_pool = float(self.of_all(mode, np.array([segment.start]), runs)[0])
        return of_pool + self.of_queues(job, mode, slots, usd)

    def of_queues(self, job: Job, mode: Mode, replica_slots: int, money_usd: float) -> float:
        """What so many slots of a mode's replicas, and their money, take of the job's queues."""
        pool = self.problem.pool_by_name[mode.pool]
        hours = replica_slots * self.problem.grid.slot_hours * pool.gpu_share(mode.amounts)
        taken = {pool.accelerator: hours, BUDGET: money_usd}
        path = self.problem.queue_path(job.queue)
        return sum(q.usd * taken.get(q.what, 0.0) for q in self.queues if q.binds(path))

    def of_all(
        self, mode: Mode, starts: npt.NDArray[np.int64], runs: Sequence[tuple[int, int, int]]
    ) -> npt.NDArray[np.float64]:
        """What runs (start, end, replicas) of a mode take, from each of ``starts`` on."""
        total = np.zeros(starts.size)
        pool = self.problem.pool_by_name[mode.pool]
        takes = takes_of(pool, mode)
        for r, (resource, what) in enumerate(zip(PRICED, RESOURCES, strict=True)):
            usd, have = self.sums.get((pool.name, resource)), getattr(pool.capacity, what)
            if usd is None or not have:
                continue
            gpus = takes[r] / have * pool.gpus_per_node
            for begin, end, replicas in runs:
                total += gpus * replicas * (usd[starts + end] - usd[starts + begin])
        return total
