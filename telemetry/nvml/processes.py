"""The processes that have a GPU open, with what each one holds and how much of the GPU it used.

The struct of a process has changed three times, and a wrong one gives garbage without an error.
Drivers 535.43 to 535.5x have one field more in version 3 than all others; they are known by their
symbols: they have nvmlDeviceGetConfComputeMemSizeInfo, and nvmlDeviceGetRunningProcessDetailList
not yet (as nvitop tells them).
"""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import Structure, byref, c_uint, c_ulonglong
from functools import partial
from typing import Any

from telemetry.nvml.asking import Asking
from telemetry.nvml.library import has_symbol
from telemetry.samples import GpuProcess

_KINDS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses")
_MOST = 16384  # processes on one GPU, that we make room for
_UNKNOWN_BYTES = 2**64 - 1
_NO_PROCESS = (0, 2**32 - 1)
_NONE_SEEN = (0, 6)  # the binding calls an empty answer an error with the code of success


class FirstProcess(Structure):
    """nvmlProcessInfo_v1_t."""

    _fields_ = (("pid", c_uint), ("memory", c_ulonglong))


class Process(Structure):
    """nvmlProcessInfo_v2_t, which most drivers also take for version 3."""

    _fields_ = (
        ("pid", c_uint),
        ("memory", c_ulonglong),
        ("gpu_instance", c_uint),
        ("compute_instance", c_uint),
    )


class LongProcess(Structure):
    """Version 3 of the drivers 535.43 to 535.5x."""

    _fields_ = (*Process._fields_, ("protected_memory", c_ulonglong))


def read(
    asking: Asking, handle: Any, uuid: str, since_us: int, *, utilisation: bool = True
) -> tuple[tuple[GpuProcess, ...] | None, int]:
    """The processes by PID, None where they cannot be seen; and the time to ask from next, in µs.

    ``since_us``: of utilisation, what the driver has measured since then.
    """
    memory = _memory_by_pid(asking, handle, uuid)
    if memory is None:
        return None, since_us
    used, seen_us = (
        _used_by_pid(asking, handle, uuid, since_us) if utilisation else (None, since_us)
    )
    found = tuple(
        GpuProcess(
            pid=pid,
            memory_bytes=memory[pid],
            utilisation_fraction=None if used is None else used.get(pid, 0.0),
        )
        for pid in sorted(memory)
    )
    return found, seen_us


def _memory_by_pid(asking: Asking, handle: Any, uuid: str) -> dict[int, int | None] | None:
    """Compute processes, and those that reach the GPU through MPS where there is MPS."""
    compute, mps = (
        asking.ask(kind, uuid, partial(_list, asking.nvml, kind, handle)) for kind in _KINDS
    )
    return None if compute is None else dict(compute) | dict(mps or ())


def _list(nvml: Any, kind: str, handle: Any) -> list[tuple[int, int | None]]:
    for name, struct in _versions(nvml, kind):
        if has_symbol(nvml, name):
            return list(_entries(_call(nvml, name, struct, handle)))
    raise nvml.NVMLError(nvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _versions(nvml: Any, kind: str) -> Iterator[tuple[str, type[Structure]]]:
    long = has_symbol(nvml, "nvmlDeviceGetConfComputeMemSizeInfo") and not has_symbol(
        nvml, "nvmlDeviceGetRunningProcessDetailList"
    )
    yield f"{kind}_v3", LongProcess if long else Process
    yield f"{kind}_v2", Process
    yield kind, FirstProcess


def _call(nvml: Any, name: str, struct: type[Structure], handle: Any) -> list[Any]:
    """One call as a rule; processes that start meanwhile make it two."""
    function, room, code = getattr(nvml.nvmlLib, name), 32, nvml.NVML_ERROR_INSUFFICIENT_SIZE
    while code == nvml.NVML_ERROR_INSUFFICIENT_SIZE and room <= _MOST:
        count, entries = c_uint(room), (struct * room)()
        code = function(handle, byref(count), entries)
        if code == nvml.NVML_SUCCESS:
            return list(entries[: count.value])
        room = max(count.value, room) * 2
    raise nvml.NVMLError(code)


def _entries(found: list[Any]) -> Iterator[tuple[int, int | None]]:
    for one in found:
        if one.pid not in _NO_PROCESS:
            yield one.pid, None if one.memory == _UNKNOWN_BYTES else one.memory


def _used_by_pid(
    asking: Asking, handle: Any, uuid: str, since_us: int
) -> tuple[dict[int, float] | None, int]:
    samples = asking.ask(
        "nvmlDeviceGetProcessUtilization", uuid, lambda: _used(asking.nvml, handle, since_us)
    )
    if samples is None:
        return None, since_us
    used = {one.pid: min(one.smUtil, 100) / 100 for one in samples}
    return used, max([since_us, *(one.timeStamp for one in samples)])


def _used(nvml: Any, handle: Any, since_us: int) -> list[Any]:
    try:
        return list(nvml.nvmlDeviceGetProcessUtilization(handle, since_us))
    except nvml.NVMLError as error:
        if error.value in _NONE_SEEN:
            return []
        raise
