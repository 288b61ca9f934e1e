"""What ``flopwise telemetry top`` shows: where it reads from, its tables, and one frame of text."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

from flopwise.usage import SQLITE, idle_watts_of, owner_text, price_of, uses_of
from telemetry import store
from telemetry.idle import Rule
from telemetry.live import GpuNow, Group, Now, now_of
from telemetry.plain import plain
from telemetry.uses import Use

if TYPE_CHECKING:
    from telemetry.scrape import Prometheus

T = TypeVar("T")

GIB = 2**30
STEP = timedelta(minutes=1)  # of what a Prometheus is asked of the past
SPACING = timedelta(seconds=10)  # of what is remembered for the idle window
UNKNOWN = "-"

Read = Callable[[], Sequence[Use]]  # the uses of the last window, in order of time


class Table(StrEnum):
    """What a row is."""

    GPUS = "gpus"
    NODES = "nodes"
    JOBS = "jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[T]):
    """One column: what a cell says, and what it is sorted by."""

    title: str
    text: Callable[[T], str]
    key: Callable[[T], float | str]
    left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it is drawn."""

    cells: tuple[str, ...]
    alarm: bool  # drawn red: idle, or to be cordoned
    dim: bool  # drawn grey: free, or stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of it is shown, and in which order."""

    table: Table = Table.GPUS
    column: int = 0
    descending: bool = False
    idle_only: bool = False
    filter_text: str = ""


# -- where it reads from ---------------------------------------------------------------------------


@dataclass(slots=True)
class Window:
    """The uses of the last ``length``, thinned; the newest tick is always there."""

    length: timedelta
    _past: deque[tuple[Use, ...]] = field(default_factory=deque)
    _newest: tuple[Use, ...] = ()

    def add(self, tick: Iterable[Use]) -> None:
        """One more instant."""
        self._newest = tuple(tick) or self._newest
        if not self._newest:
            return
        time = self._newest[0].sample.time
        if not self._past or time - self._past[-1][0].sample.time >= SPACING:
            self._past.append(self._newest)
        while time - self._past[0][0].sample.time > self.length + SPACING:
            self._past.popleft()

    def uses(self) -> tuple[Use, ...]:
        """All that is remembered, in order of time."""
        ticks = list(self._past)
        if self._newest and (not ticks or ticks[-1] is not self._newest):
            ticks.append(self._newest)
        return tuple(use for tick in ticks for use in tick)


def of_file(path: Path, length: timedelta) -> Read:
    """A samples file or a node's store, read anew where it has changed.

    The reader raises ``SamplesError``, ``StoreError``, OSError.
    """
    last: tuple[tuple[int, int], ...] = ()
    kept: Sequence[Use] = ()

    def read() -> Sequence[Use]:
        nonlocal last, kept
        if (mark := _mark(path)) != last:
            kept, last = tuple(_newest(path, length)), mark
        return kept

    return read


def of_prometheus(source: Prometheus, length: timedelta, clock: Callable[[], datetime]) -> Read:
    """What a Prometheus keeps: the window once, and then what is new at each look.

    The reader raises ``ScrapeError``.
    """
    window = Window(length)
    begun = False

    def read() -> Sequence[Use]:
        nonlocal begun
        now = clock()
        if not begun:
            for uses in source.between(now - length - SPACING, now, STEP):
                for _, tick in groupby(uses, key=lambda use: use.sample.time):
                    window.add(tick)
            begun = True
        window.add(source.now(now))
        return window.uses()

    return read


def _mark(path: Path) -> tuple[tuple[int, int], ...]:
    """What changes when the file or its write-ahead log does."""
    log = path.with_name(path.name + "-wal")
    found = [path.stat(), *([log.stat()] if log.exists() else [])]
    return tuple((one.st_mtime_ns, one.st_size) for one in found)


def _newest(path: Path, length: timedelta) -> Iterator[Use]:
    with path.open("rb") as file:
        is_store = file.read(len(SQLITE)) == SQLITE
    if is_store:
        days = store.ticks_by_day(path)
        if days:
            yield from store.read(path, since=max(time for _, time in days.values()) - 2 * length)
        return
    uses = sorted(uses_of(path), key=lambda use: use.sample.time)
    if uses:
        begin = uses[-1].sample.time - 2 * length
        yield from (use for use in uses if use.sample.time > begin)


def seen(uses: Iterable[Use], rule: Rule, usd_per_gpu_hour: float | None = None) -> Now:
    """What is now, with power at rest and prices of the catalog, or one price for all."""
    price = price_of if usd_per_gpu_hour is None else partial(_always, usd_per_gpu_hour)
    return now_of(uses, idle_watts=idle_watts_of, usd_per_gpu_hour=price, rule=rule)


def _always(usd: float, _name: str) -> float:
    return usd


# -- the tables ------------------------------------------------------------------------------------


def titles(table: Table) -> tuple[str, ...]:
    """The headings of a table."""
    return tuple(column.title for column in _COLUMNS[table])


def is_left(table: Table, column: int) -> bool:
    """Whether a column is text, which stands left."""
    return _COLUMNS[table][column].left


def rows(now: Now, choice: Choice) -> tuple[Row, ...]:
    """The rows of a choice, in its order; equal ones by name."""
    columns = _COLUMNS[choice.table]
    entries = [(one, _row(one, columns)) for one in _entries(now, choice.table)]
    wanted = choice.filter_text.lower()
    shown = [
        (one, row)
        for one, row in entries
        if (row.alarm or not choice.idle_only) and wanted in " ".join(row.cells).lower()
    ]
    key = columns[min(choice.column, len(columns) - 1)].key
    shown.sort(key=lambda entry: key(entry[0]), reverse=choice.descending)
    return tuple(row for _, row in shown)


def summary(now: Now, clock: datetime) -> tuple[tuple[str, bool], ...]:
    """The line above the table in pieces, each with whether it is drawn red."""
    total, age = now.total, clock - now.time
    if not now.gpus:
        return (("no samples yet", False),)
    late = age > Rule().longest_gap
    held = f"{total.allocated_gpus:g} held"
    said = _number(total.usd_per_hour, "${:,.2f}/h burning")
    return (
        (f"{_many(len(now.nodes), 'node')}, {_many(total.gpus, 'GPU')}, {held}", False),
        (_percent(total.active_fraction) + " active", False),
        (_number(total.watts, "{:,.0f} W"), False),
        (said, False),
        (f"${total.idle_usd_per_hour:,.2f}/h of it idle", total.idle_usd_per_hour > 0),
        (f"{now.time:%Y-%m-%d %H:%M:%S %Z}" + (f", {_ago(age)} ago" if late else ""), late),
    )


def frame(now: Now, choice: Choice, clock: datetime) -> str:
    """One frame as text; what is idle is red where the terminal has colours."""
    red = partial(typer.style, fg=typer.colors.RED)
    head = "   ".join(red(text) if alarm else text for text, alarm in summary(now, clock))
    found = rows(now, choice)
    table = [titles(choice.table), *(row.cells for row in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_line(cells, widths, choice.table) for cells in table]
    body = [
        red(line) if row.alarm else typer.style(line, dim=True) if row.dim else line
        for line, row in zip(lines[1:], found, strict=True)
    ]
    return "\n".join([head, "", lines[0], *body])


def _line(cells: Sequence[str], widths: Sequence[int], table: Table) -> str:
    padded = (
        cell.ljust(width) if is_left(table, i) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _entries(now: Now, table: Table) -> Sequence[GpuNow] | Sequence[Group]:
    if table is Table.GPUS:
        return now.gpus
    return now.nodes if table is Table.NODES else now.workloads


def _row(one: GpuNow | Group, columns: Sequence[Column[Any]]) -> Row:
    cells = tuple(plain(column.text(one)) for column in columns)
    if isinstance(one, Group):
        return Row(cells=cells, alarm=one.idle_gpus > 0, dim=one.allocated_gpus == 0)
    alarm = one.idle_for is not None or one.health == "cordon"
    return Row(cells=cells, alarm=alarm, dim=one.stale or not one.allocated)


def _state(gpu: GpuNow) -> str:
    if gpu.stale:
        return f"silent {_ago(gpu.age)}"
    if gpu.idle_for is not None:
        return f"idle {_ago(gpu.idle_for)}"
    if gpu.health in ("cordon", "watch"):
        return str(gpu.health)
    return "held" if gpu.allocated else "free"


def _ago(length: timedelta) -> str:
    """The length in its largest unit: 45s, 12m, 3.5h.

    >>> _ago(timedelta(minutes=12, seconds=20)), _ago(timedelta(hours=3.5))
    ('12m', '3.5h')
    """
    seconds = length.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.1f}h"


def _many(number: float, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"


def _percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{fraction:.0%}"


def _number(value: float | None, form: str = "{:,.2f}") -> str:
    return UNKNOWN if value is None else form.format(value)


def _memory(gpu: GpuNow) -> str:
    if gpu.memory_used_bytes is None:
        return UNKNOWN
    whole = "" if gpu.memory_total_bytes is None else f"/{gpu.memory_total_bytes / GIB:.0f}"
    return f"{gpu.memory_used_bytes / GIB:.0f}{whole}"


def _last(value: float | None) -> float:
    """What is not known comes before everything else."""
    return -math.inf if value is None else value


def _idle_seconds(gpu: GpuNow) -> float:
    return -1.0 if gpu.idle_for is None else gpu.idle_for.total_seconds()


def _owner(gpu: GpuNow) -> str:
    return owner_text(gpu.owner) if gpu.allocated else UNKNOWN


# Of one GPU and of many alike.
_WORK: tuple[Column[Any], ...] = (
    Column(
        title="ACTIVE",
        text=lambda g: _percent(g.active_fraction),
        key=lambda g: _last(g.active_fraction),
    ),
    Column(
        title="TENSOR",
        text=lambda g: _percent(g.tensor_fraction),
        key=lambda g: _last(g.tensor_fraction),
    ),
)
_PRICE: Column[Any] = Column(
    title="$/H", text=lambda g: _number(g.usd_per_hour), key=lambda g: _last(g.usd_per_hour)
)
_GPU_COLUMNS: tuple[Column[GpuNow], ...] = (
    Column(title="NODE", text=lambda g: g.node, key=lambda g: g.node, left=True),
    Column(title="GPU", text=lambda g: g.uuid[:12], key=lambda g: g.uuid, left=True),
    Column(
        title="NAME",
        text=lambda g: g.name.removeprefix("NVIDIA ")[:16],
        key=lambda g: g.name,
        left=True,
    ),
    Column(title="OWNER", text=_owner, key=_owner, left=True),
    Column(
        title="TEAM", text=lambda g: g.owner.team or UNKNOWN, key=lambda g: g.owner.team, left=True
    ),
    Column(
        title="SHARE", text=lambda g: _percent(g.share_fraction), key=lambda g: g.share_fraction
    ),
    *_WORK,
    Column(title="GIB", text=_memory, key=lambda g: _last(g.memory_used_bytes)),
    Column(title="W", text=lambda g: _number(g.watts, "{:.0f}"), key=lambda g: _last(g.watts)),
    Column(title="°C", text=lambda g: _number(g.celsius, "{:.0f}"), key=lambda g: _last(g.celsius)),
    _PRICE,
    Column(
        title="STATE",
        text=_state,
        key=_idle_seconds,
        left=True,
    ),
)
_FIGURES: tuple[Column[Group], ...] = (
    Column(title="GPUS", text=lambda g: f"{g.gpus:g}", key=lambda g: g.gpus),
    Column(title="HELD", text=lambda g: f"{g.allocated_gpus:g}", key=lambda g: g.allocated_gpus),
    Column(title="IDLE", text=lambda g: f"{g.idle_gpus:g}", key=lambda g: g.idle_gpus),
    *_WORK,
    Column(title="W", text=lambda g: _number(g.watts, "{:,.0f}"), key=lambda g: _last(g.watts)),
    _PRICE,
    Column(
        title="$/H IDLE",
        text=lambda g: f"{g.idle_usd_per_hour:,.2f}",
        key=lambda g: g.idle_usd_per_hour,
    ),
)
_COLUMNS: Mapping[Table, tuple[Column[Any], ...]] = {
    Table.GPUS: _GPU_COLUMNS,
    Table.NODES: (
        Column(title="NODE", text=lambda g: g.name, key=lambda g: g.name, left=True),
        *_FIGURES,
    ),
    Table.JOBS: (
        Column(title="JOB", text=lambda g: g.name, key=lambda g: g.name, left=True),
        Column(title="TEAM", text=lambda g: g.team or UNKNOWN, key=lambda g: g.team, left=True),
        *_FIGURES,
    ),
}
