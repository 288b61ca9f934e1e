"""How a pool and a queue are, as their ``status`` says it.

GPUs are counted as money and quotas count them: a share of one as a share, a MIG instance by its
compute slices. Every job and node is looked at once, however many pools and queues there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from planner.manifests.schema import iso
from planner.problem import Pool
from scheduler.controller.keeper import in_words
from scheduler.controller.state import PENDING, State, Tracked

Raw = dict[str, Any]


@dataclass(slots=True)
class Sums:
    """What a queue has, the queues under it included."""

    waiting: int = 0
    running: int = 0
    used: dict[str, float] = field(default_factory=dict)  # GPUs by accelerator


@dataclass(slots=True)
class Stock:
    """What a pool has on nodes that are ready."""

    nodes: int = 0
    gpus: int = 0  # of them
    free_gpus: float = 0.0  # in order, and held by no job of ours


def sums(state: State) -> dict[str, Sums]:
    """Of all queues, by their names."""
    parents = {rules.queue.name: rules.queue.parent for rules in state.queues}
    pools = {pool.name: pool for pool in state.pools}
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for one in state.jobs.values():
        if not one.holds and one.phase not in PENDING:
            continue
        pool = _held_of(one, pools)
        for name in _path(one.job.queue, parents):
            each = found[name]
            each.waiting += one.phase in PENDING
            each.running += one.holds
            if pool is not None and one.mode is not None:
                share = pool.gpu_share(one.mode.amounts)
                before = each.used.get(pool.accelerator, 0.0)
                each.used[pool.accelerator] = before + one.segments[0].replicas * share
    return dict(found)


def stocks(state: State) -> dict[str, Stock]:
    """Of all pools, by their names."""
    held = _held(state)
    found = {pool.name: Stock() for pool in state.pools}
    for node in state.nodes:
        if node.cordoned or node.pool not in found:
            continue
        each = found[node.pool]
        sound = sum(not device.unhealthy for device in node.devices)
        each.nodes += 1
        each.gpus += len(node.devices)
        each.free_gpus += max(0.0, sound - held.get(node.name, 0.0))
    return found


def _held(state: State) -> dict[str, float]:
    """GPUs that jobs hold, by node."""
    pools = {pool.name: pool for pool in state.pools}
    held: defaultdict[str, float] = defaultdict(float)
    for one in state.jobs.values():
        pool = _held_of(one, pools)
        if pool is not None and one.mode is not None:
            share = pool.gpu_share(one.mode.amounts)
            for place in one.segments[0].placement:
                held[place.node] += place.replicas * share
    return held


def _held_of(one: Tracked, pools: Mapping[str, Pool]) -> Pool | None:
    """The pool on whose nodes a job is; None where it is on none."""
    return pools.get(one.mode.pool) if one.holds and one.mode is not None else None


def queue_status(
    raw: Mapping[str, Any], found: Sums, fault: str = "", observed: Raw | None = None
) -> Raw:
    """Of a GpuQueue.

    ``observed``: where it is only looked at, what it does and would do (`keeper.written`).
    """
    head = _head(raw, fault)
    if observed is not None:
        said = in_words(observed)
        head["conditions"].append(_condition(raw, "Observed", "True", "ObserveOnly", said))
    return {
        **head,
        "observed": observed,
        "waitingJobs": found.waiting,
        "runningJobs": found.running,
        "used": {k: round(v, 6) for k, v in sorted(found.used.items()) if v},
    }


def _path(queue: str, parents: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    while queue and queue not in found:
        found.append(queue)
        queue = parents.get(queue, "")
    return found


def pool_status(raw: Mapping[str, Any], stock: Stock, fault: str = "", remark: str = "") -> Raw:
    """Of a GpuPool: what is ready of it, and what nothing uses.

    ``remark``: what is odd about it, although it is used.
    """
    return {
        **_head(raw, fault or ("" if stock.nodes else remark or "no node that is ready"), remark),
        "nodes": stock.nodes,
        "gpus": stock.gpus,
        "freeGpus": round(stock.free_gpus, 6),
    }


def _head(raw: Mapping[str, Any], fault: str, remark: str = "") -> Raw:
    generation = int(raw["metadata"].get("generation") or 0)
    reason = "Invalid" if fault else "Ready"
    ready = _condition(raw, "Ready", "False" if fault else "True", reason, fault or remark)
    return {"observedGeneration": generation, "conditions": [ready]}


def _condition(raw: Mapping[str, Any], kind: str, state: str, reason: str, message: str) -> Raw:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    old: Raw = next((each for each in conditions if each.get("type") == kind), {})
    since = iso(datetime.now(UTC).replace(microsecond=0))
    if old.get("status") == state:
        since = old.get("lastTransitionTime", since)
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
        "observedGeneration": int(raw["metadata"].get("generation") or 0),
    }
