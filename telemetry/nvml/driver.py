"""All GPUs of a node, read tick by tick through one session with the driver.

Three things are found anew in the slow tier, and whenever a GPU falls silent: which GPUs there are,
which instances they are divided into, and what seldom changes. A GPU that was known and can't be
read any more keeps its identity in the samples, as lost, until the driver no longer counts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from telemetry.nvml import fields, library, mig
from telemetry.nvml.asking import Asking, Causes
from telemetry.nvml.events import Event, Monitor
from telemetry.nvml.gpus import Gpu, Measures
from telemetry.samples import GpuSample

SLOW_SECONDS = 30.0
BUS = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver has, at any moment


class DriverLostError(RuntimeError):
    """The session with the driver is worth nothing any more; the message says what NVML said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorUnits:
    """What the tensor units of a GPU can do, which NVML doesn't say."""

    sms: int  # streaming multiprocessors
    flops_per_clock: float  # of one SM: dense, 16 bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A GPU that the driver counts and that says nothing: lost, or not ours to open."""

    index: int  # NVML's, of this moment
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one pass over a node's GPUs found."""

    samples: tuple[GpuSample, ...]  # each GPU is followed by its MIG instances
    unreadable: tuple[Unreadable, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)  # why a sample is bare, by UUID
    events: tuple[Event, ...] = ()  # since the pass before
    deaf: str | None = None  # why no events are told, where none are


class Driver:
    """A session with the driver: opened once, and anew after ``DriverLostError``.

    ``tensor_units`` gives them by the GPU's name as NVML says it; it is called when they are first
    needed, after the first pass.
    """

    def __init__(
        self,
        *,
        node: str,
        causes: Causes,
        tensor_units: Callable[[], Mapping[str, TensorUnits]] = dict,
        clock: Callable[[], float] = time.monotonic,
        slow_seconds: float = SLOW_SECONDS,
        bus: Path = BUS,
    ) -> None:
        self._node, self._causes, self._clock = node, causes, clock
        self._tensor_units, self._slow_seconds = tensor_units, slow_seconds
        self._units: Mapping[str, TensorUnits] | None = None
        self._bus, self._on_bus = bus, frozenset[str]()
        self._nvml = library.binding()
        self._asking = Asking(self._nvml, causes, clock)
        self._fields: tuple[fields.Field, ...] = ()
        self._is_open = False
        self._gpus: dict[str, Gpu] = {}
        self._instances: dict[str, dict[str, mig.Instance]] = {}  # by UUID of the GPU, and own
        self._missing: dict[str, str] = {}  # known, and not to be opened any more: why
        self._silent: dict[str, str] = {}  # open, and every call failed in this pass: why
        self._nameless: tuple[Unreadable, ...] = ()
        self._monitor: Monitor | None = None
        self._find_at = float("-inf")
        self._slow_at: dict[str, float] = {}
        self._first = 0

    def open(self) -> None:
        """Begins a session; ``NvmlUnavailableError`` where there is nothing to begin with."""
        library.open_library(self._nvml)
        self._is_open = True
        self._on_bus = self._seen_on_bus()
        version = self._asking.ask(
            "nvmlSystemGetDriverVersion", self._node, self._nvml.nvmlSystemGetDriverVersion
        )
        self._fields = fields.each_tick(_branch(version))

    def close(self) -> None:
        """Ends the session; what is known of the GPUs is forgotten."""
        if not self._is_open:
            return
        self._is_open = False
        if self._monitor is not None:
            self._monitor.close()
        for uuid in tuple(self._gpus):
            self._forget(uuid)
        library.close_library(self._nvml)
        self._reset()

    def read(self, now: datetime, budget_seconds: float = float("inf")) -> Reading:
        """One sample of each GPU and each instance, stamped ``now`` (aware).

        Once ``budget_seconds`` have passed, what is dear and can wait is left out. Raises
        ``DriverLostError`` where the driver doesn't even count its GPUs, or all of them are silent.
        """
        seconds = self._clock()
        self._asking.deadline = seconds + budget_seconds
        if seconds >= self._find_at or self._silent:
            self._renew()
            self._find()
            self._find_at = seconds + self._slow_seconds
        self._silent = {}
        read = {gpu.uuid: tuple(self._read(gpu, now, seconds)) for gpu in self._in_turn()}
        lost = self._missing | self._silent
        if lost and len(lost) == len(self._gpus):
            raise DriverLostError(next(iter(lost.values())))
        return Reading(
            samples=tuple(sample for uuid in self._gpus for sample in read[uuid]),
            unreadable=self._nameless
            + tuple(Unreadable(index=self._gpus[u].index, reason=why) for u, why in lost.items()),
            lost=lost,
            events=self._heard(),
            deaf=self._deafness(),
        )

    def _reset(self) -> None:
        self._gpus, self._instances, self._slow_at = {}, {}, {}
        self._missing, self._silent, self._nameless = {}, {}, ()
        self._monitor = None
        self._find_at = float("-inf")

    def _in_turn(self) -> list[Gpu]:
        """The GPUs, in each pass from another one on: where time is short, all suffer alike."""
        gpus = list(self._gpus.values())
        self._first = (self._first + 1) % max(len(gpus), 1)
        return gpus[self._first :] + gpus[: self._first]

    def _renew(self) -> None:
        """A new session where GPUs were plugged in or out: NVML counts them only when it begins."""
        if self._seen_on_bus() == self._on_bus:
            return
        self.close()
        try:
            self.open()
        except library.NvmlUnavailableError as error:
            raise DriverLostError(str(error)) from None

    def _seen_on_bus(self) -> frozenset[str]:
        try:
            return frozenset(path.name for path in self._bus.iterdir())
        except OSError:
            return frozenset()  # not shown here, as in some containers

    def _find(self) -> None:
        """Which GPUs there are now; those that stay keep what is known of them."""
        opened, closed = self._identified()
        by_uuid = {gpu.uuid: gpu for gpu in opened}
        before = self._gpus
        # Of a GPU that can't be opened no UUID is known: it may be any of those that are missing.
        missing = [uuid for uuid in before if uuid not in by_uuid][: len(closed)]
        self._missing = {uuid: one.reason for uuid, one in zip(missing, closed, strict=False)}
        for uuid, one in zip(missing, closed, strict=False):
            before[uuid].index = one.index
        self._nameless = tuple(closed[len(missing) :])
        for uuid in before.keys() - by_uuid.keys() - self._missing.keys():
            self._forget(uuid)
        now = [before[uuid] for uuid in missing]
        now += [self._same(before.get(gpu.uuid), gpu) for gpu in opened]
        self._gpus = {gpu.uuid: gpu for gpu in sorted(now, key=lambda gpu: gpu.index)}
        self._listen(changed=list(self._gpus.values()) != list(before.values()))

    def _identified(self) -> tuple[list[Gpu], list[Unreadable]]:
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._asking.refused("nvmlDeviceGetCount", self._node, error.value)
            raise DriverLostError(str(error)) from None
        opened, closed = [], []
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
            except nvml.NVMLError as error:
                # Counted only: the reading tells of it.
                self._causes.counts["nvmlDeviceGetHandleByIndex", str(error)] += 1
                closed.append(Unreadable(index=index, reason=str(error)))
            else:
                opened.append(Gpu(self._asking, uuid=uuid, name=name, index=index, handle=handle))
        return opened, closed

    def _same(self, known: Gpu | None, found: Gpu) -> Gpu:
        """The GPU as it is known, unless the driver has made it a new one."""
        if known is None or known.address != found.address:
            if known is not None:
                self._forget(known.uuid)
            return found
        known.index = found.index
        return known

    def _forget(self, uuid: str) -> None:
        for instance in self._instances.pop(uuid, {}).values():
            instance.close()
        self._slow_at.pop(uuid, None)
        self._gpus[uuid].close()

    def _listen(self, *, changed: bool) -> None:
        """Waits for events of the GPUs there are; a monitor that has died is replaced."""
        if self._monitor is not None:
            if self._monitor.is_alive and not changed:
                return
            self._monitor.close()
        handles = [(u, gpu.handle) for u, gpu in self._gpus.items() if u not in self._missing]
        self._monitor = Monitor(self._asking, handles, self._node) if handles else None

    def _heard(self) -> tuple[Event, ...]:
        """The events since the last pass. What they changed is read in the next one."""
        events = self._monitor.take() if self._monitor is not None else ()
        for event in events:
            self._slow_at.pop(event.uuid, None)
        return events

    def _deafness(self) -> str | None:
        if self._monitor is None or self._monitor.is_alive:
            return None
        why = self._monitor.failure or "it ended"
        self._causes.note("nvmlEventSetWait", why, self._node)
        return why

    def _read(self, gpu: Gpu, now: datetime, seconds: float) -> Iterator[GpuSample]:
        if gpu.uuid in self._missing:
            yield self._sample(gpu, now, {})
            return
        before = self._asking.answered
        measures = gpu.fast(self._fields, seconds)
        if seconds >= self._slow_at.get(gpu.uuid, 0.0) and self._asking.has_time("slow", gpu.uuid):
            gpu.slow_measures = gpu.slow()
            self._instances[gpu.uuid] = mig.instances(gpu, self._instances.get(gpu.uuid, {}))
            self._slow_at[gpu.uuid] = seconds + self._slow_seconds
        if self._asking.answered == before:
            self._silent[gpu.uuid] = self._asking.last_cause
            yield self._sample(gpu, now, {})
            return
        measures |= gpu.slow_measures
        yield self._sample(gpu, now, measures | self._achieved(gpu, measures, None))
        for instance in self._instances.get(gpu.uuid, {}).values():
            yield self._part(instance, now, seconds, measures["sm_clock_mhz"])

    def _part(
        self, instance: mig.Instance, now: datetime, seconds: float, clock_mhz: int | None
    ) -> GpuSample:
        measures = instance.fast(seconds) | {"sm_clock_mhz": clock_mhz}
        return GpuSample(
            time=now,
            node=self._node,
            uuid=instance.uuid,
            name=instance.gpu.name,
            parent_uuid=instance.gpu.uuid,
            mig_profile=instance.profile,
            gpu_instance_id=instance.gpu_instance,
            **measures | self._achieved(instance.gpu, measures, instance),
        )

    def _sample(self, gpu: Gpu, now: datetime, measures: dict[str, Any]) -> GpuSample:
        return GpuSample(time=now, node=self._node, uuid=gpu.uuid, name=gpu.name, **measures)

    def _achieved(self, gpu: Gpu, measures: Measures, part: mig.Instance | None) -> Measures:
        """What the tensor units did, in TFLOP/s, were all of it in dense 16 bit.

        An upper bound by DCGM's formula: active x SMs x FLOP per clock and SM x clock. It includes
        what is computed twice and what is padded; in 8 bit it would be double.
        """
        active, clock_mhz = measures.get("tensor_active_fraction"), measures["sm_clock_mhz"]
        if active is None or clock_mhz is None:
            return {}
        if self._units is None:
            self._units = self._tensor_units()
        units = self._units.get(gpu.name)
        sms = part.sms if part is not None else units and units.sms
        if units is None or sms is None:
            return {}
        return {"tensor_tflops": active * sms * units.flops_per_clock * clock_mhz * 1e6 / 1e12}


def _branch(version: str | None) -> int | None:
    """The driver's branch, as 580 of 580.65.06; None where it does not say."""
    first = (version or "").split(".", 1)[0]
    return int(first) if first.isdigit() else None
