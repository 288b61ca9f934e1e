"""Samples of files as tables that a history takes: JSON lines, Parquet, and stores of nodes.

JSON lines are parsed by pyarrow, a block at a time. Where it finds a block that it cannot take, the
file is read line by line instead, which is twenty times slower and either succeeds or names the
line and field that are wrong.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from telemetry import samples, store
from telemetry.history import compact
from telemetry.history.place import HistoryError
from telemetry.history.raw import TOLD, conformed

BLOCK_BYTES = 64 * 2**20
ROWS = 1_000_000  # of one table: some hundreds of megabytes
LINES = 20_000  # of one table where lines are read one by one
PARQUET = b"PAR1"
SQLITE = b"SQLite format 3"


def tables(path: Path) -> Iterator[Any]:
    """The rows of a file, as tables of TOLD.

    Raises HistoryError or SamplesError that name the file, the field, what was found and what is
    allowed; OSError.
    """
    with path.open("rb") as file:
        head = file.read(len(SQLITE))
        file.seek(0)
        if head == SQLITE:
            yield from _store(path)
        elif head.startswith(PARQUET):
            yield from _parquet(path, file)
        else:
            yield from _json_lines(path, file)


def _store(path: Path) -> Iterator[Any]:
    for day in store.ticks_by_day(path):
        yield compact.table(path, day, day + timedelta(days=1))


def _parquet(path: Path, file: BinaryIO) -> Iterator[Any]:
    try:
        batches = pq.ParquetFile(file).iter_batches(ROWS, columns=_ours(file))
        for batch in batches:
            yield conformed(pa.Table.from_batches([batch]))
    except HistoryError as error:
        raise HistoryError(f"{path}: {error}") from None
    except pa.ArrowInvalid as error:
        raise HistoryError(f"{path}: found {error}, allowed: Parquet or JSON lines") from None


def _ours(file: BinaryIO) -> list[str]:
    known = set(TOLD.names)
    return [name for name in pq.ParquetFile(file).schema_arrow.names if name in known]


def _json_lines(path: Path, file: BinaryIO) -> Iterator[Any]:
    for block in _blocks(file):
        try:
            table = conformed(_parsed(block))
        except (pa.ArrowInvalid, HistoryError):
            yield from _line_by_line(path)
            return
        yield table


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time; an unfinished last line is left out."""
    left = b""
    while read := file.read(BLOCK_BYTES):
        lines, end, rest = (left + read).rpartition(b"\n")
        left = rest
        if end:
            yield lines + end


def _parsed(block: bytes) -> Any:
    options = pyarrow.json.ParseOptions(
        explicit_schema=_JSON_SCHEMA, unexpected_field_behavior="ignore"
    )
    table = pyarrow.json.read_json(io.BytesIO(block), parse_options=options)
    told = {name: table[name] for name in _PLAIN} | {
        "throttle_reasons": pc.binary_join(table["throttle_reasons"], ","),
        "has_processes": pc.or_kleene(*(_any_in(table[name]) for name in ("pids", "processes"))),
    }
    return pa.table(told)


def _any_in(lists: Any) -> Any:
    """Whether there is one; null where that is not known, which the other list may tell."""
    return pc.greater(pc.list_value_length(lists), 0)


def _line_by_line(path: Path) -> Iterator[Any]:
    """As ``_json_lines``, from the file's start: a row that comes twice counts once."""
    found = samples.read(path)
    while chunk := list(islice(found, LINES)):
        rows = [{name: read(getattr(one, name)) for name, read in _FIELDS.items()} for one in chunk]
        yield conformed(pa.Table.from_pylist(rows, schema=_ROW_SCHEMA))


def _as_it_is(value: Any) -> Any:
    return None if isinstance(value, int) and value >= 2**63 else value


def _joined(value: tuple[str, ...] | None) -> str | None:
    return None if value is None else ",".join(value)


_FIELDS: dict[str, Callable[[Any], Any]] = {
    name: _joined if name == "throttle_reasons" else _as_it_is
    for name in TOLD.names
    if name in samples.GpuSample.__slots__
}
_PLAIN = {  # TOLD's fields of a sample, without the dictionaries
    name: pa.string() if pa.types.is_dictionary(TOLD.field(name).type) else TOLD.field(name).type
    for name in _FIELDS
}
_AS_JSON = {
    "time": pa.string(),
    "throttle_reasons": pa.list_(pa.string()),
    "pids": pa.list_(pa.int64()),
    "processes": pa.list_(pa.struct([("pid", pa.int64())])),
}
_ROW_SCHEMA = pa.schema([*_PLAIN.items(), ("has_processes", pa.bool_())])
_JSON_SCHEMA = pa.schema([*(_PLAIN | _AS_JSON).items()])
