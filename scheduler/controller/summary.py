"""How a pool and a queue are, as their ``status`` says it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from planner.manifests.schema import iso
from scheduler.controller.keeper import in_words
from scheduler.controller.state import PENDING, State, gpus_of

Raw = dict[str, Any]


@dataclass(slots=True)
class Sums:
    """What a queue has, the queues under it included."""

    waiting: int = 0
    running: int = 0
    used: Counter[str] = field(default_factory=Counter)  # GPUs by accelerator


def sums(state: State) -> dict[str, Sums]:
    """Of all queues, by their names: every job is looked at once, however many queues there are."""
    parents = {rules.queue.name: rules.queue.parent for rules in state.queues}
    accelerators = {pool.name: pool.accelerator for pool in state.pools}
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for one in state.jobs.values():
        if not one.holds and one.phase not in PENDING:
            continue
        accelerator = accelerators.get(one.mode.pool) if one.holds and one.mode else None
        for name in _path(one.job.queue, parents):
            each = found[name]
            each.waiting += one.phase in PENDING
            each.running += one.holds
            if accelerator is not None:
                each.used[accelerator] += round(gpus_of(one))
    return dict(found)


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
        "used": {k: found.used[k] for k in sorted(found.used) if found.used[k]},
    }


def _path(queue: str, parents: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    while queue and queue not in found:
        found.append(queue)
        queue = parents.get(queue, "")
    return found


def pool_status(raw: Mapping[str, Any], state: State, fault: str = "", remark: str = "") -> Raw:
    """Of a GpuPool: what is ready of it, and what nothing uses.

    ``remark``: what is odd about it, although it is used.
    """
    name = raw["metadata"]["name"]
    ready = [node for node in state.nodes if node.pool == name and not node.cordoned]
    sound = sum(not device.unhealthy for node in ready for device in node.devices)
    held = sum(
        gpus_of(one)
        for one in state.jobs.values()
        if one.holds and one.mode is not None and one.mode.pool == name
    )
    total = sum(len(node.devices) for node in ready)
    return {
        **_head(raw, fault or ("" if ready else remark or "no node that is ready"), remark),
        "nodes": len(ready),
        "gpus": total,
        "freeGpus": max(0.0, sound - held),
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
