"""The mixes that a service is offered beside its modes: few, the cheapest by their own share.

A mix holds so many replicas of one mode throughout, which carry the demand that is always there or
fill a small pool, and as many of another as the rest of each slot needs (`planner.problem.Mix`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import permutations

from planner.problem import Demand, Job, Mix, Mode, Pool, halves, replicas_for

MOST = 6  # of a service
MOST_JOBS = 300  # of a problem in which mixes are offered: beyond, each is a mode more to look at
FEW_NODES = 20_000  # of its fleet, at most: larger ones are planned by prices, which know no mixes


def offered(job: Job, pools: Mapping[str, Pool], slot_hours: float = 1.0) -> tuple[Mix, ...]:
    """The cheapest mixes of a timed service, none dearer than its dearest mode by itself."""
    if not isinstance(job.need, Demand) or not job.modes or not any(_asked(job)):
        return ()
    dearest = max(_usd(job, mode, slot_hours) for mode in job.modes)
    priced = ((_mix_usd(job, mix, slot_hours), mix) for mix in _possible(job, pools))
    ranked = sorted(
        (each for each in priced if each[0] <= dearest),
        key=lambda each: (each[0], each[1].base, each[1].rest, each[1].replicas),
    )
    return tuple(mix for _, mix in ranked[:MOST])


def _possible(job: Job, pools: Mapping[str, Pool]) -> Iterator[Mix]:
    """Mixes of modes in two pools that hold them, with a base for some of the demand."""
    for base, rest in permutations(range(len(job.modes)), 2):
        one, other = job.modes[base], job.modes[rest]
        if one.pool == other.pool:
            continue
        most = _most(pools[one.pool], one)
        for replicas in sorted(_bases(job, one, most)):
            mix = Mix(base=base, replicas=replicas, rest=rest)
            if 0 < _peak(halves(job, mix)[1], other) <= _most(pools[other.pool], other):
                yield mix


def _bases(job: Job, mode: Mode, most: int) -> set[int]:
    """Replicas for the least, the mean and most of the demand, and all that the pool holds."""
    asked = _asked(job)
    levels = (min(asked), sum(asked) / len(asked), max(asked))
    wanted = {math.floor(level / mode.work_per_replica_hour) for level in levels} | {most}
    return {n for n in wanted if 1 <= n <= most}


def _asked(job: Job) -> tuple[float, ...]:
    assert isinstance(job.need, Demand)
    return job.need.per_slot[job.release : job.deadline]


def _replicas(job: Job, mode: Mode) -> list[int]:
    assert isinstance(job.need, Demand)
    return [replicas_for(job.need, mode, t) for t in range(job.release, job.deadline)]


def _peak(job: Job, mode: Mode) -> int:
    return max(_replicas(job, mode))


def _usd(job: Job, mode: Mode, slot_hours: float) -> float:
    """The share of a mode by itself, and what bringing the data there costs."""
    replica_hours = sum(_replicas(job, mode)) * slot_hours
    return replica_hours * mode.usd_per_replica_hour + mode.egress_usd


def _mix_usd(job: Job, mix: Mix, slot_hours: float) -> float:
    parts = zip(halves(job, mix), (job.modes[mix.base], job.modes[mix.rest]), strict=True)
    return sum(_usd(half, mode, slot_hours) for half, mode in parts)


def _most(pool: Pool, mode: Mode) -> int:
    """Replicas that the pool holds when it has its fewest nodes, by their GPUs."""
    nodes = min(w.nodes for w in pool.windows)
    return nodes * (pool.capacity.gpu_milli // max(1, mode.amounts.gpu_milli))
