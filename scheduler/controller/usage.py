"""What pools and queues look like in a state: what is there, what is used, who waits.

GPUs are counted as money and quotas count them: a share of one as a share, a MIG instance by its
compute slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from planner.problem import GPU_MILLI, Pool
from scheduler.controller.quotas import Tree
from scheduler.controller.state import PENDING, State, Tracked


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """What of a pool there is."""

    nodes: int = 0
    gpus: float = 0.0  # of these nodes, less what others use
    free_gpus: float = 0.0  # held by no job of ours, on nodes that take new work


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUse:
    """What goes on in a queue and all queues below it."""

    waiting_jobs: int = 0
    running_jobs: int = 0  # that hold their nodes
    used: Mapping[str, float] = field(default_factory=dict)  # GPUs by accelerator


def pool_use(state: State) -> dict[str, PoolUse]:
    """By pool."""
    pools = {pool.name: pool for pool in state.pools}
    held = _held(state, pools)
    found = {name: PoolUse() for name in pools}
    for node in state.nodes:
        if node.pool not in found:
            continue
        was, gpus = found[node.pool], node.capacity.gpu_milli / GPU_MILLI
        found[node.pool] = PoolUse(
            nodes=was.nodes + 1,
            gpus=was.gpus + gpus,
            free_gpus=was.free_gpus
            + (0.0 if node.cordoned else max(0.0, gpus - held.get(node.name, 0.0))),
        )
    return found


def _held(state: State, pools: Mapping[str, Pool]) -> dict[str, float]:
    """GPUs that jobs hold, by node."""
    held: dict[str, float] = defaultdict(float)
    for one in state.jobs.values():
        if one.holds and one.mode is not None and one.mode.pool in pools:
            share = pools[one.mode.pool].gpu_share(one.mode.amounts)
            for place in one.segments[0].placement:
                held[place.node] += place.replicas * share
    return held


def queue_use(state: State) -> dict[str, QueueUse]:
    """By queue; what a job does counts in its queue and in all above it."""
    pools = {pool.name: pool for pool in state.pools}
    tree = Tree([rules.queue for rules in state.queues])
    waiting: dict[str, int] = defaultdict(int)
    running: dict[str, int] = defaultdict(int)
    used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one in state.jobs.values():
        for name in tree.path(one.job.queue):
            waiting[name] += one.phase in PENDING
            running[name] += one.holds
            for accelerator, gpus in _used(one, pools):
                used[name][accelerator] += gpus
    return {
        rules.queue.name: QueueUse(
            waiting_jobs=waiting[rules.queue.name],
            running_jobs=running[rules.queue.name],
            used=dict(sorted(used[rules.queue.name].items())),
        )
        for rules in state.queues
    }


def _used(one: Tracked, pools: Mapping[str, Pool]) -> Iterator[tuple[str, float]]:
    mode = one.mode
    if one.holds and mode is not None and mode.pool in pools:
        pool = pools[mode.pool]
        yield pool.accelerator, one.segments[0].replicas * pool.gpu_share(mode.amounts)
