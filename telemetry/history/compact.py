"""A node's store into the history, and what is old out of it: a process of its own, by the hour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from telemetry import store
from telemetry.history import hourly, raw
from telemetry.history.place import HistoryError, Place

CHUNK_ROWS = 50_000
AGAIN = timedelta(hours=1)  # rows this much older than the newest are read again: clocks step back


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How long a history is kept; None: for good."""

    raw: timedelta | None = None
    hourly: timedelta | None = None
    raw_bytes: int | None = None

    def __post_init__(self) -> None:
        # Sums that go before their raw rows would be made again the next time.
        if self.hourly is not None and (self.raw is None or self.raw > self.hourly):
            raise HistoryError(
                f"--keep-hourly: found {self.hourly.days} days, "
                "allowed: at least as long as raw rows are kept"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What one compaction did."""

    rows: int  # read from the store
    rolled_up: tuple[date, ...]
    dropped: tuple[str, ...]  # folders


def compact(place: Place, ring: Path | None, now: datetime, kept: Kept | None = None) -> Compacted:
    """Bring what is new in a store into the history, sum up, let go of what is old.

    Killed at any moment and run again, it ends where it would have ended. Without a store: the
    last two alone, as one does for a history that many nodes write to.
    Raises HistoryError, StoreError, OSError.
    """
    with place.alone():
        rows = 0 if ring is None else sum(map(len, _brought(place, ring)))
        rolled_up = hourly.roll_up(place)
        dropped = tuple(_dropped(place, now.date(), kept or Kept()))
    return Compacted(rows=rows, rolled_up=rolled_up, dropped=dropped)


def _brought(place: Place, ring: Path) -> Iterator[Any]:
    """The tables that were read from the store and written, day by day."""
    for day in store.ticks_by_day(ring):
        if hourly.is_sealed(place, day.date()):
            continue
        end = day + timedelta(days=1)
        since = day
        nodes = store.nodes(ring)
        known = [raw.newest(place, day.date(), node) for node in nodes]
        if all(known):
            since = max(day, min(time for time in known if time) - AGAIN)
        found = table(ring, since, end)
        raw.add(place, found)
        yield found


def table(ring: Path, since: datetime, until: datetime) -> Any:
    """The rows of a store after ``since`` up to and with ``until``, as a table of TOLD."""
    rows = store.rows(ring, since=since, until=until)
    chunks = []
    while chunk := list(islice(rows, CHUNK_ROWS)):
        chunks.append(_chunk(chunk))
    return pa.concat_tables(chunks) if chunks else raw.TOLD.empty_table()


def _chunk(rows: list[store.Row]) -> Any:
    columns = dict(zip(store.COLUMNS, zip(*rows, strict=True), strict=True))
    time = pa.array(columns.pop("time_us"), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    reasons, processes = zip(*map(_rest, columns.pop("rest")), strict=True)
    plain = {name: pa.array(values, _type(name)) for name, values in columns.items()}
    rest = {
        "throttle_reasons": pa.array(reasons, pa.string()),
        "has_processes": pa.array(processes, pa.bool_()),
    }
    return raw.conformed(pa.table({"time": time, **plain, **rest}))


def _type(name: str) -> Any:
    kind = raw.TOLD.field(name).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@lru_cache(maxsize=4096)
def _rest(rest: str | None) -> tuple[str | None, bool | None]:
    """What holds the clocks down, and whether there are processes; a second is like the last."""
    found = json.loads(rest) if rest else {}
    reasons, lists = found.get("throttle_reasons"), [found.get("pids"), found.get("processes")]
    known = [bool(one) for one in lists if one is not None]
    return None if reasons is None else ",".join(reasons), any(known) if known else None


def _dropped(place: Place, today: date, kept: Kept) -> Iterator[str]:
    """Folders that are taken away: raw days only after their sums stand, the oldest first."""
    rolled = set(place.days(hourly.FOLDER))
    there = [day for day in place.days(raw.FOLDER) if day in rolled]
    old = [day for day in there if kept.raw is not None and day < today - kept.raw]
    for day in old:
        yield _drop_raw(place, day)
    yield from _too_many(place, [day for day in there if day not in old], kept)
    for day in place.days(hourly.FOLDER):
        if kept.hourly is not None and day < today - kept.hourly:
            place.remove(hourly.folder_of(day))
            yield hourly.folder_of(day)


def _too_many(place: Place, days: list[date], kept: Kept) -> Iterator[str]:
    if kept.raw_bytes is None:
        return
    sizes = {day: place.size_bytes(raw.folder_of(day)) for day in days}
    left = sum(sizes.values())
    for day in days[:-1]:  # the newest stays, however large
        if left <= kept.raw_bytes:
            return
        left -= sizes[day]
        yield _drop_raw(place, day)


def _drop_raw(place: Place, day: date) -> str:
    """Sums first: rows that a store brings once more must not be all that they are made of."""
    hourly.seal(place, day)
    place.remove(raw.folder_of(day))
    return raw.folder_of(day)
