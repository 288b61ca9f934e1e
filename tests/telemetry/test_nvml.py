"""The real binding over a fake driver: what reaches a sample, and what a failing call does."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from telemetry.samples import GpuProcess, GpuSample, Health, RemappedRows, from_line

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
FIRST = "gpus 1\n"

# What the fake driver says by itself. Of the two powers, the first is of now.
HEALTHY = GpuSample(
    time=NOON,
    node="node-1",
    uuid="GPU-00000000",
    name="NVIDIA H100 80GB HBM3",
    utilisation_fraction=0.87,
    memory_used_bytes=40_000_000_000,
    memory_total_bytes=80_000_000_000,
    power_watts=430.0,  # 430,000 mW
    energy_joules=1234.5,  # 1,234,500 mJ
    temperature_celsius=61.0,
    sm_clock_mhz=1755,
    pids=(17, 4242),
    memory_reserved_bytes=1_000_000_000,
    memory_utilisation_fraction=0.41,
    power_average_watts=412.5,
    power_limit_watts=700.0,
    memory_temperature_celsius=66.0,
    memory_clock_mhz=2619,
    sm_clock_max_mhz=1980,
    memory_clock_max_mhz=2619,
    throttle_reasons=("sw_power_cap",),
    throttled_seconds={
        "sw_power_cap": 2.5,  # 2,500,000,000 ns
        "sw_thermal": 0.5,
        "sync_boost": 0.0,
        "hw_thermal": 0.25,
        "hw_power_brake": 0.0,
    },
    ecc_corrected=12,
    ecc_uncorrected=0,
    remapped_rows=RemappedRows(corrected=1, uncorrected=0, pending=False, failed=False),
    nvlink_tx_bytes=2_097_152,  # 2,048 KiB
    nvlink_rx_bytes=1_048_576,
    pcie_tx_bytes=5000,
    pcie_rx_bytes=7000,
    clique="01020304-0506-0708-090a-0b0c0d0e0f10.7",
    recovery_action="none",
    processes=(
        GpuProcess(pid=17, memory_bytes=9_000_000_000, utilisation_fraction=0.25),
        GpuProcess(pid=4242, memory_bytes=30_000_000_000, utilisation_fraction=0.6),
    ),
    health=Health.FINE,
)
ACTIVE = {  # by GPM, from the second tick on
    "sm_active_fraction": 0.915,
    "sm_occupancy_fraction": 0.34,
    "tensor_active_fraction": 0.4725,
    "dram_active_fraction": 0.385,
}


def still(script: str) -> dict[str, Any]:
    """A step in which no time passes."""
    return {"script": script}


def later(script: str, seconds: float = 1.0) -> dict[str, Any]:
    """A step after a time that suffices for GPM too."""
    return {"script": script, "advance": seconds, "sleep": 0.12}


def test_every_measure_reaches_the_sample_in_our_units(play: Any) -> None:
    found = play(still("gpus 2"))
    assert found.ticks == ((HEALTHY, replace(HEALTHY, uuid="GPU-00000001")),)
    assert found.unreadable == ([],)


def test_two_samples_of_gpm_say_how_much_of_the_chip_worked(play: Any) -> None:
    # 47.25 % of the tensor cycles x 132 SMs x 4,096 FLOP x 1,755 MHz = 448.35 TFLOP/s.
    found = play(still(FIRST), later(FIRST)).last()
    assert {name: getattr(found, name) for name in ACTIVE} == pytest.approx(ACTIVE)
    assert found.tensor_tflops == pytest.approx(0.4725 * 132 * 4096 * 1755e6 / 1e12)
    assert found.tensor_tflops == pytest.approx(448.345, abs=0.001)


def test_gpm_begins_anew_after_a_long_gap(play: Any) -> None:
    first, after_gap, then = play(still(FIRST), later(FIRST, 601), later(FIRST)).ticks
    assert first[0].sm_active_fraction is None
    assert after_gap[0].sm_active_fraction is None
    assert then[0].sm_active_fraction == pytest.approx(0.915)


def test_gpm_that_stays_at_0_while_the_gpu_is_busy_is_not_believed(play: Any) -> None:
    stuck = FIRST + "".join(f"gpu 0 metric{metric} 0\n" for metric in (1, 2, 3, 5, 10))
    found = play(still(stuck), later(stuck))
    assert found.last().sm_active_fraction is None
    assert ("nvmlGpmMetricsGet", "all figures 0 while the GPU is busy") in found.counts
    idle = stuck + "gpu 0 busy 0\n"
    assert play(still(idle), later(idle)).last().sm_active_fraction == 0.0


def test_gpm_that_is_promised_and_fails_its_probe_is_asked_no_more(play: Any) -> None:
    failing = FIRST + "fail nvmlGpmMetricsGet 3\n"
    found = play(still(failing), later(failing), later(failing), later(FIRST))
    assert found.last().sm_active_fraction is None
    assert found.counts["nvmlGpmMetricsGet", "Not Supported"] == 1


def test_a_gpu_without_gpm_has_all_else(play: Any) -> None:
    without = FIRST + "gpu 0 gpm 0\n"
    found = play(still(without), later(without)).last()
    assert replace(found, time=NOON) == HEALTHY


def test_a_gpu_in_mig_mode_has_a_sample_for_each_instance(play: Any) -> None:
    # The instances are at places 0 and 2; GPM gives an instance half of what its GPU has.
    script = """
        gpus 1
        gpu 0 mig 1
        gpu 0 processes 0
        instance 0 0 MIG-a 1g.10gb 7 16 1000 10000
        instance 0 2 MIG-b 3g.40gb 2 60 2000 40000
        process 0 100 900 0 0
        process 0 200 1900 0 2
    """
    found = play(still(script), later(script)).ticks[-1]
    assert [(one.uuid, one.parent_uuid, one.mig_profile) for one in found] == [
        ("GPU-00000000", None, None),
        ("MIG-a", "GPU-00000000", "1g.10gb"),
        ("MIG-b", "GPU-00000000", "3g.40gb"),
    ]
    assert [one.gpu_instance_id for one in found] == [None, 7, 2]
    gpu, small, large = found
    assert (gpu.utilisation_fraction, gpu.pids) == (None, (100, 200))
    assert gpu.processes is not None
    assert {one.utilisation_fraction for one in gpu.processes} == {None}
    assert (small.memory_used_bytes, small.memory_total_bytes, small.pids) == (1000, 10_000, (100,))
    assert (large.memory_used_bytes, large.memory_total_bytes, large.pids) == (2000, 40_000, (200,))
    assert (large.utilisation_fraction, large.sm_active_fraction) == (0.49, 0.4575)
    # 23.625 % x 60 SMs of its own x 4,096 x 1,755 MHz.
    assert large.tensor_tflops == pytest.approx(0.23625 * 60 * 4096 * 1755e6 / 1e12)
    assert large.power_watts is None  # that of the GPU can't be told apart


def test_instances_may_come_and_go(play: Any) -> None:
    one = "gpus 1\ngpu 0 mig 1\ninstance 0 0 MIG-a 1g.10gb 7 16 1000 10000\n"
    other = "gpus 1\ngpu 0 mig 1\ninstance 0 0 MIG-b 7g.80gb 0 132 1000 80000\n"
    found = play(still(one), later(other, 31), later(FIRST, 31)).ticks
    assert [[sample.uuid for sample in tick] for tick in found] == [
        ["GPU-00000000", "MIG-a"],
        ["GPU-00000000", "MIG-b"],
        ["GPU-00000000"],
    ]


def test_processes_that_share_by_mps_are_seen_too(play: Any) -> None:
    found = play(still(FIRST + "mps 0 99 5000\n")).last()
    assert found.pids == (17, 99, 4242)
    assert found.processes is not None
    assert found.processes[1] == GpuProcess(pid=99, memory_bytes=5000, utilisation_fraction=0.0)


def test_more_processes_than_there_was_room_for_are_asked_for_again(play: Any) -> None:
    many = FIRST + "gpu 0 processes 0\n" + "".join(f"process 0 {100 + n} 7 0\n" for n in range(60))
    assert play(still(many)).last().pids == tuple(range(100, 160))


def test_pids_that_no_process_has_are_left_out(play: Any) -> None:
    garbage = FIRST + f"gpu 0 processes 0\nprocess 0 0 7 0\nprocess 0 {2**32 - 1} 7 0\n"
    assert play(still(garbage)).last().pids == ()


def test_the_longer_struct_of_some_drivers_is_known_by_their_symbols(
    play: Any, driver_535: Path
) -> None:
    assert play(still(FIRST), driver=driver_535).last().processes == HEALTHY.processes


def test_an_old_driver_gives_what_it_can(play: Any, old_driver: Path) -> None:
    # Its only memory call counts the driver's own 1e9 bytes as used; the pages are 2 + 1.
    found = play(still("gpus 1\ndriver 470.57.02"), driver=old_driver)
    assert found.last() == replace(
        HEALTHY,
        memory_used_bytes=41_000_000_000,
        memory_reserved_bytes=None,
        power_watts=412.5,  # by the older call
        power_average_watts=None,
        throttled_seconds={"sw_power_cap": 2.5, "sw_thermal": 0.5},
        retired_pages=3,
        remapped_rows=None,
        pcie_tx_bytes=None,
        pcie_rx_bytes=None,
        clique=None,
        recovery_action=None,
    )
    (told,) = found.told
    assert told.startswith("not given here: field power_instant_mw, ")
    assert "nvmlDeviceGetMemoryInfo_v2" in told


@pytest.mark.parametrize(
    ("branch", "reasons"),
    [
        ("550.54.15", {"hw_thermal": None}),
        ("580.65.06", {"hw_thermal": 0.25}),
        ("595.10", {"hw_thermal": None}),  # which numbers it has is not known
        ("615.71", {"hw_thermal": 9.0}),
    ],
)
def test_counters_that_were_numbered_anew_are_read_by_the_drivers_numbers(
    play: Any, branch: str, reasons: dict[str, float | None]
) -> None:
    script = f"gpus 1\ndriver {branch}\nfield 0 270 9000000000\nfield 0 271 0\n"
    throttled = play(still(script)).last().throttled_seconds
    assert throttled is not None
    assert {name: throttled.get(name) for name in reasons} == reasons


def test_nvlink_5_counts_bytes(play: Any) -> None:
    script = FIRST + "field 0 138 -\nfield 0 139 -\nfield 0 202 123\nfield 0 204 456\n"
    found = play(still(script)).last()
    assert (found.nvlink_tx_bytes, found.nvlink_rx_bytes) == (123, 456)


def test_a_gpu_alone_has_no_clique(play: Any) -> None:
    assert play(still(FIRST + "gpu 0 fabric 0\n")).last().clique is None


def test_the_reasons_that_hold_clocks_down_are_words(play: Any) -> None:
    found = play(still(FIRST + "gpu 0 reasons 0x68\n")).last()  # 0x8 + 0x20 + 0x40
    assert found.throttle_reasons == ("hw_slowdown", "sw_thermal", "hw_thermal")


def test_a_lost_gpu_is_reported_and_the_others_are_read(play: Any) -> None:
    found = play(still("gpus 2\ngpu 0 lost 1\n"))
    assert found.ticks == ((replace(HEALTHY, uuid="GPU-00000001"),),)
    assert found.unreadable == ([(0, "GPU is lost")],)


def test_a_gpu_lost_while_it_is_read_keeps_its_identity_and_nothing_else(play: Any) -> None:
    lost = replace(
        GpuSample(time=NOON, node="node-1", uuid="GPU-00000000", name=HEALTHY.name),
        health=Health.CORDON,
        health_reason="it can't be read: GPU is lost",
    )
    found = play(still("gpus 2\ngpu 0 dying 1\n"))
    assert found.ticks == ((lost, replace(HEALTHY, uuid="GPU-00000001")),)
    assert found.unreadable == ([(0, "GPU is lost")],)
    assert [line for line in found.told if "lost" in line] == [
        "GPU-00000000: nvmlDeviceRegisterEvents: GPU is lost"
    ]


def test_a_gpu_that_was_known_and_is_lost_is_cordoned_until_it_is_back(play: Any) -> None:
    both, one_lost = "gpus 2\n", "gpus 2\ngpu 1 lost 1\n"
    found = play(still(both), later(one_lost), later(one_lost), later(both, 31))
    assert [[sample.health for sample in tick] for tick in found.ticks] == [
        [Health.FINE, Health.FINE],
        [Health.FINE, Health.CORDON],
        [Health.FINE, Health.CORDON],
        [Health.FINE, Health.FINE],
    ]
    assert [tick[1].uuid for tick in found.ticks] == ["GPU-00000001"] * 4
    assert found.unreadable[2] == [(1, "GPU is lost")]


def test_gpus_may_come_and_go_and_are_known_by_their_uuid(play: Any) -> None:
    # The first GPU is taken out: the second one now has its index.
    two = "gpus 2\ngpu 0 uuid GPU-a\ngpu 1 uuid GPU-b\n"
    one = "gpus 1\ngpu 0 uuid GPU-b\n"
    found = play(still(one), later(two, 31), later(one, 31))
    assert [[sample.uuid for sample in tick] for tick in found.ticks] == [
        ["GPU-b"],
        ["GPU-a", "GPU-b"],
        ["GPU-b"],
    ]
    assert found.failures == (None, None, None)


def test_a_gpu_that_is_plugged_in_is_seen_though_nvml_counts_only_when_it_begins(
    play: Any,
) -> None:
    one, two = "gpus 1\nstale\n", "gpus 2\nstale\n"
    found = play(
        {"script": one, "bus": ["0000:18:00.0"]},
        later(two, 31),  # NVML does not know of it
        {"script": two, "advance": 31.0, "bus": ["0000:2a:00.0"]},
    )
    assert [len(tick) for tick in found.ticks] == [1, 1, 2]
    assert found.failures == (None, None, None)


def test_a_driver_without_gpus_gives_no_samples(play: Any) -> None:
    assert play(still("gpus 0")).ticks == ((),)


def run(code: str, driver: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    fake = {f"FAKE_NVML_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(ROOT)} | fake,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# One reading, without a script: what it raises is one line.
ONCE = """
import json, sys
from datetime import datetime
from telemetry import nvml, samples
try:
    driver = nvml.Driver(node="node-1", causes=nvml.Causes(lambda line: None))
    driver.open()
    reading = driver.read(datetime.fromisoformat("2026-12-01T12:00:00+00:00"))
    driver.close()
except (nvml.NvmlUnavailableError, nvml.DriverLostError) as error:
    sys.exit(str(error))
print(json.dumps([samples.to_line(sample) for sample in reading.samples]))
"""


def test_a_driver_that_does_not_answer_is_one_line(driver: Path) -> None:
    done = run(ONCE, driver, init="999")
    assert done.returncode == 1
    assert done.stderr == (
        "the NVIDIA driver does not answer (Unknown Error): `nvidia-smi` shows what it needs\n"
    )


def test_a_driver_that_was_upgraded_says_so(driver: Path) -> None:
    done = run(ONCE, driver, init="18")
    assert "upgraded while it ran: reload its kernel modules, or reboot" in done.stderr


def test_no_driver_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    if has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    done = run(ONCE, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "no NVIDIA driver here (libnvidia-ml.so.1 not found): install it, or start the container "
        "with NVIDIA_DRIVER_CAPABILITIES=utility\n"
    )


def test_a_missing_binding_is_one_line_that_names_the_extra(driver: Path) -> None:
    done = run("import sys; sys.modules['pynvml'] = None\n" + ONCE, driver)
    assert done.returncode == 1
    assert done.stderr == "the NVML binding is missing: pip install 'flopwise[telemetry]'\n"


def test_another_module_of_the_bindings_name_is_told(driver: Path) -> None:
    other = "import sys, types; sys.modules['pynvml'] = types.ModuleType('pynvml')\n"
    done = run(other + ONCE, driver)
    assert "the module pynvml is not NVIDIA's: pip uninstall pynvml" in done.stderr


def test_the_binding_is_loaded_only_when_nvml_is_asked() -> None:
    code = "import sys, telemetry.nvml, telemetry.collect; sys.exit('pynvml' in sys.modules)"
    assert run(code, HERE).returncode == 0


def test_the_fake_has_the_bindings_struct_sizes() -> None:
    pynvml = pytest.importorskip("pynvml")
    sizes = {
        pynvml.c_nvmlUtilization_t: 8,
        pynvml.c_nvmlMemory_t: 24,
        pynvml.c_nvmlMemory_v2_t: 40,
        pynvml.c_nvmlProcessInfo_v3_t: 24,
        pynvml.c_nvmlProcessUtilizationSample_t: 32,
        pynvml.c_nvmlFieldValue_t: 40,
        pynvml.c_nvmlGpmMetric_t: 40,
        pynvml.c_nvmlDeviceAttributes: 40,
        pynvml.c_nvmlGpuFabricInfo_v2_t: 36,
        pynvml.c_nvmlEventData_t: 32,
    }
    # As fake_nvml.c asserts of its own.
    assert {struct: ctypes.sizeof(struct) for struct in sizes} == sizes


def test_our_structs_of_a_process_have_the_fakes_sizes() -> None:
    from telemetry.nvml.processes import FirstProcess, LongProcess, Process

    assert [ctypes.sizeof(one) for one in (FirstProcess, Process, LongProcess)] == [16, 24, 32]


@pytest.mark.gpu
def test_a_real_gpu_gives_its_memory_and_its_temperature(real_samples: list[GpuSample]) -> None:
    for sample in real_samples:
        assert sample.uuid.startswith(("GPU-", "MIG-"))
        assert sample.memory_total_bytes
        assert 0 <= (sample.memory_used_bytes or 0) <= sample.memory_total_bytes
        if sample.parent_uuid is None:
            assert sample.temperature_celsius
            assert 0 < sample.temperature_celsius < 120


@pytest.mark.gpu
def test_what_a_real_gpu_gives_lies_within_its_limits(real_samples: list[GpuSample]) -> None:
    for sample in real_samples:
        if sample.power_watts is not None and sample.power_limit_watts is not None:
            assert 0 < sample.power_watts < 2 * sample.power_limit_watts
        if sample.sm_clock_mhz is not None and sample.sm_clock_max_mhz is not None:
            assert 0 < sample.sm_clock_mhz <= sample.sm_clock_max_mhz
        if sample.energy_joules is not None and sample.power_limit_watts is not None:
            # Not above its limit for thirty years: the unit is right.
            assert 0 <= sample.energy_joules < sample.power_limit_watts * 1e9
        assert sample.throttled_seconds is None or max(sample.throttled_seconds.values()) < 1e9
        assert not {0, 2**32 - 1} & set(sample.pids or ())


@pytest.fixture
def real_samples() -> list[GpuSample]:
    if not has_driver():
        pytest.skip("no NVIDIA driver on this machine")
    done = run(ONCE, HERE)
    assert done.returncode == 0, done.stderr
    return [from_line(line) for line in json.loads(done.stdout)]


def has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True
