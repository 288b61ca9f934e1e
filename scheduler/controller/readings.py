"""What a Prometheus tells of the GPUs, for decisions: which jobs leave theirs idle, which are bad.

A thread asks once a minute, for as far back as the queues' ``idle.afterSeconds`` reach. Where
nothing is told, nothing is known: no job is idle then, and no node is bad that was not before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cost_models import calibration
from cost_models.accelerators import resolve_accelerator
from cost_models.calibration import Calibration
from cost_models.names import UnknownName
from planner.manifests.schema import IdleAction
from scheduler.controller.state import QueueRules
from telemetry.health import Evidence, judge
from telemetry.idle import IdleWorkload, Rule, idle
from telemetry.samples import GpuSample, Health
from telemetry.scrape import ScrapeError
from telemetry.uses import Use

EVERY_SECONDS = 60.0
MOST_BACK = timedelta(hours=24)
STEPS = 30  # of one look back, at least a minute each


class Source(Protocol):
    """What has kept samples; `telemetry.scrape.Prometheus` is the real one."""

    def between(
        self, since: datetime, until: datetime, step: timedelta
    ) -> Iterator[tuple[Use, ...]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was told at one look."""

    at: datetime
    idle: tuple[IdleWorkload, ...] = ()
    bad: Mapping[str, str] = field(default_factory=dict)  # by node, why it is given nothing new
    error: str = ""  # why there is nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """For how long GPUs have to be idle: the shortest and the longest that any queue says."""

    shortest: timedelta = timedelta(minutes=30)
    longest: timedelta = timedelta(minutes=30)


def read(source: Source, windows: Windows, now: datetime) -> Reading:
    """One look."""
    back = min(MOST_BACK, windows.longest)
    step = max(timedelta(minutes=1), back / STEPS)
    rule = Rule(window=max(step, windows.shortest), longest_gap=2.5 * step)
    try:
        found = [use for uses in source.between(now - back - 2 * step, now, step) for use in uses]
    except ScrapeError as error:
        return Reading(at=now, error=str(error))
    found.sort(key=lambda use: use.sample.time)
    seen = idle(found, idle_watts=_idle_watts, usd_per_gpu_hour=lambda _: None, rule=rule, now=now)
    return Reading(at=now, idle=seen.workloads, bad=bad_nodes(use.sample for use in found))


def bad_nodes(samples: Iterable[GpuSample]) -> dict[str, str]:
    """Nodes of which a GPU is to be given nothing new by its last sample, and why.

    Which GPU of a node a pod gets is for the node to say: so its node gets nothing.
    """
    newest = {(one.node, one.uuid): one for one in samples}
    found: dict[str, str] = {}
    for (node, uuid), sample in sorted(newest.items()):
        if node and (why := _why_bad(sample)):
            found.setdefault(node, f"its GPU {uuid}: {why}")
    return found


def _why_bad(sample: GpuSample) -> str:
    xids = {} if sample.last_xid is None else {sample.last_xid: sample.time}
    verdict = judge(Evidence(now=sample.time, xids=xids))
    if verdict.health is Health.CORDON:
        return verdict.reason
    return "its collector says cordon" if sample.health is Health.CORDON else ""


def _idle_watts(name: str) -> float | None:
    try:
        return resolve_accelerator(name).idle_watts
    except UnknownName:
        return None


def windows_of(queues: Iterable[QueueRules]) -> Windows:
    """What the queues ask for; half an hour where none does."""
    asked = [q.idle_seconds for q in queues if q.idle_action is not IdleAction.NEVER]
    seconds = asked or [Windows().longest.total_seconds()]
    return Windows(
        shortest=timedelta(seconds=min(seconds)), longest=timedelta(seconds=max(seconds))
    )


class Measured:
    """A file of what was measured (`cost_models.calibration`), read anew when it changes."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked_at = -1e9
        self._mark: object = None

    def changed(self) -> Calibration | str | None:
        """What is new in it, or why it cannot be used; None where it is as it was."""
        if self._path is None or self._clock() - self._looked_at < EVERY_SECONDS:
            return None
        self._looked_at = self._clock()
        try:
            state = self._path.stat()
            mark = state.st_mtime_ns, state.st_size, state.st_ino
            if mark == self._mark:
                return None
            self._mark = mark
            return calibration.read(self._path)
        except OSError as error:
            known, self._mark = self._mark, str(error)
            return None if known == self._mark else f"{self._path}: {error.strerror}"
        except calibration.CalibrationError as error:
            return str(error)


class Readings:
    """Looks every minute in a thread, and tells."""

    def __init__(
        self,
        source: Source,
        windows: Callable[[], Windows],
        tell: Callable[[Reading], None],
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._source, self._windows, self._tell = source, windows, tell
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readings", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._tell(read(self._source, self._windows(), datetime.now(UTC)))
            self._ended.wait(self._every)
