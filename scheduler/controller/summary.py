"""How a pool and a queue are, as their ``status`` says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from planner.manifests.schema import iso
from scheduler.controller.state import PENDING, State, gpus_of

Raw = dict[str, Any]


def queue_status(raw: Mapping[str, Any], state: State, fault: str = "") -> Raw:
    """Of a GpuQueue. ``used`` counts the queues under it too."""
    name = raw["metadata"]["name"]
    parents = {rules.queue.name: rules.queue.parent for rules in state.queues}
    accelerators = {pool.name: pool.accelerator for pool in state.pools}
    used: Counter[str] = Counter()
    waiting = running = 0
    for one in state.jobs.values():
        if name not in _path(one.job.queue, parents):
            continue
        waiting += one.phase in PENDING
        running += one.holds
        if one.holds and one.mode is not None and one.mode.pool in accelerators:
            used[accelerators[one.mode.pool]] += round(gpus_of(one))
    return {
        **_head(raw, fault),
        "waitingJobs": waiting,
        "runningJobs": running,
        "used": {k: used[k] for k in sorted(used) if used[k]},
    }


def _path(queue: str, parents: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    while queue and queue not in found:
        found.append(queue)
        queue = parents.get(queue, "")
    return found


def pool_status(raw: Mapping[str, Any], state: State, fault: str = "") -> Raw:
    """Of a GpuPool: what is ready of it, and what nothing uses."""
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
        **_head(raw, fault or ("" if ready else "no node that is ready")),
        "nodes": len(ready),
        "gpus": total,
        "freeGpus": max(0.0, sound - held),
    }


def _head(raw: Mapping[str, Any], fault: str) -> Raw:
    generation = int(raw["metadata"].get("generation") or 0)
    state = "False" if fault else "True"
    old: Raw = ((raw.get("status") or {}).get("conditions") or ({},))[0]
    since = iso(datetime.now(UTC).replace(microsecond=0))
    if old.get("status") == state:
        since = old.get("lastTransitionTime", since)
    ready = {
        "type": "Ready",
        "status": state,
        "reason": "Invalid" if fault else "Ready",
        "message": fault,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }
    return {"observedGeneration": generation, "conditions": [ready]}
