"""How long ago stops were announced, by a clock that does not jump.

Until when a workload has time stands in its annotation, by the wall clock: that is what an operator
that has just started goes by. From then on it counts by a clock of its own process, so that a wall
clock that is set, ahead or back, neither takes time from a program that saves nor gives it more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from datetime import datetime


class Notices:
    """Those that are known. One thread uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, tuple[datetime, float]] = {}  # by job: when it was told, and our own

    def waited_seconds(self, job: str, told: datetime, now: datetime) -> float:
        """Since a job was told. ``now``: by the clock that ``told`` is of, looked at once only."""
        known = self._since.get(job)
        if known is None or known[0] != told:
            before = max(0.0, (now - told).total_seconds())
            known = self._since[job] = told, self._clock() - before
        return self._clock() - known[1]

    def keep(self, jobs: Container[str]) -> None:
        """Forget all others."""
        for job in [each for each in self._since if each not in jobs]:
            del self._since[job]
