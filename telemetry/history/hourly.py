"""Hourly sums by GPU and owner, and what they add up to for whom; DuckDB does both.

An hour holds the intervals that end in it: after its full hour, up to and with the next. An owner's
part of an interval is the share that its end tells. A day's file says which raw files it was made
of: it is made anew when one of them has changed or come, and stays when one is gone, for then the
raw rows are past their retention and the sums are all that is left.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from telemetry.history import raw
from telemetry.history.place import HistoryError, Place
from telemetry.store import OWNER
from telemetry.usage import Usage

FOLDER = "hourly"
SOURCES = b"flopwise.sources"
SEALED = "sealed"  # among the sources: a file that is gone for good
MEMORY = "640MB"  # DuckDB's own; what does not fit goes to a temporary folder
THREADS = 2
HOUR_US = 3_600_000_000

BY = {  # what usage may be summed up by
    **{name: name for name in ("node", *OWNER)},
    "gpu": "coalesce(parent_uuid, uuid)",  # the whole GPU
    "accelerator": "name",
    "day": "strftime(make_timestamp(hour_us), '%Y-%m-%d')",
    "hour": "strftime(make_timestamp(hour_us), '%Y-%m-%dT%H:00:00Z')",
}
_TIMES = ("day", "hour")
_HELD = (
    f"NOT is_parted AND (coalesce(has_processes, false) "
    f"OR {' OR '.join(f'{name} <> {chr(39) * 2}' for name in OWNER)})"
)
_ACTIVITY = "CASE WHEN NOT is_parted THEN coalesce(utilisation_fraction, sm_active_fraction) END"
_SECONDS = "interval_seconds * gpu_fraction"
_SUMS = {  # the fields of Usage
    "observed_gpu_hours": f"sum({_SECONDS}) / 3600",
    "allocated_gpu_hours": f"sum({_SECONDS}) FILTER ({_HELD}) / 3600",
    "active_gpu_hours": f"sum({_SECONDS}) FILTER ({_HELD} AND {_ACTIVITY} > 0) / 3600",
    "idle_gpu_hours": f"sum({_SECONDS}) FILTER ({_HELD} AND {_ACTIVITY} = 0) / 3600",
    "utilised_gpu_hours": f"sum({_SECONDS} * {_ACTIVITY}) / 3600",
    "tensor_gpu_hours": f"sum({_SECONDS} * tensor_active_fraction) FILTER (NOT is_parted) / 3600",
    # An instance's rate is its own already; of a whole GPU the owner's share counts.
    "achieved_flops": (
        "sum(interval_seconds * share_fraction * tensor_tflops) FILTER (NOT is_parted) * 1e12"
    ),
    "energy_joules": "sum(energy_delta_joules * gpu_fraction)",
    "gap_gpu_hours": "sum(gap_seconds * gpu_fraction) / 3600",
}
_KNOWN_OR_NOTHING = frozenset(("tensor_gpu_hours", "achieved_flops", "energy_joules"))


def roll_up(place: Place) -> tuple[date, ...]:
    """Make the sums of each day whose raw files are not those they were made of; which days."""
    made = tuple(day for day in place.days(raw.FOLDER) if _stale(place, day))
    for day in made:
        _roll_day(place, day)
    return made


def usage(
    place: Place,
    *,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[Usage, ...]:
    """Sums from ``since`` to ``until`` (whole hours, aware), by time where that is asked for, most
    GPU-hours first.

    Days that are not rolled up yet are summed up from their raw rows; of others, what was there at
    the last compaction counts. Raises HistoryError.
    """
    first, last = (_hour_us(since, -(2**62), "from"), _hour_us(until, 2**62, "to"))
    if unknown := [name for name in by if name not in BY]:
        raise HistoryError(f"--by: found {unknown[0]}, allowed: {', '.join(BY)}")
    days = _days_between(place, first, last)
    if not days:
        return ()
    with _duckdb(place) as (sql, folder):
        query = _usage_query(place, folder, days, by)
        found = sql.execute(query, [first, last]).fetchall()
    return tuple(_usage(len(by), row) for row in found)


def path_of(day: date) -> str:
    """The file of a day's sums."""
    return f"{folder_of(day)}/hourly.parquet"


def folder_of(day: date) -> str:
    """The folder of a day's sums."""
    return f"{FOLDER}/day={day.isoformat()}"


def seal(place: Place, day: date) -> None:
    """The day's sums stay as they are, whatever raw rows come or go."""
    table = raw.opened(place, path_of(day), place.read(path_of(day)))
    _write(place, day, table, _sources(place, day) | {SEALED: ""})


def is_sealed(place: Place, day: date) -> bool:
    """Whether the day's raw rows are past their retention."""
    return SEALED in _sources(place, day)


def _stale(place: Place, day: date) -> bool:
    there, made_of = place.found(raw.folder_of(day)), _sources(place, day)
    gone = made_of.keys() - there.keys()
    return not gone and dict(there) != made_of


def _sources(place: Place, day: date) -> dict[str, str]:
    if not place.exists(path_of(day)):
        return {}
    path = path_of(day)
    metadata = raw.opened(place, path, place.read(path), []).schema.metadata or {}
    try:
        return dict(json.loads(metadata.get(SOURCES, b"{}")))
    except (ValueError, TypeError) as error:
        raise HistoryError(f"{place.url}: {path}: found {error}, allowed: hourly sums") from None


def _roll_day(place: Place, day: date) -> None:
    sources = dict(place.found(raw.folder_of(day)))  # before the rows are read: never too new
    with _duckdb(place) as (sql, folder):
        order = "ORDER BY team, namespace, job, pod, node, uuid, hour_us"  # packs best
        table = sql.sql(f"{_sums_of_raw(place.on_disk(sources, folder))} {order}").to_arrow_table()
    _write(place, day, table, sources)


def _write(place: Place, day: date, table: Any, sources: Mapping[str, str]) -> None:
    out = io.BytesIO()
    table = table.replace_schema_metadata({SOURCES: json.dumps(sources).encode()})
    pq.write_table(table, out, compression="zstd", compression_level=1, row_group_size=2**17)
    place.write(path_of(day), out.getvalue())


def _sums_of_raw(paths: Iterable[str]) -> str:
    # Hours are whole numbers while they group: that takes half the time of date_trunc.
    sums = ", ".join(f"{what} AS {name}" for name, what in _SUMS.items())
    return (
        f"SELECT (epoch_us(time) - 1) // {HOUR_US} * {HOUR_US} AS hour_us, "  # noqa: S608  # our own names
        f"node, uuid, parent_uuid, name, {', '.join(OWNER)}, count(*) AS samples, {sums} "
        f"FROM read_parquet({_listed(paths)}, hive_partitioning = false) GROUP BY ALL"
    )


def _usage_query(place: Place, folder: Path, days: Mapping[date, bool], by: Sequence[str]) -> str:
    rolled = [path_of(day) for day, is_rolled in days.items() if is_rolled]
    fresh = [p for day, is_rolled in days.items() if not is_rolled for p in _raw(place, day)]
    parts = []
    if rolled:
        files = _listed(place.on_disk(rolled, folder))
        parts.append(f"SELECT * FROM read_parquet({files}, hive_partitioning = false)")  # noqa: S608  # our own paths, quoted
    if fresh:
        parts.append(f"({_sums_of_raw(place.on_disk(fresh, folder))})")
    keys = [f'{BY[name]} AS "by {name}"' for name in by]
    sums = [f"sum({name})" for name in (*_SUMS, "samples")]
    group = ", ".join(f'"by {name}"' for name in by)
    times = [f'"by {name}"' for name in by if name in _TIMES]
    order = ", ".join([*times, "sum(observed_gpu_hours) DESC NULLS LAST", *filter(None, [group])])
    return (
        f"SELECT {', '.join([*keys, *sums])} FROM ({' UNION ALL BY NAME '.join(parts)}) "  # noqa: S608  # our own names
        f"WHERE hour_us >= ? AND hour_us < ? {f'GROUP BY {group}' if by else ''} ORDER BY {order}"
    )


def _raw(place: Place, day: date) -> Iterator[str]:
    yield from place.found(raw.folder_of(day))


def _days_between(place: Place, first_us: int, last_us: int) -> dict[date, bool]:
    """The days that have hours in the range: whether each is rolled up."""
    rolled = set(place.days(FOLDER))
    every = sorted(rolled.union(place.days(raw.FOLDER)))
    day = timedelta(days=1)
    ours = (one for one in every if _us(one) < last_us and _us(one + day) > first_us)
    return {one: one in rolled for one in ours}


def _usage(keys: int, row: Sequence[Any]) -> Usage:
    of, sums, samples = row[:keys], row[keys:-1], row[-1]
    known = {
        name: value if value is not None or name in _KNOWN_OR_NOTHING else 0.0
        for name, value in zip(_SUMS, sums, strict=True)
    }
    return Usage(of=tuple(value or "" for value in of), samples=int(samples or 0), **known)


@contextmanager
def _duckdb(place: Place) -> Iterator[tuple[Any, Path]]:
    """A database of its own in memory, with a folder for what is too large; errors are ours."""
    with tempfile.TemporaryDirectory() as folder:
        sql = duckdb.connect(config={"threads": THREADS, "memory_limit": MEMORY})
        try:
            sql.execute("SET preserve_insertion_order = false")
            sql.execute(f"SET temp_directory = {_quoted(folder)}")
            yield sql, Path(folder)
        except duckdb.Error as error:
            raise HistoryError(f"{place.url}: found {error}") from None
        finally:
            sql.close()


def _listed(paths: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, paths))}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hour_us(time: datetime | None, otherwise: int, option: str) -> int:
    if time is None:
        return otherwise
    whole = time.astimezone(UTC)
    if whole != whole.replace(minute=0, second=0, microsecond=0):
        raise HistoryError(f"--{option}: found {time.isoformat()}, allowed: a full hour")
    return int(whole.timestamp()) * 1_000_000


def _us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
