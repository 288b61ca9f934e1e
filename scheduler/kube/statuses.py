"""What pools and queues say of themselves, and the least change that makes a status of another.

A condition keeps its time until it turns, so that a status that says the same is the same. What
changed is written as a JSON merge patch (RFC 7386).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from planner.manifests.schema import iso
from planner.manifests.status import (
    Condition,
    ConditionStatus,
    GpuJobStatus,
    GpuPoolStatus,
    GpuQueueStatus,
)
from scheduler.controller.usage import PoolUse, QueueUse
from scheduler.kube.api import Raw

MESSAGE_CHARACTERS = 32768  # of metav1.Condition


def pool_told(
    use: PoolUse, before: Mapping[str, Any], *, generation: int, fault: str = "", now: datetime
) -> GpuPoolStatus:
    """The status of a pool's object; ``before`` is the one that it has, {} where it has none.

    ``fault``: why the object cannot be used, empty where it can.
    """
    counted = f"{use.nodes} nodes, {use.gpus:g} GPUs"
    holds = bool(use.nodes and not fault)
    why = ("Invalid", fault) if fault else ("Counted" if holds else "NoNodes", counted)
    return GpuPoolStatus(
        observed_generation=generation,
        conditions=(_ready(why, before, holds=holds, generation=generation, now=now),),
        nodes=use.nodes,
        gpus=use.gpus,
        free_gpus=use.free_gpus,
    )


def queue_told(
    use: QueueUse, before: Mapping[str, Any], *, generation: int, fault: str = "", now: datetime
) -> GpuQueueStatus:
    """The status of a queue's object, as `pool_told` has it of a pool's."""
    why = ("Invalid", fault) if fault else ("Accepted", "")
    return GpuQueueStatus(
        observed_generation=generation,
        conditions=(_ready(why, before, holds=not fault, generation=generation, now=now),),
        waiting_jobs=use.waiting_jobs,
        running_jobs=use.running_jobs,
        used=dict(use.used),
    )


def _ready(
    why: tuple[str, str], before: Mapping[str, Any], *, holds: bool, generation: int, now: datetime
) -> Condition:
    had = {str(each.get("type")): each for each in before.get("conditions", ())}
    old = had.get("Ready", {})
    status = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return Condition.model_validate(
        {
            "type": "Ready",
            "status": status,
            "reason": why[0],
            "message": why[1][:MESSAGE_CHARACTERS],
            "lastTransitionTime": since or iso(now.replace(microsecond=0)),
            "observedGeneration": generation,
        }
    )


def raw(status: GpuJobStatus | GpuPoolStatus | GpuQueueStatus) -> Raw:
    """The status as an object has it; what is not stated is left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Raw:
    """The merge patch that makes ``after`` of ``before``; empty where nothing is to be said.

    >>> difference({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 2, "e": [4]}})
    {'a': None, 'b': {'d': None, 'e': [4]}}
    """
    gone = {name: None for name in before if name not in after}
    changed = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if inner := difference(old, value):
                changed[name] = inner
        elif name not in before or value != old:
            changed[name] = value
    return gone | changed
