"""What an owner is told of a job, as the ``status`` of a GpuJob has it, and read back from there.

Beside what people read, a status holds the whole `Status` as text, so that an operator that comes
after knows what was told and what the job has been through (``record``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from planner.codec import CodecError, decode, encode
from planner.manifests.schema import iso
from planner.manifests.status import JobCondition
from planner.plan import Reason
from planner.problem import Demand, Grid
from scheduler.controller.actions import Places, Record, Status
from scheduler.controller.state import HOLDING, Cause, Phase, Tracked

Raw = dict[str, Any]
EVICTED = (
    *(Cause.PREEMPTED, Cause.RECLAIMED, Cause.MOVED, Cause.NODE_LOST, Cause.IDLE),
    Cause.UNHEARD,
)
OBSERVED = "ObserveOnly"
MOST_MESSAGE = 4096
SHOWN_NODES = 1000
MOST_RUNS = 1000


def word(reason: str) -> str:
    """A reason as conditions have it.

    >>> word("queue-limit")
    'QueueLimit'
    """
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", reason))


def status_patch(
    status: Status,
    old: Mapping[str, Any],
    now: datetime,
    *,
    decision: str = "",
    launched: tuple[str, str] | None = None,
    observe_only: bool = False,
) -> Raw:
    """The merge patch of a GpuJob's status; ``old``: what stands there.

    ``launched``: kind and name of its workload, where there is one.
    """
    carried: Raw | None = None
    if launched is not None and status.record.attempt:
        kind, name = launched
        carried = {"kind": kind, "name": name, "attempt": status.record.attempt}
    return {
        "status": {
            "observedGeneration": status.generation,
            "conditions": conditions(
                status, old.get("conditions") or (), now, observe_only=observe_only
            ),
            "plan": _plan(status, decision),
            "launched": carried,
            "runs": runs(status, old.get("runs") or (), now, observe_only=observe_only),
            "record": json.dumps(encode(status), separators=(",", ":")),
        }
    }


def read_status(raw: Mapping[str, Any]) -> Status | None:
    """What was told last, of a GpuJob's status; None where nothing was, or not by this form."""
    found: Status | None = _decoded(Status, (raw.get("status") or {}).get("record"))
    return found


def record_text(record: Record) -> str:
    """A record as an annotation has it."""
    return json.dumps(encode(record), separators=(",", ":"))


def read_record(text: str | None) -> Record:
    """A record of an annotation; an empty one where there is none, or not of this form."""
    found: Record | None = _decoded(Record, text)
    return found or Record()


def placed_text(places: Places) -> str:
    """Replicas by node as an annotation has them."""
    return json.dumps(places, separators=(",", ":"))


def read_placed(text: str | None) -> Places | None:
    """Replicas by node of an annotation; None where there is none, or not of this form."""
    try:
        found = tuple((str(node), int(count)) for node, count in json.loads(text or "null"))
    except (TypeError, ValueError):
        return None
    return found


def _decoded(kind: Any, text: str | None) -> Any:
    if not text:
        return None
    try:
        return decode(kind, json.loads(text))
    except (CodecError, ValueError):
        return None


# -- conditions ------------------------------------------------------------------------------------


def conditions(
    status: Status, old: Sequence[Mapping[str, Any]], now: datetime, *, observe_only: bool = False
) -> list[Raw]:
    """The conditions in their order; one that never held and does not is left out."""
    before = {each["type"]: each for each in old}
    found = []
    for kind, holds, reason, message in _claims(status, observe_only):
        known = before.get(kind)
        if kind in _RARE and not holds and known is None:
            continue
        state = "True" if holds else "False"
        since = iso(now)
        if known is not None and known.get("status") == state:
            since = known.get("lastTransitionTime") or since
        found.append(
            {
                "type": str(kind),
                "status": state,
                "reason": reason,
                "message": message[:MOST_MESSAGE],
                "lastTransitionTime": since,
                "observedGeneration": status.generation,
            }
        )
    return found


_RARE = (
    *(JobCondition.SUCCEEDED, JobCondition.FAILED, JobCondition.PREEMPTED),
    *(JobCondition.IDLE_WORKLOAD, JobCondition.TOKEN_REFUSED),
)


def _claims(status: Status, observe_only: bool) -> Iterator[tuple[JobCondition, bool, str, str]]:
    phase, why = status.phase, status.why
    reason = word(why.reason) or "Unknown"
    said = _in_words(status)
    yield JobCondition.SUCCEEDED, phase is Phase.DONE, reason if phase is Phase.DONE else "No", said
    failed = phase is Phase.FAILED
    yield JobCondition.FAILED, failed, reason if failed else "No", said if failed else ""
    evicted = why.reason in EVICTED and phase in (Phase.STOPPING, Phase.SUSPENDED)
    yield JobCondition.PREEMPTED, evicted, reason if evicted else "GoesOn", why.message
    running = phase is Phase.RUNNING
    yield JobCondition.RUNNING, running, str(phase), ""
    holds = phase in HOLDING
    launched = f"on {', '.join(status.nodes[:5])}" if holds else ""
    if observe_only:
        yield JobCondition.LAUNCHED, False, OBSERVED, f"would run {launched}" if holds else ""
    else:
        yield JobCondition.LAUNCHED, holds, str(phase), launched
    planned = holds or phase in (Phase.RESERVED, Phase.DONE)
    yield JobCondition.PLANNED, planned, reason, said
    idle = status.idle_since is not None
    yield JobCondition.IDLE_WORKLOAD, idle, "Idle" if idle else "Works", idle_in_words(status)
    refused = bool(status.unheard)
    yield JobCondition.TOKEN_REFUSED, refused, "Refused" if refused else "Taken", status.unheard


def idle_in_words(status: Status) -> str:
    """Since when a job's GPUs do nothing, and what that costs; empty where they work."""
    if status.idle_since is None:
        return ""
    return (
        f"its {status.gpus:g} GPUs do nothing since {iso(status.idle_since)}, "
        f"at ${status.full_usd_per_hour:,.2f} an hour"
    )


def scaled_in_words(old: Tracked, new: Tracked, grid: Grid) -> str:
    """How many replicas a service has now, and the demand that they are for."""
    now = new.segments[0]
    assert isinstance(new.job.need, Demand)
    asked = new.job.need.per_slot[max(0, now.start) : now.end]
    return (
        f"{new.replicas} replicas, {old.replicas} before: for up to "
        f"{max(asked, default=0.0) / 3600:g} {new.job.need.unit} a second until "
        f"{iso(grid.time(now.end))}"
    )


def _in_words(status: Status) -> str:
    """What stands in the job's way, and when it is expected to start."""
    why = status.why
    parts = [why.message] if why.message else []
    if unnamed := [name for name in why.binds if name not in why.message]:
        parts.append(f"by {', '.join(unnamed[:5])}")
    if status.phase is Phase.RESERVED and status.expected_start is not None:
        parts.append(f"expected to start at {iso(status.expected_start)}")
    elif status.phase in (Phase.WAITING, Phase.SUSPENDED) and status.why.reason in list(Reason):
        parts.append("no start is expected yet")
    return "; ".join(parts)


# -- the plan --------------------------------------------------------------------------------------


def _plan(status: Status, decision: str) -> Raw | None:
    start, end = status.record.start, status.end
    if not status.pool or start is None or end is None:
        return None
    made: Raw = {
        "pool": status.pool,
        "nodes": list(status.nodes[:SHOWN_NODES]),
        "gpus": status.gpus,
        "start": iso(start),
        "end": iso(end),
        "costUsd": round(status.cost_usd, 6),
        "usdPerPflop": status.usd_per_pflop,
        "decision": decision,
    }
    if status.replicas:
        made |= {"replicas": status.replicas, "readyReplicas": status.ready}
    if status.expected_start is not None:
        made["expectedStart"] = {"at": iso(status.expected_start)}
    return made


# -- what it held ----------------------------------------------------------------------------------


def runs(
    status: Status, old: Sequence[Mapping[str, Any]], now: datetime, *, observe_only: bool = False
) -> list[Raw]:
    """What the job has held so far: the stretches told before, and what has changed since.

    A stretch begins when the job is given nodes and ends when it has left them, or holds them for
    another attempt; a service, more or fewer. What is told twice changes nothing.
    """
    holds = status.phase in HOLDING and not observe_only
    attempt = status.record.attempt
    found = [dict(each) for each in old]
    for each in found:
        same = each["attempt"] == attempt
        if status.replicas:
            same = same and each.get("gpus") == status.gpus
        if not each.get("end") and not (holds and same):
            each["end"] = iso(now)
    goes_on = any(each["attempt"] == attempt and not each.get("end") for each in found)
    if holds and status.pool and not goes_on:
        found.append(
            {
                "attempt": attempt,
                "pool": status.pool,
                "nodes": list(status.nodes[:SHOWN_NODES]),
                "gpus": status.gpus,
                "start": iso(now),
                "usdPerHour": round(status.usd_per_hour, 6),
                "fullUsdPerHour": round(status.full_usd_per_hour, 6),
            }
        )
    return found[-MOST_RUNS:]
