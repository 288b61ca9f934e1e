"""Fair shares of a mixed fleet: the question, the answer, and whether an answer is true.

Jobs share GPUs of several types over time, alone or two on the same GPUs. What a job gets is told
as its *level*: its throughput against what an equal split would give it, by its weight,

    level[j] = gpus[j] * throughput[j] / (weight[j] * yardstick[j])

with ``yardstick[j]``, unless stated, the throughput of j when it spends of its time on each type
the part of the fleet's GPUs that the type has. A job of g GPUs counts g times, so that the share is
one of GPUs, not of jobs. These are the definitions of D. Narayanan et al., Heterogeneity-Aware
Cluster Scheduling Policies for Deep Learning Workloads, OSDI 2020, sec. 4.1, and of its published
code. *Max-min* fairness makes the least level the greatest; ``planner.solve.max_min`` does it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

NOBODY = -1  # beside whom a job runs that is alone
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Work per second of each kind of job on each type of GPU.

    alone   shape (kinds, types); 0 where the kind does not run
    beside  shape (types, kinds, kinds): ``beside[t, a, b]`` is the rate of an a on the GPUs of type
            t that it shares with a b; 0 for both where that is not known. None: nobody shares

    Raises ValueError for shapes that do not match, rates that are no numbers from 0, and rates of
    two kinds that hold unlike numbers of GPUs.
    """

    kinds: tuple[str, ...]
    gpus: tuple[int, ...]  # that a job of the kind holds at once, all of one type
    alone: Floats
    beside: Floats | None = None

    def __post_init__(self) -> None:
        kinds = len(self.kinds)
        types = self.alone.shape[-1]
        if self.alone.shape != (kinds, types) or len(self.gpus) != kinds:
            raise ValueError(f"{kinds} kinds: rates of shape {self.alone.shape}")
        if min(self.gpus, default=1) < 1:
            raise ValueError("a kind holds at least one GPU")
        for rates in (self.alone, self.beside):
            if rates is not None and not (np.isfinite(rates) & (rates >= 0)).all():
                raise ValueError("a rate is a number from 0")
        if self.beside is not None:
            if self.beside.shape != (types, kinds, kinds):
                raise ValueError(f"{kinds} kinds, {types} types: shared {self.beside.shape}")
            unlike = np.not_equal.outer(self.gpus, self.gpus)
            if self.beside[:, unlike].any():
                raise ValueError("two kinds that hold unlike numbers of GPUs cannot share them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that is owed a share."""

    job: str
    kind: int  # row of `Rates`
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Who shares what. Raises ValueError for what cannot be: no GPU, a weight of 0, two names."""

    types: tuple[str, ...]
    gpus: tuple[int, ...]  # of each type
    rates: Rates
    claims: tuple[Claim, ...]
    yardstick: tuple[float, ...] = ()  # work per second by kind; (): under an equal split

    def __post_init__(self) -> None:
        types, kinds = len(self.types), len(self.rates.kinds)
        if len(self.gpus) != types or self.rates.alone.shape[1] != types:
            raise ValueError(f"{types} types: GPUs or rates of another number")
        if min(self.gpus, default=0) < 0 or not sum(self.gpus):
            raise ValueError("a contest is over at least one GPU")
        if len({c.job for c in self.claims}) != len(self.claims):
            raise ValueError("two claims name the same job")
        if not all(0 < c.weight < math.inf and 0 <= c.kind < kinds for c in self.claims):
            raise ValueError("a claim has a weight above 0 and a kind that the rates know")
        if self.yardstick and not (
            len(self.yardstick) == kinds and all(0 <= y < math.inf for y in self.yardstick)
        ):
            raise ValueError("a yardstick is one number from 0 for each kind")

    def fits(self) -> npt.NDArray[np.bool_]:
        """Whether a type has the GPUs that a kind holds at once: shape (kinds, types)."""
        found: npt.NDArray[np.bool_] = np.less_equal.outer(self.rates.gpus, self.gpus)
        return found

    def measure(self) -> Floats:
        """The yardstick of each kind."""
        if self.yardstick:
            return np.array(self.yardstick, dtype=np.float64)
        found: Floats = self.rates.alone @ (np.array(self.gpus) / sum(self.gpus))
        return found

    def gains(self) -> tuple[Floats, Floats | None]:
        """Level, for a weight of 1, that a whole time alone or beside another gives.

        Shapes and meaning as `Rates.alone` and `Rates.beside`.
        """
        measure = self.measure()
        gpus = np.array(self.rates.gpus, dtype=np.float64)
        per_rate = np.divide(gpus, measure, out=np.zeros_like(measure), where=measure > 0)
        fits = self.fits()
        alone = self.rates.alone * per_rate[:, None] * fits
        if self.rates.beside is None:
            return alone, None
        return alone, self.rates.beside * per_rate[None, :, None] * fits.T[:, :, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A part of a job's time: of which type, and beside whom."""

    claim: int
    beside: int  # another claim, or `NOBODY`
    type: int
    fraction: float  # of the time, of both


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Who gets what. No allocation has a least level above ``bound``."""

    level: float  # the least
    bound: float
    levels: tuple[float, ...]  # by claim; NaN: it runs on no type, and is left aside
    portions: tuple[Portion, ...]

    @property
    def gap_fraction(self) -> float:
        """How far the least level may be from the best, as a fraction of it."""
        return max(0.0, self.bound / self.level - 1) if self.level > 0 else math.inf


def runnable(contest: Contest) -> npt.NDArray[np.bool_]:
    """Whether each claim can have a level at all: it runs on some type, and has a measure."""
    alone, beside = contest.gains()
    runs: npt.NDArray[np.bool_] = np.asarray(alone.any(axis=1))
    if beside is not None:
        runs |= beside.any(axis=(0, 2))
    found: npt.NDArray[np.bool_] = runs[[c.kind for c in contest.claims]]
    return found


def levels(contest: Contest, portions: tuple[Portion, ...]) -> Floats:
    """The level that portions give each claim; NaN for one that runs on no type."""
    alone, beside = contest.gains()
    found = np.where(runnable(contest), 0.0, np.nan)
    claims = contest.claims
    for p in portions:
        a = claims[p.claim].kind
        if p.beside == NOBODY:
            found[p.claim] += alone[a, p.type] * p.fraction
            continue
        b = claims[p.beside].kind
        assert beside is not None
        found[p.claim] += beside[p.type, a, b] * p.fraction
        found[p.beside] += beside[p.type, b, a] * p.fraction
    by_weight: Floats = found / np.array([c.weight for c in claims])
    return by_weight


def violations(contest: Contest, shares: Shares) -> tuple[str, ...]:
    """Everything in ``shares`` that is not so; empty for a true answer."""
    return (*_capacity(contest, shares), *_sums(contest, shares))


def _capacity(contest: Contest, shares: Shares) -> Iterator[str]:
    time = [0.0] * len(contest.claims)
    held = [0.0] * len(contest.types)
    for p in shares.portions:
        claim = contest.claims[p.claim]
        if p.fraction < 0 or p.beside == p.claim:
            yield f"{claim.job}: a part of its time below 0, or beside itself"
        time[p.claim] += p.fraction
        if p.beside != NOBODY:
            time[p.beside] += p.fraction
        held[p.type] += contest.rates.gpus[claim.kind] * p.fraction
    for claim, used in zip(contest.claims, time, strict=True):
        if used > 1 + TOLERANCE:
            yield f"{claim.job}: {used:.9g} of its time"
    for name, used, there in zip(contest.types, held, contest.gpus, strict=True):
        if used > there * (1 + TOLERANCE):
            yield f"{name}: {used:.9g} GPUs of {there}"


def _sums(contest: Contest, shares: Shares) -> Iterator[str]:
    found = levels(contest, shares.portions)
    wrong = ~np.isclose(found, shares.levels, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    for j in np.flatnonzero(wrong):
        yield f"{contest.claims[j].job}: level {shares.levels[j]:.9g}, its portions {found[j]:.9g}"
    least = float(np.nanmin(found, initial=math.inf))
    if not math.isclose(shares.level, least, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        yield f"least level: said {shares.level:.9g}, is {least:.9g}"
    if not shares.bound >= least * (1 - TOLERANCE):
        yield f"bound: {shares.bound:.9g} is below the level {least:.9g}"
