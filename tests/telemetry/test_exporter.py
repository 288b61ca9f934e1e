"""What a real Prometheus makes of ``/metrics``, and when there is nothing left to say."""

from __future__ import annotations

import math
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from telemetry.exporter import Exporter, Snapshot, serve
from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample, Health, RemappedRows
from telemetry.served import Served
from telemetry.uses import Owner
from tests.telemetry.prometheus import program, prometheus

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MIB = 2**20
ALONE = GpuSample(
    time=NOW,
    node="node-1",
    uuid="GPU-alone",
    name="NVIDIA H100 80GB HBM3",
    utilisation_fraction=0.87,
    memory_used_bytes=40_000 * MIB,
    memory_total_bytes=81_559 * MIB,
    memory_reserved_bytes=559 * MIB,
    power_watts=412.5,
    energy_joules=1234.5,
    sm_clock_mhz=1755,
    throttle_reasons=("sw_power_cap",),
    throttled_seconds={"sw_power_cap": 3.5, "hw_thermal": 0.0},
    ecc_corrected=2,
    ecc_uncorrected=0,
    remapped_rows=RemappedRows(corrected=1, uncorrected=0, pending=True, failed=False),
    nvlink_tx_bytes=2**40,
    nvlink_rx_bytes=2**41,
    tensor_active_fraction=0.41,
    tensor_tflops=405.0,
    last_xid=13,
    recovery_action="none",
    health=Health.WATCH,
    health_reason="Xid 13",
)
SHARED = GpuSample(
    time=NOW, node="node-1", uuid="GPU-shared", name="NVIDIA L4", utilisation_fraction=0.8
)
INSTANCE = GpuSample(
    time=NOW,
    node="node-1",
    uuid="MIG-1",
    name="NVIDIA A100",
    parent_uuid="GPU-cut",
    mig_profile="3g.20gb",
    gpu_instance_id=2,
    memory_used_bytes=7 * MIB,
)
TWIN = replace(INSTANCE, uuid="MIG-2", gpu_instance_id=3, memory_used_bytes=9 * MIB)
CUT = GpuSample(time=NOW, node="node-1", uuid="GPU-cut", name="NVIDIA A100")
ONE = Owner(namespace="ml", pod="one", job="sft", team="nlp")
OTHER = Owner(namespace="ml", pod="other", team='quo"te\\d\n')
SHARES = (
    Share(uuid="GPU-alone", owner=ONE, share_fraction=1.0, basis=Basis.WHOLE),
    Share(
        uuid="GPU-shared",
        owner=ONE,
        share_fraction=0.75,
        basis=Basis.SM,
        utilisation_fraction=0.6,
        memory_used_bytes=10,
    ),
    Share(
        uuid="GPU-shared",
        owner=OTHER,
        share_fraction=0.25,
        basis=Basis.SM,
        utilisation_fraction=0.2,
        memory_used_bytes=20,
    ),
)
SNAPSHOT = Snapshot(
    time=NOW,
    samples=(ALONE, SHARED, CUT, INSTANCE, TWIN),
    shares=SHARES,
    unreadable=1,
    causes={("nvmlDeviceGetPowerUsage", "Not Supported"): 7},
    pods_age_seconds=2.5,
    devices={"nvidia4": "GPU-alone", "nvidia5": "GPU-cut"},
)


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def set(self, seconds: float) -> None:
        self.seconds = seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def exporter(clock: Clock, *, dcgm_compatible: bool = True) -> Exporter:
    made = Exporter(interval_seconds=1, dcgm_compatible=dcgm_compatible, clock=clock)
    made.take(SNAPSHOT)
    return made


@pytest.fixture
def served(clock: Clock) -> Iterator[Served]:
    with_names = serve(exporter(clock), 0, "127.0.0.1")
    yield with_names
    with_names.close()


def get(served: Served, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_real_prometheus_scrapes_us_and_promql_gives_the_right_numbers(
    served: Served, tmp_path: Path
) -> None:
    with prometheus(tmp_path, served.port, honor_labels=True) as found:
        target = "container=exporter"  # what a target's own labels add, where we have none
        pod = "pod=flopwise-telemetry-x7k"
        assert found.wait("flopwise_gpu_utilisation_ratio") == {
            f"{target} {pod} uuid=GPU-alone": 0.87,
            f"{target} {pod} uuid=GPU-shared": 0.8,
        }
        assert found.value("flopwise_gpu_energy_joules_total * 1") == {
            f"{target} {pod} uuid=GPU-alone": 1234.5
        }
        # 1,755 MHz, 405 TFLOP/s, 2^40 + 2^41 bytes: base units.
        assert list(found.value("flopwise_gpu_sm_clock_hertz").values()) == [1.755e9]
        assert list(found.value("flopwise_gpu_tensor_flops_per_second").values()) == [4.05e14]
        assert found.value("sum(flopwise_gpu_nvlink_bytes_total)") == {"": 3 * 2**40}
        assert found.value('flopwise_gpu_health == 1 and flopwise_gpu_health{state="watch"}')
        # By team: all of one GPU at 0.87, 3/4 of the other at 0.8: 1.47; and 1/4 at 0.8: 0.2.
        by_team = found.value(
            "sum by (team) (flopwise_gpu_owner_share_ratio"
            " * on (uuid) group_left () flopwise_gpu_utilisation_ratio)"
        )
        assert by_team == {
            "team=nlp": pytest.approx(1.47),
            'team=quo"te\\d\n': pytest.approx(0.2),
        }
        # Each pod's own figures, and never the other's.
        assert found.value("sum by (pod) (flopwise_gpu_owner_memory_used_bytes)") == {
            "pod=one": 10,
            "pod=other": 20,
        }
        # What a dashboard of dcgm-exporter asks for.
        assert found.value('avg(DCGM_FI_DEV_GPU_UTIL{gpu=~"4|1"})') == {"": pytest.approx(83.5)}
        assert found.value('sum(DCGM_FI_DEV_FB_USED{UUID="GPU-alone"})') == {"": 40_000}
        assert found.value('DCGM_FI_DEV_FB_FREE{gpu="4"}') == {
            f"Hostname=node-1 UUID=GPU-alone {target} device=nvidia4 gpu=4"
            " modelName=NVIDIA H100 80GB HBM3 namespace=ml pod=one": 41_000
        }
        # Two instances of one profile are two series, and none is refused.
        by_instance = found.value("sum by (GPU_I_ID) (DCGM_FI_DEV_FB_USED{GPU_I_ID!=''})")
        assert by_instance == {"GPU_I_ID=2": 7, "GPU_I_ID=3": 9}
        assert found.own("prometheus_target_scrapes_sample_duplicate_timestamp_total") == 0
        assert found.own("prometheus_target_scrapes_sample_out_of_order_total") == 0


def test_promtool_finds_nothing_to_mend_in_our_names(clock: Clock) -> None:
    text = exporter(clock, dcgm_compatible=False).text()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_promtool_can_read_dcgm_exporters_names(clock: Clock) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exporter(clock).text(),
        capture_output=True,
        check=False,
    )
    # Their names are not in Prometheus' style: 3 says so, 1 would be text that can't be read.
    assert done.returncode == 3
    assert all(b"DCGM_FI_" in line for line in done.stderr.splitlines())


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_shared_gpu_carries_no_pod_under_dcgm_exporters_names(clock: Clock) -> None:
    found = lines(exporter(clock).text().decode(), "DCGM_FI_DEV_GPU_UTIL{")
    assert [line.rpartition(" ")[2] for line in found] == ["87.0", "80.0"]
    assert 'pod="one"' in found[0]
    assert "pod=" not in found[1]


def test_a_mig_instance_is_told_as_dcgm_exporter_does(clock: Clock) -> None:
    found = lines(exporter(clock).text().decode(), "DCGM_FI_DEV_FB_USED{")
    assert (
        'DCGM_FI_DEV_FB_USED{GPU_I_ID="2",GPU_I_PROFILE="3g.20gb",Hostname="node-1",'
        'UUID="GPU-cut",device="nvidia5",gpu="5",modelName="NVIDIA A100"} 7.0'
    ) in found


def test_instances_that_dcgm_exporter_would_not_tell_apart_are_not_told_twice(
    clock: Clock,
) -> None:
    found = exporter(clock)
    # Two compute instances of one GPU instance, whose memory is one; one without an id.
    same = replace(INSTANCE, uuid="MIG-9")
    nameless = replace(INSTANCE, uuid="MIG-8", gpu_instance_id=None)
    found.take(replace(SNAPSHOT, samples=(CUT, INSTANCE, same, nameless), devices={}))
    series = lines(found.text().decode(), "DCGM_FI_DEV_FB_USED{")
    assert [line.rpartition(" ")[2] for line in series] == ["7.0"]
    assert 'GPU_I_ID="2"' in series[0]


def test_compute_instances_of_two_pods_carry_no_pod(clock: Clock) -> None:
    def series(*owners: Owner) -> str:
        found = exporter(clock)
        both = (INSTANCE, replace(INSTANCE, uuid="MIG-9"))
        given = tuple(
            Share(uuid=one.uuid, owner=owner, share_fraction=1.0, basis=Basis.WHOLE)
            for one, owner in zip(both, owners, strict=True)
        )
        found.take(replace(SNAPSHOT, samples=both, shares=given))
        return lines(found.text().decode(), "DCGM_FI_DEV_FB_USED{")[0]

    assert 'pod="one"' in series(ONE, ONE)
    assert "pod=" not in series(ONE, OTHER)


def test_all_ask_for_the_same_page_of_a_tick(clock: Clock) -> None:
    found = exporter(clock)
    assert found.text() is found.text()
    found.take(replace(SNAPSHOT, samples=(), shares=()))
    assert b"GPU-alone" not in found.text()


def test_the_client_of_prometheus_reads_what_was_written(clock: Clock) -> None:
    found = exporter(clock)
    hostile = Owner(namespace="a\\", pod='"}', job="b\nc", team="\x1b[31m<b>é{}", project="=,")
    given = Share(uuid="GPU-alone", owner=hostile, share_fraction=0.5, basis=Basis.EQUAL)
    sample = replace(ALONE, power_watts=float("inf"), temperature_celsius=float("nan"))
    found.take(replace(SNAPSHOT, samples=(sample,), shares=(given,)))
    read = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(found.text().decode())
        for one in family.samples
    }
    labels = {"uuid": "GPU-alone", "namespace": "a\\", "pod": '"}', "job_name": "b\nc"}
    labels |= {"team": "\x1b[31m<b>é{}", "project": "=,", "model": ""}
    assert read["flopwise_gpu_owner_share_ratio", *sorted(labels.items())] == 0.5
    uuid = ("uuid", "GPU-alone")
    assert read["flopwise_gpu_energy_joules_total", uuid] == 1234.5
    assert read["flopwise_gpu_power_watts", uuid] == float("inf")
    assert math.isnan(read["flopwise_gpu_temperature_celsius", uuid])


def test_energy_is_in_millijoules_under_dcgm_exporters_name(clock: Clock) -> None:
    (found,) = lines(exporter(clock).text().decode(), "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{")
    assert float(found.rpartition(" ")[2]) == 1_234_500


def test_what_is_not_known_has_no_series(clock: Clock) -> None:
    text = exporter(clock).text().decode()
    assert "flopwise_gpu_temperature_celsius" not in text
    assert 'flopwise_gpu_power_watts{uuid="GPU-shared"}' not in text


def test_without_the_switch_dcgm_exporters_names_are_not_there(clock: Clock) -> None:
    assert b"DCGM" not in exporter(clock, dcgm_compatible=False).text()


def test_calls_that_failed_are_counted_by_their_cause(clock: Clock) -> None:
    assert (
        'flopwise_gpu_failed_calls_total{call="nvmlDeviceGetPowerUsage",cause="Not Supported"} 7.0'
    ) in exporter(clock).text().decode()


def test_after_three_missed_ticks_the_series_of_gpus_end(clock: Clock) -> None:
    found = exporter(clock)
    clock.set(3)
    assert b"flopwise_gpu_up 1.0" in found.text()
    assert b'flopwise_gpu_utilisation_ratio{uuid="GPU-alone"} 0.87' in found.text()
    clock.set(3.1)
    assert b"flopwise_gpu_up 0.0" in found.text()
    assert b"GPU-alone" not in found.text()


def test_a_driver_that_does_not_answer_is_seen_at_once_and_unhealthy_after_a_minute(
    clock: Clock, served: Served
) -> None:
    found = exporter(clock)
    clock.set(1)
    found.take(Snapshot(time=NOW, failure="GPU is lost"))
    assert b"flopwise_gpu_up 0.0" in found.text()
    assert found.unhealthy() == ""
    clock.set(61)
    found.take(Snapshot(time=NOW, failure="GPU is lost"))
    assert found.unhealthy() == "no reading for 61 s: GPU is lost"
    found.take(SNAPSHOT)
    assert found.unhealthy() == ""


def test_a_loop_that_stands_still_fails_healthz(clock: Clock, served: Served) -> None:
    assert get(served, "/healthz") == (200, "ok\n")
    clock.set(61)
    assert get(served, "/healthz") == (
        503,
        "no reading for 61 s: the collector's loop stands still\n",
    )
    assert get(served, "/metrics")[0] == 200


def test_a_clock_that_is_set_an_hour_either_way_ends_no_series(clock: Clock) -> None:
    found = exporter(clock)
    for hours in (-1, 1):
        found.take(replace(SNAPSHOT, time=NOW + timedelta(hours=hours)))
        assert b"flopwise_gpu_up 1.0" in found.text()
        assert found.unhealthy() == ""


def test_a_node_without_gpus_is_healthy(clock: Clock) -> None:
    found = exporter(clock)
    found.take(Snapshot(time=NOW))
    assert found.unhealthy() == ""
    assert b"flopwise_gpu_up 1.0" in found.text()


def test_other_paths_are_not_found(served: Served) -> None:
    assert get(served, "/") == (404, "not found\n")


def test_text_that_is_no_unicode_ends_no_scrape(clock: Clock) -> None:
    found = exporter(clock)
    strange = replace(ALONE, name="H\udc80100 é")
    found.take(replace(SNAPSHOT, samples=(strange,)))
    assert 'name="H?100 é"' in found.text().decode()
