"""Whom to stop for a job that is to run: those that cost least and are enough.

Sets     v, the jobs that may be stopped for it
Data     usd[v], the price of stopping v: the work since its checkpoint, a save and a restart
Choice   least sum of usd over a set of v with which gone the job fits; of equal sets the smaller

Whether a set is enough is a question to the placement function, and no sum of GPUs: gangs need
whole nodes, quotas count too. So sets are tried in order of their price, which finds the least one
in the first `MOST_TRIES`. Where that is not enough, several orders are tried, in each of which jobs
are added until they are enough, and then left running again, dearest first, where the rest still
is. Of what these find the cheapest is taken: nobody in it could be left running.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MOST_TRIES = 256

Enough = Callable[[frozenset[str]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A job that may be stopped."""

    job: str
    usd: float
    gpu_milli: int
    nodes: tuple[str, ...]
    rank: tuple[int, float]  # of equal ones, the lower goes first: tier, minus its arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Victims:
    """Whom to stop, in order of name, and what that costs."""

    jobs: tuple[str, ...]
    usd: float
    proved: bool  # no other set costs less


def cheapest(candidates: Sequence[Candidate], enough: Enough) -> Victims | None:
    """The cheapest of ``candidates`` that are ``enough`` together; None where not even all are."""
    ordered = sorted(candidates, key=lambda c: (c.usd, c.rank, c.job))
    if not ordered or not enough(frozenset(c.job for c in ordered)):
        return None
    for tries, chosen in enumerate(_sets_by_price(ordered)):
        if tries == MOST_TRIES:
            break
        if enough(frozenset(c.job for c in chosen)):
            return _victims(chosen, proved=True)
    found = [_pruned(_until_enough(order, enough), enough) for order in _orders(ordered)]
    best = min(found, key=lambda chosen: (_usd(chosen), len(chosen)))
    return _victims(best, proved=False)


def _victims(chosen: Sequence[Candidate], *, proved: bool) -> Victims:
    return Victims(jobs=tuple(sorted(c.job for c in chosen)), usd=_usd(chosen), proved=proved)


def _usd(chosen: Sequence[Candidate]) -> float:
    return math.fsum(c.usd for c in chosen)


def _sets_by_price(ordered: Sequence[Candidate]) -> Iterator[tuple[Candidate, ...]]:
    """Sets of ``ordered``, which are by price, in order of theirs; of equal ones small ones first.

    Each set comes once: it has as successors itself with its last member exchanged for the next
    candidate, and itself with that one added, neither of which costs less.
    """
    heap: list[tuple[float, int, tuple[int, ...]]] = [(ordered[0].usd, 1, (0,))]
    while heap:
        usd, size, numbers = heapq.heappop(heap)
        yield tuple(ordered[i] for i in numbers)
        after = numbers[-1] + 1
        if after < len(ordered):
            more = ordered[after].usd
            exchanged = usd - ordered[numbers[-1]].usd + more
            heapq.heappush(heap, (exchanged, size, (*numbers[:-1], after)))
            heapq.heappush(heap, (usd + more, size + 1, (*numbers, after)))


def _orders(ordered: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """By price, by price of a GPU, and node by node, those first that cost least to clear."""
    yield list(ordered)
    yield sorted(ordered, key=lambda c: (c.usd / max(1, c.gpu_milli), c.rank, c.job))
    on: dict[str, float] = defaultdict(float)
    for c in ordered:
        for node in c.nodes:
            on[node] += c.usd
    yield sorted(ordered, key=lambda c: (min((on[n], n) for n in c.nodes or ("",)), c.job))


def _until_enough(order: Sequence[Candidate], enough: Enough) -> list[Candidate]:
    """The first of ``order`` that are enough: all of them are, so there are some. By halving."""
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        if enough(frozenset(c.job for c in order[:middle])):
            high = middle
        else:
            low = middle + 1
    return list(order[:high])


def _pruned(chosen: list[Candidate], enough: Enough) -> list[Candidate]:
    """``chosen`` without those that can be left running, the dearest first."""
    kept = list(chosen)
    for c in sorted(chosen, key=lambda c: (-c.usd, c.job)):
        rest = [k for k in kept if k is not c]
        if rest and enough(frozenset(k.job for k in rest)):
            kept = rest
    return kept
