"""One GPU, or one MIG instance: its two tiers of readings, as the fields of a sample.

The fast tier is what changes while a job runs; the slow one is limits, errors and where the GPU
belongs. What a field value lacks is asked by the older call for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref, c_void_p, cast
from typing import Any

from telemetry.nvml import fields, processes
from telemetry.nvml.asking import Asking
from telemetry.nvml.gpm import Gpm
from telemetry.samples import RemappedRows

Measures = dict[str, Any]  # by the field of GpuSample

_REASONS = {  # of nvmlDeviceGetCurrentClocksEventReasons, in the order of their bits
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
RECOVERY_ACTIONS = (  # NVML_GPU_RECOVERY_ACTION_*, in order
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)
_FABRIC_DONE = 3  # NVML_GPU_FABRIC_STATE_COMPLETED


class Gpu:
    """A GPU that is watched: its handle, and what has to be known from one tick to the next."""

    def __init__(self, asking: Asking, *, uuid: str, name: str, index: int, handle: Any) -> None:
        self.asking, self.nvml = asking, asking.nvml
        self.uuid, self.name, self.index, self.handle = uuid, name, index, handle
        self.gpm = Gpm(asking, uuid, handle)
        self.slow_measures: Measures = {}
        self._seen_us = 0

    @property
    def address(self) -> int | None:
        """Of the handle: another one is another GPU to the driver, or the same after a reset."""
        return cast(self.handle, c_void_p).value

    def fast(self, wanted: tuple[fields.Field, ...], seconds: float) -> Measures:
        """What changes from tick to tick; ``seconds`` is of a steady clock."""
        found = fields.read(self.asking, self.handle, self.uuid, wanted)
        measures = (self._utilisation() | self._memory() | self._power(found) | self._clocks()) | {
            "temperature_celsius": self._temperature(),
            "memory_temperature_celsius": _float(found.get("memory_temperature")),
            "throttle_reasons": self._throttle_reasons(),
            "throttled_seconds": _throttled(found),
        }
        measures |= _traffic(found)
        if self.asking.has_time("processes", self.uuid):
            measures |= self._processes()
        if self.asking.has_time("GPM", self.uuid):
            measures |= self.gpm.read(seconds, measures["utilisation_fraction"])
        measures.pop("graphics_active_fraction", None)  # as utilisation says
        return measures

    def slow(self) -> Measures:
        """What seldom changes."""
        found = fields.read(self.asking, self.handle, self.uuid, fields.SLOW)
        limit = self._ask(self.nvml.nvmlDeviceGetEnforcedPowerLimit)
        return {
            "power_limit_watts": None if limit is None else limit / 1000,
            "sm_clock_max_mhz": self._ask(self.nvml.nvmlDeviceGetMaxClockInfo, 1),
            "memory_clock_max_mhz": self._ask(self.nvml.nvmlDeviceGetMaxClockInfo, 2),
            "ecc_corrected": self._errors(found, "ecc_corrected", 0),
            "ecc_uncorrected": self._errors(found, "ecc_uncorrected", 1),
            "retired_pages": self._retired(found),
            "remapped_rows": self._remapped(found),
            "recovery_action": action_name(found.get("recovery_action")),
            "clique": self._clique(),
        }

    def close(self) -> None:
        """Gives back what the driver holds for it."""
        self.gpm.close()

    def _ask(self, function: Any, *arguments: Any) -> Any:
        call = function.__name__
        return self.asking.ask(call, self.uuid, lambda: function(self.handle, *arguments))

    def _utilisation(self) -> Measures:
        rates = self._ask(self.nvml.nvmlDeviceGetUtilizationRates)
        return {
            "utilisation_fraction": None if rates is None else min(rates.gpu, 100) / 100,
            "memory_utilisation_fraction": None if rates is None else min(rates.memory, 100) / 100,
        }

    def _memory(self) -> Measures:
        return memory(self.asking, self.handle, self.uuid)

    def _power(self, found: Mapping[str, Any]) -> Measures:
        """Of the two, the older call gives the average on some GPUs: only where no field does."""
        instant, average = found.get("power_instant_mw"), found.get("power_average_mw")
        if instant is None:
            instant = self._ask(self.nvml.nvmlDeviceGetPowerUsage)
        energy = found.get("energy_mj")
        if energy is None:
            energy = self._ask(self.nvml.nvmlDeviceGetTotalEnergyConsumption)
        return {
            "power_watts": None if instant is None else instant / 1000,
            "power_average_watts": None if average is None else average / 1000,
            "energy_joules": None if energy is None else energy / 1000,
        }

    def _clocks(self) -> Measures:
        return {
            "sm_clock_mhz": self._ask(self.nvml.nvmlDeviceGetClockInfo, 1),
            "memory_clock_mhz": self._ask(self.nvml.nvmlDeviceGetClockInfo, 2),
        }

    def _temperature(self) -> float | None:
        return _float(self._ask(self.nvml.nvmlDeviceGetTemperature, 0))

    def _throttle_reasons(self) -> tuple[str, ...] | None:
        bits = self._ask(self.nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:
            bits = self._ask(self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return None if bits is None else tuple(_REASONS[bit] for bit in _REASONS if bits & bit)

    def _processes(self) -> Measures:
        found, self._seen_us = processes.read(self.asking, self.handle, self.uuid, self._seen_us)
        pids = None if found is None else tuple(process.pid for process in found)
        return {"processes": found, "pids": pids}

    def _errors(self, found: Mapping[str, Any], name: str, kind: int) -> int | None:
        """ECC errors since the driver's start: 0 corrected, 1 uncorrected."""
        count: int | None = found.get(name)
        if count is None:
            count = self._ask(self.nvml.nvmlDeviceGetTotalEccErrors, kind, 0)
        return count

    def _retired(self, found: Mapping[str, Any]) -> int | None:
        counts = (found.get("retired_corrected"), found.get("retired_uncorrected"))
        return None if None in counts else sum(count for count in counts if count)

    def _remapped(self, found: Mapping[str, Any]) -> RemappedRows | None:
        names = ("rows_corrected", "rows_uncorrected", "rows_pending", "rows_failed")
        known = all(name in found for name in names)
        rows: tuple[int, int, int, int] | None = (
            tuple(found[name] for name in names)
            if known
            else self._ask(self.nvml.nvmlDeviceGetRemappedRows)
        )
        if rows is None:
            return None
        corrected, uncorrected, pending, failed = rows
        return RemappedRows(
            corrected=corrected,
            uncorrected=uncorrected,
            pending=bool(pending),
            failed=bool(failed),
        )

    def _clique(self) -> str | None:
        info = self.nvml.c_nvmlGpuFabricInfo_v2_t()
        if self._ask(self.nvml.nvmlDeviceGetGpuFabricInfoV, byref(info)) is None:
            return None
        if info.state != _FABRIC_DONE or info.status:
            return None
        cluster = bytes(info.clusterUuid)
        return f"{_as_uuid(cluster)}.{info.cliqueId}" if any(cluster) else None


def memory(asking: Asking, handle: Any, uuid: str) -> Measures:
    """Version 2 first: what version 1 calls used includes what the driver keeps for itself."""
    nvml = asking.nvml
    newest = asking.ask(
        "nvmlDeviceGetMemoryInfo_v2",
        uuid,
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
    )
    known = newest or asking.ask(
        "nvmlDeviceGetMemoryInfo", uuid, lambda: nvml.nvmlDeviceGetMemoryInfo(handle)
    )
    return {
        "memory_used_bytes": known and known.used,
        "memory_total_bytes": known and known.total,
        "memory_reserved_bytes": newest and newest.reserved,
    }


def action_name(action: int | None) -> str | None:
    """Our word for NVML's recovery action; a later one is named by its number."""
    if action is None:
        return None
    return RECOVERY_ACTIONS[action] if action < len(RECOVERY_ACTIONS) else f"action_{action}"


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _throttled(found: Mapping[str, Any]) -> dict[str, float] | None:
    seconds = {
        name.removeprefix("throttled_").removesuffix("_ns"): value / 1e9
        for name, value in found.items()
        if name.startswith("throttled_")
    }
    return seconds or None


def _traffic(found: Mapping[str, Any]) -> Measures:
    return {
        "nvlink_tx_bytes": _bytes(found, "nvlink_tx"),
        "nvlink_rx_bytes": _bytes(found, "nvlink_rx"),
        "pcie_tx_bytes": found.get("pcie_tx_bytes"),
        "pcie_rx_bytes": found.get("pcie_rx_bytes"),
    }


def _bytes(found: Mapping[str, Any], name: str) -> int | None:
    if f"{name}_bytes" in found:
        return int(found[f"{name}_bytes"])
    return int(found[f"{name}_kib"]) * 1024 if f"{name}_kib" in found else None


def _as_uuid(octets: bytes) -> str:
    text = octets.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
