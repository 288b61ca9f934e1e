"""The loop: a reading of all GPUs at each tick, handed to whoever wants it.

Nothing that fails ends it, but one thing: a driver that has not answered for many attempts, each
after a longer wait. Then a new process has a better chance: the binding keeps the old driver's
library, and a container whose devices were taken away gets them back only when it starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from telemetry import health
from telemetry.nvml import (
    Causes,
    Driver,
    DriverLostError,
    Event,
    EventKind,
    NvmlUnavailableError,
    Reading,
    Unreadable,
)
from telemetry.samples import GpuSample

ATTEMPTS = 10
LONGEST_WAIT_SECONDS = 60.0
BUDGET_FRACTION = 0.5  # of the interval, after which a pass leaves out what can wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick gave."""

    time: datetime  # aware
    samples: tuple[GpuSample, ...]  # each GPU is followed by its MIG instances
    unreadable: tuple[Unreadable, ...] = ()
    failure: str | None = None  # why there are no samples at all


Sink = Callable[[Tick], None]


@dataclass(slots=True)
class _Past:
    """What has happened to one GPU since its last reset."""

    xids: dict[int, datetime] = field(default_factory=dict)
    last_xid: int | None = None
    unavailable: bool = False
    energy_joules: float | None = None


class Collector:
    """Reads the driver tick by tick, opens it anew where it was lost, and judges each GPU."""

    def __init__(
        self,
        driver: Driver,
        *,
        clock: Callable[[], float] = time.monotonic,
        attempts: int = ATTEMPTS,
        budget_seconds: float = math.inf,
    ) -> None:
        self._driver, self._clock = driver, clock
        self._attempts, self._budget_seconds = attempts, budget_seconds
        self._failed = 0  # attempts in a row that gave no sample
        self._retry_at = 0.0
        self._failure: str | None = None
        self._past: dict[str, _Past] = {}

    def start(self) -> None:
        """Opens the driver; raises ``NvmlUnavailableError``."""
        self._driver.open()

    def stop(self) -> None:
        """Closes the driver."""
        self._driver.close()

    def tick(self, now: datetime) -> Tick:
        """The reading of this moment. ``DriverLostError`` after the last attempt."""
        if self._failure is not None and not self._reopened():
            return Tick(time=now, samples=(), failure=self._failure)
        try:
            reading = self._driver.read(now, self._budget_seconds)
        except DriverLostError as error:
            self._lose(str(error))
            return Tick(time=now, samples=(), failure=self._failure)
        self._failed = 0
        self._remember(reading.events, now)
        return Tick(
            time=now,
            samples=self._judged(reading, now),
            unreadable=reading.unreadable,
        )

    def _reopened(self) -> bool:
        if self._clock() < self._retry_at:
            return False
        try:
            self._driver.open()
        except NvmlUnavailableError as error:
            self._lose(str(error))
            return False
        self._failure = None
        return True

    def _lose(self, why: str) -> None:
        """Closes what is left, and waits: 1 s, 2 s, 4 s, ... before the next attempt."""
        self._driver.close()
        self._failed += 1
        if self._failed > self._attempts:
            raise DriverLostError(f"the NVIDIA driver was lost, {self._attempts} attempts: {why}")
        self._failure = why
        wait = min(2.0 ** (self._failed - 1), LONGEST_WAIT_SECONDS)
        self._retry_at = self._clock() + wait

    def _remember(self, events: Sequence[Event], now: datetime) -> None:
        for event in events:
            past = self._past.setdefault(event.uuid, _Past())
            if event.kind is EventKind.XID:
                past.xids[event.data] = now
                past.last_xid = event.data
            elif event.kind is EventKind.UNAVAILABLE:
                past.unavailable = True

    def _judged(self, reading: Reading, now: datetime) -> tuple[GpuSample, ...]:
        """The samples with their verdicts; an instance has that of its GPU."""
        verdicts: dict[str, tuple[int | None, health.Verdict]] = {}
        for sample in reading.samples:
            if sample.parent_uuid is None:
                past = self._past_of(sample)
                evidence = _evidence(sample, past, reading, now)
                verdicts[sample.uuid] = past.last_xid, health.judge(evidence)
        return tuple(
            _with(sample, *verdicts[sample.parent_uuid or sample.uuid])
            for sample in reading.samples
        )

    def _past_of(self, sample: GpuSample) -> _Past:
        """A counter of energy that fell tells of a reset, which forgives all before it."""
        past = self._past.setdefault(sample.uuid, _Past())
        if sample.energy_joules is not None:
            if past.energy_joules is not None and sample.energy_joules < past.energy_joules:
                past = self._past[sample.uuid] = _Past()
            past.energy_joules = sample.energy_joules
        return past


def _evidence(sample: GpuSample, past: _Past, reading: Reading, now: datetime) -> health.Evidence:
    return health.Evidence(
        now=now,
        xids=past.xids,
        recovery_action=sample.recovery_action,
        remapped_rows=sample.remapped_rows,
        ecc_uncorrected=sample.ecc_uncorrected,
        lost=reading.lost.get(sample.uuid),
        unavailable=past.unavailable,
        deaf=reading.deaf,
    )


def _with(sample: GpuSample, last_xid: int | None, verdict: health.Verdict) -> GpuSample:
    return replace(
        sample,
        last_xid=last_xid,
        health=verdict.health,
        health_reason=verdict.reason or None,
    )


def ticks(
    interval: timedelta,
    length: timedelta | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Yields at once and then each ``interval`` while ``length`` lasts, its end included.

    What is late moves no later tick: those that were missed are left out. Without a ``length`` it
    goes on for good.
    """
    start = clock()
    step = interval.total_seconds()
    last = math.inf if length is None else length / interval
    tick = 0
    while tick <= last:
        sleep(max(0.0, start + tick * step - clock()))
        yield
        tick = max(tick + 1, math.ceil((clock() - start) / step))


def run(
    collector: Collector,
    at: Iterator[None],
    sinks: Sequence[Sink],
    causes: Causes,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Hands a reading to every sink at each tick of ``at``; how many samples there were.

    A sink that fails at its first tick ends the run with its error: it was not set up well. Later,
    what it fails at is counted, and the others go on. Raises ``NvmlUnavailableError`` where there
    is no driver to begin with, ``DriverLostError`` where it has been gone for too long.
    """
    guarded = [_Guarded(sink, causes) for sink in sinks]
    read = 0
    collector.start()
    try:
        for _ in at:
            tick = collector.tick(now())
            for sink in guarded:
                sink.take(tick)
            causes.flush()
            read += len(tick.samples)
    finally:
        collector.stop()
    return read


class _Guarded:
    """A sink whose later errors stop nobody else."""

    def __init__(self, sink: Sink, causes: Causes) -> None:
        self._sink, self._causes = sink, causes
        self._has_worked = False

    def take(self, tick: Tick) -> None:
        try:
            self._sink(tick)
        except Exception as error:  # a sink may fail in any way; the GPUs go on
            if not self._has_worked:
                raise
            self._causes.note("sink", f"{type(error).__name__}: {error}", _name(self._sink))
        else:
            self._has_worked = True


def _name(sink: Sink) -> str:
    return str(getattr(sink, "__qualname__", type(sink).__qualname__))
