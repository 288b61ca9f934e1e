"""Which GPUs carry a stream of requests: the question, the answer, and whether an answer is true.

Requests come in buckets by size. One GPU of an offer carries so many requests a second of a bucket
when it serves no other (its best within the latency objective); a bucket's requests may be split
over offers in any parts, and a GPU that spends parts of its time on several buckets carries those
parts of each. ``planner.solve.mix`` finds the cheapest whole numbers of GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

TOLERANCE = 1e-6  # of a GPU's time, as in `planner.check`


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A type of GPU that can be had: its price, and what one carries."""

    name: str
    usd_per_hour: float
    requests_per_second: tuple[float, ...]  # by bucket, of no other; 0: it cannot serve them


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What comes in, and what may serve it. Raises ValueError for numbers that cannot be."""

    buckets: tuple[str, ...]
    requests_per_second: tuple[float, ...]  # by bucket
    offers: tuple[Offer, ...]

    def __post_init__(self) -> None:
        for what, rates in (
            ("workload", self.requests_per_second),
            *((offer.name, offer.requests_per_second) for offer in self.offers),
        ):
            if len(rates) != len(self.buckets) or not all(0 <= r < math.inf for r in rates):
                raise ValueError(f"{what}: not one number from 0 for each bucket")
        if not all(0 <= offer.usd_per_hour < math.inf for offer in self.offers):
            raise ValueError("a price is a number from 0")

    def load(self, bucket: int, offer: int) -> float:
        """GPUs of the offer that the whole bucket takes; inf where it cannot serve it."""
        asked = self.requests_per_second[bucket]
        if not asked:
            return 0.0
        rate = self.offers[offer].requests_per_second[bucket]
        return asked / rate if rate > 0 else math.inf

    @property
    def unserved(self) -> tuple[str, ...]:
        """Buckets that are asked for and that no offer serves."""
        return tuple(
            name
            for b, name in enumerate(self.buckets)
            if all(math.isinf(self.load(b, o)) for o in range(len(self.offers)))
            and self.requests_per_second[b]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """GPUs of each offer, and who serves what. No mix costs less than ``bound_usd_per_hour``."""

    gpus: tuple[int, ...]  # by offer
    split: tuple[
        tuple[float, ...], ...
    ]  # by bucket, the part that each offer serves; 0: none asked
    usd_per_hour: float
    bound_usd_per_hour: float

    @property
    def gap_fraction(self) -> float:
        """How far the price may be from the least, as a fraction of it."""
        over = self.usd_per_hour - self.bound_usd_per_hour
        return over / self.usd_per_hour if over > 1e-9 * self.usd_per_hour else 0.0


def violations(workload: Workload, mix: Mix) -> tuple[str, ...]:
    """Everything in ``mix`` that is not so; empty for a true answer."""
    return (*_carried(workload, mix), *_sums(workload, mix))


def _carried(workload: Workload, mix: Mix) -> Iterator[str]:
    taken = [0.0] * len(workload.offers)
    for b, (name, parts) in enumerate(zip(workload.buckets, mix.split, strict=True)):
        whole = 1.0 if workload.requests_per_second[b] else 0.0
        if min(parts, default=0.0) < 0 or not math.isclose(math.fsum(parts), whole, rel_tol=1e-9):
            yield f"bucket {name}: its parts do not add up to {whole:g}"
        for o, part in enumerate(parts):
            taken[o] += part * workload.load(b, o) if part else 0.0
    for offer, used, gpus in zip(workload.offers, taken, mix.gpus, strict=True):
        if gpus < 0 or used > gpus * (1 + TOLERANCE):
            yield f"{offer.name}: {used:.9g} GPUs of work on {gpus}"


def _sums(workload: Workload, mix: Mix) -> Iterator[str]:
    prices = (o.usd_per_hour for o in workload.offers)
    usd = math.fsum(n * price for n, price in zip(mix.gpus, prices, strict=True))
    if not math.isclose(usd, mix.usd_per_hour, rel_tol=1e-9, abs_tol=1e-9):
        yield f"price: said {mix.usd_per_hour:.9g}, is {usd:.9g}"
    if not mix.bound_usd_per_hour <= usd * (1 + 1e-9):
        yield f"bound: {mix.bound_usd_per_hour:.9g} is above the price {usd:.9g}"
