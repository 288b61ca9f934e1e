"""What is looked at only: whose pods hold what, which jobs ended by themselves, what ran before.

`scheduler.controller.sight.Sight` keeps one where nothing is done to workloads, so that
`scheduler.controller.shadow` can set what the cluster does beside what would be done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from datetime import datetime, timedelta

from planner.problem import Grid, hours_of
from scheduler.controller.actions import OVER, Being, Record, Status, recalled
from scheduler.controller.shadow import Real
from scheduler.controller.state import Cause, Phase, Tracked, Why
from scheduler.kube.api import Raw
from scheduler.kube.holders import Holders, Holding, holdings
from scheduler.kube.observe import Fleet, Machine

MOST_HOURS = 1e5


class Onlook:
    """All of it; one thread uses it."""

    def __init__(self) -> None:
        self.began: datetime | None = None
        self._over: dict[str, Being] = {}
        self._holdings: tuple[Holding, ...] = ()

    def see(
        self, pods: Iterable[Raw], holders: Holders, machines: Iterable[Machine], now: datetime
    ) -> None:
        """Pods hold these GPUs now."""
        self.began = self.began or now.replace(microsecond=0)  # objects tell in whole seconds
        self._holdings = holdings(pods, holders, machines)

    def begin(self, job: str) -> None:
        """A job of this name is another than one that ended."""
        self._over.pop(job, None)

    def follow(self, job: str, being: Being) -> None:
        """A job's workload is so now."""
        if being in OVER:
            self._over[job] = being

    def has_ended(self, job: str) -> bool:
        """Whether it did by itself: it goes on in the world that would be."""
        return job in self._over

    def real(self, looked_at: Iterable[str], jobs: Container[str]) -> Real:
        """What the cluster does by itself. What nobody knows any more is forgotten."""
        known = frozenset(looked_at)
        self._over = {k: v for k, v in self._over.items() if k in known or k in jobs}
        return Real(holdings=self._holdings, looked_at=known, over=dict(self._over))

    def in_place(self, one: Tracked, fleet: Fleet, grid: Grid) -> Tracked:
        """A job that ran before we looked on, where it runs, if its manifest has that way to."""
        held = [each for each in self._holdings if each.job == one.name]
        since = min((each.since for each in held if each.since is not None), default=None)
        if since is None or self.began is None or one.arrived >= self.began:
            return one
        pool_of = {m.name: pool for pool, found in fleet.machines.items() for m in found}
        pools = {pool_of.get(each.node, "") for each in held}
        fitting = (
            number
            for number, mode in enumerate(one.job.modes)
            if {mode.pool} == pools and mode.replicas == len(held)
        )
        number = next(fitting, None)
        return one if number is None else _running(one, number, held, since, grid)


def _running(
    one: Tracked, number: int, held: Iterable[Holding], since: datetime, grid: Grid
) -> Tracked:
    nodes: Mapping[str, int] = Counter(each.node for each in held)
    hours = min(MOST_HOURS, hours_of(one.job, one.job.modes[number]))
    runs = Status(
        job=one.name,
        phase=Phase.RUNNING,
        why=Why(reason=Cause.PLACED),
        generation=one.generation,
        started=since,
        record=Record(
            attempt=1,
            mode=number,
            nodes=tuple(sorted(nodes.items())),
            start=since,
            end=since + timedelta(hours=hours),
        ),
    )
    return recalled(one, runs, None, grid)
