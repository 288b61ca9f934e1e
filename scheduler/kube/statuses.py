"""What our objects say of themselves, and the least change that says it.

`told` makes a status of what the operator has decided, `read_status` reads it back after a restart:
the same value, so that nothing is written twice. A condition keeps its time until it turns; what
changed is written as a JSON merge patch (RFC 7386).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from planner.manifests.schema import iso
from planner.manifests.status import (
    Condition,
    ConditionStatus,
    ExpectedStart,
    GpuJobStatus,
    GpuPoolStatus,
    GpuQueueStatus,
    HeldNode,
    JobCondition,
    JobPlan,
    Launched,
)
from planner.manifests.status import Record as WrittenRecord
from scheduler.controller.actions import Record, Status
from scheduler.controller.state import Phase, Why
from scheduler.controller.usage import PoolUse, QueueUse

MESSAGE_CHARACTERS = 32768  # of metav1.Condition
REASON_CHARACTERS = 1024

Raw = dict[str, Any]

_TRUE: Mapping[Phase, frozenset[JobCondition]] = {
    Phase.WAITING: frozenset(),
    Phase.RESERVED: frozenset({JobCondition.PLANNED}),
    Phase.LAUNCHING: frozenset({JobCondition.PLANNED, JobCondition.LAUNCHED}),
    Phase.RUNNING: frozenset({JobCondition.PLANNED, JobCondition.LAUNCHED, JobCondition.RUNNING}),
    Phase.STOPPING: frozenset(
        {JobCondition.LAUNCHED, JobCondition.RUNNING, JobCondition.PREEMPTED}
    ),
    Phase.SUSPENDED: frozenset({JobCondition.PREEMPTED}),
    Phase.DONE: frozenset({JobCondition.PLANNED, JobCondition.LAUNCHED, JobCondition.SUCCEEDED}),
    Phase.FAILED: frozenset({JobCondition.FAILED}),
}


def told(
    status: Status, before: Mapping[str, Any], *, launched: Launched | None, now: datetime
) -> GpuJobStatus:
    """The status of a job's object; ``before`` is the one that it has, {} where it has none.

    ``launched`` is the workload that carries the job, None where there is none.
    """
    return GpuJobStatus(
        observed_generation=status.generation,
        conditions=tuple(_conditions(status, before, now)),
        plan=_plan(status),
        launched=launched,
        record=_written(status),
    )


def read_status(job: str, raw: Mapping[str, Any]) -> Status | None:
    """What `told` wrote into the status ``raw``; None where nothing was, or what cannot be read."""
    try:
        written = GpuJobStatus.model_validate(dict(raw), by_alias=True, by_name=False)
    except ValueError:
        return None
    record, plan = written.record, written.plan
    if record is None or record.phase not in set(Phase):
        return None
    planned = (each.message for each in written.conditions if each.type == JobCondition.PLANNED)
    return Status(
        job=job,
        phase=Phase(record.phase),
        why=Why(reason=record.reason, message=next(planned, ""), binds=record.binds),
        generation=written.observed_generation,
        expected_start=record.started or record.start,
        pool=plan.pool if plan else "",
        nodes=plan.nodes if plan else (),
        gpus=plan.gpus if plan else 0.0,
        end=plan.end if plan else None,
        cost_usd=(plan.cost_usd or 0.0) if plan else 0.0,
        usd_per_pflop=(plan.usd_per_pflop or 0.0) if plan else 0.0,
        started=record.started,
        record=_read(record),
    )


def _plan(status: Status) -> JobPlan | None:
    start = status.record.start
    if not status.pool or start is None or status.end is None:
        return None
    return JobPlan(
        pool=status.pool,
        nodes=status.nodes,
        gpus=status.gpus,
        start=start,
        end=status.end,
        cost_usd=status.cost_usd or None,
        usd_per_pflop=status.usd_per_pflop or None,
        expected_start=ExpectedStart(at=status.expected_start or start),
    )


def _written(status: Status) -> WrittenRecord:
    record = status.record
    return WrittenRecord(
        phase=status.phase.value,
        reason=str(status.why.reason),
        binds=status.why.binds,
        attempt=record.attempt,
        failures=record.failures,
        work_done=record.work_done,
        not_before=record.not_before,
        evicted_by=record.evicted_by,
        mode=record.mode,
        nodes=tuple(HeldNode(name=name, replicas=replicas) for name, replicas in record.nodes),
        start=record.start,
        end=record.end,
        started=status.started,
    )


def _read(written: WrittenRecord) -> Record:
    return Record(
        attempt=written.attempt,
        failures=written.failures,
        work_done=written.work_done,
        not_before=written.not_before,
        evicted_by=written.evicted_by,
        mode=written.mode,
        nodes=tuple((node.name, node.replicas) for node in written.nodes),
        start=written.start,
        end=written.end,
    )


def pool_told(
    use: PoolUse, before: Mapping[str, Any], *, generation: int, fault: str = "", now: datetime
) -> GpuPoolStatus:
    """The status of a pool's object; ``fault``: why the object cannot be used, empty if it can."""
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
    """The status of a queue's object; ``fault``: why the object cannot be used, empty if it can."""
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
    status = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
    return _condition("Ready", status, why, had.get("Ready", {}), generation, now)


# -- conditions ------------------------------------------------------------------------------------


def _conditions(status: Status, before: Mapping[str, Any], now: datetime) -> Iterator[Condition]:
    """All of a job's, in their order."""
    had = {str(each.get("type")): each for each in before.get("conditions", ())}
    for kind in JobCondition:
        old = had.get(kind, {})
        holds = _holds(kind, status)
        said = _said(kind, status, holds, old)
        yield _condition(kind, holds, said, old, status.generation, now)


def _condition(
    kind: str,
    holds: ConditionStatus,
    said: tuple[str, str],
    old: Mapping[str, Any],
    generation: int,
    now: datetime,
) -> Condition:
    """The condition with this reason and message; one whose status stays keeps its time."""
    since = old.get("lastTransitionTime") if old.get("status") == holds else None
    return Condition.model_validate(
        {
            "type": kind,
            "status": holds,
            "reason": said[0],
            "message": _cut(said[1]),
            "lastTransitionTime": since or iso(now.replace(microsecond=0)),
            "observedGeneration": generation,
        }
    )


def _holds(kind: JobCondition, status: Status) -> ConditionStatus:
    again = kind is JobCondition.PREEMPTED and status.phase is Phase.RESERVED
    true = kind in _TRUE[status.phase] or (again and status.record.attempt > 0)
    return ConditionStatus.TRUE if true else ConditionStatus.FALSE


def _said(
    kind: JobCondition, status: Status, holds: ConditionStatus, old: Mapping[str, Any]
) -> tuple[str, str]:
    """Reason and message: why the job is in its phase, where the condition is about that."""
    why = camel(status.why.reason), status.why.message
    if kind is JobCondition.PLANNED:
        return why
    if holds is ConditionStatus.FALSE:
        return f"Not{kind}", ""
    if kind is JobCondition.PREEMPTED and old.get("status") == ConditionStatus.TRUE:
        return str(old["reason"]), str(old["message"])  # since then others may keep it waiting
    return why if kind in (JobCondition.PREEMPTED, JobCondition.FAILED) else (str(kind), "")


def camel(reason: str) -> str:
    """A reason as Kubernetes writes it.

    >>> camel("no-option"), camel("capacity"), camel("DeadlineExceeded")
    ('NoOption', 'Capacity', 'DeadlineExceeded')
    """
    words = re.findall(r"[A-Za-z0-9]+", reason)
    joined = "".join(word[0].upper() + word[1:] for word in words)[:REASON_CHARACTERS]
    return joined if joined[:1].isalpha() else f"Reason{joined}"


def _cut(message: str) -> str:
    longest = MESSAGE_CHARACTERS
    return message if len(message) <= longest else f"{message[: longest - 1]}…"


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
