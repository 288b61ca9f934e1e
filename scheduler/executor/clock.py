"""Plan time against real time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanClock:
    """At ``real`` the plan stood at ``plan``; it moves ``speed`` plan seconds a real second."""

    real: datetime
    plan: datetime
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.real.tzinfo is None or self.plan.tzinfo is None:
            raise ValueError("PlanClock needs times with a time zone")
        if not 0 < self.speed < float("inf"):
            raise ValueError("PlanClock.speed must be above 0")

    def plan_time(self, real: datetime) -> datetime:
        """Where the plan stands at ``real``."""
        return self.plan + (real - self.real) * self.speed

    def real_time(self, plan: datetime) -> datetime:
        """When the plan will stand at ``plan``."""
        return self.real + (plan - self.plan) / self.speed


def clock_for(start: datetime, now: datetime, speed: float) -> PlanClock:
    """The clock of a plan that starts at ``start`` and is taken up at ``now``.

    At speed 1 the plan's times are the wall clock's. A compressed plan begins when it is taken up.
    """
    return PlanClock(real=start if speed == 1 else now, plan=start, speed=speed)
