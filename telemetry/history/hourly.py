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
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from telemetry.history import raw
from telemetry.history.place import HistoryError, Place
from telemetry.store import OWNER

FOLDER = "hourly"
SOURCES = b"flopwise.sources"
MEMORY = "640MB"  # DuckDB's own; what does not fit goes to a temporary folder
THREADS = 2
HOUR_US = 3_600_000_000

BY = {  # what usage may be asked by: the columns that tell one from another
    "gpu": ("node", "uuid"),
    "node": ("node",),
    "accelerator": ("name",),
    "namespace": ("namespace",),
    "pod": ("namespace", "pod"),
    "job": ("namespace", "job"),
    "team": ("team",),
    "model": ("model",),
    "project": ("project",),
    "day": ("day",),
    "hour": ("hour",),
}
_OWNED = " OR ".join(f"{name} <> ''" for name in OWNER)
_SECONDS = "interval_seconds * share_fraction"
_SUMS = {
    "observed_gpu_hours": f"sum({_SECONDS}) / 3600",
    "allocated_gpu_hours": f"sum({_SECONDS}) FILTER ({_OWNED}) / 3600",
    "active_gpu_hours": f"sum({_SECONDS}) FILTER (utilisation_fraction > 0) / 3600",
    "idle_gpu_hours": f"sum({_SECONDS}) FILTER (utilisation_fraction = 0 AND ({_OWNED})) / 3600",
    "utilisation_gpu_hours": f"sum({_SECONDS} * utilisation_fraction) / 3600",
    "utilisation_known_gpu_hours": (
        f"sum({_SECONDS}) FILTER (utilisation_fraction IS NOT NULL) / 3600"
    ),
    "tensor_gpu_hours": f"sum({_SECONDS} * tensor_active_fraction) / 3600",
    "tensor_known_gpu_hours": (
        f"sum({_SECONDS}) FILTER (tensor_active_fraction IS NOT NULL) / 3600"
    ),
    "tensor_flops": f"sum({_SECONDS} * tensor_tflops) * 1e12",
    "energy_joules": "sum(energy_delta_joules * share_fraction)",
    "gap_hours": "sum(gap_seconds * share_fraction) / 3600",
}
_KNOWN_OR_NOTHING = frozenset(("tensor_flops", "energy_joules"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What GPUs did for one group of owners, places or times.

    Hours are GPU-hours; an owner of a share of a GPU has that share of its hours, work and energy.
    """

    group: Mapping[str, str]  # by column: what is the same in all of it
    samples: int
    observed_gpu_hours: float
    allocated_gpu_hours: float  # of them, with an owner
    active_gpu_hours: float  # in which any kernel ran
    idle_gpu_hours: float  # with an owner, and no kernel ran
    utilisation_gpu_hours: float  # weighted by utilisation
    utilisation_known_gpu_hours: float
    tensor_gpu_hours: float  # weighted by the tensor pipes' activity
    tensor_known_gpu_hours: float
    tensor_flops: float | None  # what the hardware did at most; None where it is not told
    energy_joules: float | None
    gap_hours: float  # of which nothing is known


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
    columns = list(dict.fromkeys(column for name in by for column in BY[name]))
    days = _days_between(place, first, last)
    if not days:
        return ()
    with _duckdb(place) as sql:
        found = sql.execute(_usage_query(place, days, columns), [first, last]).fetchall()
    return tuple(_usage(columns, row) for row in found)


def path_of(day: date) -> str:
    """The file of a day's sums."""
    return f"{folder_of(day)}/hourly.parquet"


def folder_of(day: date) -> str:
    """The folder of a day's sums."""
    return f"{FOLDER}/day={day.isoformat()}"


def _stale(place: Place, day: date) -> bool:
    there, made_of = place.found(raw.folder_of(day)), _sources(place, day)
    gone = made_of.keys() - there.keys()
    return not gone and dict(there) != made_of


def _sources(place: Place, day: date) -> dict[str, str]:
    if not place.exists(path_of(day)):
        return {}
    metadata = pq.read_schema(pa.BufferReader(place.read(path_of(day)))).metadata or {}
    return dict(json.loads(metadata.get(SOURCES, b"{}")))


def _roll_day(place: Place, day: date) -> None:
    sources = dict(place.found(raw.folder_of(day)))  # before the rows are read: never too new
    with _duckdb(place) as sql:
        order = "ORDER BY team, namespace, job, pod, node, uuid, hour_us"  # packs best
        table = sql.sql(f"{_sums_of_raw(place, sources)} {order}").to_arrow_table()
    out = io.BytesIO()
    told = {SOURCES: json.dumps(sources).encode()}
    with pq.ParquetWriter(
        out, table.schema.with_metadata(told), compression="zstd", compression_level=1
    ) as file:
        file.write_table(table.replace_schema_metadata(told), row_group_size=2**17)
    place.write(path_of(day), out.getvalue())


def _sums_of_raw(place: Place, paths: Iterable[str]) -> str:
    # Hours are whole numbers while they group: that takes half the time of date_trunc.
    sums = ", ".join(f"{what} AS {name}" for name, what in _SUMS.items())
    return (
        f"SELECT (epoch_us(time) - 1) // {HOUR_US} * {HOUR_US} AS hour_us, node, uuid, name, "  # noqa: S608  # our own names
        f"{', '.join(OWNER)}, count(*) AS samples, {sums} "
        f"FROM read_parquet({_listed(place, paths)}, hive_partitioning = false) GROUP BY ALL"
    )


def _usage_query(place: Place, days: Mapping[date, bool], columns: Sequence[str]) -> str:
    rolled = [path_of(day) for day, is_rolled in days.items() if is_rolled]
    fresh = [p for day, is_rolled in days.items() if not is_rolled for p in _raw(place, day)]
    parts = []
    if rolled:
        parts.append(
            f"SELECT * FROM read_parquet({_listed(place, rolled)}, hive_partitioning = false)"  # noqa: S608  # our own paths, quoted
        )
    if fresh:
        parts.append(f"({_sums_of_raw(place, fresh)})")
    chosen = [f"{_AS_TEXT.get(name, name)} AS {name}" for name in columns]
    sums = [f"sum({name})" for name in ("samples", *_SUMS)]
    group = f"GROUP BY {', '.join(columns)}" if columns else ""
    times = [name for name in columns if name in _AS_TEXT]
    order = ", ".join([*times, "sum(observed_gpu_hours) DESC NULLS LAST", *columns])
    return (
        f"SELECT {', '.join([*chosen, *sums])} FROM ({' UNION ALL BY NAME '.join(parts)}) "  # noqa: S608  # our own names
        f"WHERE hour_us >= ? AND hour_us < ? {group} ORDER BY {order}"
    )


_AS_TEXT = {
    "day": "strftime(make_timestamp(hour_us), '%Y-%m-%d')",
    "hour": "strftime(make_timestamp(hour_us), '%Y-%m-%dT%H:00:00Z')",
}


def _raw(place: Place, day: date) -> Iterator[str]:
    yield from place.found(raw.folder_of(day))


def _days_between(place: Place, first_us: int, last_us: int) -> dict[date, bool]:
    """The days that have hours in the range: whether each is rolled up."""
    rolled = set(place.days(FOLDER))
    every = sorted(rolled.union(place.days(raw.FOLDER)))
    day = timedelta(days=1)
    ours = (one for one in every if _us(one) < last_us and _us(one + day) > first_us)
    return {one: one in rolled for one in ours}


def _usage(columns: Sequence[str], row: Sequence[Any]) -> Usage:
    group = {name: value or "" for name, value in zip(columns, row, strict=False)}
    samples, *sums = row[len(columns) :]
    known = {
        name: value if value is not None or name in _KNOWN_OR_NOTHING else 0.0
        for name, value in zip(_SUMS, sums, strict=True)
    }
    return Usage(group=group, samples=int(samples or 0), **known)


@contextmanager
def _duckdb(place: Place) -> Iterator[Any]:
    """A database of its own, in memory, that reads the place's files; errors are ours."""
    with tempfile.TemporaryDirectory() as spill:
        sql = duckdb.connect(config={"threads": THREADS, "memory_limit": MEMORY})
        try:
            sql.execute("SET preserve_insertion_order = false")
            sql.execute(f"SET temp_directory = {_quoted(spill)}")
            if not place.local:
                sql.register_filesystem(place.files)
            yield sql
        except duckdb.Error as error:
            raise HistoryError(f"{place.url}: found {error}") from None
        finally:
            sql.close()


def _listed(place: Place, paths: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(place.for_sql(path)) for path in paths)}]"


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
