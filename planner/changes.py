"""What-if: changes of a problem, as people write them, and the problem that they make.

A change is ``WHAT/NAME.FIELD`` with an operator and a value; several, joined by commas, are one
scenario.

    pool/NAME.nodes          += -= =       whole nodes; in every window of the pool alike, and
                                           ``=`` sets the most that there are
    pool/NAME.price          += -= *= =    USD per GPU-hour (of owned and reserved pools: sunk)
    queue/NAME.limit.ACCEL   += -= =       GPUs at once
    queue/NAME.guaranteed.ACCEL, queue/NAME.lendable.ACCEL
                             += -= =       GPUs that are its right, and what of them it lends
    queue/NAME.budget        += -= *= =    USD a month
    job/NAME.demand          *=            its tokens, hours or requests
    job/NAME.deadline        += -= =       a length such as 12h, or a time
    job/NAME.due             += -= =       the same; it must have one, or be given a time
    job/NAME.unplaced        += -= *= =    USD that not running it costs

They are made to the problem, not to its manifests: the clock and the modes stay, prices of modes
follow their pool's, and what was derived from the old numbers (the price of leaving out a job that
states none) stays what it was. Whom a guarantee covers is decided anew (`planner.guarantees`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from cost_models.accelerators import resolve_accelerator
from cost_models.names import UnknownName, nearest
from planner.guarantees import with_guarantees
from planner.problem import (
    Billing,
    Demand,
    Grid,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    Queue,
    Window,
)

T = TypeVar("T")

MOST_NODES = 1_000_000
MOST = 1e15  # of a number in a change
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
FORM = re.compile(r"(?P<what>[^/=]*)/(?P<path>[^=]*?)(?P<sign>[-+*]?=)(?P<value>.*)")
OPERATORS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("pool", "nodes"): ("+=", "-=", "="),
    ("pool", "price"): ("+=", "-=", "*=", "="),
    ("queue", "limit"): ("+=", "-=", "="),
    ("queue", "guaranteed"): ("+=", "-=", "="),
    ("queue", "lendable"): ("+=", "-=", "="),
    ("queue", "budget"): ("+=", "-=", "*=", "="),
    ("job", "demand"): ("*=",),
    ("job", "deadline"): ("+=", "-=", "="),
    ("job", "due"): ("+=", "-=", "="),
    ("job", "unplaced"): ("+=", "-=", "*=", "="),
}
KINDS = ("pool", "queue", "job")
BY_ACCELERATOR = ("limit", "guaranteed", "lendable")
NOUNS = {"limit": "limit", "guaranteed": "guarantee", "lendable": "share to lend"}
WHOLE = frozenset(("nodes", *BY_ACCELERATOR))
TIMES = frozenset(("deadline", "due"))


class ChangeError(ValueError):
    """A change that cannot be made: one line naming it, what was found and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change. ``value`` is a number, seconds of a length, or an instant."""

    text: str  # as it was written
    what: str  # pool | queue | job
    name: str
    field: str
    key: str = ""  # accelerator, of the fields that have one number for each
    sign: str  # += | -= | *= | =
    value: float | datetime

    def number(self, old: float) -> float:
        """The new value of a number."""
        assert isinstance(self.value, float)
        steps = {"+=": old + self.value, "-=": old - self.value, "*=": old * self.value}
        return steps.get(self.sign, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Changes that are made together."""

    name: str
    changes: tuple[Change, ...]


# -- reading ---------------------------------------------------------------------------------------


def parse(text: str) -> Scenario:
    """A scenario: changes joined by commas. Raises `ChangeError`."""
    parts = [part.strip() for part in text.split(",")]
    return Scenario(name=",".join(parts), changes=tuple(map(_change, parts)))


def _change(text: str) -> Change:
    found = FORM.fullmatch(text)
    if found is None:
        raise _wrong(text, found=text, allowed="a change such as pool/NAME.nodes+=8")
    what, sign = found["what"].strip(), found["sign"]
    if what not in KINDS:
        raise _wrong(text, found=what, allowed=", ".join(KINDS))
    name, field, key = _path(text, what, found["path"].strip())
    if sign not in OPERATORS[what, field]:
        raise _wrong(text, found=sign, allowed=" ".join(OPERATORS[what, field]))
    value = _value(text, field, sign, found["value"].strip())
    return Change(text=text, what=what, name=name, field=field, key=key, sign=sign, value=value)


def _path(text: str, what: str, path: str) -> tuple[str, str, str]:
    """(name, field, accelerator) of ``NAME.FIELD``: a name may hold dots, a field holds none."""
    fields = [field for kind, field in OPERATORS if kind == what]
    form = rf"(.+?)\.({'|'.join(BY_ACCELERATOR)})\.(.+)"
    if what == "queue" and (parts := re.fullmatch(form, path)):
        try:
            return parts[1], parts[2], resolve_accelerator(parts[3]).id
        except UnknownName as error:
            raise _wrong(text, found=parts[3], allowed=_known(error.nearest)) from None
    name, _, field = path.rpartition(".")
    if field not in fields or field in BY_ACCELERATOR or not name:
        shown = [f"{f}.ACCELERATOR" if f in BY_ACCELERATOR else f for f in fields]
        near = nearest(field, shown)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise _wrong(text, found=field, allowed=f"{', '.join(shown)}{hint}")
    return name, field, ""


def _known(near: Iterable[str]) -> str:
    names = ", ".join(near)
    return f"an accelerator of the catalog{f', nearest: {names}' if names else ''}"


def _value(text: str, field: str, sign: str, value: str) -> float | datetime:
    if field in TIMES:
        return _instant(text, value) if sign == "=" else _seconds(text, value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= MOST or (field in WHOLE and number % 1):
        allowed = "a whole number, 0 or more" if field in WHOLE else "a number, 0 or more"
        raise _wrong(text, found=value, allowed=allowed)
    if field == "demand" and number == 0:
        raise _wrong(text, found=value, allowed="a number above 0")
    return number


def _seconds(text: str, value: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", value)
    if found is None:
        raise _wrong(text, found=value, allowed="a length such as 90m, 12h, 2d")
    return float(found[1]) * UNITS[found[2]]


def _instant(text: str, value: str) -> datetime:
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise _wrong(text, found=value, allowed="a time such as 2026-12-07T00:00Z") from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _wrong(text: str, *, found: str, allowed: str) -> ChangeError:
    shown = found if len(found) <= 60 else found[:57] + "..."
    return ChangeError(f"--change {text}: found {shown!r}, allowed: {allowed}")


# -- making ----------------------------------------------------------------------------------------


def apply(problem: Problem, scenario: Scenario) -> Problem:
    """The problem with all changes of ``scenario``. Raises `ChangeError`."""
    for change in scenario.changes:
        problem = APPLY[change.what](problem, change)
    return with_guarantees(problem) if scenario.changes else problem


def _found(change: Change, known: Mapping[str, T]) -> T:
    if change.name not in known:
        near = nearest(change.name, known)
        hint = f", nearest: {', '.join(near)}" if near else ""
        raise ChangeError(f"--change {change.text}: found no {change.what} {change.name!r}{hint}")
    return known[change.name]


def _replaced(values: tuple[T, ...], old: T, new: T) -> tuple[T, ...]:
    return tuple(new if v is old else v for v in values)


def _pool(problem: Problem, change: Change) -> Problem:
    pool = _found(change, problem.pool_by_name)
    if change.field == "nodes":
        return _nodes(problem, pool, change)
    windows = tuple(_priced(pool, w, change) for w in pool.windows)
    rise = (windows[0].usd_per_node_hour - pool.windows[0].usd_per_node_hour) / pool.gpus_per_node
    jobs = tuple(
        replace(j, modes=tuple(_repriced(pool, m, rise) for m in j.modes))
        if any(m.pool == pool.name for m in j.modes)
        else j
        for j in problem.jobs
    )
    new = replace(pool, windows=windows)
    return replace(problem, pools=_replaced(problem.pools, pool, new), jobs=jobs)


def _priced(pool: Pool, window: Window, change: Change) -> Window:
    usd = change.number(window.usd_per_node_hour / pool.gpus_per_node)
    _refuse_below(change, usd, 0.0)
    return replace(window, usd_per_node_hour=usd * pool.gpus_per_node)


def _repriced(pool: Pool, mode: Mode, rise: float) -> Mode:
    """The mode with the pool's GPU-hour dearer by ``rise``; of sunk pools only the full cost is."""
    if mode.pool != pool.name:
        return mode
    usd = rise * pool.gpu_share(mode.amounts)
    money = mode.usd_per_replica_hour + (0.0 if pool.billing is Billing.SUNK else usd)
    return replace(
        mode,
        usd_per_replica_hour=max(0.0, money),
        full_usd_per_replica_hour=max(0.0, mode.full_usd_per_replica_hour + usd),
    )


def _nodes(problem: Problem, pool: Pool, change: Change) -> Problem:
    most = max(w.nodes for w in pool.windows)
    wanted = change.number(most)
    _refuse_below(change, wanted, 0)
    if wanted > MOST_NODES:
        raise _wrong(change.text, found=f"{wanted:.0f}", allowed=f"{MOST_NODES:,} nodes at most")
    more = int(wanted) - most
    windows = tuple(replace(w, nodes=max(0, w.nodes + more)) for w in pool.windows)
    kept = tuple(n for n in problem.nodes if n.pool != pool.name or n.index < wanted)
    _refuse_running(problem, change, set(problem.node_by_name) - {n.name for n in kept})
    added = _added(problem, pool, len(problem.nodes_of(pool.name)), int(wanted))
    new = replace(pool, windows=windows)
    pools = _replaced(problem.pools, pool, new)
    return replace(problem, pools=pools, nodes=(*kept, *added))


def _added(problem: Problem, pool: Pool, have: int, wanted: int) -> list[Node]:
    """Nodes beyond those that there are, with names that no other node has."""
    found = []
    for i in range(have, wanted):
        name = f"{pool.name}-{i}"
        name = f"{pool.name}-added-{i}" if name in problem.node_by_name else name
        found.append(Node(name=name, pool=pool.name, index=i, capacity=pool.capacity))
    return found


def _refuse_running(problem: Problem, change: Change, gone: set[str]) -> None:
    for running in problem.running:
        if held := sorted(gone & set(running.nodes)):
            raise ChangeError(
                f"--change {change.text}: node {held[0]} holds {running.job}, which is running"
            )


def _queue(problem: Problem, change: Change) -> Problem:
    queue = _found(change, problem.queue_by_name)
    new = _budgeted(queue, change) if change.field == "budget" else _counted(queue, change)
    return replace(problem, queues=_replaced(problem.queues, queue, new))


def _counted(queue: Queue, change: Change) -> Queue:
    """The queue with another limit, guarantee or share of it that is lent, of one accelerator."""
    stated: dict[str, int] = dict(getattr(queue, change.field) or ())
    if change.key not in stated and change.sign != "=":
        allowed = ", ".join(stated) or "none; = sets one"
        found = f"no {NOUNS[change.field]} of {change.key}"
        raise _wrong(change.text, found=found, allowed=f"those it has: {allowed}")
    stated[change.key] = int(change.number(stated.get(change.key, 0)))
    _refuse_below(change, stated[change.key], 0)
    new = tuple(sorted(stated.items()))
    match change.field:
        case "limit":
            return replace(queue, limit=new)
        case "guaranteed":
            return replace(queue, guaranteed=new)
        case _:
            return replace(queue, lendable=new)


def _budgeted(queue: Queue, change: Change) -> Queue:
    if queue.budget_usd_per_month is None and change.sign != "=":
        raise _wrong(change.text, found="no budget", allowed="= sets one")
    usd = change.number(queue.budget_usd_per_month or 0.0)
    _refuse_below(change, usd, 0.0)
    return replace(queue, budget_usd_per_month=usd)


def _job(problem: Problem, change: Change) -> Problem:
    job = _found(change, problem.job_by_name)
    makers: Mapping[str, Callable[[Grid, Job, Change], Job]] = {
        "demand": _demanded,
        "deadline": _ended,
        "due": _due,
        "unplaced": _left_out,
    }
    new = makers[change.field](problem.grid, job, change)
    return replace(problem, jobs=_replaced(problem.jobs, job, new))


def _demanded(grid: Grid, job: Job, change: Change) -> Job:
    del grid
    need = job.need
    if not isinstance(need, Demand):
        return replace(job, need=replace(need, amount=change.number(need.amount)))
    need = replace(need, per_slot=tuple(map(change.number, need.per_slot)))
    peak = max(need.per_slot[job.release : max(job.release, job.deadline)], default=0.0)
    modes = tuple(replace(m, replicas=_carrying(need, m, peak)) for m in job.modes)
    return replace(job, need=need, modes=modes)


def _carrying(need: Demand, mode: Mode, peak: float) -> int:
    return max(need.min_replicas, math.ceil(peak / mode.work_per_replica_hour - 1e-9), 1)


def _ended(grid: Grid, job: Job, change: Change) -> Job:
    slot = _slot(grid, job.deadline, change)
    if slot <= job.release:
        begin = grid.time(job.release).isoformat()
        raise _wrong(change.text, found=str(change.value), allowed=f"an end after {begin}")
    return replace(job, deadline=min(slot, grid.slots))


def _due(grid: Grid, job: Job, change: Change) -> Job:
    if isinstance(job.need, Demand):
        raise _wrong(change.text, found="a service", allowed="jobs that end")
    if job.due is None and change.sign != "=":
        raise _wrong(change.text, found="no due time", allowed="= sets one")
    return replace(job, due=_slot(grid, job.due or 0, change))


def _slot(grid: Grid, old: int, change: Change) -> int:
    """The slot at which the changed time falls, never later than it."""
    if isinstance(change.value, datetime):
        return grid.floor(change.value)
    return math.floor(change.number(old * grid.slot_seconds) / grid.slot_seconds)


def _left_out(grid: Grid, job: Job, change: Change) -> Job:
    del grid
    usd = change.number(job.unplaced_usd)
    _refuse_below(change, usd, 0.0)
    return replace(job, unplaced_usd=usd)


def _refuse_below(change: Change, value: float, least: float) -> None:
    if value < least - 1e-9:
        raise _wrong(change.text, found=f"{value:g} after it", allowed=f"{least:g} or more")


APPLY: Mapping[str, Callable[[Problem, Change], Problem]] = {
    "pool": _pool,
    "queue": _queue,
    "job": _job,
}
