"""The tree of queues, by accelerator: what each holds now, what of it is borrowed, who is covered.

Limits, and what queues keep back of their guarantees, hold at every instant: they are rows of
`planner.quotas`, which the planner's fast path keeps in time. Here is what is decided by looking at
one instant, as Kueue does: who may have back what was lent.

What a queue and those under it hold above the guarantee of the queue is *borrowed*. Who may have it
back is a matter of jobs: a job is *covered* on an accelerator if it is among the first of its
queue, by priority and arrival, that together fit in the guarantee; or in what a queue above it is
guaranteed beyond what is covered already. The first that does not fit ends the row, so that whoever
is ahead of a covered job of the same queue is covered too. That makes *who may push aside whom* an
order without cycles: from covered to not covered, and in one queue from those ahead to those
behind.

(`planner.guarantees` asks the same of a plan: over its horizon, where a job may be covered later.)

All amounts are GPU thousandths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from planner.manifests.references import MOST_LEVELS
from planner.problem import GPU_MILLI, Queue
from scheduler.controller.state import State, counted_milli

Order = tuple[int, datetime, str]  # -tier, arrival, name: the first goes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that runs or is to: what it counts for on each accelerator that it could run on."""

    job: str
    queue: str
    order: Order
    milli: Mapping[str, int]  # of an accelerator; where it runs, that one only


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """What a queue holds of an accelerator, beside what it is guaranteed."""

    queue: str
    accelerator: str
    used_milli: int
    guaranteed_milli: int

    @property
    def milli(self) -> int:
        """What of it is borrowed."""
        return max(0, self.used_milli - self.guaranteed_milli)


class Tree:
    """Queues, those right under each, and the queues from one to its root."""

    def __init__(self, queues: Sequence[Queue]) -> None:
        self.by_name = {q.name: q for q in queues}
        self.under: dict[str, list[str]] = defaultdict(list)
        for q in queues:
            self.under[q.parent if q.parent in self.by_name else ""].append(q.name)
        self._paths: dict[str, tuple[str, ...]] = {}

    def path(self, queue: str) -> tuple[str, ...]:
        """The queue and those above it, up to the root; empty where it is not known."""
        if queue not in self._paths:
            found: list[str] = []
            name = queue
            while name in self.by_name and name not in found:
                found.append(name)
                name = self.by_name[name].parent
            self._paths[queue] = tuple(found)
        return self._paths[queue]

    def upwards(self) -> Iterator[str]:
        """All queues, those under one before it."""
        yield from sorted(self.by_name, key=lambda name: (-len(self.path(name)), name))


def misplaced(parents: Mapping[str, str]) -> dict[str, str]:
    """Queues whose parent makes no tree, and why; ``parents``: of each queue, empty for a root."""
    found = {}
    for name, parent in parents.items():
        above, seen = parent, {name}
        while above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        if parent and parent not in parents:
            why = f"found {parent}, which does not exist; allowed: a GpuQueue, or none"
        elif parent and above == name:
            why = f"found {parent}, which is under it; allowed: a GpuQueue that is not"
        elif len(seen) > MOST_LEVELS:
            why = f"found {parent}, which is as deep as a queue may be; allowed: one less deep"
        else:
            continue
        found[name] = f"spec.parent: {why}. It is a root meanwhile"
    return found


def borrowed(state: State) -> tuple[Borrowed, ...]:
    """What each queue holds beside its guarantee, where it holds or is guaranteed any."""
    pools = {pool.name: pool for pool in state.pools}
    tree = Tree([rules.queue for rules in state.queues])
    used: dict[tuple[str, str], int] = defaultdict(int)
    for one in state.jobs.values():
        mode = one.mode
        if one.holds and mode is not None and (pool := pools.get(mode.pool)) is not None:
            for queue in tree.path(one.job.queue):
                used[queue, pool.accelerator] += counted_milli(mode, pool)
    guaranteed = {(q.name, a): n for q in tree.by_name.values() for a, n in q.guaranteed}
    return tuple(
        Borrowed(
            queue=queue,
            accelerator=accelerator,
            used_milli=used[queue, accelerator],
            guaranteed_milli=GPU_MILLI * guaranteed.get((queue, accelerator), 0),
        )
        for queue, accelerator in sorted(used.keys() | guaranteed.keys())
    )


def covered(queues: Sequence[Queue], claims: Iterable[Claim]) -> dict[str, frozenset[str]]:
    """The accelerators on which each job is covered by a guarantee; jobs covered on none are out.

    Bottom up: what a queue is guaranteed goes to its own first, what a queue above is guaranteed
    beyond that to the first of those that are not covered yet.
    """
    accelerators = sorted({a for q in queues for a, n in q.guaranteed if n})
    if not accelerators:
        return {}
    tree = Tree(queues)
    by_queue: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        for name in tree.path(claim.queue):
            by_queue[name].append(claim)
    found: dict[str, set[str]] = defaultdict(set)
    for ours in by_queue.values():
        ours.sort(key=lambda claim: claim.order)
    for name in tree.upwards():
        guaranteed = dict(tree.by_name[name].guaranteed)
        for accelerator in accelerators:
            left = GPU_MILLI * guaranteed.get(accelerator, 0)
            for job in _row(by_queue[name], accelerator, left, found):
                found[job].add(accelerator)
    return {job: frozenset(on) for job, on in found.items()}


def _row(
    claims: Sequence[Claim], accelerator: str, left: int, found: Mapping[str, set[str]]
) -> list[str]:
    """The first of ``claims`` that fit together in what is ``left`` beside those covered."""
    open_claims = []
    for claim in claims:
        need = claim.milli.get(accelerator, 0)
        if not need:
            continue
        if accelerator in found.get(claim.job, ()):
            left -= need
        else:
            open_claims.append((claim.job, need))
    row = []
    for job, need in open_claims:
        if need > left:
            break
        row.append(job)
        left -= need
    return row
