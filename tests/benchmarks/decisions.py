"""How long the operator decides: arrivals, ends, whole passes, and a flow of short jobs.

Fleet     500 nodes of eight GPUs in five pools, the first the cheapest; a week in slots of a
          quarter of an hour.
Overload  2,000 jobs that arrive a second apart, of 1 to 32 GPUs and 1 to 20 hours, each of which
          may run in any pool: what does not start is promised nodes and a start. Then what runs
          ends, one after the other; then the queues change; then the operator starts anew.
Flow      2,000 jobs of one GPU and 1 to 10 s in 30 queues with limits, decided on ten times a
          second.

Times are of processor time. Peak memory is of the process, Python and compiled code included.

    python -m tests.benchmarks.decisions [--jobs 2000]
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from planner.problem import Job, Pool, Queue
from scheduler.controller.decide import Decider
from scheduler.controller.state import (
    Event,
    JobArrived,
    JobFinished,
    JobStarted,
    Phase,
    QueueRules,
    QueuesChanged,
    State,
    Tick,
    Tracked,
)
from tests.benchmarks.measure import publish
from tests.planner.worlds import START, grid, job, mode, nodes_of, pool

SLOTS, SLOT_SECONDS, ENDS = 672, 900, 100
POOLS = tuple(pool(f"p{i}", nodes=100, gpus=8, usd=1.0 + i, slots=SLOTS) for i in range(5))
ONE = pool("one", nodes=500, gpus=8, slots=SLOTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    asked = parser.parse_args()
    overload(30)  # compiled code is read from disk
    publish("decisions", [*overload(asked.jobs), flow(asked.jobs)])


def overload(jobs: int) -> list[dict[str, object]]:
    """The rows of the overload."""
    rng, decider, state = random.Random(0), Decider(), world(POOLS)
    arrivals = []
    for i in range(jobs):
        when = START + timedelta(seconds=i)
        one = Tracked(job=wide(rng, i), arrived=when, uid=str(i))
        seconds, state = timed(decider, state, [JobArrived(at=when, job=one)])
        arrivals.append(seconds)
    running = [n for n, one in state.jobs.items() if one.phase is Phase.LAUNCHING]
    now = state.now
    started, state = timed(decider, state, [JobStarted(at=now, name=n) for n in running])
    ends = []
    for name in running[:ENDS]:
        now += timedelta(seconds=1)
        seconds, state = timed(decider, state, [JobFinished(at=now, name=name)])
        ends.append(seconds)
    rules = (QueueRules(queue=Queue(name="q")),)
    whole, state = timed(decider, state, [QueuesChanged(at=now, queues=rules)])
    anew, state = timed(Decider(), state, [Tick(at=now)])
    steps: tuple[tuple[str, Sequence[float]], ...] = (
        ("arrival", arrivals),
        ("all that runs starts", [started]),
        ("end", ends),
        ("pass over all", [whole]),
        ("start anew", [anew]),
    )
    return [row(f"overload: {what}", jobs, seconds) for what, seconds in steps]


def flow(jobs: int) -> dict[str, object]:
    """The row of the flow: each pass decides on all that has happened in a tenth of a second."""
    rng, decider = random.Random(0), Decider()
    rules = [QueueRules(queue=Queue(name=f"q{i}", limit=(("one", 200),))) for i in range(30)]
    state = world((ONE,), rules)
    hours = {f"j{i}": rng.uniform(1, 10) / 3600 for i in range(jobs)}

    def short(name: str, i: int) -> Job:
        way = mode(ONE, hours=hours[name])
        return job(name, way, slots=SLOTS, queue=f"q{i % 30}", unplaced_usd=1e6)

    events: list[Event] = [
        JobArrived(at=START, job=Tracked(job=short(name, i), arrived=START, uid=name))
        for i, name in enumerate(hours)
    ]
    passes, tenths, ends = [], 0, list[tuple[float, str]]()
    while events:
        seconds, state = timed(decider, state, events)
        passes.append(seconds)
        tenths += 1
        now, at = START + timedelta(seconds=tenths / 10), tenths / 10
        launched = [n for n, one in state.jobs.items() if one.phase is Phase.LAUNCHING]
        events = [JobStarted(at=now, name=n) for n in launched]
        for name in launched:
            heapq.heappush(ends, (at + hours[name] * 3600, name))
        while ends and ends[0][0] <= at:
            events.append(JobFinished(at=now, name=heapq.heappop(ends)[1]))
        if ends and not events:
            events = [Tick(at=now)]
    assert all(one.phase is Phase.DONE for one in state.jobs.values())
    return row(f"flow: {tenths / 10:g} s of it", jobs, passes)


def world(pools: tuple[Pool, ...], queues: Sequence[QueueRules] = ()) -> State:
    return State(
        now=START,
        grid=grid(SLOTS, SLOT_SECONDS),
        pools=pools,
        nodes=nodes_of(pools),
        queues=tuple(queues),
    )


def wide(rng: random.Random, number: int) -> Job:
    """A job that may run in any pool, in the dearer ones somewhat faster."""
    gpus, replicas = rng.choice([1, 1, 2, 4, 8]), rng.choice([1, 1, 1, 2, 4])
    hours = rng.choice([1, 3, 8, 20])
    modes = [
        mode(p, hours=hours * (1 - 0.1 * i), replicas=replicas, gpus=gpus)
        for i, p in enumerate(POOLS)
    ]
    return job(f"j{number}", *modes, slots=SLOTS, unplaced_usd=1e7)


def timed(decider: Decider, state: State, events: Sequence[Event]) -> tuple[float, State]:
    began = time.process_time()
    after = decider.run_all(events, state)
    return time.process_time() - began, after


def row(what: str, jobs: int, seconds: Sequence[float]) -> dict[str, object]:
    milliseconds = 1e3 * np.array(seconds)
    return {
        "what": what,
        "jobs": jobs,
        "decided": len(seconds),
        "median_ms": round(float(np.median(milliseconds)), 2),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 2),
        "most_ms": round(float(milliseconds.max()), 1),
        "total_s": round(float(milliseconds.sum()) / 1e3, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
