"""``/metrics`` for Prometheus: what each GPU did, and for whom.

Everything is in base units and known by the GPU's UUID: ``flopwise_gpu_info`` says the rest of a
GPU, ``flopwise_gpu_owner_share_ratio`` whose it is, to be joined as

    flopwise_gpu_utilisation_ratio * on (uuid) group_right () flopwise_gpu_owner_share_ratio

With ``dcgm_compatible`` the same figures are given under the names, labels and units of
dcgm-exporter too, so that dashboards made for it work. There a GPU that one pod has to itself
carries that pod; one that several share carries none, because its figures are nobody's alone.

What is not known has no series. Old figures are no figures: after a few missed ticks the series of
GPUs end, and ``flopwise_gpu_up`` says 0. The door to Prometheus' client, for writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample, Health

MISSED_TICKS = 3  # after which what was measured last says nothing any more
UNHEALTHY_SECONDS = 60.0  # without a reading, before /healthz fails
MIB = 2**20

Value = Callable[[GpuSample], float | None]


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
    """Holds the last tick, and says it. Ticks may come from another thread."""

    def __init__(
        self,
        *,
        interval_seconds: float,
        dcgm_compatible: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._interval_seconds, self._dcgm = interval_seconds, dcgm_compatible
        self._now = now
        self._began = self._read_at = now()
        self._snapshot = Snapshot(time=self._began, failure="nothing has been read yet")

    def take(self, snapshot: Snapshot) -> None:
        """The newest tick; it replaces the one before."""
        if snapshot.failure is None:
            self._read_at = snapshot.time
        self._snapshot = snapshot

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self)

    def unhealthy(self) -> str:
        """Why this process should be started anew; empty while it should not.

        A container whose devices were taken away gets them back only when it starts, and a loop
        that hangs never says so itself.
        """
        seconds = (self._now() - self._read_at).total_seconds()
        limit = max(UNHEALTHY_SECONDS, MISSED_TICKS * self._interval_seconds)
        if seconds <= limit:
            return ""
        why = self._snapshot.failure or "the collector's loop stands still"
        return f"no reading for {seconds:.0f} s: {why}"

    def collect(self) -> Iterator[Metric]:
        """The families of metrics, in order; the protocol of Prometheus' client."""
        snapshot = self._snapshot
        age_seconds = (self._now() - snapshot.time).total_seconds()
        is_fresh = age_seconds <= MISSED_TICKS * self._interval_seconds
        is_up = is_fresh and snapshot.failure is None
        yield from _of_collector(snapshot, is_up)
        if not is_up:
            return
        yield from _of_gpus(snapshot.samples)
        yield from _of_owners(snapshot.shares)
        if self._dcgm:
            yield from _dcgm(snapshot)


# field of a sample, name, what it is
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


def _of_collector(snapshot: Snapshot, is_up: bool) -> Iterator[Metric]:
    yield GaugeMetricFamily("flopwise_gpu_up", "Whether the GPUs are being read.", value=is_up)
    yield GaugeMetricFamily(
        "flopwise_gpu_unreadable", "GPUs that say nothing.", value=snapshot.unreadable
    )
    yield GaugeMetricFamily(
        "flopwise_gpu_sample_timestamp_seconds",
        "When the last reading began.",
        value=snapshot.time.timestamp(),
    )
    if snapshot.pods_age_seconds is not None:
        yield GaugeMetricFamily(
            "flopwise_gpu_pods_age_seconds",
            "Since the kubelet last said who holds what.",
            value=snapshot.pods_age_seconds,
        )
    failed = CounterMetricFamily(
        "flopwise_gpu_failed_calls", "Calls that gave nothing.", labels=["call", "cause"]
    )
    for (call, cause), count in snapshot.causes.items():
        failed.add_metric([_clean(call), _clean(cause)], count)
    yield failed


def _of_gpus(samples: Sequence[GpuSample]) -> Iterator[Metric]:
    yield _info(samples)
    for name, metric, what, scale in _GAUGES:
        found = GaugeMetricFamily(f"flopwise_gpu_{metric}", what, labels=["uuid"])
        for sample in samples:
            if (value := getattr(sample, name)) is not None:
                found.add_metric([sample.uuid], value * scale)
        if found.samples:
            yield found
    for family in (
        *_counters(samples),
        _throttle(samples),
        _rows(samples),
        _health(samples),
        _recovery(samples),
    ):
        if family.samples:
            yield family


def _info(samples: Sequence[GpuSample]) -> Metric:
    labels = ["uuid", "name", "node", "parent_uuid", "mig_profile", "clique"]
    found = GaugeMetricFamily("flopwise_gpu_info", "A GPU or MIG instance.", labels=labels)
    for sample in samples:
        found.add_metric([_clean(getattr(sample, label) or "") for label in labels], 1)
    return found


def _counters(samples: Sequence[GpuSample]) -> Iterator[Metric]:
    yield _counter(
        samples, "energy_joules", "Energy since the driver's start.", "", {"": "energy_joules"}
    )
    yield _counter(
        samples,
        "ecc_errors",
        "Errors of memory.",
        "kind",
        {"corrected": "ecc_corrected", "uncorrected": "ecc_uncorrected"},
    )
    for link in ("nvlink", "pcie"):
        yield _counter(
            samples,
            f"{link}_bytes",
            "Traffic.",
            "direction",
            {"transmit": f"{link}_tx_bytes", "receive": f"{link}_rx_bytes"},
        )
    throttled = CounterMetricFamily(
        "flopwise_gpu_throttled_seconds", "Time of held clocks.", labels=["uuid", "reason"]
    )
    for sample in samples:
        for reason, seconds in (sample.throttled_seconds or {}).items():
            throttled.add_metric([sample.uuid, reason], seconds)
    yield throttled


def _counter(
    samples: Sequence[GpuSample], name: str, what: str, label: str, fields: Mapping[str, str]
) -> Metric:
    labels = ["uuid", label] if label else ["uuid"]
    found = CounterMetricFamily(f"flopwise_gpu_{name}", what, labels=labels)
    for sample in samples:
        for value, counted in fields.items():
            if (count := getattr(sample, counted)) is not None:
                found.add_metric([sample.uuid, value][: len(labels)], count)
    return found


def _throttle(samples: Sequence[GpuSample]) -> Metric:
    found = GaugeMetricFamily(
        "flopwise_gpu_throttle_reason", "1: it holds the clocks down.", labels=["uuid", "reason"]
    )
    for sample in samples:
        for reason in sample.throttle_reasons or ():
            found.add_metric([sample.uuid, reason], 1)
    return found


def _rows(samples: Sequence[GpuSample]) -> Metric:
    found = GaugeMetricFamily(
        "flopwise_gpu_remapped_rows", "Rows of memory replaced.", labels=["uuid", "state"]
    )
    for sample in samples:
        if (rows := sample.remapped_rows) is not None:
            for state in ("corrected", "uncorrected", "pending", "failed"):
                found.add_metric([sample.uuid, state], float(getattr(rows, state)))
    return found


def _health(samples: Sequence[GpuSample]) -> Metric:
    found = GaugeMetricFamily(
        "flopwise_gpu_health", "1: what planning should do with it.", labels=["uuid", "state"]
    )
    for sample in samples:
        if sample.health is not None:
            for state in Health:
                found.add_metric([sample.uuid, state.value], float(sample.health is state))
    return found


def _recovery(samples: Sequence[GpuSample]) -> Metric:
    found = GaugeMetricFamily(
        "flopwise_gpu_recovery_action", "1: the driver asks for it.", labels=["uuid", "action"]
    )
    for sample in samples:
        if sample.recovery_action is not None:
            found.add_metric([sample.uuid, _clean(sample.recovery_action)], 1)
    return found


# A label `job` would be that of the scrape: Prometheus gives each target one.
_OWNER = {
    "namespace": "namespace",
    "pod": "pod",
    "job_name": "job",
    "team": "team",
    "project": "project",
    "model": "model",
}


def _of_owners(shares: Sequence[Share]) -> Iterator[Metric]:
    labels = ["uuid", *_OWNER]
    info = GaugeMetricFamily(
        "flopwise_gpu_owner_info",
        "Who has a GPU, and by what its share is reckoned.",
        labels=[*labels, "basis"],
    )
    share = GaugeMetricFamily(
        "flopwise_gpu_owner_share_ratio", "The owner's part of the GPU.", labels=labels
    )
    work = GaugeMetricFamily(
        "flopwise_gpu_owner_utilisation_ratio", "SM time of the owner's processes.", labels=labels
    )
    memory = GaugeMetricFamily(
        "flopwise_gpu_owner_memory_used_bytes", "Memory of the owner's processes.", labels=labels
    )
    for one in shares:
        values = [one.uuid, *(_clean(getattr(one.owner, name)) for name in _OWNER.values())]
        info.add_metric([*values, one.basis.value], 1)
        share.add_metric(values, one.share_fraction)
        if one.utilisation_fraction is not None:
            work.add_metric(values, one.utilisation_fraction)
        if one.memory_used_bytes is not None:
            memory.add_metric(values, one.memory_used_bytes)
    yield from (family for family in (info, share, work, memory) if family.samples)


def _free_bytes(sample: GpuSample) -> float | None:
    if sample.memory_total_bytes is None or sample.memory_used_bytes is None:
        return None
    return (
        sample.memory_total_bytes - sample.memory_used_bytes - (sample.memory_reserved_bytes or 0)
    )


def _scaled(name: str, scale: float) -> Value:
    def value(sample: GpuSample) -> float | None:
        found = getattr(sample, name)
        return None if found is None else found * scale

    return value


def _row(state: str) -> Value:
    def value(sample: GpuSample) -> float | None:
        rows = sample.remapped_rows
        return None if rows is None else float(getattr(rows, state))

    return value


# dcgm-exporter's name, whether it counts, what it is, and its value in dcgm-exporter's unit
_DCGM: tuple[tuple[str, bool, str, Value], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", False, "SM clock (MHz).", _scaled("sm_clock_mhz", 1)),
    ("DCGM_FI_DEV_MEM_CLOCK", False, "Memory clock (MHz).", _scaled("memory_clock_mhz", 1)),
    (
        "DCGM_FI_DEV_MEMORY_TEMP",
        False,
        "Memory temperature (C).",
        _scaled("memory_temperature_celsius", 1),
    ),
    ("DCGM_FI_DEV_GPU_TEMP", False, "GPU temperature (C).", _scaled("temperature_celsius", 1)),
    ("DCGM_FI_DEV_POWER_USAGE", False, "Power draw (W).", _scaled("power_watts", 1)),
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        True,
        "Energy since boot (mJ).",
        _scaled("energy_joules", 1000),
    ),
    ("DCGM_FI_DEV_GPU_UTIL", False, "Utilisation (%).", _scaled("utilisation_fraction", 100)),
    (
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        False,
        "Memory utilisation (%).",
        _scaled("memory_utilisation_fraction", 100),
    ),
    ("DCGM_FI_DEV_XID_ERRORS", False, "The last Xid.", _scaled("last_xid", 1)),
    (
        "DCGM_FI_DEV_FB_FREE",
        False,
        "Memory free (MiB).",
        lambda sample: None if (free := _free_bytes(sample)) is None else free // MIB,
    ),
    (
        "DCGM_FI_DEV_FB_USED",
        False,
        "Memory used (MiB).",
        lambda s: None if s.memory_used_bytes is None else s.memory_used_bytes // MIB,
    ),
    (
        "DCGM_FI_DEV_FB_RESERVED",
        False,
        "Memory reserved (MiB).",
        lambda s: None if s.memory_reserved_bytes is None else s.memory_reserved_bytes // MIB,
    ),
    (
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        True,
        "Rows remapped for uncorrectable errors.",
        _row("uncorrected"),
    ),
    (
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        True,
        "Rows remapped for correctable errors.",
        _row("corrected"),
    ),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", False, "Whether remapping has failed.", _row("failed")),
    (
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        False,
        "Time the graphics engine is active (ratio).",
        _scaled("utilisation_fraction", 1),
    ),
    ("DCGM_FI_PROF_SM_ACTIVE", False, "SM activity (ratio).", _scaled("sm_active_fraction", 1)),
    (
        "DCGM_FI_PROF_SM_OCCUPANCY",
        False,
        "SM occupancy (ratio).",
        _scaled("sm_occupancy_fraction", 1),
    ),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        False,
        "Tensor pipe activity (ratio).",
        _scaled("tensor_active_fraction", 1),
    ),
    (
        "DCGM_FI_PROF_DRAM_ACTIVE",
        False,
        "Memory interface activity (ratio).",
        _scaled("dram_active_fraction", 1),
    ),
)
_DCGM_LABELS = (
    *("gpu", "UUID", "device", "modelName", "Hostname"),
    *("GPU_I_PROFILE", "GPU_I_ID", "namespace", "pod"),
)


def _dcgm(snapshot: Snapshot) -> Iterator[Metric]:
    labelled = list(zip(snapshot.samples, _dcgm_labels(snapshot), strict=True))
    for name, counts, what, value_of in _DCGM:
        found = Metric(name, what, "counter" if counts else "gauge")
        for sample, labels in labelled:
            if (value := value_of(sample)) is not None:
                found.add_sample(name, labels, value)
        if found.samples:
            yield found


def _dcgm_labels(snapshot: Snapshot) -> Iterator[dict[str, str]]:
    numbers = _numbers(snapshot)
    # Only who has a GPU alone: a shared one's figures belong to none of those who share it.
    alone = {one.uuid: one.owner for one in snapshot.shares if one.basis is Basis.WHOLE}
    instances = {uuid: name.partition("/gi") for name, uuid in snapshot.devices.items()}
    for sample in snapshot.samples:
        gpu = sample.parent_uuid or sample.uuid
        number, owner = numbers[gpu], alone.get(sample.uuid)
        values = (
            *(number, gpu, f"nvidia{number}", sample.name, sample.node),
            *(sample.mig_profile or "", instances.get(sample.uuid, ("", "", ""))[2]),
            *((owner.namespace, owner.pod) if owner else ("", "")),
        )
        named = zip(_DCGM_LABELS, values, strict=True)
        yield {label: _clean(value) for label, value in named if value}


def _numbers(snapshot: Snapshot) -> dict[str, str]:
    """By UUID, the number of a GPU: its device's, else its place in the driver's order."""
    known = {uuid: name.removeprefix("nvidia") for name, uuid in snapshot.devices.items()}
    gpus = dict.fromkeys(sample.parent_uuid or sample.uuid for sample in snapshot.samples)
    return {gpu: known.get(gpu, str(place)) for place, gpu in enumerate(gpus)}


def _clean(text: str) -> str:
    """Text of others as a label: what can't be written as UTF-8 is replaced."""
    return text if text.isascii() else text.encode(errors="replace").decode()


class Served:
    """``/metrics`` and ``/healthz`` at one address and port; 0: any that is free.

    Raises ``OSError`` where the port is taken.
    """

    def __init__(self, exporter: Exporter, *, address: str = "", port: int = 0) -> None:
        class Handler(_Handler):
            routes = _routes(exporter)

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        name = f"metrics-{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


_Answer = tuple[int, str, bytes]


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0  # a connection that says nothing holds no thread for longer
    routes: Mapping[str, Callable[[], _Answer]] = {}

    def do_GET(self) -> None:  # the library's name
        route = self.routes.get(self.path.split("?")[0])
        code, kind, body = route() if route else (404, "text/plain", b"not found\n")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: scrapes and probes come every few seconds."""


def _routes(exporter: Exporter) -> Mapping[str, Callable[[], _Answer]]:
    def metrics() -> _Answer:
        return 200, CONTENT_TYPE_LATEST, exporter.text()

    def health() -> _Answer:
        wrong = exporter.unhealthy()
        return (503 if wrong else 200), "text/plain", (wrong or "ok").encode() + b"\n"

    return {"/metrics": metrics, "/healthz": health, "/health": health}
