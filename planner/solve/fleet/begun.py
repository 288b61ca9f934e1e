"""Jobs that run already: how each may begin in a plan, as the exact model has it (`planner.table`).

One that can go on where it is does so from slot 0 on its own nodes, with what it has left to do.
Anywhere else, or later, it begins anew: a restart, and what it did since its checkpoint once more.
One that may not be interrupted goes on, as long as its nodes are there; else it begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.problem import Job, Problem, Running, Work, hours_for, work_left
from planner.table import Places


@dataclass(frozen=True, slots=True)
class Begun:
    """The jobs of ``problem`` that run, and the usable nodes that they may be on."""

    problem: Problem
    places: Mapping[str, Places]  # by pool
    row_of: Mapping[str, int]  # of each usable node among those of its pool

    @classmethod
    def of(cls, problem: Problem, places: Mapping[str, Places]) -> Begun:
        """Nodes by name, where anybody runs."""
        running = places.values() if problem.running else ()
        row_of = {node.name: n for place in running for n, node in enumerate(place.nodes)}
        return cls(problem, places, row_of)

    def ways(self, job: Job, modes: range) -> Iterator[tuple[int, bool, bool]]:
        """How the job may begin: (mode, whether it goes on, whether it might have gone on)."""
        running = self.problem.running_by_job.get(job.name)
        if running is None or not isinstance(job.need, Work):
            yield from ((m, False, False) for m in modes)
            return
        stays = self._goes_on(job, running)
        fresh = running.work_since_checkpoint >= running.work_done  # nothing binds it to its mode
        for m in modes:
            if stays and m == running.mode:
                yield m, True, True
            if stays and not job.preemptible:
                continue
            if m == running.mode or fresh or job.switches:
                yield m, False, stays and m == running.mode

    def _goes_on(self, job: Job, running: Running) -> bool:
        """Whether it can: its nodes hold it, for all it has to do or until it may stop."""
        mode, grid = job.modes[running.mode], self.problem.grid
        place = self.places[mode.pool]
        rows = Counter(self.row_of.get(name, -1) for name in running.nodes)
        if -1 in rows or any(self.problem.node_by_name[n].pool != mode.pool for n in running.nodes):
            return False
        hours = hours_for(work_left(self.problem, job, kept=True), mode)
        end = min(job.deadline, grid.slots)
        length = grid.slots_for(hours) if hours < 1e9 else grid.slots + 1
        shares = job.may_stop and job.switches > 0
        if (length > end and not (shares and end > 0)) or not place.hold(mode, rows):
            return False
        return self.stay_until(job, running) >= (1 if job.may_stop else length)

    def stay_until(self, job: Job, running: Running) -> int:
        """The slot at which the first of its nodes leaves."""
        pool = self.problem.pool_by_name[job.modes[running.mode].pool]
        last = max(self.problem.node_by_name[name].index for name in running.nodes)
        gone = (w.start for w in pool.windows if w.nodes <= last)
        return min(gone, default=self.problem.grid.slots)
