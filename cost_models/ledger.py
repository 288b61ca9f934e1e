"""Who used what, for how much: lines that sum to the invoice.

Money in a ledger is whole micro-dollars (``_usd_micros``). Integers add up in any order to the same
sum, so a total equals the sum of its groups by any key, to the last millionth; amounts that were
computed as floats enter once, through `apportion`, which rounds them together (largest remainder)
to a given total. Energy, carbon and FLOPs are measurements, not money: they are floats, and summed
with `math.fsum`.

Two amounts stand on each line. ``usd_micros`` is what the decision is billed or burns: the rent of
rented hardware, the energy of owned hardware. ``full_usd_micros`` is the same with what was already
paid for (the annuity of owned hardware, the commitment of reserved capacity).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter

MICROS_PER_USD = 1_000_000
FLOPS_PER_PFLOP = 1e15


class LineKind(StrEnum):
    """What the GPUs of a line did, or what else was paid for."""

    WORK = "work"
    IDLE = "idle"  # paid for, and nothing ran
    STARTUP = "startup"  # rented, and not ready yet
    EGRESS = "egress"  # no GPUs: a job's data brought to the pool


class Key(StrEnum):
    """What a ledger can be grouped by; the values are fields of `Line`."""

    KIND = "kind"
    TEAM = "team"
    PROJECT = "project"
    QUEUE = "queue"
    JOB = "job"
    POOL = "pool"
    SITE = "site"
    ACCELERATOR = "accelerator"
    PURCHASE = "purchase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One stretch of time on one pool, for one job or for nobody.

    Lines of kind idle and startup belong to the pool: their team, project, queue and job are empty.
    A line of kind egress takes no time and holds no GPUs.
    """

    start: datetime
    end: datetime
    kind: LineKind
    pool: str
    accelerator: str
    purchase: str  # owned | reserved | on_demand | spot
    site: str = ""
    team: str = ""
    project: str = ""
    queue: str = ""
    job: str = ""
    nodes: tuple[str, ...] = ()
    gpus: float  # held at a time; a share of a GPU counts as the share
    gpu_hours: float
    usd_micros: int
    full_usd_micros: int
    joules: float = 0.0
    grams_co2: float = 0.0
    useful_flops: float = 0.0

    @property
    def unused(self) -> bool:
        """Whether it belongs to the pool: GPUs that are paid for and do no work."""
        return self.kind in (LineKind.IDLE, LineKind.STARTUP)

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("a ledger line's times must carry a time zone")
        if self.end < self.start:
            raise ValueError(f"a ledger line ends ({self.end}) before it starts ({self.start})")
        if min(self.gpus, self.gpu_hours, self.joules, self.grams_co2, self.useful_flops) < 0:
            raise ValueError("a ledger line's quantities cannot be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The sum of some lines."""

    usd_micros: int = 0
    full_usd_micros: int = 0
    gpu_hours: float = 0.0  # of work, idleness and start-up together
    work_gpu_hours: float = 0.0
    joules: float = 0.0
    grams_co2: float = 0.0
    useful_flops: float = 0.0

    @property
    def usd(self) -> float:
        return self.usd_micros / MICROS_PER_USD

    @property
    def full_usd(self) -> float:
        return self.full_usd_micros / MICROS_PER_USD

    @property
    def usd_per_pflop(self) -> float | None:
        """Money per 1e15 useful operations; None where no line states its FLOPs."""
        return self.usd / (self.useful_flops / FLOPS_PER_PFLOP) if self.useful_flops else None

    @property
    def utilisation_fraction(self) -> float:
        """GPU-hours that worked, of those paid for; 0 where there are none."""
        return self.work_gpu_hours / self.gpu_hours if self.gpu_hours else 0.0


def total(lines: Iterable[Line]) -> Totals:
    """The sum of ``lines``, exact in money."""
    rows = tuple(lines)
    return Totals(
        usd_micros=sum(line.usd_micros for line in rows),
        full_usd_micros=sum(line.full_usd_micros for line in rows),
        gpu_hours=math.fsum(line.gpu_hours for line in rows),
        work_gpu_hours=math.fsum(r.gpu_hours for r in rows if r.kind is LineKind.WORK),
        joules=math.fsum(line.joules for line in rows),
        grams_co2=math.fsum(line.grams_co2 for line in rows),
        useful_flops=math.fsum(line.useful_flops for line in rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The lines of one period, ``[start, end)``."""

    start: datetime
    end: datetime
    lines: tuple[Line, ...]

    @property
    def total(self) -> Totals:
        return total(self.lines)

    def only(self, keep: Callable[[Line], bool]) -> Ledger:
        """The same period with the lines that ``keep`` accepts."""
        return Ledger(start=self.start, end=self.end, lines=tuple(filter(keep, self.lines)))

    def by(self, key: Key | Callable[[Line], str]) -> dict[str, Totals]:
        """Totals by ``key``, the dearest first (then by name); they sum to `total`."""
        name_of = attrgetter(key.value) if isinstance(key, Key) else key
        groups: defaultdict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            groups[name_of(line)].append(line)
        totals = {name: total(lines) for name, lines in groups.items()}
        dearest = sorted(totals, key=lambda n: (-totals[n].usd_micros, -totals[n].gpu_hours, n))
        return {name: totals[name] for name in dearest}


def micros(usd: float) -> int:
    """``usd`` in whole micro-dollars, half to even.

    >>> micros(12.3456789)
    12345679
    """
    return round(usd * MICROS_PER_USD)


def apportion(whole: int, shares: Sequence[float]) -> tuple[int, ...]:
    """``whole`` split into integers in proportion to ``shares``, summing to it exactly.

    Largest remainder: each part is its share rounded down, and what is left over goes, one by one,
    to the largest fractions (the earlier of equals). Shares must not be negative, and can all be
    zero only where ``whole`` is.

    >>> apportion(100, [1, 1, 1])
    (34, 33, 33)
    """
    if any(share < 0 or not math.isfinite(share) for share in shares):
        raise ValueError("shares must be finite and not negative")
    ratios = [float(share).as_integer_ratio() for share in shares]
    scale = max((below for _, below in ratios), default=1)  # powers of two
    exact = [above * (scale // below) for above, below in ratios]
    weight = sum(exact)
    if not weight:
        if whole:
            raise ValueError(f"nothing to carry {whole}: every share is zero")
        return (0,) * len(shares)
    split = [divmod(whole * share, weight) for share in exact]
    parts = [part for part, _ in split]
    largest = sorted(range(len(split)), key=lambda i: (-split[i][1], i))
    for i in largest[: whole - sum(parts)]:
        parts[i] += 1
    return tuple(parts)
