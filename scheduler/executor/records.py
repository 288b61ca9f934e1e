"""What has been done, folded from the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from scheduler.executor.clock import PlanClock
from scheduler.executor.launches import Launch


class RunStatus(StrEnum):
    """Where one attempt stands, in Ray's words; ``LOST`` is ours."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    LOST = "LOST"  # Ray died under it


class Outcome(StrEnum):
    """How a launch ended for good."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # crashed more often than is allowed
    CANCELLED = "cancelled"
    MISSED = "missed"  # its whole stretch had passed before it could start
    NOT_STARTED = "not-started"  # what it waits for did not succeed


ENDED_WELL = frozenset({Outcome.SUCCEEDED, Outcome.MISSED})


class StopReason(StrEnum):
    """Why an attempt is stopped."""

    CANCELLED = "cancelled"
    PLANNED_END = "planned-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended, and when it ran (real time)."""

    status: RunStatus
    end: datetime
    start: datetime | None = None
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened:
    """A plan, or a job submitted by itself, was taken up. The event holds all that it needs."""

    run: str
    at: datetime
    clock: PlanClock
    launches: tuple[Launch, ...]
    planned: bool  # False: submitted by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitIntended:
    """About to be handed to the Ray that ``head`` names."""

    run: str
    launch: str
    attempt: int
    head: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Ray has it."""

    run: str
    launch: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopIntended:
    """Ray is about to be asked to stop it."""

    run: str
    launch: str
    attempt: int
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSent:
    """Ray was asked to stop it."""

    run: str
    launch: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt ended."""

    run: str
    launch: str
    attempt: int
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Someone wants this launch not to run, or to stop."""

    run: str
    launch: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A launch will not be touched again."""

    run: str
    launch: str
    outcome: Outcome
    message: str = ""


Event = (
    RunOpened
    | SubmitIntended
    | Submitted
    | StopIntended
    | StopSent
    | Ended
    | CancelRequested
    | Settled
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One time that a launch was handed to Ray."""

    number: int  # from 1
    submission_id: str
    head: str  # which Ray
    submitted: bool = False
    stop: StopReason | None = None
    stop_sent: bool = False
    ending: Ending | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A launch and all that has happened to it."""

    launch: Launch
    attempts: tuple[Attempt, ...] = ()
    cancel_requested: bool = False
    outcome: Outcome | None = None
    message: str = ""

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def open(self) -> Attempt | None:
        """The attempt that Ray holds or is about to hold."""
        return self.last if self.last and self.last.ending is None else None

    def count(self, status: RunStatus) -> int:
        """Attempts that ended so."""
        return sum(1 for a in self.attempts if a.ending and a.ending.status is status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan, or a single job, and how far it has come."""

    name: str
    opened: datetime
    clock: PlanClock
    planned: bool
    records: Mapping[str, Record] = field(default_factory=dict)  # by launch, in plan order

    @property
    def open_ids(self) -> frozenset[str]:
        """Submission ids of the attempts that have not ended."""
        return frozenset(r.open.submission_id for r in self.records.values() if r.open)

    @property
    def address(self) -> str:
        """The given Ray that it runs on; empty: our own, or none yet."""
        heads = (a.head for record in self.records.values() for a in record.attempts)
        return next((head for head in heads if "://" in head), "")

    @property
    def finished(self) -> bool:
        return all(record.outcome for record in self.records.values())


def submission_id(run: str, launch: str, attempt: int) -> str:
    """Ray's name of an attempt: the same after a crash, so that Ray refuses a second hand-over."""
    return f"{run}-{launch}-{attempt}"


def fold(runs: Mapping[str, Run], events: Iterable[Event]) -> dict[str, Run]:
    """``runs`` after ``events``; an event of an unknown run or launch changes nothing."""
    folded = dict(runs)
    changed: dict[str, dict[str, Record]] = {}
    for event in events:
        if isinstance(event, RunOpened):
            folded.setdefault(event.run, _opened(event))
            continue
        if event.run not in folded:
            continue
        records = changed.setdefault(event.run, dict(folded[event.run].records))
        if event.launch in records:
            records[event.launch] = advance(records[event.launch], event)
    for name, records in changed.items():
        folded[name] = replace(folded[name], records=records)
    return folded


def _opened(event: RunOpened) -> Run:
    return Run(
        name=event.run,
        opened=event.at,
        clock=event.clock,
        planned=event.planned,
        records={launch.name: Record(launch=launch) for launch in event.launches},
    )


def advance(record: Record, event: Event) -> Record:
    """``record`` after ``event``. What happened first stands: a repeated event changes nothing."""
    match event:
        case SubmitIntended():
            return _attempted(record, event)
        case CancelRequested():
            return replace(record, cancel_requested=True)
        case Settled() if record.outcome is None:
            return replace(record, outcome=event.outcome, message=event.message)
        case Submitted() | StopIntended() | StopSent() | Ended():
            after = tuple(_attempt_after(a, event) for a in record.attempts)
            return replace(record, attempts=after)
        case _:
            return record


def _attempted(record: Record, event: SubmitIntended) -> Record:
    if any(a.number == event.attempt for a in record.attempts):
        return record
    made = Attempt(
        number=event.attempt,
        submission_id=submission_id(event.run, event.launch, event.attempt),
        head=event.head,
    )
    return replace(record, attempts=(*record.attempts, made))


def _attempt_after(attempt: Attempt, event: Submitted | StopIntended | StopSent | Ended) -> Attempt:
    match event:
        case _ if event.attempt != attempt.number:
            return attempt
        case Submitted():
            return replace(attempt, submitted=True)
        case StopIntended():
            return replace(attempt, stop=attempt.stop or event.reason)
        case StopSent():
            return replace(attempt, stop_sent=True)
        case Ended():
            return attempt if attempt.ending else replace(attempt, ending=event.ending)
