"""The real binding over a fake driver: what reaches a sample, and what a failing call does."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry import samples
from telemetry.samples import GpuSample

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)

# Runs where LD_LIBRARY_PATH names the fake: the loader reads it once, at the start of a process.
PROBE = """
import json, sys
from datetime import datetime
from telemetry import nvml, samples
try:
    reading = nvml.read_all(datetime.fromisoformat(sys.argv[1]), node="node-1")
except nvml.NvmlUnavailableError as error:
    sys.exit(str(error))
print(json.dumps({
    "samples": [samples.to_line(sample) for sample in reading.samples],
    "unreadable": [[gpu.index, gpu.reason] for gpu in reading.unreadable],
}))
"""

HEALTHY = GpuSample(
    time=NOW,
    node="node-1",
    uuid="GPU-00000000",
    name="NVIDIA H100 80GB HBM3",
    utilisation_fraction=0.87,
    memory_used_bytes=40_000_000_000,
    memory_total_bytes=80_000_000_000,
    power_watts=412.5,  # 412,500 mW
    energy_joules=1234.5,  # 1,234,500 mJ
    temperature_celsius=61.0,
    sm_clock_mhz=1755,
    pids=(17, 4242),
)
SECOND = replace(HEALTHY, uuid="GPU-00000001")


@pytest.fixture(scope="module")
def old_driver(build_driver: Callable[..., Path]) -> Path:
    return build_driver("-DOLD_DRIVER")


def run(*command: str, driver: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    fake = {f"FAKE_NVML_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(ROOT)} | fake,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def readings(driver: Path, **settings: str) -> tuple[list[GpuSample], list[tuple[int, str]]]:
    done = run("-c", PROBE, NOW.isoformat(), driver=driver, **settings)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return (
        [samples.from_line(line) for line in found["samples"]],
        [(index, reason) for index, reason in found["unreadable"]],
    )


def test_every_measure_reaches_the_sample_in_our_units(driver: Path) -> None:
    assert readings(driver) == ([HEALTHY, SECOND], [])


def test_a_lost_gpu_is_reported_and_the_others_are_read(driver: Path) -> None:
    assert readings(driver, lost="0") == ([SECOND], [(0, "GPU is lost")])


def test_a_gpu_lost_while_it_is_read_keeps_its_identity_and_nothing_else(driver: Path) -> None:
    bare = GpuSample(time=NOW, node="node-1", uuid="GPU-00000000", name=HEALTHY.name)
    assert readings(driver, dying="0") == ([bare, SECOND], [])


def test_a_gpu_in_mig_mode_has_no_utilisation(driver: Path) -> None:
    found, _ = readings(driver, mig="1")
    assert found == [HEALTHY, replace(SECOND, utilisation_fraction=None)]


def test_an_old_driver_gives_what_it_can(old_driver: Path) -> None:
    # Its only memory call counts the driver's own 1e9 bytes as used; it cannot list processes.
    found, _ = readings(old_driver, gpus="1")
    assert found == [replace(HEALTHY, memory_used_bytes=41_000_000_000, pids=None)]


def test_a_driver_without_gpus_gives_no_samples(driver: Path) -> None:
    assert readings(driver, gpus="0") == ([], [])


@pytest.mark.parametrize("failing", ["init", "count"])
def test_a_driver_that_does_not_answer_is_one_line(driver: Path, failing: str) -> None:
    done = run("-c", PROBE, NOW.isoformat(), driver=driver, **{failing: "999"})
    assert done.returncode == 1
    assert done.stderr == (
        "the NVIDIA driver does not answer (Unknown Error): `nvidia-smi` shows what it needs\n"
    )


def test_no_driver_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    if has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    done = run("-c", PROBE, NOW.isoformat(), driver=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "no NVIDIA driver here (libnvidia-ml.so.1 not found): install it, or start the container "
        "with NVIDIA_DRIVER_CAPABILITIES=utility\n"
    )


def test_a_missing_binding_is_one_line_that_names_the_extra(driver: Path) -> None:
    hidden = "import sys; sys.modules['pynvml'] = None\n"
    done = run("-c", hidden + PROBE, NOW.isoformat(), driver=driver)
    assert done.returncode == 1
    assert done.stderr == "the NVML binding is missing: pip install 'flopwise[telemetry]'\n"


def test_the_binding_is_loaded_only_when_nvml_is_asked() -> None:
    code = "import sys, telemetry.nvml; sys.exit('pynvml' in sys.modules)"
    assert run("-c", code, driver=HERE).returncode == 0


def test_the_fake_has_the_bindings_struct_sizes() -> None:
    pynvml = pytest.importorskip("pynvml")
    sizes = [
        ctypes.sizeof(struct)
        for struct in (
            pynvml.c_nvmlUtilization_t,
            pynvml.c_nvmlMemory_t,
            pynvml.c_nvmlMemory_v2_t,
            pynvml.c_nvmlProcessInfo_v3_t,
        )
    ]
    assert sizes == [8, 24, 40, 24]  # as fake_nvml.c asserts of its own


@pytest.mark.gpu
def test_a_real_gpu_gives_its_memory_and_its_temperature(real_samples: list[GpuSample]) -> None:
    for sample in real_samples:
        assert sample.uuid.startswith("GPU-")
        assert sample.memory_total_bytes
        assert 0 <= (sample.memory_used_bytes or 0) <= sample.memory_total_bytes
        assert sample.temperature_celsius
        assert 0 < sample.temperature_celsius < 120


@pytest.fixture
def real_samples() -> list[GpuSample]:
    if not has_driver():
        pytest.skip("no NVIDIA driver on this machine")
    return readings(HERE)[0]


def has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True
