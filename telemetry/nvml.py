"""The door to NVML: the only module that imports ``pynvml``, and only when it is called.

No single call can be relied on: an old driver lacks a function, a GPU in MIG mode has no
utilisation, a container may not see its neighbours' processes, a GPU falls off its bus while it is
read. What one call cannot give is None; a GPU that gives no identity is reported as unreadable; the
others are read all the same. Units are converted here: NVML says mW, mJ and percent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any, TypeVar

from telemetry.samples import GpuSample

T = TypeVar("T")


class NvmlUnavailableError(RuntimeError):
    """This machine gives no access to NVML; the message says in one line what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A GPU that the driver counts and that says nothing: lost, or not ours to open."""

    index: int  # NVML's, of this moment
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one pass over a node's GPUs found."""

    samples: tuple[GpuSample, ...]
    unreadable: tuple[Unreadable, ...]


def sample_all(now: datetime) -> tuple[GpuSample, ...]:
    """One sample of each readable GPU of this machine, stamped ``now`` (aware).

    Raises ``NvmlUnavailableError`` where there is no driver, or no binding to it.
    """
    return read_all(now, node=socket.gethostname()).samples


def read_all(now: datetime, *, node: str) -> Reading:
    """As ``sample_all``, with the node's name given, and with the GPUs left out and why."""
    with session() as nvml:
        read = [_read(nvml, index, now, node) for index in range(nvml.nvmlDeviceGetCount())]
    return Reading(
        samples=tuple(found for found in read if isinstance(found, GpuSample)),
        unreadable=tuple(found for found in read if isinstance(found, Unreadable)),
    )


@contextmanager
def session() -> Iterator[ModuleType]:
    """NVML, held open: without it a driver that no one uses unloads, and its counters restart.

    Sessions nest; the driver counts them. Raises ``NvmlUnavailableError``.
    """
    nvml = _binding()
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            _ask(nvml, nvml.nvmlShutdown)
    except nvml.NVMLError as error:
        raise NvmlUnavailableError(_advice(nvml, error)) from None


def _binding() -> ModuleType:
    try:
        import pynvml
    except ModuleNotFoundError:
        advice = "the NVML binding is missing: pip install 'flopwise[telemetry]'"
        raise NvmlUnavailableError(advice) from None
    return pynvml  # type: ignore[no-any-return]  # the binding ships no types


def _advice(nvml: ModuleType, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return (
            "no NVIDIA driver here (libnvidia-ml.so.1 not found): install it, or start the "
            "container with NVIDIA_DRIVER_CAPABILITIES=utility"
        )
    return f"the NVIDIA driver does not answer ({error}): `nvidia-smi` shows what it needs"


def _read(nvml: ModuleType, index: int, now: datetime, node: str) -> GpuSample | Unreadable:
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(gpu), nvml.nvmlDeviceGetName(gpu)
    except nvml.NVMLError as error:
        return Unreadable(index=index, reason=str(error))
    memory = _memory(nvml, gpu)
    return GpuSample(
        time=now,
        node=node,
        uuid=uuid,
        name=name,
        utilisation_fraction=_ask(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
        memory_used_bytes=memory and memory.used,
        memory_total_bytes=memory and memory.total,
        power_watts=_ask(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
        energy_joules=_ask(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000),
        temperature_celsius=_ask(
            nvml, lambda: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        ),
        sm_clock_mhz=_ask(nvml, lambda: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        pids=_ask(nvml, lambda: _pids(nvml, gpu)),
    )


def _memory(nvml: ModuleType, gpu: Any) -> Any:
    """Version 2 first: what version 1 calls used includes what the driver keeps for itself."""
    newest = _ask(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(gpu, version=nvml.nvmlMemory_v2))
    return newest or _ask(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))


def _pids(nvml: ModuleType, gpu: Any) -> tuple[int, ...]:
    # By version: the binding's plain name hides an old driver behind an error of another family.
    return tuple(sorted({found.pid for found in nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)}))


def _ask(nvml: ModuleType, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except nvml.NVMLError:
        return None
