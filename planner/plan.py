"""The answer: segments on named nodes, what was left out and why, and how good it provably is."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What the solver can say of its answer."""

    OPTIMAL = "optimal"  # no feasible plan is cheaper
    FEASIBLE = "feasible"  # a plan, and a bound beneath it
    INFEASIBLE = "infeasible"  # a required job cannot run
    TIMEOUT = "timeout"  # out of time with nothing to show


class Reason(StrEnum):
    """Why a job is not in the plan."""

    NO_OPTION = "no-option"  # no pool can run it at all
    WINDOW = "window"  # it cannot end between its earliest start and its deadline
    CAPACITY = "capacity"  # others that matter more fill what it could use
    QUEUE_LIMIT = "queue-limit"
    KEPT_BACK = "kept-back"  # other queues do not lend what it would need
    BUDGET = "budget"
    DEPENDENCY = "dependency"  # what it waits for is not in the plan
    NOT_WORTH = "not-worth"  # running it costs more than not running it
    NOT_FOUND = "not-found"  # the search found no room; nothing proves there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Replicas of a segment on one node."""

    node: str
    replicas: int
    devices: tuple[int, ...] = ()  # GPU numbers on that node: of shares and MIG, one an instance
    geometries: tuple[int, ...] = ()  # MIG: of each of these devices, which of the pool's
    instances: tuple[int, ...] = ()  # MIG: and which instance of that geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of one job in one mode. A job is a list of segments."""

    job: str
    mode: int  # index into Job.modes
    replicas: int
    start: int  # slots, half open
    end: int
    work: float  # in the unit of the job's need
    placement: tuple[Placement, ...] = ()
    restart_seconds: float = 0.0  # at its start: a checkpoint is restored
    save_seconds: float = 0.0  # behind its work: one is saved
    redone_work: float = 0.0  # of its work, what was done before and lost
    egress_usd: float = 0.0  # at its start: the job's data are brought to the pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """A job that is left out."""

    job: str
    reason: Reason
    message: str
    binds: tuple[str, ...] = ()  # what stands in its way: pools, queues, jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The objective, by its parts (USD)."""

    money: float = 0.0
    moving: float = 0.0
    lateness: float = 0.0
    not_running: float = 0.0

    @property
    def objective(self) -> float:
        return self.money + self.moving + self.lateness + self.not_running


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """No feasible plan has an objective below ``usd``."""

    usd: float
    method: str = ""
    relaxes: tuple[str, ...] = ()  # what the proof let go of


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one more GPU-hour of a pool would save, from ``start`` to ``end``.

    Of another resource than the GPU: what as much of it as goes with one GPU of a node would save.
    Where the prices of a relaxation are not unique, the value lies between ``low`` (what one node
    more would save) and ``high`` (what one node less would cost), both by GPU-hour.
    """

    pool: str
    start: int
    end: int
    usd_per_gpu_hour: float
    resource: str = "gpu"  # gpu | cpu | memory
    low_usd_per_gpu_hour: float | None = None  # None: not looked at
    high_usd_per_gpu_hour: float | None = None  # None: not looked at, or no plan without it


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePrice:
    """What one more unit of a queue's limit or budget would save; a range as `Price` has it.

    With ``keepers``: what it would save all others if these queues, of which ``queue`` is the
    first, kept back one GPU less between them.
    """

    queue: str
    what: str  # an accelerator (USD per GPU-hour) or "budget" (USD per USD a month)
    usd: float
    low_usd: float | None = None
    high_usd: float | None = None
    keepers: tuple[str, ...] = ()

    def binds(self, path: Collection[str]) -> bool:
        """Whether a job pays it whose queue and those above it are ``path``."""
        if self.keepers:
            return not any(name in path for name in self.keepers)
        return self.queue in path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental:
    """A node of a pool billed by node, from launch to termination."""

    pool: str
    node: str
    launch_seconds: int  # from the grid's start; start-up included
    end_seconds: int
    usd: float


def gap_of(objective: float, bound: float, not_running: float) -> float:
    """How far ``objective`` may be from the best, as a fraction of what running costs.

    A difference of a billionth is float noise. Inf where there is no plan yet, and where nothing
    runs though the bound is below.
    """
    if math.isinf(objective):
        return math.inf
    over = objective - bound
    if over <= 1e-9 * max(1.0, abs(objective)):
        return 0.0
    base = objective - not_running
    return over / base if base > 1e-9 * objective else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Segments, costs and proof."""

    status: Status
    segments: tuple[Segment, ...] = ()  # sorted by start, job
    unplaced: tuple[Unplaced, ...] = ()  # sorted by job
    costs: Costs = Costs()
    full_cost_usd: float = 0.0
    useful_flops: float = 0.0
    bound: Bound = Bound(usd=0.0)
    prices: tuple[Price, ...] = ()
    queue_prices: tuple[QueuePrice, ...] = ()
    solve_seconds: float = 0.0
    seed: int = 0
    method: str = ""
    stopped: bool = False  # by whoever asked, before its limits and before a proof

    @property
    def gap_fraction(self) -> float:
        """(objective - bound) / (objective without *not running*); never below 0."""
        return gap_of(self.costs.objective, self.bound.usd, self.costs.not_running)

    @property
    def usd_per_pflop(self) -> float:
        """Money per useful PFLOP (1e15 operations) of what runs; 0 where nothing counts."""
        return self.costs.money / (self.useful_flops / 1e15) if self.useful_flops else 0.0
