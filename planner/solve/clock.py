"""When to stop, and what is known on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import TypeVar

from planner.plan import gap_of

T = TypeVar("T")
ASK_SECONDS = 0.05
GOOD_GAP = 0.01
STALL_SECONDS = 1.0  # without a gain of `GAIN`, or as long as `STALL_FRACTION` of the time so far
STALL_FRACTION = 0.3
LONG_STALL_SECONDS = 10.0  # without a gain, whatever the gap, and half of the time so far
LONG_STALL_FRACTION = 0.5
GAIN = 2e-5
NO_GAP = 1e-5  # a thousandth of a percent: below what rounding money to whole units leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop."""

    seconds: float = 60.0
    gap: float | None = 0.0  # stop once this gap is proved; 0: go on to the optimum
    # None: stop once the search has stalled, the sooner below a gap of `GOOD_GAP`
    seed: int = 0
    moves: int | None = None  # of a fleet's search: as many, and the same plan each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an anytime solve knows at a moment (USD; best is inf before the first plan)."""

    seconds: float
    bound_usd: float
    best_usd: float
    gap_fraction: float
    doing: str


@dataclass(slots=True)
class Stop:
    """Asks a solve to end with what it has, from another thread; it cannot be taken back."""

    asked: bool = False
    hooks: list[Callable[[], object]] = field(default_factory=list)

    def set(self) -> None:
        """Ask. Asking again reaches a library's search that had only begun at the first time."""
        self.asked = True
        for hook in tuple(self.hooks):
            hook()

    @contextmanager
    def reaches(self, hook: Callable[[], object]) -> Iterator[None]:
        """Meanwhile ``hook`` is called too: it ends a search that does not look at the clock."""
        self.hooks.append(hook)
        try:
            if self.asked:
                hook()
            yield
        finally:
            self.hooks.remove(hook)

    def unless(self, work: Callable[[], T]) -> T | None:
        """``work()``, or None once asked to stop: it then runs on unheard, to its own limit."""
        answer: Future[T] = Future()
        Thread(target=_fill, args=(answer, work), daemon=True).start()
        while not self.asked:
            if wait([answer], timeout=ASK_SECONDS).done:
                return answer.result()
        return None


def _fill(answer: Future[T], work: Callable[[], T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001  # it is raised again where it is awaited
        answer.set_exception(error)


@dataclass(slots=True)
class Clock:
    """Time since the start, against the limits; tells a listener what is known."""

    limits: Limits
    listen: Callable[[Step], None] | None = None
    stop: Stop = field(default_factory=Stop)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds left, never below 0; none once the solve is asked to stop."""
        return 0.0 if self.stop.asked else max(0.0, self.limits.seconds - self.seconds)

    def part(self, share: float) -> Clock:
        """A clock of its own for ``share`` of the time that is left."""
        return Clock(replace(self.limits, seconds=share * self.left), self.listen, self.stop)

    def enough(self, gap: float, gained: float) -> bool:
        """Whether to stop at ``gap``, the last gain being ``gained`` seconds from the start."""
        if gap <= NO_GAP or (self.limits.gap is not None and gap <= self.limits.gap):
            return True
        if self.limits.gap is not None:
            return False
        since = self.seconds - gained
        good = gap <= GOOD_GAP and since > max(STALL_SECONDS, STALL_FRACTION * self.seconds)
        return good or since > max(LONG_STALL_SECONDS, LONG_STALL_FRACTION * self.seconds)

    def say(self, doing: str, *, bound: float, best: float, not_running: float = 0.0) -> None:
        if self.listen is not None:
            self.listen(
                Step(
                    seconds=self.seconds,
                    bound_usd=bound,
                    best_usd=best,
                    gap_fraction=gap_of(best, bound, not_running),
                    doing=doing,
                )
            )
