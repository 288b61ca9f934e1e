"""What queues may hold of an accelerator at once: their limits, and what other queues keep back.

Sets: accelerators a, queues q in a tree, slots t.

Data
    limit[q, a]       GPUs that the jobs under q hold at most
    G[q, a], L[q, a]  GPUs guaranteed to q, and what of them it lends (all, where it does not say)
    C[a, t]           usable GPUs of the pools of a

A queue *keeps back* N = G - L for the jobs under it, used or not. What it holds, and the rule:

    held[q, a, t] = max(N[q, a], use by q's own jobs + sum of held[c, a, t] over its children c)
    sum of held over the roots + use by jobs without a queue  <=  C[a, t]

In a slot that has fewer GPUs than are kept back, every N is reduced in the same proportion.

As rows: a maximum is at most what both of its arguments are, so the rule is one row for each set S
of queues of which none is above another:

    use by jobs under none of S  <=  C[a, t] - sum of N[q, a] over S

where a queue whose children keep back as much need not be looked at itself. Rows are in thousandths
of a GPU, and of the same shape as limits: every solver takes both in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.problem import GPU_MILLI, Problem, Queue

MOST_ROWS = 127  # of an accelerator: seven queues side by side that each keep some of it back

Millis = npt.NDArray[np.int64]  # (slots,), GPU thousandths
Sets = list[tuple[tuple[str, ...], int]]  # queues, and the GPUs that they keep back together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cap:
    """GPUs of an accelerator that the jobs of some queues hold at once, at most."""

    accelerator: str
    milli: Millis
    queue: str  # whose limit it is; else the first of ``keepers``
    keepers: tuple[str, ...] = ()  # what these keep back together is not for jobs of other queues

    def binds(self, path: Collection[str]) -> bool:
        """Whether it counts what a job holds whose queue and those above it are ``path``."""
        if self.keepers:
            return not any(name in path for name in self.keepers)
        return self.queue in path


def kept_back(queue: Queue) -> dict[str, int]:
    """GPUs by accelerator that are guaranteed to ``queue`` and that it does not lend.

    >>> kept_back(Queue(name="q", guaranteed=(("a", 8), ("b", 4)), lendable=(("a", 6),)))
    {'a': 2}
    """
    lent = dict(queue.lendable or ())
    kept = {a: gpus - min(gpus, lent.get(a, gpus)) for a, gpus in queue.guaranteed}
    return {a: gpus for a, gpus in kept.items() if gpus}


def usable(problem: Problem) -> dict[str, Millis]:
    """By accelerator, the GPUs of nodes that are there and may be used, by slot."""
    found = {pool.accelerator: np.zeros(problem.grid.slots, np.int64) for pool in problem.pools}
    for pool in problem.pools:
        nodes = [n for n in problem.nodes_of(pool.name) if not n.cordoned]
        for window in pool.windows:
            gpus = sum(len(n.healthy_gpus()) for n in nodes if n.index < window.nodes)
            found[pool.accelerator][window.start : window.end] += GPU_MILLI * gpus
    return found


def caps(problem: Problem) -> tuple[Cap, ...]:
    """All rows of ``problem``: limits, in the order of its queues, and then what is kept back.

    Raises `ValueError` where an accelerator would have more than `MOST_ROWS` of the latter.
    """
    if not any(map(kept_back, problem.queues)):
        return limits(problem)
    return (*limits(problem), *kept_rows(problem.queues, usable(problem)))


def limits(problem: Problem) -> tuple[Cap, ...]:
    """The rows of limits."""
    slots = problem.grid.slots
    return tuple(
        Cap(accelerator=a, milli=np.full(slots, most * GPU_MILLI, np.int64), queue=queue.name)
        for queue in problem.queues
        for a, most in queue.limit
    )


def kept_rows(queues: Sequence[Queue], have: Mapping[str, Millis]) -> Iterator[Cap]:
    """The rows of what is kept back of the GPUs that there are."""
    if too_many := too_many_keepers(queues):
        raise ValueError(too_many)
    for accelerator in _accelerators(queues):
        if accelerator not in have:
            continue
        kept = _kept_of(queues, accelerator)
        sets = _sets(queues, kept)
        left = have[accelerator]
        wanted = max(GPU_MILLI * gpus for _, gpus in sets)
        share = np.minimum(left, wanted)  # of what is wanted, what there is
        of_queue = {name: GPU_MILLI * gpus * share // wanted for name, gpus in kept.items()}
        for keepers, _ in sets:
            if keepers:
                milli = left - sum(of_queue[name] for name in keepers)
                yield Cap(accelerator=accelerator, milli=milli, queue=keepers[0], keepers=keepers)


def too_many_keepers(queues: Sequence[Queue]) -> str:
    """Which accelerator more queues keep back than can be planned; empty where all can be."""
    for accelerator in _accelerators(queues):
        kept = _kept_of(queues, accelerator)
        if _count(queues, kept) > MOST_ROWS + 1:
            first, *_, last = kept
            return (
                f"{len(kept)} queues ({first} to {last}) keep back {accelerator} that they do not "
                f"lend, in more than {MOST_ROWS} combinations"
            )
    return ""


def _accelerators(queues: Sequence[Queue]) -> list[str]:
    return sorted({a for queue in queues for a in kept_back(queue)})


def _kept_of(queues: Sequence[Queue], accelerator: str) -> dict[str, int]:
    kept = {queue.name: kept_back(queue).get(accelerator, 0) for queue in queues}
    return {name: gpus for name, gpus in kept.items() if gpus}


def _children(queues: Sequence[Queue]) -> dict[str, list[str]]:
    """Of each queue, and of "" the roots."""
    names = {queue.name for queue in queues}
    found: dict[str, list[str]] = defaultdict(list)
    for queue in queues:
        found[queue.parent if queue.parent in names else ""].append(queue.name)
    return found


def _sets(queues: Sequence[Queue], kept: Mapping[str, int]) -> Sets:
    """The sets of queues to look at, the empty one among them."""
    children = _children(queues)

    def under(name: str) -> Sets:
        found: Sets = [((), 0)]
        for child in children[name]:
            found = [(a + b, n + m) for a, n in found for b, m in under(child)]
        own = kept.get(name, 0)
        return found if own <= max(n for _, n in found) else [*found, ((name,), own)]

    return under("")


def _count(queues: Sequence[Queue], kept: Mapping[str, int]) -> int:
    """How many sets there are, without making them."""
    children = _children(queues)

    def under(name: str) -> tuple[int, int]:
        """(sets, GPUs that are kept back at most)."""
        count, most = 1, 0
        for child in children[name]:
            n, gpus = under(child)
            count, most = count * n, most + gpus
        own = kept.get(name, 0)
        return (count, most) if own <= most else (count + 1, own)

    return under("")[0]
