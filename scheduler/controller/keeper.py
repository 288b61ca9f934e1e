"""The books of an operator that only observes: kept each second, told when they have changed.

They outlive an operator in the ``status.observed`` of each GpuQueue. What a queue holds is told
when it changes, and its sums once a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from planner.manifests.schema import iso
from scheduler.controller import shadow
from scheduler.controller.metrics import Metrics
from scheduler.controller.shadow import Account, Books, Real, Side
from scheduler.controller.state import Event, State

KEEP_SECONDS = 1.0
TELL_SECONDS = 60.0

Raw = dict[str, Any]


class Keeper:
    """One thread uses it."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._clock = metrics, clock
        self._books: Books | None = None
        self._real = Real()
        self._kept_at = self._told_at = -1e9
        self._told: dict[str, Account] = {}

    def open(self, queues: Iterable[Raw], now: datetime) -> None:
        """Begin, with what is written at the queues."""
        found = {raw["metadata"]["name"]: read(raw) for raw in queues}
        self._books = shadow.opened(now, {k: v for k, v in found.items() if v is not None})

    def keep(self, real: Real, state: State, now: datetime) -> bool:
        """What is so now; once a second at most. Whether there is something new to tell."""
        if self._books is None or self._clock() - self._kept_at < KEEP_SECONDS:
            return False
        self._kept_at, self._real = self._clock(), real
        self._books = shadow.advanced(self._books, real, state, now)
        return self._tell(self._books)

    def played(self, state: State) -> Iterable[Event]:
        """What would have happened by now."""
        return shadow.played(state, self._books, self._real) if self._books is not None else ()

    def told(self, queue: str) -> Raw | None:
        """What to write at a queue."""
        account = self._told.get(queue)
        return None if account is None or self._books is None else written(account, self._books.at)

    def _tell(self, books: Books) -> bool:
        is_due = self._clock() - self._told_at >= TELL_SECONDS
        self._told_at = self._clock() if is_due else self._told_at
        news = False
        for queue, account in books.accounts.items():
            changed = _counts(self._told.get(queue)) != _counts(account)
            if is_due or changed:
                self._told[queue] = account
            news = news or changed
            self._measure(queue or "(none)", account)
        return news

    def _measure(self, queue: str, account: Account) -> None:
        metrics = self._metrics
        for world, side in (("runs", account.runs), ("would", account.would)):
            metrics.observed_jobs.labels(queue, world).set(side.jobs)
            metrics.observed_gpus.labels(queue, world).set(side.gpus)
            metrics.observed_rate.labels(queue, world).set(side.usd_per_hour)
            metrics.observed_usd.labels(queue, world).set(side.usd)
            metrics.observed_ended.labels(queue, world).set(side.ended)
        metrics.would_save.labels(queue).set(account.saved_usd)


def _counts(account: Account | None) -> tuple[int, ...]:
    """What people see change; money does all the time."""
    if account is None:
        return ()
    runs, would = account.runs, account.would
    return runs.jobs, would.jobs, runs.ended, would.ended, account.compared


# -- at a queue ------------------------------------------------------------------------------------


def written(account: Account, at: datetime) -> Raw:
    """An account as the ``observed`` of a GpuQueue's status."""
    return {
        "since": iso(account.since.astimezone(UTC).replace(microsecond=0)),
        "until": iso(at.astimezone(UTC).replace(microsecond=0)),
        "runs": _side(account.runs),
        "would": _side(account.would),
        "compared": account.compared,
        "savedUsd": round(account.saved_usd, 6),
        "soonerHours": round(account.sooner_hours, 6),
    }


def _side(side: Side) -> Raw:
    return {
        "jobs": side.jobs,
        "gpus": round(side.gpus, 6),
        "usdPerHour": round(side.usd_per_hour, 6),
        "usd": round(side.usd, 6),
        "ended": side.ended,
    }


def read(raw: Mapping[str, Any]) -> Account | None:
    """What an observer before us has counted of a queue; it goes on from there."""
    found = (raw.get("status") or {}).get("observed")
    if not found:
        return None
    return Account(
        since=datetime.fromisoformat(found["since"]),
        runs=_read_side(found.get("runs") or {}),
        would=_read_side(found.get("would") or {}),
        compared=int(found.get("compared", 0)),
        saved_usd=float(found.get("savedUsd", 0.0)),
        sooner_hours=float(found.get("soonerHours", 0.0)),
    )


def _read_side(found: Mapping[str, Any]) -> Side:
    return Side(usd=float(found.get("usd", 0.0)), ended=int(found.get("ended", 0)))


def in_words(found: Mapping[str, Any]) -> str:
    """What is written at a queue, in a sentence."""
    runs, would = found["runs"], found["would"]
    now = (
        f"runs {runs['jobs']} jobs on {runs['gpus']:g} GPUs at ${runs['usdPerHour']:,.2f} an hour, "
        f"would run {would['jobs']} on {would['gpus']:g} at ${would['usdPerHour']:,.2f}"
    )
    if not found["compared"]:
        return f"{now}; no job has ended in both yet"
    saved = found["savedUsd"]
    did = f"cost ${saved:,.2f} less" if saved >= 0 else f"cost ${-saved:,.2f} more"
    return f"{now}; the {found['compared']} jobs that ended in both would have {did}"
