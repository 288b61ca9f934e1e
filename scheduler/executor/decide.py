"""What to do next: a pure function of what is observed, what was planned and the time.

A launch is handed to Ray when its planned start has come, what it waits for has ended well, and
the GPUs that it holds are free. Launches are taken in plan order, and one that is due but finds
no room keeps its claim on it: smaller ones behind it cannot starve a gang.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.executor.clock import PlanClock
from scheduler.executor.launches import Launch
from scheduler.executor.records import (
    ENDED_WELL,
    Attempt,
    Ended,
    Ending,
    Outcome,
    Record,
    RunStatus,
    Settled,
    StopReason,
    advance,
    submission_id,
)

BACK_OFF_SECONDS = 2.0  # after the first crash; doubled after each further one
BACK_OFF_MOST_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What is known of one Ray job. Times are real; None: not yet, or not known."""

    status: RunStatus
    start: datetime | None = None
    end: datetime | None = None
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The world at one moment."""

    run: str
    records: Mapping[str, Record]  # by launch
    jobs: Mapping[str, RayJob]  # by submission id: what Ray, or a report left behind, says
    head: str  # which Ray is alive
    clock: PlanClock
    node_gpu_milli: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Hand a launch to Ray. Again with the same attempt where we do not know whether it has it."""

    launch: Launch
    attempt: int
    submission_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Ask Ray to stop an attempt."""

    launch: str
    attempt: int
    submission_id: str
    reason: StopReason


Action = Ended | Settled | Stop | Submit


def decide(observed: Observed, launches: tuple[Launch, ...], now: datetime) -> tuple[Action, ...]:
    """The actions of this moment: what ended, what is settled, what to stop, what to start.

    ``launches`` are in plan order. The same input gives the same actions in the same order.
    """
    records = dict(observed.records)
    ended = tuple(_endings(observed, launches, now))
    for event in ended:
        records[event.launch] = advance(records[event.launch], event)
    settled = tuple(_settlements(observed, records, launches, now))
    return (
        *ended,
        *settled,
        *_stops(observed, records, launches, now),
        *_submissions(observed, records, launches, now),
    )


def _endings(observed: Observed, launches: tuple[Launch, ...], now: datetime) -> Iterator[Ended]:
    for launch in launches:
        attempt = observed.records[launch.name].open
        if attempt and (ending := _ending(observed, attempt, now)):
            yield Ended(run=observed.run, launch=launch.name, attempt=attempt.number, ending=ending)


def _ending(observed: Observed, attempt: Attempt, now: datetime) -> Ending | None:
    seen = observed.jobs.get(attempt.submission_id)
    if seen is None:
        gone = attempt.head != observed.head or attempt.submitted
        return Ending(status=RunStatus.LOST, end=now, message="Ray lost it") if gone else None
    if seen.status in (RunStatus.PENDING, RunStatus.RUNNING):
        return None
    return Ending(
        status=seen.status,
        start=seen.start,
        end=seen.end or now,
        exit_code=seen.exit_code,
        message=seen.message,
    )


def _settlements(
    observed: Observed, records: dict[str, Record], launches: tuple[Launch, ...], now: datetime
) -> Iterator[Settled]:
    """Launches that are done with. Updates ``records``, so that what waits for them follows."""
    plan_now = observed.clock.plan_time(now)
    for launch in launches:
        record = records[launch.name]
        if record.outcome or record.open:
            continue
        if found := _after_attempt(record) or _before_attempt(record, records, plan_now):
            outcome, message = found
            event = Settled(run=observed.run, launch=launch.name, outcome=outcome, message=message)
            records[launch.name] = advance(record, event)
            yield event


def _after_attempt(record: Record) -> tuple[Outcome, str] | None:
    """The outcome that the last attempt leads to; None: there may be another."""
    last = record.last
    if last is None or last.ending is None:
        return None
    if last.ending.status is RunStatus.SUCCEEDED:
        return Outcome.SUCCEEDED, ""
    if last.ending.status is RunStatus.STOPPED and not record.cancel_requested:
        if last.stop is StopReason.PLANNED_END:
            return Outcome.SUCCEEDED, "stopped at its planned end"
        return Outcome.CANCELLED, "stopped from outside"
    if record.cancel_requested:
        return Outcome.CANCELLED, "cancelled"
    if record.count(RunStatus.FAILED) >= record.launch.attempt_limit:
        return Outcome.FAILED, _why(last.ending)
    if (losses := record.count(RunStatus.LOST)) >= record.launch.loss_limit:
        return Outcome.FAILED, f"Ray died under it, {losses} of {record.launch.loss_limit} times"
    return None


def _why(ending: Ending) -> str:
    if ending.exit_code is not None:
        return f"exit status {ending.exit_code}"
    return ending.message or "no exit status"


def _before_attempt(
    record: Record, records: Mapping[str, Record], plan_now: datetime
) -> tuple[Outcome, str] | None:
    """The outcome of a launch that will not be tried (again)."""
    if record.cancel_requested:
        return Outcome.CANCELLED, "cancelled"
    for name in record.launch.after:
        outcome = records[name].outcome
        if outcome and outcome not in ENDED_WELL:
            return Outcome.NOT_STARTED, f"waits for {name}, which is {outcome}"
    if record.launch.stops_at_end and plan_now >= record.launch.end:
        if record.attempts:
            return Outcome.FAILED, "was not running at its planned end"
        return Outcome.MISSED, "its stretch had passed before it could start"
    return None


def _stops(
    observed: Observed, records: Mapping[str, Record], launches: tuple[Launch, ...], now: datetime
) -> Iterator[Stop]:
    plan_now = observed.clock.plan_time(now)
    for launch in launches:
        record = records[launch.name]
        attempt = record.open
        if attempt is None or attempt.stop_sent:
            continue
        if attempt.submission_id not in observed.jobs:
            continue  # Ray does not have it yet
        if record.cancel_requested:
            reason = StopReason.CANCELLED
        elif launch.stops_at_end and plan_now >= launch.end:
            reason = StopReason.PLANNED_END
        else:
            continue
        yield Stop(
            launch=launch.name,
            attempt=attempt.number,
            submission_id=attempt.submission_id,
            reason=reason,
        )


def _submissions(
    observed: Observed, records: Mapping[str, Record], launches: tuple[Launch, ...], now: datetime
) -> Iterator[Submit]:
    free = _free(observed, records, launches)
    plan_now = observed.clock.plan_time(now)
    for launch in launches:
        record = records[launch.name]
        if record.outcome:
            continue
        if record.open:
            # Even where it is to be cancelled: a hand-over cut off by our own death may still
            # arrive at Ray, and only what Ray is known to have can be stopped.
            if not record.open.submitted and record.open.submission_id not in observed.jobs:
                yield _submit(observed, launch, record.open.number)
            continue
        if plan_now < launch.start or not _ready(launch, records):
            continue
        fits = all(free.get(node, 0) >= milli for node, milli in launch.gpu_milli)
        for node, milli in launch.gpu_milli:
            free[node] = free.get(node, 0) - milli
        if fits and now >= _not_before(record, now):
            yield _submit(observed, launch, len(record.attempts) + 1)


def _submit(observed: Observed, launch: Launch, attempt: int) -> Submit:
    return Submit(
        launch=launch,
        attempt=attempt,
        submission_id=submission_id(observed.run, launch.name, attempt),
    )


def _free(
    observed: Observed, records: Mapping[str, Record], launches: tuple[Launch, ...]
) -> dict[str, int]:
    free = dict(observed.node_gpu_milli)
    for launch in launches:
        if records[launch.name].open:
            for node, milli in launch.gpu_milli:
                free[node] = free.get(node, 0) - milli
    return free


def _ready(launch: Launch, records: Mapping[str, Record]) -> bool:
    return all(records[name].outcome in ENDED_WELL for name in launch.after)


def _not_before(record: Record, now: datetime) -> datetime:
    """When the next attempt may start: later after each crash, at once when Ray was at fault."""
    last = record.last
    if last is None or last.ending is None or last.ending.status is not RunStatus.FAILED:
        return now
    crashes = record.count(RunStatus.FAILED)
    seconds = min(BACK_OFF_MOST_SECONDS, BACK_OFF_SECONDS * 2.0 ** (crashes - 1))
    return last.ending.end + timedelta(seconds=seconds)
