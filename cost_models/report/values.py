"""What a cost report says, before it is a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cost_models.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A job that does not run, and why."""

    job: str
    team: str
    reason: str  # one word
    message: str
    not_running_usd: float  # what leaving it out is said to cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one policy does with the jobs, and what that costs.

    ``ledger`` holds the money; the other parts of the objective are not money that changes hands.
    """

    ledger: Ledger
    jobs: int  # that run
    moving_usd: float = 0.0
    lateness_usd: float = 0.0
    left_out: tuple[LeftOut, ...] = ()

    @property
    def not_running_usd(self) -> float:
        return sum(job.not_running_usd for job in self.left_out)

    @property
    def objective_usd(self) -> float:
        """Money, moving, lateness and not running together."""
        money = self.ledger.total.usd
        return money + self.moving_usd + self.lateness_usd + self.not_running_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How good the plan provably is."""

    status: str
    bound_usd: float  # no feasible plan has a lower objective
    gap_fraction: float
    method: str = ""
    relaxes: tuple[str, ...] = ()
    solve_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """GPUs of a pool that exist, or can be rented, over a stretch of time."""

    pool: str
    start: datetime
    end: datetime
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run as it happened, in the plan's time."""

    job: str
    pool: str
    status: str
    planned_start: datetime
    planned_end: datetime
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWork:
    """What the GPUs of one job did, beside what was planned; job is empty where it is not known."""

    job: str
    planned_gpu_hours: float
    planned_joules: float
    planned_flops: float  # useful ones
    gpu_hours: float  # watched
    active_gpu_hours: float | None  # None: not known whose, so neither at work nor idle
    utilised_gpu_hours: float  # hours x utilisation
    joules: float | None  # of the boards; None: not measured
    flops: float | None  # what the hardware did at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number or a rule that the report rests on, and where it is from."""

    what: str
    value: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page. What is absent is left out of it."""

    title: str
    plan: Outcome
    proof: Proof | None = None  # of what happened there is none
    baseline: Outcome | None = None  # first-come-first-served
    capacity: tuple[Capacity, ...] = ()
    measured: tuple[Measured, ...] = ()
    stand_ins: str = ""  # what the measured runs were, where they were not the jobs themselves
    gpu_work: tuple[GpuWork, ...] = ()
    gpu_source: str = ""  # what was measured, where that was not the GPUs of the plan
    assumptions: tuple[Assumption, ...] = ()
