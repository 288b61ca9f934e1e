"""``/metrics`` for Prometheus: what each GPU did, and for whom.

Everything is in base units and known by the GPU's UUID: ``flopwise_gpu_info`` says the rest of a
GPU, ``flopwise_gpu_owner_share_ratio`` whose it is, to be joined as

    flopwise_gpu_utilisation_ratio * on (uuid) group_right () flopwise_gpu_owner_share_ratio

With ``dcgm_compatible`` the same figures are given under dcgm-exporter's names too (``dcgm``).

What is not known has no series. Old figures are no figures: after a few missed ticks the series of
GPUs end, and ``flopwise_gpu_up`` says 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from telemetry import dcgm
from telemetry.families import CONTENT_TYPE, Family, Kind, labelled, page, with_label
from telemetry.owners import Share
from telemetry.samples import GpuSample, Health
from telemetry.served import Answer, Served, health

MISSED_TICKS = 3  # after which what was measured last says nothing any more
UNHEALTHY_SECONDS = 60.0  # without a reading, before /healthz fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one tick gave."""

    time: datetime  # aware
    samples: tuple[GpuSample, ...] = ()
    shares: tuple[Share, ...] = ()
    unreadable: int = 0  # GPUs that the driver counts and that say nothing
    failure: str | None = None  # why there are no samples at all
    causes: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (call, cause): how often
    pods_age_seconds: float | None = None  # since the kubelet last said who holds what
    devices: Mapping[str, str] = field(default_factory=dict)  # nvidia0: UUID


class Exporter:
    """Holds the last tick, and says it. Ticks may come from another thread.

    Ages are by a clock that nobody sets: ``clock``, in seconds.
    """

    def __init__(
        self,
        *,
        interval_seconds: float,
        dcgm_compatible: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_seconds, self._dcgm, self._clock = interval_seconds, dcgm_compatible, clock
        self._read_at = began = clock()
        nothing = Snapshot(time=datetime.now(UTC), failure="nothing has been read yet")
        self._last = (nothing, began)
        self._said: tuple[Snapshot, bool, bytes] | None = None  # of which tick, whether it was up

    def take(self, snapshot: Snapshot) -> None:
        """The newest tick; it replaces the one before."""
        now = self._clock()
        if snapshot.failure is None:
            self._read_at = now
        self._last = (snapshot, now)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it: made once a tick, however many ask."""
        (snapshot, taken_at), said = self._last, self._said
        is_fresh = self._clock() - taken_at <= MISSED_TICKS * self._interval_seconds
        is_up = is_fresh and snapshot.failure is None
        if said is None or said[0] is not snapshot or said[1] != is_up:
            said = self._said = (snapshot, is_up, page(self._families(snapshot, is_up)))
        return said[2]

    def unhealthy(self) -> str:
        """Why this process should be started anew; empty while it should not.

        A container whose devices were taken away gets them back only when it starts, and a loop
        that hangs never says so itself.
        """
        seconds = self._clock() - self._read_at
        limit = max(UNHEALTHY_SECONDS, MISSED_TICKS * self._interval_seconds)
        if seconds <= limit:
            return ""
        why = self._last[0].failure or "the collector's loop stands still"
        return f"no reading for {seconds:.0f} s: {why}"

    def _families(self, snapshot: Snapshot, is_up: bool) -> Iterator[Family]:
        yield from _of_collector(snapshot, is_up)
        if not is_up:
            return
        yield from _of_gpus(snapshot.samples)
        yield from _of_owners(snapshot.shares)
        if self._dcgm:
            yield from dcgm.families(snapshot.samples, snapshot.shares, snapshot.devices)


def serve(exporter: Exporter, port: int, address: str = "") -> Served:
    """``/metrics`` and ``/healthz`` at that port; 0: any that is free. Raises ``OSError``."""

    def metrics() -> Answer:
        return 200, CONTENT_TYPE, exporter.text()

    probe = health(exporter.unhealthy)
    return Served(port, {"/metrics": metrics, "/healthz": probe, "/health": probe}, address=address)


# field of a sample, name, what it is, and how many base units its unit is
_GAUGES: tuple[tuple[str, str, str, float], ...] = (
    ("utilisation_fraction", "utilisation_ratio", "Time in which any kernel ran.", 1),
    ("memory_used_bytes", "memory_used_bytes", "Memory in use.", 1),
    ("memory_total_bytes", "memory_total_bytes", "Memory there is.", 1),
    ("memory_reserved_bytes", "memory_reserved_bytes", "Memory the driver keeps.", 1),
    ("memory_utilisation_fraction", "memory_utilisation_ratio", "Time of memory access.", 1),
    ("power_watts", "power_watts", "Power drawn now.", 1),
    ("power_average_watts", "power_average_watts", "Power over the last second.", 1),
    ("power_limit_watts", "power_limit_watts", "Power limit in force.", 1),
    ("temperature_celsius", "temperature_celsius", "Temperature of the GPU.", 1),
    ("memory_temperature_celsius", "memory_temperature_celsius", "Temperature of its memory.", 1),
    ("sm_clock_mhz", "sm_clock_hertz", "Clock of the SMs.", 1e6),
    ("sm_clock_max_mhz", "sm_clock_max_hertz", "Highest clock of the SMs.", 1e6),
    ("memory_clock_mhz", "memory_clock_hertz", "Clock of the memory.", 1e6),
    ("memory_clock_max_mhz", "memory_clock_max_hertz", "Highest clock of the memory.", 1e6),
    ("retired_pages", "retired_pages", "Pages of memory out of use for good.", 1),
    ("last_xid", "last_xid", "Number of the driver's last error.", 1),
    ("sm_active_fraction", "sm_active_ratio", "SM time with a warp resident.", 1),
    ("sm_occupancy_fraction", "sm_occupancy_ratio", "Resident warps of those that fit.", 1),
    ("tensor_active_fraction", "tensor_active_ratio", "Cycles of the tensor pipes in use.", 1),
    ("dram_active_fraction", "dram_active_ratio", "Memory bandwidth in use.", 1),
    ("tensor_tflops", "tensor_flops_per_second", "FLOPs of the hardware, at most.", 1e12),
)


def _of_collector(snapshot: Snapshot, is_up: bool) -> Iterator[Family]:
    yield _single("up", "Whether the GPUs are being read.", is_up)
    yield _single("unreadable", "GPUs that say nothing.", snapshot.unreadable)
    began = snapshot.time.timestamp()
    yield _single("sample_timestamp_seconds", "When the last reading began.", began)
    if snapshot.pods_age_seconds is not None:
        age = snapshot.pods_age_seconds
        yield _single("pods_age_seconds", "Since the kubelet last said who holds what.", age)
    failed = Family("flopwise_gpu_failed_calls_total", "Calls that gave nothing.", Kind.COUNTER)
    for (call, cause), count in snapshot.causes.items():
        failed.add(labelled({"call": call, "cause": cause}), count)
    yield failed


def _single(name: str, what: str, value: float) -> Family:
    family = Family(f"flopwise_gpu_{name}", what)
    family.add("", value)
    return family


def _of_gpus(samples: Sequence[GpuSample]) -> Iterator[Family]:
    known = [(sample, labelled({"uuid": sample.uuid})) for sample in samples]
    yield _info(samples)
    for name, metric, what, scale in _GAUGES:
        family = Family(f"flopwise_gpu_{metric}", what)
        for sample, labels in known:
            if (value := getattr(sample, name)) is not None:
                family.add(labels, value * scale)
        yield family
    yield from _counters(known)
    for states_of, metric, label, what in _STATES:
        family = Family(f"flopwise_gpu_{metric}", what)
        for sample, labels in known:
            for state, value in states_of(sample):
                family.add(with_label(labels, label, state), value)
        yield family


def _info(samples: Sequence[GpuSample]) -> Family:
    family = Family("flopwise_gpu_info", "A GPU or MIG instance.")
    for sample in samples:
        texts = {name: getattr(sample, name) or "" for name in _IDENTITY}
        number = "" if sample.gpu_instance_id is None else str(sample.gpu_instance_id)
        family.add(labelled(texts | {"gpu_instance_id": number}), 1)
    return family


_IDENTITY = ("uuid", "name", "node", "parent_uuid", "mig_profile", "clique")
_Known = Sequence[tuple[GpuSample, str]]  # with its label
# name, what it is, and the fields of a sample by the value of a label
_COUNTERS: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
    ("energy_joules", "Energy since the driver's start.", "", {"": "energy_joules"}),
    (
        "ecc_errors",
        "Errors of memory.",
        "kind",
        {"corrected": "ecc_corrected", "uncorrected": "ecc_uncorrected"},
    ),
    *(
        (
            f"{link}_bytes",
            "Traffic.",
            "direction",
            {"transmit": f"{link}_tx_bytes", "receive": f"{link}_rx_bytes"},
        )
        for link in ("nvlink", "pcie")
    ),
)


def _counters(known: _Known) -> Iterator[Family]:
    for name, what, label, fields in _COUNTERS:
        family = Family(f"flopwise_gpu_{name}_total", what, Kind.COUNTER)
        for sample, labels in known:
            for value, counted in fields.items():
                if (count := getattr(sample, counted)) is not None:
                    family.add(with_label(labels, label, value) if label else labels, count)
        yield family
    throttled = Family("flopwise_gpu_throttled_seconds_total", "Time of held clocks.", Kind.COUNTER)
    for sample, labels in known:
        for reason, seconds in (sample.throttled_seconds or {}).items():
            throttled.add(with_label(labels, "reason", reason), seconds)
    yield throttled


_Pairs = Iterator[tuple[str, float]]


def _throttle(sample: GpuSample) -> _Pairs:
    return ((reason, 1.0) for reason in sample.throttle_reasons or ())


def _rows(sample: GpuSample) -> _Pairs:
    if (rows := sample.remapped_rows) is not None:
        for state in ("corrected", "uncorrected", "pending", "failed"):
            yield state, float(getattr(rows, state))


def _health(sample: GpuSample) -> _Pairs:
    if sample.health is not None:
        yield from ((state.value, float(sample.health is state)) for state in Health)


def _recovery(sample: GpuSample) -> _Pairs:
    if sample.recovery_action is not None:
        yield sample.recovery_action, 1.0


_STATES: tuple[tuple[Callable[[GpuSample], _Pairs], str, str, str], ...] = (
    (_throttle, "throttle_reason", "reason", "1: it holds the clocks down."),
    (_rows, "remapped_rows", "state", "Rows of memory replaced."),
    (_health, "health", "state", "1: what planning should do with it."),
    (_recovery, "recovery_action", "action", "1: the driver asks for it."),
)


# A label `job` would be that of the scrape: Prometheus gives each target one.
_OWNER = {
    "namespace": "namespace",
    "pod": "pod",
    "job_name": "job",
    "team": "team",
    "project": "project",
    "model": "model",
}


def _of_owners(shares: Sequence[Share]) -> Iterator[Family]:
    info = Family("flopwise_gpu_owner_info", "Who has a GPU, and by what its share is reckoned.")
    share = Family("flopwise_gpu_owner_share_ratio", "The owner's part of the GPU.")
    work = Family("flopwise_gpu_owner_utilisation_ratio", "SM time of the owner's processes.")
    memory = Family("flopwise_gpu_owner_memory_used_bytes", "Memory of the owner's processes.")
    for one in shares:
        owner = {label: getattr(one.owner, name) for label, name in _OWNER.items()}
        labels = labelled({"uuid": one.uuid} | owner)
        info.add(with_label(labels, "basis", one.basis.value), 1)
        share.add(labels, one.share_fraction)
        if one.utilisation_fraction is not None:
            work.add(labels, one.utilisation_fraction)
        if one.memory_used_bytes is not None:
            memory.add(labels, one.memory_used_bytes)
    yield from (info, share, work, memory)
