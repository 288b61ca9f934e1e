"""What capacity is worth: the shadow prices of a plan, added up over what something takes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.plan import Plan, Segment
from planner.problem import Mode, Problem
from planner.table import RESOURCES, takes_of

PRICED = ("gpu", "cpu", "memory")  # as `Price.resource` names `RESOURCES`


class Worth:
    """The worth of capacity to others, by pool, resource and slot (USD)."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.sums: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
        for price in plan.prices:
            key = price.pool, price.resource
            usd = self.sums.setdefault(key, np.zeros(problem.grid.slots + 1))
            usd[price.start + 1 : price.end + 1] += price.usd_per_gpu_hour * problem.grid.slot_hours
        for key, usd in self.sums.items():
            self.sums[key] = np.cumsum(usd)

    def of_segment(self, segment: Segment) -> float:
        """What a segment of a plan takes."""
        mode = cost.mode_of(self.problem, segment)
        runs = [(0, segment.end - segment.start, segment.replicas)]
        return float(self.of_all(mode, np.array([segment.start]), runs)[0])

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
