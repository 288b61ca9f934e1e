"""Every class of NVML's errors at every call: what is absent then, what is counted and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

GPM = {
    "sm_active_fraction",
    "sm_occupancy_fraction",
    "tensor_active_fraction",
    "dram_active_fraction",
    "tensor_tflops",
}
TRAFFIC = {"nvlink_tx_bytes", "nvlink_rx_bytes", "pcie_tx_bytes", "pcie_rx_bytes"}
FIELDS = TRAFFIC | {
    "power_average_watts",
    "memory_temperature_celsius",
    "throttled_seconds",
    "recovery_action",
}

# The calls that fail together, and what their GPU then lacks. Where an older call gives the same,
# nothing is lacking until both fail.
LACKING = {
    "nvmlDeviceGetUtilizationRates": {"utilisation_fraction", "memory_utilisation_fraction"},
    "nvmlDeviceGetMemoryInfo_v2": {"memory_reserved_bytes"},
    "nvmlDeviceGetMemoryInfo_v2+nvmlDeviceGetMemoryInfo": {
        "memory_reserved_bytes",
        "memory_used_bytes",
        "memory_total_bytes",
    },
    "nvmlDeviceGetFieldValues": FIELDS,
    "field186": set(),
    "field186+nvmlDeviceGetPowerUsage": {"power_watts"},
    "field185": {"power_average_watts"},
    "field83": set(),
    "field83+nvmlDeviceGetTotalEnergyConsumption": {"energy_joules"},
    "field82": {"memory_temperature_celsius"},
    "field74": set(),  # one of several reasons
    "field138": {"nvlink_tx_bytes"},
    "field139": {"nvlink_rx_bytes"},
    "field197": {"pcie_tx_bytes"},
    "field198": {"pcie_rx_bytes"},
    "field3+nvmlDeviceGetTotalEccErrors": {"ecc_corrected"},
    "field4+nvmlDeviceGetTotalEccErrors": {"ecc_uncorrected"},
    "field142": set(),
    "field142+nvmlDeviceGetRemappedRows": {"remapped_rows"},
    "field230": {"recovery_action"},
    "nvmlDeviceGetTemperature": {"temperature_celsius"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz", "tensor_tflops"},
    "nvmlDeviceGetMaxClockInfo": {"sm_clock_max_mhz", "memory_clock_max_mhz"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_watts"},
    "nvmlDeviceGetCurrentClocksEventReasons": set(),
    "nvmlDeviceGetCurrentClocksEventReasons+nvmlDeviceGetCurrentClocksThrottleReasons": {
        "throttle_reasons"
    },
    "nvmlDeviceGetGpuFabricInfoV": {"clique"},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"processes", "pids"},
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": set(),
    "nvmlDeviceGetProcessUtilization": set(),  # the processes are known all the same
    "nvmlDeviceGetMigMode": set(),
    "nvmlGpmQueryDeviceSupport": GPM,
    "nvmlGpmSampleGet": GPM,
    "nvmlGpmMetricsGet": GPM,
    "metric2": {"sm_active_fraction"},
    "metric3": {"sm_occupancy_fraction"},
    "metric5": {"tensor_active_fraction", "tensor_tflops"},
    "metric10": {"dram_active_fraction"},
}
# Of the whole node, so that all GPUs lack the same.
OF_THE_NODE = {
    "nvmlSystemGetDriverVersion": set(),
    "nvmlGpmSampleAlloc": GPM,
    "nvmlEventSetCreate": set(),
    "nvmlShutdown": set(),
}
# What makes up an instance; its GPU lacks nothing.
OF_AN_INSTANCE = {
    "nvmlDeviceGetGpuInstanceId": GPM | {"utilisation_fraction", "gpu_instance_id"},
    "nvmlDeviceGetAttributes_v2": {"tensor_tflops"},
    "nvmlGpmMigSampleGet": GPM | {"utilisation_fraction"},
}
ASKED_ONCE = ("nvmlGpmQueryDeviceSupport", "nvmlGpmMetricsGet", "nvmlGpmSampleAlloc")
SUCCESS_ELSEWHERE = {  # codes that are no failure of that call
    "nvmlDeviceGetProcessUtilization": {6},  # idle
    "nvmlEventSetWait_v2": {10},  # nothing happened
    "nvmlDeviceGetMigDeviceHandleByIndex": {6},  # a hole
}
WHOLE = "gpus 2\nhasty\n"
PARTED = "gpus 2\nhasty\ngpu 0 mig 1\ninstance 0 0 MIG-a 3g.40gb 2 60 2000 40000\n"
FIRST, SECOND, INSTANCE = "GPU-00000000", "GPU-00000001", "MIG-a"


def codes() -> list[int]:
    pynvml = pytest.importorskip("pynvml")
    return sorted(value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_"))


@pytest.fixture
def inject(driver: Path, tmp_path: Path) -> Any:
    """What came of each error at each of the calls: triples of calls, code and outcome."""

    def run(script: str, *calls: str) -> list[tuple[str, int, dict[str, Any]]]:
        done = subprocess.run(
            [sys.executable, str(HERE / "inject.py")],
            env=os.environ
            | {
                "LD_LIBRARY_PATH": str(driver),
                "PYTHONPATH": str(ROOT),
                "FAKE_NVML_STATE": str(tmp_path / "state"),
            },
            input=json.dumps({"script": script, "calls": calls, "codes": codes()}),
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = [(call, code, outcome) for call, code, outcome in json.loads(done.stdout)]
        assert len(found) == len(calls) * len(codes())
        assert len(codes()) > 25
        return found

    return run


def counted(outcome: dict[str, Any], baseline: dict[str, Any]) -> set[str]:
    """The calls that failed more often than they do by themselves."""
    usual = baseline["counts"]
    return {call for call, count in outcome["counts"].items() if count > usual.get(call, 0)}


@pytest.mark.slow
def test_a_call_that_fails_costs_its_own_figures_and_nothing_else(inject: Any) -> None:
    whole = inject(WHOLE, "nobody")[0][2]
    for calls, code, outcome in inject(WHOLE, *LACKING):
        where = f"{calls} with {code}"
        succeeds = code in SUCCESS_ELSEWHERE.get(calls, ())
        lacking = set(outcome["during"][FIRST]) - set(whole["during"][FIRST])
        assert lacking == LACKING[calls], where
        assert outcome["during"][SECOND] == whole["during"][SECOND], where
        assert outcome["failure"] is None, where
        again = set(outcome["after"][FIRST]) - set(whole["after"][FIRST])
        assert again == (GPM if calls in ASKED_ONCE else set()), where
        assert bool(counted(outcome, whole)) == (not succeeds), where
        news = [line for line in outcome["told"] if line not in whole["told"]]
        assert len(news) == len(set(news)), where
        assert bool(news) == (not succeeds), where


def test_what_fails_for_the_node_is_survived(inject: Any) -> None:
    whole = inject(WHOLE, "nobody")[0][2]
    for calls, code, outcome in inject(WHOLE, *OF_THE_NODE):
        where = f"{calls} with {code}"
        for uuid in (FIRST, SECOND):
            lacking = set(outcome["during"][uuid]) - set(whole["during"][uuid])
            assert lacking - {"health_reason"} == OF_THE_NODE[calls], where
        if calls != "nvmlShutdown":  # there is nobody left to tell
            assert counted(outcome, whole), where


def test_a_gpu_that_cannot_be_opened_or_named_leaves_the_others(inject: Any) -> None:
    for calls, code, outcome in inject(WHOLE, "open", "nvmlDeviceGetUUID", "nvmlDeviceGetName"):
        where = f"{calls} with {code}"
        if calls == "open" and code == 15:
            continue  # the fake's own way to say lost
        assert list(outcome["during"]) == [SECOND], where
        assert len(outcome["unreadable"]) == 1, where
        assert list(outcome["after"]) == [FIRST, SECOND], where


def test_an_instance_may_lack_what_its_gpu_has(inject: Any) -> None:
    whole = inject(PARTED, "nobody")[0][2]
    for calls, code, outcome in inject(PARTED, *OF_AN_INSTANCE):
        where = f"{calls} with {code}"
        lacking = set(outcome["during"][INSTANCE]) - set(whole["during"][INSTANCE])
        assert lacking == OF_AN_INSTANCE[calls], where
        assert outcome["during"][FIRST] == whole["during"][FIRST], where
        assert counted(outcome, whole), where


def test_instances_that_cannot_be_found_are_found_again(inject: Any) -> None:
    whole = inject(PARTED, "nobody")[0][2]
    calls = (
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
    )
    for call, code, outcome in inject(PARTED, *calls):
        where = f"{call} with {code}"
        assert list(outcome["during"]) == [FIRST, SECOND], where
        assert list(outcome["after"]) == [FIRST, INSTANCE, SECOND], where
        succeeds = code in SUCCESS_ELSEWHERE.get(call, ())
        assert bool(counted(outcome, whole)) == (not succeeds), where


@pytest.mark.parametrize(
    "call",
    [
        "nvmlEventSetCreate",
        "nvmlEventSetWait_v2",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceRegisterEvents",
    ],
)
def test_errors_that_are_not_heard_make_no_gpu_look_fine(inject: Any, call: str) -> None:
    alone = "gpus 1\nhasty\n"
    for _, code, outcome in inject(alone, call):
        healthy = code in SUCCESS_ELSEWHERE.get(call, ())
        assert outcome["health"] == ["fine" if healthy else "watch"], f"{call} with {code}"
        assert "health_reason" in outcome["after"][FIRST], f"{call} with {code}: replaced"


def test_a_driver_that_does_not_count_its_gpus_is_opened_anew(inject: Any) -> None:
    for _, code, outcome in inject(WHOLE, "nvmlDeviceGetCount_v2"):
        assert outcome["failure"], code
        assert outcome["during"] == {}, code
        assert list(outcome["after"]) == [FIRST, SECOND], code


def test_a_driver_that_cannot_be_initialised_is_said_in_one_line(inject: Any) -> None:
    for _, code, outcome in inject(WHOLE, "nvmlInitWithFlags"):
        assert "\n" not in outcome["ended"], code
        assert outcome["ended"].startswith(("the NVIDIA driver", "no NVIDIA driver")), code
