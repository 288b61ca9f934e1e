"""One scrape of ``/metrics`` over HTTP: 8 GPUs, two pods on each. Aim: 5 ms at the median.

python -m tests.benchmarks.scrape
"""

from __future__ import annotations

import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median, quantiles

from telemetry.cgroups import Cgroup, Origin
from telemetry.exporter import Exporter, Snapshot, serve
from telemetry.owners import Known, Pod, shares
from telemetry.podresources import Container, PodDevices
from telemetry.samples import GpuProcess, GpuSample, Health, RemappedRows
from tests.benchmarks.measure import publish

GPUS = 8
RUNS = 200
AIM_MILLISECONDS = 5.0
REASONS = ("idle", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal")


def sample(number: int) -> GpuSample:
    """A GPU that gives everything there is to give."""
    return GpuSample(
        time=datetime.now(UTC),
        node="node-1",
        uuid=f"GPU-00000000-0000-0000-0000-{number:012}",
        name="NVIDIA H100 80GB HBM3",
        utilisation_fraction=0.9,
        memory_used_bytes=60 * 2**30,
        memory_total_bytes=80 * 2**30,
        power_watts=612.3,
        energy_joules=123456789.5,
        temperature_celsius=61.0,
        sm_clock_mhz=1755,
        memory_reserved_bytes=2**29,
        memory_utilisation_fraction=0.4,
        power_average_watts=600.1,
        power_limit_watts=700.0,
        memory_temperature_celsius=70.0,
        memory_clock_mhz=2619,
        sm_clock_max_mhz=1980,
        memory_clock_max_mhz=2619,
        throttle_reasons=("sw_power_cap",),
        throttled_seconds=dict.fromkeys(REASONS, 12.5),
        ecc_corrected=3,
        ecc_uncorrected=0,
        retired_pages=0,
        remapped_rows=RemappedRows(corrected=1, uncorrected=0, pending=False, failed=False),
        nvlink_tx_bytes=10**15,
        nvlink_rx_bytes=10**15,
        pcie_tx_bytes=10**12,
        pcie_rx_bytes=10**12,
        clique="11111111-2222-3333-4444-555555555555.7",
        recovery_action="none",
        last_xid=13,
        sm_active_fraction=0.8,
        sm_occupancy_fraction=0.5,
        tensor_active_fraction=0.41,
        dram_active_fraction=0.6,
        tensor_tflops=405.0,
        processes=(
            GpuProcess(pid=2 * number, memory_bytes=2**34, utilisation_fraction=0.3),
            GpuProcess(pid=2 * number + 1, memory_bytes=2**35, utilisation_fraction=0.6),
        ),
        health=Health.FINE,
    )


def snapshot() -> Snapshot:
    """8 of them, each shared in time by two pods."""
    samples = tuple(sample(number) for number in range(GPUS))
    pods = [Pod(namespace="ml", name=f"pod-{n}", uid=f"uid-{n}") for n in range(2 * GPUS)]
    held = [
        PodDevices(
            namespace="ml",
            name=pod.name,
            containers=(
                Container(
                    name="main", devices=(("nvidia.com/gpu", f"{samples[n // 2].uuid}::{n % 2}"),)
                ),
            ),
        )
        for n, pod in enumerate(pods)
    ]
    origins = {n: Origin(cgroup=Cgroup(pod_uid=pod.uid)) for n, pod in enumerate(pods)}
    known = Known(held=held, pods=pods, origins=origins)
    return Snapshot(time=datetime.now(UTC), samples=samples, shares=shares(samples, known))


def _render_milliseconds(exporter: Exporter, given: Snapshot) -> float:
    exporter.take(replace(given, time=datetime.now(UTC)))
    began = time.perf_counter()
    exporter.text()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    rows = []
    for dcgm_compatible in (False, True):
        exporter = Exporter(interval_seconds=3600, dcgm_compatible=dcgm_compatible)
        served = serve(exporter, 0, "127.0.0.1")
        given = snapshot()
        milliseconds, size = [], 0
        cpu_began = time.process_time()
        for _ in range(RUNS):
            exporter.take(replace(given, time=datetime.now(UTC)))  # nothing of the last one is kept
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics") as answer:
                size = len(answer.read())
            milliseconds.append((time.perf_counter() - began) * 1000)
        cpu_seconds = time.process_time() - cpu_began
        served.close()
        made = [_render_milliseconds(exporter, given) for _ in range(RUNS)]
        series = sum(not line.startswith(b"#") for line in exporter.text().splitlines())
        rows.append(
            {
                "names": "ours and dcgm-exporter's" if dcgm_compatible else "ours",
                "gpus": GPUS,
                "series": series,
                "bytes": size,
                "runs": RUNS,
                "medianMilliseconds": median(milliseconds),
                "p95Milliseconds": quantiles(milliseconds, n=20)[-1],
                "leastMilliseconds": min(milliseconds),
                "ourMedianMilliseconds": median(made),  # of it, making the page
                "meanCpuMilliseconds": cpu_seconds / RUNS * 1000,  # both ends of it
                "aimMilliseconds": AIM_MILLISECONDS,
            }
        )
    publish("scrape", rows)


if __name__ == "__main__":
    main()
