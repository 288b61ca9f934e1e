"""What the operator would have done, and saved, where it only looks on.

Two worlds are kept. One is what the cluster does: pods hold GPUs, on nodes, at a price
(`Real`). The other is a `State` in which the same jobs arrive and what is decided is carried out
at once (`played`). `advanced` keeps the books of both, by job and by queue, by the same prices.

How long a job takes is what it really took: in the world that would be it ends when it has worked
as long, or in proportion where the other way to run it is faster or slower by what its manifest
says. A job that failed fails in both. What was saved is counted over jobs that arrived while we
looked on and have ended well in both worlds: who runs less is not said to save.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from planner.problem import Billing, Pool
from scheduler.controller.actions import Being
from scheduler.controller.state import (
    ENDED,
    Event,
    JobDeleted,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    Phase,
    State,
    Tracked,
    end_of,
    gpus_of,
)
from scheduler.kube.holders import Holding

NO_QUEUE = ""
OTHERS = ""  # pods of no job that is looked at, as if they were one: it runs in both worlds alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """What a cluster does at one moment."""

    holdings: tuple[Holding, ...] = ()
    looked_at: frozenset[str] = frozenset()  # jobs that workloads of others stand for
    over: Mapping[str, Being] = field(default_factory=dict)  # those that have ended, and how


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job in both worlds so far. Work is in the unit of the job's need."""

    queue: str
    counts: bool  # it arrived while we looked on: it is the same job in both
    since: datetime | None = None  # when it began in the cluster
    usd_per_hour: float = 0.0  # that it holds there now
    gpus: float = 0.0
    usd: float = 0.0
    hours: float = 0.0
    work_per_hour: float = 0.0  # of the way it runs; 0: its manifest has no such way
    would_since: datetime | None = None
    would_usd_per_hour: float = 0.0
    would_gpus: float = 0.0
    would_usd: float = 0.0
    would_hours: float = 0.0
    would_work_per_hour: float = 0.0
    ended: bool = False  # well, in the cluster
    would_end: bool = False  # and in the other world

    @property
    def would_take_hours(self) -> float:
        """What the work that was really done takes in the way that it would run."""
        if not (self.work_per_hour and self.would_work_per_hour):
            return self.hours
        return self.hours * self.work_per_hour / self.would_work_per_hour

    @property
    def would_cost_usd(self) -> float:
        """All of it, without what was held until it was known that the work was done."""
        if self.would_hours <= self.would_take_hours:
            return self.would_usd
        return self.would_usd * self.would_take_hours / self.would_hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A queue in one of the worlds. A job counts in the queue that it names only."""

    jobs: int = 0  # that hold GPUs now
    gpus: float = 0.0
    usd_per_hour: float = 0.0
    usd: float = 0.0  # since the books were opened
    ended: int = 0  # jobs that ended well since then


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A queue in both worlds."""

    since: datetime
    runs: Side = Side()
    would: Side = Side()
    compared: int = 0  # jobs that arrived since and have ended well in both
    saved_usd: float = 0.0  # over those
    sooner_hours: float = 0.0  # that they would have started, in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Both worlds up to ``at``."""

    began: datetime
    at: datetime
    lines: Mapping[str, Line] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)


def opened(now: datetime, accounts: Mapping[str, Account] | None = None) -> Books:
    """Books from ``now`` on; ``accounts``: what an observer before us has counted.

    Objects tell in whole seconds when they were made, so what was made in this one has come since.
    """
    return Books(began=now.replace(microsecond=0), at=now, accounts=accounts or {})


# -- the books -------------------------------------------------------------------------------------


def advanced(books: Books, real: Real, state: State, now: datetime) -> Books:
    """The books at ``now``: since they were written last, all held what it held then."""
    passed = max(timedelta(0), now - books.at) / timedelta(hours=1)
    held: dict[str, list[Holding]] = defaultdict(list)
    for holding in real.holdings:
        held[holding.job].append(holding)
    accounts = dict(books.accounts)
    lines: dict[str, Line] = {}
    for name in sorted({OTHERS} | books.lines.keys() | real.looked_at | state.jobs.keys()):
        one = state.jobs.get(name)
        old = books.lines.get(name) or _line(one, books)
        usd, work = _priced(held.get(name, []), one, state)
        line = _held_now(_spent(old, passed), held.get(name, []), usd, (books.at, now))
        line = replace(line, work_per_hour=work or line.work_per_hour)
        line = _alike(line) if name == OTHERS else _would_hold(line, one)
        line = _ended(line, one, real.over.get(name))
        account = accounts.get(line.queue) or Account(since=books.began)
        accounts[line.queue] = _counted(account, old, line)
        if name == OTHERS or name in real.looked_at or one is not None:
            lines[name] = line
    return Books(began=books.began, at=now, lines=lines, accounts=_summed(accounts, lines))


def _line(one: Tracked | None, books: Books) -> Line:
    if one is None:
        return Line(queue=NO_QUEUE, counts=False)
    return Line(queue=one.job.queue, counts=one.arrived >= books.began)


def _spent(line: Line, hours: float) -> Line:
    return replace(
        line,
        usd=line.usd + hours * line.usd_per_hour,
        hours=line.hours + (hours if line.gpus else 0.0),
        would_usd=line.would_usd + hours * line.would_usd_per_hour,
        would_hours=line.would_hours + (hours if line.would_gpus else 0.0),
    )


def _held_now(
    line: Line, held: list[Holding], usd_per_hour: float, over: tuple[datetime, datetime]
) -> Line:
    """The line with what is held now, and what was held in the time ``over`` and not seen yet."""
    began = min((h.since for h in held if h.since is not None), default=None)
    if held and not line.gpus and began is not None:
        unseen = max(timedelta(0), over[1] - max(began, over[0])) / timedelta(hours=1)
        line = replace(line, usd=line.usd + unseen * usd_per_hour, hours=line.hours + unseen)
    return replace(
        line,
        since=line.since or began,
        usd_per_hour=usd_per_hour,
        gpus=sum(h.gpus for h in held),
    )


def _would_hold(line: Line, one: Tracked | None) -> Line:
    mode = one.mode if one is not None and one.holds else None
    if one is None or mode is None:
        return replace(line, would_usd_per_hour=0.0, would_gpus=0.0)
    return replace(
        line,
        would_since=line.would_since or one.started,
        would_usd_per_hour=one.replicas * mode.usd_per_replica_hour,
        would_gpus=gpus_of(one),
        would_work_per_hour=one.replicas * mode.work_per_replica_hour,
    )


def _alike(line: Line) -> Line:
    """What runs in both worlds as it does in the cluster."""
    return replace(
        line,
        would_usd_per_hour=line.usd_per_hour,
        would_gpus=line.gpus,
        would_usd=line.usd,
        would_hours=line.hours,
    )


def _priced(held: list[Holding], one: Tracked | None, state: State) -> tuple[float, float]:
    """Money and work an hour: as its own way to run there says, else by the price of the GPUs."""
    if not held:
        return 0.0, 0.0
    pool_of = {node.name: node.pool for node in state.nodes}
    pools = {pool.name: pool for pool in state.pools}
    on = {pool_of.get(h.node, "") for h in held}
    for mode in one.job.modes if one is not None else ():
        if {mode.pool} == on and mode.replicas == len(held):
            count = mode.replicas
            return count * mode.usd_per_replica_hour, count * mode.work_per_replica_hour
    return sum(
        h.gpus * gpu_usd_per_hour(pools[pool]) for h in held if (pool := pool_of.get(h.node))
    ), 0.0


def gpu_usd_per_hour(pool: Pool) -> float:
    """Money that an hour of one GPU of a pool costs: its price, or on owned hardware its energy."""
    window = pool.windows[0]
    sunk = pool.billing is Billing.SUNK
    usd = window.marginal_usd_per_node_hour if sunk else window.usd_per_node_hour
    return usd / pool.gpus_per_node


def _ended(line: Line, one: Tracked | None, being: Being | None) -> Line:
    return replace(
        line,
        ended=line.ended or being is Being.SUCCEEDED,
        would_end=line.would_end or (one is not None and one.phase is Phase.DONE),
    )


def _counted(account: Account, old: Line, line: Line) -> Account:
    """The account with what has come of a job since the books were written last."""
    runs, would = account.runs, account.would
    account = replace(
        account,
        runs=replace(
            runs,
            usd=runs.usd + line.usd - old.usd,
            ended=runs.ended + (line.ended and not old.ended),
        ),
        would=replace(
            would,
            usd=would.usd + line.would_usd - old.would_usd,
            ended=would.ended + (line.would_end and not old.would_end),
        ),
    )
    both = line.ended and line.would_end
    if not both or (old.ended and old.would_end) or not line.counts:
        return account
    sooner = timedelta(0)
    if line.since is not None and line.would_since is not None:
        sooner = line.since - line.would_since
    return replace(
        account,
        compared=account.compared + 1,
        saved_usd=account.saved_usd + line.usd - line.would_cost_usd,
        sooner_hours=account.sooner_hours + sooner / timedelta(hours=1),
    )


def _summed(accounts: Mapping[str, Account], lines: Mapping[str, Line]) -> dict[str, Account]:
    """The accounts with what each queue holds now."""
    by_queue: dict[str, list[Line]] = defaultdict(list)
    for line in lines.values():
        by_queue[line.queue].append(line)
    return {
        queue: replace(
            account,
            runs=replace(
                account.runs,
                jobs=sum(line.gpus > 0 for line in by_queue[queue]),
                gpus=sum(line.gpus for line in by_queue[queue]),
                usd_per_hour=sum(line.usd_per_hour for line in by_queue[queue]),
            ),
            would=replace(
                account.would,
                jobs=sum(line.would_gpus > 0 for line in by_queue[queue]),
                gpus=sum(line.would_gpus for line in by_queue[queue]),
                usd_per_hour=sum(line.would_usd_per_hour for line in by_queue[queue]),
            ),
        )
        for queue, account in accounts.items()
    }


# -- the world that would be -----------------------------------------------------------------------


def played(state: State, books: Books, real: Real) -> Iterator[Event]:
    """What would have happened by now, were what is decided done at once."""
    for name, one in state.jobs.items():
        if one.phase in ENDED:
            line = books.lines.get(name)
            counted = line is None or line.would_end or one.phase is Phase.FAILED
            if name not in real.looked_at and name in real.over and counted:
                yield JobDeleted(at=state.now, name=name)
        elif real.over.get(name) is Being.FAILED:
            message = "it failed where it ran"
            yield JobFailed(at=state.now, name=name, message=message, final=True)
        elif one.phase is Phase.LAUNCHING:
            yield JobStarted(at=state.now, name=name)
        elif one.phase is Phase.STOPPING:
            yield JobStopped(at=state.now, name=name, saved=True)
        elif one.phase is Phase.RUNNING and _is_done(one, books, real, state.now):
            yield JobFinished(at=state.now, name=name)


def _is_done(one: Tracked, books: Books, real: Real, now: datetime) -> bool:
    """Whether a job would have done what it really did; of one that nobody runs, what it says."""
    if one.name in real.over:
        line = books.lines.get(one.name)
        return line is None or line.would_hours >= line.would_take_hours
    end = end_of(one)
    return one.name not in real.looked_at and end is not None and end <= now
