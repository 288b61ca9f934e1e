"""Raw rows: one GPU, owner and instant each, in one Parquet file for each day and node.

A day holds the instants after its midnight (UTC) up to and with the next midnight, because an
instant tells about the time before it. What lies between two instants of a GPU is worked out when
they are written, so that whoever sums up needs only to add:

    interval_seconds     since the instant before of the same physical GPU, days before included
    gap_seconds          the same where that was too long for anything to be known about it
    energy_delta_joules  by the counter, else by power

as ``telemetry.between`` has it for all. A MIG instance is the part of its GPU that its memory is:
``gpu_fraction`` is a row's part of a whole GPU, whose energy its instances share. A GPU that has
instances at an instant ``is_parted``: they tell what it did, and what they leave of it is nobody's.

An instant that is written again takes the place of the first, with all its owners. Shares that
add up to less than the whole leave the rest to nobody; to more, they are scaled to the whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from telemetry import between
from telemetry.history.place import HistoryError, Place
from telemetry.store import IDENTITY, MEASURES, OWNER

FOLDER = "raw"
WRITERS = 2  # files at once
DAY_US = 86_400_000_000

_TEXT = pa.dictionary(pa.int32(), pa.string())
_ARROW = {"REAL": pa.float64(), "INTEGER": pa.int64(), "TEXT": _TEXT}
TOLD = pa.schema(  # what a source says of one instant
    [
        pa.field("time", pa.timestamp("us", tz="UTC")),
        *(pa.field(name, _TEXT) for name in (*IDENTITY, *OWNER)),
        pa.field("share_fraction", pa.float64()),
        *(pa.field(name, _ARROW[sql]) for name, sql in MEASURES.items()),
        pa.field("throttle_reasons", _TEXT),  # joined by commas
        pa.field("has_processes", pa.bool_()),  # of whomever; null: not known
    ]
)
BETWEEN = ("interval_seconds", "gap_seconds", "energy_delta_joules")
REQUIRED = ("time", "node", "uuid", "name")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def conformed(table: Any) -> Any:
    """A table with the columns TOLD: what is missing is unknown, owners nobody, shares whole.

    Raises HistoryError that names the column, what was found and what is allowed.
    """
    names = set(table.column_names)
    return pa.table([_column(table, field, names) for field in TOLD], schema=TOLD)


def add(place: Place, table: Any) -> int:
    """Write rows of TOLD into the history, day by day and node by node; how many files.

    It may be killed and run again with the same rows.
    """
    parts = list(_parts(table))
    written = {(day, node) for day, node, _ in parts}
    days = {*place.days(FOLDER), *(day for day, _ in written)}
    for _, of_day in groupby(parts, key=lambda part: part[0]):  # each looks at the day before
        with ThreadPoolExecutor(WRITERS) as several:
            list(several.map(lambda part: _write(place, part[0], part[1], part[2], days), of_day))
    # A day that was there before those ahead of it: its first interval can be told only now.
    for day, node in sorted(written):
        after = _next(place, day, node, days)
        if after is not None and (after, node) not in written:
            _write(place, after, node, TOLD.empty_table(), days)
    return len(parts)


def path_of(day: date, node: str) -> str:
    """The file of a day and node."""
    return f"{folder_of(day)}/node={quote(node, safe='')}/samples.parquet"


def folder_of(day: date) -> str:
    """All files of a day."""
    return f"{FOLDER}/day={day.isoformat()}"


def newest(place: Place, day: date, node: str) -> datetime | None:
    """The last instant that the file of a day and node has; None where there is none."""
    if not place.exists(path_of(day, node)):
        return None
    times = _read(place, day, node, ["time"])["time"]
    return pc.max(times).as_py() if len(times) else None


def _next(place: Place, day: date, node: str, days: Iterable[date]) -> date | None:
    near = (one for one in sorted(days) if day < one <= day + between.LOOK_BACK)
    return next((one for one in near if place.exists(path_of(one, node))), None)


def _write(place: Place, day: date, node: str, rows: Any, days: Iterable[date]) -> None:
    path = path_of(day, node)
    content = place.read(path) if place.exists(path) else None
    earlier = TOLD.empty_table() if content is None else _told(place, path, content)
    merged = _without_unused_texts(_merged(rows, earlier))
    last = _last_before(place, day, node, days, _uuids(merged))
    gpus = _gpus(merged)
    table = _with_parts(_with_between(merged, gpus, last), gpus)
    if (new := _as_parquet(table)) != content:  # what is the same need not be summed up again
        place.write(path, new)


def _read(place: Place, day: date, node: str, columns: list[str]) -> Any:
    path = path_of(day, node)
    return opened(place, path, place.read(path), columns)


def opened(place: Place, path: str, content: bytes, columns: list[str] | None = None) -> Any:
    """A file's table, of all its columns by default. Raises HistoryError where it is none."""
    try:
        return pq.read_table(pa.BufferReader(content), columns=columns)
    except (pa.ArrowException, OSError) as error:
        what = str(error).partition("\n")[0]
        raise HistoryError(f"{place.url}: {path}: found {what}, allowed: Parquet") from None


def _told(place: Place, path: str, content: bytes) -> Any:
    """What a file was told; of one that an earlier version wrote, with what it lacks unknown."""
    try:
        return conformed(opened(place, path, content))
    except HistoryError as error:
        where = "" if str(error).startswith(place.url) else f"{place.url}: {path}: "
        raise HistoryError(f"{where}{error}") from None


def _as_parquet(table: Any) -> bytes:
    out = io.BytesIO()
    texts = [field.name for field in table.schema if field.type == _TEXT]
    pq.write_table(
        table,
        out,
        compression="zstd",
        compression_level=1,
        use_dictionary=texts,  # of numbers it takes twice the time
        row_group_size=2**17,
    )
    return out.getvalue()


def _column(table: Any, field: Any, names: set[str]) -> Any:
    if field.name not in names:
        if field.name in REQUIRED:
            raise HistoryError(f"{field.name}: found no such column, allowed: {field.type}")
        return _filled(field, table.num_rows)
    column = table[field.name]
    try:
        return _checked(field, _cast(column, field))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = str(error).split("\n", 1)[0]
        raise HistoryError(f"{field.name}: found {what}, allowed: {_allowed(field)}") from None


def _cast(column: Any, field: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if field.type == _TEXT:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = _no_text(column)
        if field.name in OWNER:
            column = column.fill_null("")
        return column.cast(pa.string()).dictionary_encode()
    if field.name == "time" and pa.types.is_timestamp(column.type) and column.type.tz is None:
        raise pa.ArrowInvalid("times without a zone")
    if field.name == "share_fraction":
        column = column.cast(pa.float64()).fill_null(1.0)
    return column.cast(field.type)


def _no_text(column: Any) -> Any:
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    raise pa.ArrowInvalid(str(column.type))


def _filled(field: Any, length: int) -> Any:
    if field.name in OWNER:
        zeros = pa.array(np.zeros(length, np.int32))
        return pa.DictionaryArray.from_arrays(zeros, pa.array([""]))
    if field.name == "share_fraction":
        return pa.array(np.ones(length))
    return pa.nulls(length, field.type)


def _checked(field: Any, column: Any) -> Any:
    if field.name in REQUIRED and column.null_count:
        raise pa.ArrowInvalid("nothing in a row")
    low, high = _bounds(field)
    if low is None:
        return column
    found = pc.min_max(column)
    least, most = found["min"].as_py(), found["max"].as_py()
    if least is not None and not (low <= least and most <= high):
        raise pa.ArrowInvalid(str(most if low <= least else least))
    if pa.types.is_floating(field.type) and pc.any(pc.is_nan(column)).as_py():
        raise pa.ArrowInvalid("nan")
    return column


def _bounds(field: Any) -> tuple[float | None, float]:
    if pa.types.is_boolean(field.type):
        return None, 0.0
    if field.name.endswith("_fraction"):
        return 0.0, 1.0
    if field.name.endswith("_celsius"):
        return -float(2**63), float(2**63)
    return (0.0, float(2**63)) if field.type != _TEXT and field.name != "time" else (None, 0.0)


def _allowed(field: Any) -> str:
    low, high = _bounds(field)
    if field.name == "time":
        return "times with their zone"
    if low is None:
        return "text" if field.type == _TEXT else "true or false"
    kind = "whole numbers" if pa.types.is_integer(field.type) else "numbers"
    return f"{kind} from {low:g} to {high:g}" if high == 1 else f"{kind}, {max(low, 0):g} or above"


def _parts(table: Any) -> Iterator[tuple[date, str, Any]]:
    """The table by day and node, the days in order; each part with the texts that it uses."""
    if not table.num_rows:
        return
    table = table.unify_dictionaries().combine_chunks()
    days = (_ints(table["time"]) - 1) // DAY_US
    nodes = _codes(table["node"])
    order = np.lexsort((nodes, days))
    if not np.array_equal(order, np.arange(len(order))):
        table, days, nodes = table.take(pa.array(order)), days[order], nodes[order]
    starts = np.flatnonzero(_changes(days) | _changes(nodes))
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(days[start]))).date()
        node = table["node"][int(start)].as_py()
        yield day, node, _without_unused_texts(table.slice(start, end - start))


def _without_unused_texts(table: Any) -> Any:
    columns = [
        _reduced(column) if field.type == _TEXT else column
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    return pa.table(columns, schema=table.schema)


def _reduced(column: Any) -> Any:
    """The texts that are used, in order: the same rows are the same bytes, however they came."""
    column = _single(column)
    if len(column.dictionary) <= 1:
        return column
    codes = _codes(column)
    used = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=len(column.dictionary)))
    texts = column.dictionary.take(pa.array(used)).to_pylist()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    new = np.zeros(len(column.dictionary), np.int32)
    new[used[order]] = np.arange(len(used), dtype=np.int32)
    indices = pa.array(new[codes], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(
        indices, pa.array([texts[at] for at in order], pa.string())
    )


def _merged(rows: Any, earlier: Any) -> Any:
    """Both, by GPU and time: of an instant that both have, the rows of ``rows``."""
    table = pa.concat_tables([rows, earlier]).unify_dictionaries().combine_chunks()
    if not table.num_rows:
        return table
    late = np.arange(table.num_rows) >= rows.num_rows  # False: of `rows`
    gpu, time, owner = _sorted_codes(table["uuid"]), _ints(table["time"]), _owner_codes(table)
    order = np.lexsort((owner, late, time, gpu))
    gpu, time, owner, late = gpu[order], time[order], owner[order], late[order]
    first = _changes(gpu) | _changes(time)  # of an instant
    instant = np.cumsum(first) - 1
    kept = late == late[first][instant]
    again = ~(np.roll(first | _changes(owner), -1))  # the same owner follows once more
    again[-1] = False
    kept &= ~(again & np.roll(kept, -1))
    table = _taken(table, order[kept])
    return _whole(table, instant[kept])


def _whole(table: Any, instant: Ints) -> Any:
    """The shares of each instant, which add up to one."""
    shares = _floats(table["share_fraction"])
    if (shares == 1.0).all() and len(np.unique(instant)) == len(instant):
        return table
    numbers = np.cumsum(_changes(instant)) - 1
    sums = np.bincount(numbers, shares)
    shares = shares / np.maximum(1.0, sums)[numbers]
    table = _with(table, "share_fraction", pa.array(shares))
    left = np.maximum(0.0, 1.0 - sums)
    short = np.flatnonzero(left > 1e-9)
    if not len(short):
        return table
    starts = np.flatnonzero(_changes(numbers))
    rest = table.take(pa.array(starts[short]))
    rest = _with(rest, "share_fraction", pa.array(left[short]))
    for name in OWNER:
        rest = _with(rest, name, _filled(TOLD.field(name), len(short)))
    both = pa.concat_tables([table, rest]).unify_dictionaries().combine_chunks()
    return _taken(both, np.argsort(np.concatenate([numbers, short]), kind="stable"))


@dataclass(frozen=True, slots=True)
class _Gpus:
    """The physical GPU of each row, and its instants in order: by GPU, then by time."""

    uuids: tuple[str, ...]  # of physical GPUs
    tick: Ints  # of a row: the number of its GPU's instant
    gpu: Ints  # of an instant: its GPU's place in `uuids`
    time_us: Ints  # of an instant


def _gpus(table: Any) -> _Gpus:
    time, of = _ints(table["time"]), table["uuid"]
    if table["parent_uuid"].null_count < table.num_rows:
        plain = (table[name].cast(pa.string()) for name in ("parent_uuid", "uuid"))
        of = _single(pc.coalesce(*plain)).dictionary_encode()
    gpu = _codes(of)
    tick = _numbered(gpu, time)
    size = int(tick.max()) + 1 if len(tick) else 0
    of_tick, times = np.zeros(size, np.int64), np.zeros(size, np.int64)
    of_tick[tick], times[tick] = gpu, time
    return _Gpus(tuple(_single(of).dictionary.to_pylist()), tick, of_tick, times)


@dataclass(frozen=True, slots=True)
class _Last:
    """What was told before a day: of each UUID its last instant, of each physical GPU the last."""

    told: dict[str, tuple[float, float, float]]  # time in us, energy, power; nan: not known
    gpu_us: dict[str, float]


def _with_between(table: Any, gpus: _Gpus, last: _Last) -> Any:
    """With the columns BETWEEN; the table is in order."""
    before = _shifted(gpus.time_us.astype(np.float64))
    for at in np.flatnonzero(_changes(gpus.gpu)):
        before[at] = last.gpu_us.get(gpus.uuids[gpus.gpu[at]], np.nan)
    seconds = (gpus.time_us - before) / 1e6
    known = (seconds <= _longest(gpus.gpu, seconds))[gpus.tick]
    of_row = seconds[gpus.tick]
    joules = _joules(table, of_row, before[gpus.tick], last)
    columns = (
        np.where(known, of_row, np.nan),
        np.where(known, np.nan, of_row),
        np.where(known, joules, np.nan),
    )
    for name, values in zip(BETWEEN, columns, strict=True):
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table


def _with_parts(table: Any, gpus: _Gpus) -> Any:
    """With ``gpu_fraction`` and ``is_parted``, and the energy of instances' GPUs told of them."""
    shares = _floats(table["share_fraction"])
    parted = np.zeros(len(shares), bool)
    if table["parent_uuid"].null_count == len(shares):
        return _appended(table, shares, parted)
    is_part = table["parent_uuid"].is_valid().to_numpy()
    tick = gpus.tick
    sizes = _floats(table["memory_total_bytes"])
    joules = _floats(table["energy_delta_joules"])
    whole_size, whole_joules = np.full((2, len(gpus.gpu)), np.nan)
    whole_size[tick[~is_part]] = sizes[~is_part]
    # Where nothing tells of the GPU itself, its first instance does; rows are in order of UUIDs.
    whole_joules[tick[is_part][::-1]] = joules[is_part][::-1]
    whole_joules[tick[~is_part]] = joules[~is_part]
    once = is_part & _changes(_numbered(_codes(table["uuid"]), tick))  # an instance at a tick
    instances = np.bincount(tick, once)
    by_memory = np.minimum(1.0, sizes / np.where(whole_size > 0, whole_size, np.nan)[tick])
    even = 1.0 / np.maximum(1, instances)[tick]
    slices = np.where(by_memory > 0, by_memory, even)
    taken = np.bincount(tick, np.where(once, slices, 0.0))
    slices = slices / np.maximum(1.0, taken)[tick]
    left = np.maximum(0.0, 1.0 - taken)[tick]
    parted = ~is_part & (instances[tick] > 0)
    fractions = shares * np.where(is_part, slices, left)
    shared = np.where(is_part, whole_joules[tick], joules)
    table = _with(table, "energy_delta_joules", pa.array(shared, from_pandas=True))
    return _appended(table, fractions, parted)


def _appended(table: Any, fractions: Floats, parted: NDArray[np.bool_]) -> Any:
    return table.append_column("gpu_fraction", pa.array(fractions)).append_column(
        "is_parted", pa.array(parted)
    )


def _numbered(some: Ints, others: Ints) -> Ints:
    """A number for each pair, the same for the same one."""
    order = np.lexsort((others, some))
    changes = _changes(some[order]) | _changes(others[order])
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(changes) - 1
    return numbers


def _joules(table: Any, seconds: Floats, before_us: Floats, last: _Last) -> Floats:
    """For each row, the energy since the instant before of its GPU, at ``before_us``."""
    uuid, time = _codes(table["uuid"]), _ints(table["time"])
    starts = np.flatnonzero(_changes(uuid) | _changes(time))
    rows = np.cumsum(_changes(uuid) | _changes(time)) - 1
    energy, power = (_floats(table[name])[starts] for name in ("energy_joules", "power_watts"))
    before = [_shifted(values) for values in (time[starts].astype(np.float64), energy, power)]
    texts = _uuids(table)
    for at in np.flatnonzero(_changes(uuid[starts])):
        told = last.told.get(texts[uuid[starts[at]]], (np.nan, np.nan, np.nan))
        for values, value in zip(before, told, strict=True):
            values[at] = value
    seconds, before_us = seconds[starts], before_us[starts]
    risen = energy - before[1]
    counted = np.where(risen < 0, energy, risen)
    counted = np.where(counted <= between.MOST_WATTS * seconds, counted, np.nan)
    by_power = (power + before[2]) / 2 * seconds
    joules = np.where(np.isnan(counted), by_power, counted)
    # What was told of this UUID earlier still is of more than this interval.
    of_row: Floats = np.where(before[0] == before_us, joules, np.nan)[rows]
    return of_row


def _longest(gpu: Ints, seconds: Floats) -> Floats:
    """The longest interval that is no gap, for each instant by its GPU."""
    longest = np.full(len(gpu), np.nan)
    firsts = np.flatnonzero(_changes(gpu))
    for start, end in zip(firsts, [*firsts[1:], len(gpu)], strict=True):
        known = seconds[start:end][~np.isnan(seconds[start:end])]
        if len(known):
            middle = (len(known) - 1) // 2
            usual = timedelta(seconds=float(np.partition(known, middle)[middle]))
            longest[start:end] = between.longest(usual).total_seconds()
    return longest


def _last_before(
    place: Place, day: date, node: str, days: Iterable[date], uuids: Sequence[str]
) -> _Last:
    """Of the days before, as far back as it takes to find all those UUIDs."""
    last, missing = _Last({}, {}), set(uuids)
    for one in sorted((one for one in days if day - between.LOOK_BACK <= one < day), reverse=True):
        if missing and place.exists(path_of(one, node)):
            for uuid, parent, *told in _ends(place, one, node):
                last.told.setdefault(uuid, (told[0], told[1], told[2]))
                gpu = parent or uuid
                last.gpu_us[gpu] = max(told[0], last.gpu_us.get(gpu, told[0]))
            missing -= last.told.keys()
    return last


def _ends(place: Place, day: date, node: str) -> Iterator[tuple[Any, ...]]:
    """Of each UUID's last instant of a day: UUID, parent, time in us, energy, power."""
    columns = ["uuid", "parent_uuid", "time", "energy_joules", "power_watts"]
    table = _read(place, day, node, columns)
    uuid = _codes(table["uuid"].unify_dictionaries())
    ends = np.flatnonzero(np.roll(_changes(uuid), -1))
    last = table.take(pa.array(ends))
    texts = (last[name].cast(pa.string()).to_pylist() for name in columns[:2])
    numbers = (_ints(last["time"]), _floats(last["energy_joules"]), _floats(last["power_watts"]))
    return zip(*texts, *(one.tolist() for one in numbers), strict=True)


def _uuids(table: Any) -> list[str]:
    return list(_single(table["uuid"]).dictionary.to_pylist())


def _owner_codes(table: Any) -> Ints:
    """A number for each row, the same for the same owner."""
    codes = np.zeros(table.num_rows, np.int64)
    size = 1
    for name in OWNER:
        texts = len(_single(table[name]).dictionary)
        if texts > 1:
            codes = codes * texts + _codes(table[name])
            size *= texts
        if size > 2**40:
            _, codes = np.unique(codes, return_inverse=True)
            size = int(codes.max()) + 1
    return codes


def _sorted_codes(column: Any) -> Ints:
    """As ``_codes``, numbered in the order of the texts: files are the same whoever came first."""
    texts = _single(column).dictionary.to_pylist()
    ranks = np.empty(len(texts), np.int64)
    ranks[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    return ranks[_codes(column)]


def _taken(table: Any, order: Ints) -> Any:
    if np.array_equal(order, np.arange(table.num_rows)):
        return table
    return table.take(pa.array(order))


def _with(table: Any, name: str, column: Any) -> Any:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is another than the one before; the first is."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _shifted(values: Floats) -> Floats:
    return np.concatenate([[np.nan], values[:-1]]) if len(values) else values


def _codes(column: Any) -> Ints:
    """A text column's numbers; -1 where there is none."""
    whole = _single(column)
    if not len(whole):
        return np.zeros(0, np.int64)
    return whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]  # pyarrow ships no types


def _single(column: Any) -> Any:
    """A column of one chunk as that chunk."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _ints(column: Any) -> Ints:
    return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]  # pyarrow ships no types


def _floats(column: Any) -> Floats:
    """nan where there is none."""
    return column.cast(pa.float64()).to_numpy().astype(np.float64)  # type: ignore[no-any-return]  # pyarrow ships no types
