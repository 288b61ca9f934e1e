"""The ring on the node: the last days of samples in one SQLite file that no kill can break.

A tick is one transaction, in the write-ahead log when ``append`` returns. A process that is killed
loses at most the tick it was writing; a machine that loses power may lose the last few, and never
the file. Rows that are too old, or too many bytes, go oldest first, and their pages are used again.

One row is one GPU, owner and instant. Numbers and single texts of a sample are columns; what is
neither (lists, maps, numbers above 64 bits) stands in ``rest`` as JSON. A store of an earlier
version gets what it lacks when it is opened for writing; one of a later version is refused.

Only the standard library is used: this runs inside the collector.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from telemetry.samples import GpuSample, from_line, to_line
from telemetry.uses import Owner, Use

APPLICATION = 0x466C6F70  # "Flop", in the file's header: SQLite's place for whose file it is
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
KEEP = timedelta(days=2)
KEEP_BYTES = 512 * 2**20
TRIM_TICKS = 60  # how many ticks go between two looks at age and size
OWNER_SEEN_AGAIN = timedelta(hours=1)  # how exactly it is known when an owner was last there

IDENTITY = ("node", "uuid", "name", "parent_uuid", "mig_profile", "clique")
OWNER = tuple(field.name for field in fields(Owner))
_SQL_TYPES = {
    "float | None": "REAL",
    "int | None": "INTEGER",
    "str | None": "TEXT",
    "Health | None": "TEXT",
}
MEASURES = {  # a column each: its SQL type
    field.name: _SQL_TYPES[str(field.type)]
    for field in fields(GpuSample)
    if str(field.type) in _SQL_TYPES and field.name not in IDENTITY
}
COLUMNS = ("time_us", *IDENTITY, *OWNER, "share_fraction", *MEASURES, "rest")

Row = tuple[Any, ...]

# The nth script makes version n + 1 of the file out of version n. Columns of `uses` that a script
# does not name are added as the samples have them.
MIGRATIONS = (
    f"""
    CREATE TABLE gpus (
        id INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT" for name in IDENTITY)}
    );
    CREATE TABLE owners (
        id INTEGER PRIMARY KEY, last_us INTEGER NOT NULL,
        {", ".join(f"{name} TEXT NOT NULL" for name in OWNER)}
    );
    CREATE TABLE uses (
        time_us INTEGER, gpu INTEGER, owner INTEGER, share_fraction REAL NOT NULL, rest TEXT,
        PRIMARY KEY (time_us, gpu, owner)
    ) WITHOUT ROWID;
    """,
)


class StoreError(ValueError):
    """A file that is no store of ours, or cannot be used: one line with file, found, allowed."""


def to_us(time: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (time - EPOCH) // MICROSECOND


def from_us(time_us: int) -> datetime:
    """The time, in UTC."""
    return EPOCH + time_us * MICROSECOND


class Ring:
    """The store, open for one writer; made where there is none. A context manager.

    ``keep`` and ``keep_bytes`` bound it by age, counted from the newest row, and by size.
    Raises ``StoreError`` where the file is of something else, damaged, or cannot be written.
    """

    def __init__(self, path: Path, *, keep: timedelta = KEEP, keep_bytes: int = KEEP_BYTES) -> None:
        self._path, self._keep, self._keep_bytes = path, keep, keep_bytes
        with _told(path):
            # No transactions of Python's own: a tick is exactly one.
            self._file = sqlite3.connect(path, timeout=10, isolation_level=None)
            with ExitStack() as unless_prepared:
                unless_prepared.callback(self._file.close)
                _prepare(self._file, path)
                unless_prepared.pop_all()
        self._gpus: dict[tuple[Any, ...], int] = {}
        self._owners: dict[Owner, tuple[int, int]] = {}  # its id, and when it was last noted
        self._ticks = 0
        self._newest_us: int | None = None  # of the last tick, whatever its clock said before

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def append(self, uses: Iterable[Use]) -> None:
        """Add one tick: when this returns, a kill cannot lose it.

        A row of the same instant, GPU and owner is replaced.
        """
        with _told(self._path), self._tick():
            rows = [self._row(use) for use in uses]
            self._file.executemany(_INSERT, rows)
        self._newest_us = max((time_us for time_us, *_ in rows), default=self._newest_us)
        self._ticks += 1
        if self._ticks % TRIM_TICKS == 0:
            self.trim()

    def append_samples(self, samples: Iterable[GpuSample]) -> None:
        """As ``append``, of GPUs of which it is not known who has them."""
        self.append(Use(sample=sample) for sample in samples)

    def trim(self) -> None:
        """Drop what is too old; then the oldest, a tenth of the time at once, until it fits.

        A clock that once was far ahead takes nothing with it: age counts from the last tick, and
        rows that lie as far ahead of it as rows are kept behind it go too.
        """
        with _told(self._path):
            oldest, newest = self._span()
            if newest is None or oldest is None:
                return
            if self._newest_us is not None and self._newest_us < newest:
                newest = self._newest_us
                ahead = newest + self._keep // MICROSECOND
                with self._tick():
                    self._file.execute("DELETE FROM uses WHERE time_us > ?", (ahead,))
            cut = max(oldest, newest - self._keep // MICROSECOND)
            self._drop(cut)
            while self._bytes() > self._keep_bytes and cut < newest:
                cut = min(newest, cut + max(1, (newest - cut) // 10))
                self._drop(cut)

    @contextmanager
    def _tick(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        done = False
        try:
            yield
            self._file.execute("COMMIT")
            done = True
        finally:
            if not done:  # whatever ended it, Ctrl-C too: half a tick is none
                self._forget()
                if self._file.in_transaction:  # a full disk has undone it already
                    self._file.execute("ROLLBACK")

    def _forget(self) -> None:
        """Ids that were given in what is undone."""
        self._gpus.clear()
        self._owners.clear()

    def _row(self, use: Use) -> Row:
        time_us = to_us(use.sample.time)
        values = [_stored(getattr(use.sample, name)) for name in MEASURES]
        gpu, owner = self._gpu(use.sample), self._owner(use.owner, time_us)
        return (time_us, gpu, owner, use.share_fraction, _rest(use.sample), *values)

    def _gpu(self, sample: GpuSample) -> int:
        identity = tuple(getattr(sample, name) for name in IDENTITY)
        if identity not in self._gpus:
            self._gpus[identity] = self._id("gpus", IDENTITY, identity)
        return self._gpus[identity]

    def _owner(self, owner: Owner, time_us: int) -> int:
        number, noted_us = self._owners.get(owner, (0, 0))
        if time_us - noted_us >= OWNER_SEEN_AGAIN // MICROSECOND or not number:
            number = self._id("owners", OWNER, astuple(owner), last_us=time_us)
            self._file.execute("UPDATE owners SET last_us = ? WHERE id = ?", (time_us, number))
            self._owners[owner] = (number, time_us)
        return number

    def _id(self, table: str, names: Sequence[str], values: Sequence[Any], **also: int) -> int:
        same = " AND ".join(f"{name} IS ?" for name in names)
        found = self._file.execute(f"SELECT id FROM {table} WHERE {same}", values).fetchone()  # noqa: S608  # our own names
        if found:
            return int(found[0])
        columns, marks = (*names, *also), ", ".join("?" * (len(names) + len(also)))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  # our own names
        made = self._file.execute(insert, (*values, *also.values())).lastrowid
        assert made is not None
        return made

    def _span(self) -> tuple[int | None, int | None]:
        # Two look-ups: SQLite answers min and max of one SELECT by reading the whole table.
        (oldest,) = self._file.execute("SELECT min(time_us) FROM uses").fetchone()
        (newest,) = self._file.execute("SELECT max(time_us) FROM uses").fetchone()
        return oldest, newest

    def _drop(self, before_us: int) -> None:
        forgotten_us = before_us - OWNER_SEEN_AGAIN // MICROSECOND
        with self._tick():
            self._file.execute("DELETE FROM uses WHERE time_us < ?", (before_us,))
            gone = self._file.execute("DELETE FROM owners WHERE last_us < ?", (forgotten_us,))
        if gone.rowcount:
            self._owners.clear()

    def _bytes(self) -> int:
        pages, free, size = (
            int(self._file.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def read(
    path: Path, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Use]:
    """The uses after ``since`` up to and with ``until``, by time; the writer is not disturbed.

    Raises ``StoreError``.
    """
    for row in rows(path, since=since, until=until):
        try:
            use = _use(row)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise StoreError(f"{path}: a row: {error}, allowed: what was sampled") from None
        yield use


def rows(
    path: Path, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Row]:
    """As ``read``, but rows of COLUMNS: what a column-wise reader wants. Raises ``StoreError``."""
    first = to_us(since) if since else -(2**63)
    last = to_us(until) if until else 2**63 - 1
    with _told(path), _reader(path) as file:
        known = _columns(file)
        yield from file.execute(_select(known), (first, last))


def ticks_by_day(path: Path) -> dict[datetime, tuple[int, datetime]]:
    """By day in UTC, the rows of the store and the time of the newest.

    A day holds the instants after its midnight up to and with the next midnight: an instant tells
    about the time before it. Raises ``StoreError``.
    """
    day_us = timedelta(days=1) // MICROSECOND
    count = f"SELECT (time_us - 1) / {day_us} AS day, count(*), max(time_us) FROM uses GROUP BY day"  # noqa: S608  # our own number
    with _told(path), _reader(path) as file:
        found = file.execute(count).fetchall()
    return {from_us(day * day_us): (number, from_us(newest)) for day, number, newest in found}


def nodes(path: Path) -> tuple[str, ...]:
    """The nodes that the store has GPUs of: one, unless the machine was renamed.

    Raises ``StoreError``.
    """
    with _told(path), _reader(path) as file:
        found = file.execute("SELECT DISTINCT node FROM gpus ORDER BY node").fetchall()
    return tuple(node for (node,) in found)


def _prepare(file: sqlite3.Connection, path: Path) -> None:
    """Settings of the connection, then the file brought to this version."""
    _ours(file, path)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
    file.execute("BEGIN IMMEDIATE")
    for number in range(_version(file), len(MIGRATIONS)):
        for statement in filter(str.strip, MIGRATIONS[number].split(";")):
            file.execute(statement)
    there = _columns(file)
    for name in MEASURES.keys() - there:
        file.execute(f"ALTER TABLE uses ADD COLUMN {name} {MEASURES[name]}")
    file.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    file.execute(f"PRAGMA application_id = {APPLICATION}")
    file.execute("COMMIT")


def _ours(file: sqlite3.Connection, path: Path) -> None:
    (application,) = file.execute("PRAGMA application_id").fetchone()
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION and tables:
        raise StoreError(f"{path}: found another program's database, allowed: a store of samples")
    if (version := _version(file)) > len(MIGRATIONS):
        raise StoreError(
            f"{path}: found a store of version {version}, allowed: up to {len(MIGRATIONS)}; "
            "a later release wrote it"
        )


def _version(file: sqlite3.Connection) -> int:
    return int(file.execute("PRAGMA user_version").fetchone()[0])


def _columns(file: sqlite3.Connection) -> set[str]:
    return {name for _, name, *_ in file.execute("PRAGMA table_info(uses)")}


@contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise StoreError(f"{path}: found no file, allowed: a store of samples")
    file = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)
    try:
        _ours(file, path)
        yield file
    finally:
        file.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: found {error}, allowed: a store of samples") from None


def _stored(value: Any) -> Any:
    return None if isinstance(value, int) and value >= 2**63 else value


def _rest(sample: GpuSample) -> str | None:
    """What has no column, as the line of a samples file has it."""
    found = {
        name: getattr(sample, name)
        for name in sample.__slots__
        if name not in _HAVE_COLUMNS or _stored(getattr(sample, name)) is not getattr(sample, name)
    }
    if all(value is None for value in found.values()):
        return None
    values = json.loads(to_line(sample))
    return json.dumps({name: values[name] for name in found if name in values})


def _use(row: Row) -> Use:
    values = {name: value for name, value in zip(COLUMNS, row, strict=True) if value is not None}
    owner = Owner(**{name: values.pop(name) for name in OWNER})
    share_fraction = values.pop("share_fraction")
    time = from_us(values.pop("time_us")).isoformat()
    rest = json.loads(values.pop("rest", "{}"))
    sample = from_line(json.dumps({"time": time} | values | rest))
    return Use(sample=sample, owner=owner, share_fraction=share_fraction)


def _select(known: set[str]) -> str:
    """Of a store of an earlier version, which a reader leaves as it is, what it lacks is NULL."""
    measures = [f"uses.{name}" if name in known else f"NULL AS {name}" for name in MEASURES]
    chosen = ", ".join(
        [
            "time_us",
            *(f"gpus.{name}" for name in IDENTITY),
            *(f"owners.{name}" for name in OWNER),
            "share_fraction",
            *measures,
            "rest",
        ]
    )
    return (
        f"SELECT {chosen} FROM uses JOIN gpus ON gpus.id = gpu JOIN owners ON owners.id = owner "  # noqa: S608  # our own names
        "WHERE time_us > ? AND time_us <= ? ORDER BY time_us, gpu, owner"
    )


_HAVE_COLUMNS = frozenset(("time", *IDENTITY, *MEASURES))
_INSERT = (
    f"INSERT OR REPLACE INTO uses (time_us, gpu, owner, share_fraction, rest, "  # noqa: S608  # our own names
    f"{', '.join(MEASURES)}) VALUES (?, ?, ?, ?, ?, {', '.join('?' * len(MEASURES))})"
)
