"""What one GPU did at one instant, and the file such samples are kept in.

The file is JSON lines, one sample a line, written whole and synced before ``append`` returns. A
process that dies while it writes leaves at most an unfinished last line: reading leaves it out,
and the next append cuts it off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

_LINE_START = b'{"time": '


class SamplesError(ValueError):
    """A file that does not hold samples: one line with file, line, field, found and allowed."""


class Health(StrEnum):
    """What a GPU's errors mean for planning; ``telemetry.health`` decides."""

    FINE = "fine"
    WATCH = "watch"  # it works; someone should look at it
    CORDON = "cordon"  # nothing new should start on it


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """One process that has a GPU open."""

    pid: int  # in this process's PID namespace
    memory_bytes: int | None = None
    utilisation_fraction: float | None = None  # of the GPU's SM time since the sample before


@dataclass(frozen=True, slots=True, kw_only=True)
class RemappedRows:
    """Rows of memory that were replaced by spare ones (Ampere and later)."""

    corrected: int  # rows replaced after correctable errors
    uncorrected: int
    pending: bool  # a replacement waits for the next reset
    failed: bool  # no spare row was left


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One reading of one GPU or of one MIG instance, which counts as a GPU of its own.

    A measure is None where the GPU or its driver does not give it. A GPU is known by its UUID: its
    index changes with a reboot, or when another one is lost. A counter rises from the start of the
    driver, and falls back to 0 with it, unless said otherwise.
    """

    time: datetime  # aware
    node: str
    uuid: str
    name: str  # as NVML says it
    utilisation_fraction: float | None = None  # of the last moments in which any kernel ran
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None  # a counter
    temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    pids: tuple[int, ...] | None = None  # of compute processes, in this process's PID namespace
    parent_uuid: str | None = None  # of a MIG instance: the GPU that it is a part of
    mig_profile: str | None = None  # as Kubernetes has it: 3g.40gb
    gpu_instance_id: int | None = None  # of a MIG instance: its number within its GPU
    memory_reserved_bytes: int | None = None  # by the driver; no part of what is used
    memory_utilisation_fraction: float | None = None  # of the time in which memory was accessed
    power_average_watts: float | None = None  # over the last second
    power_limit_watts: float | None = None  # the one enforced now
    memory_temperature_celsius: float | None = None
    memory_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None  # what holds the clocks down now
    throttled_seconds: Mapping[str, float] | None = None  # a counter by reason
    ecc_corrected: int | None = None  # a counter
    ecc_uncorrected: int | None = None  # a counter
    retired_pages: int | None = None  # of memory, for good (before Ampere)
    remapped_rows: RemappedRows | None = None
    nvlink_tx_bytes: int | None = None  # a counter, over all links
    nvlink_rx_bytes: int | None = None  # a counter, over all links
    pcie_tx_bytes: int | None = None  # a counter
    pcie_rx_bytes: int | None = None  # a counter
    clique: str | None = None  # its NVLink domain, as the label nvidia.com/gpu.clique has it
    recovery_action: str | None = None  # what the driver wants done: none, gpu_reset, ...
    last_xid: int | None = None  # the last error that the driver reported since we watch
    sm_active_fraction: float | None = None  # of SM time with at least one warp resident
    sm_occupancy_fraction: float | None = None  # resident warps of those that fit
    tensor_active_fraction: float | None = None  # of the tensor pipes' cycles
    dram_active_fraction: float | None = None  # of the memory bandwidth
    tensor_tflops: float | None = None  # what the hardware did at most, not useful FLOPs
    processes: tuple[GpuProcess, ...] | None = None
    health: Health | None = None
    health_reason: str | None = None

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError("GpuSample.time must carry a time zone")


def to_line(sample: GpuSample) -> str:
    """The sample as one line of JSON, without the newline; what is unknown is left out."""
    return json.dumps(_known_of(sample), ensure_ascii=False, default=_plain)


def from_line(line: str) -> GpuSample:
    """The sample of one line; fields of later versions are left out.

    Raises ``ValueError`` that names the field, what was found and what is allowed.
    """
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"found {line[:40]!r}, allowed: a JSON object")
    return GpuSample(**{name: _parsed(name, values[name]) for name in _known(values)})


def append(path: Path, samples: Iterable[GpuSample]) -> None:
    """Add samples to the file (made where there is none) and wait until they are on the disk.

    Raises ``SamplesError`` where the file's end is not that of a samples file.
    """
    text = "".join(to_line(sample) + "\n" for sample in samples)
    with path.open("ab+") as file:
        _cut_torn_line(file.fileno(), path)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[GpuSample]:
    """The samples of a file, in its order; an unfinished last line is left out.

    Raises ``SamplesError`` at the first other line that is not a sample.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield from_line(line)
            except ValueError as error:
                raise SamplesError(f"{path}: line {number}: {error}") from None


def _cut_torn_line(descriptor: int, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    start = max(0, size - 65536)
    tail = os.pread(descriptor, size - start, start)
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not (torn.startswith(_LINE_START) or _LINE_START.startswith(torn)):
        raise SamplesError(f"{path}: last line: found {torn[:40]!r}, allowed: a sample")
    if torn:
        os.truncate(descriptor, size - len(torn))


def _known_of(value: GpuSample | GpuProcess | RemappedRows) -> dict[str, Any]:
    named = ((name, getattr(value, name)) for name in type(value).__slots__)
    return {name: found for name, found in named if found is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return _known_of(value)


def _known(values: dict[str, Any]) -> list[str]:
    for name in _REQUIRED:
        if name not in values:
            raise ValueError(f"{name}: found nothing, allowed: {_ALLOWED[name][1]}")
    return [name for name in _ALLOWED if name in values]


def _parsed(name: str, value: Any) -> Any:
    parse, allowed = _ALLOWED[name]
    if value is None and name not in _REQUIRED:
        return None
    try:
        return parse(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name}: found {value!r}, allowed: {allowed}") from None


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(value)
    _require(time.tzinfo is not None)
    return time


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    return str(value)


def _number(value: Any) -> float:
    _require(type(value) in (int, float) and math.isfinite(value))
    return float(value)


def _amount(value: Any) -> float:
    _require(_number(value) >= 0)
    return float(value)


def _fraction(value: Any) -> float:
    _require(_amount(value) <= 1)
    return float(value)


def _count(value: Any) -> int:
    _require(type(value) is int and value >= 0)
    return int(value)


def _counts(value: Any) -> tuple[int, ...]:
    _require(isinstance(value, list))
    return tuple(map(_count, value))


def _texts(value: Any) -> tuple[str, ...]:
    _require(isinstance(value, list))
    return tuple(map(_text, value))


def _amounts(value: Any) -> Mapping[str, float]:
    _require(isinstance(value, dict))
    return {name: _amount(amount) for name, amount in value.items()}


def _processes(value: Any) -> tuple[GpuProcess, ...]:
    _require(isinstance(value, list))
    return tuple(map(_process, value))


def _process(value: Any) -> GpuProcess:
    _require(isinstance(value, dict) and "pid" in value)
    memory, utilisation = value.get("memory_bytes"), value.get("utilisation_fraction")
    return GpuProcess(
        pid=_count(value["pid"]),
        memory_bytes=None if memory is None else _count(memory),
        utilisation_fraction=None if utilisation is None else _fraction(utilisation),
    )


def _rows(value: Any) -> RemappedRows:
    _require(isinstance(value, dict) and value.keys() >= {f.name for f in fields(RemappedRows)})
    _require(isinstance(value["pending"], bool) and isinstance(value["failed"], bool))
    return RemappedRows(
        corrected=_count(value["corrected"]),
        uncorrected=_count(value["uncorrected"]),
        pending=value["pending"],
        failed=value["failed"],
    )


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


_TEXT = (_text, "text")
_FRACTION = (_fraction, "a number from 0 to 1")
_COUNT = (_count, "a whole number, 0 or above")
_AMOUNT = (_amount, "a number, 0 or above")
_NUMBER = (_number, "a number")
_ALLOWED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "time": (_time, "an ISO 8601 time with its zone"),
    "node": _TEXT,
    "uuid": _TEXT,
    "name": _TEXT,
    "utilisation_fraction": _FRACTION,
    "memory_used_bytes": _COUNT,
    "memory_total_bytes": _COUNT,
    "power_watts": _AMOUNT,
    "energy_joules": _AMOUNT,
    "temperature_celsius": _NUMBER,
    "sm_clock_mhz": _COUNT,
    "pids": (_counts, "a list of whole numbers, 0 or above"),
    "parent_uuid": _TEXT,
    "mig_profile": _TEXT,
    "gpu_instance_id": _COUNT,
    "memory_reserved_bytes": _COUNT,
    "memory_utilisation_fraction": _FRACTION,
    "power_average_watts": _AMOUNT,
    "power_limit_watts": _AMOUNT,
    "memory_temperature_celsius": _NUMBER,
    "memory_clock_mhz": _COUNT,
    "sm_clock_max_mhz": _COUNT,
    "memory_clock_max_mhz": _COUNT,
    "throttle_reasons": (_texts, "a list of texts"),
    "throttled_seconds": (_amounts, "an object of numbers, 0 or above"),
    "ecc_corrected": _COUNT,
    "ecc_uncorrected": _COUNT,
    "retired_pages": _COUNT,
    "remapped_rows": (_rows, "an object with corrected, uncorrected, pending and failed"),
    "nvlink_tx_bytes": _COUNT,
    "nvlink_rx_bytes": _COUNT,
    "pcie_tx_bytes": _COUNT,
    "pcie_rx_bytes": _COUNT,
    "clique": _TEXT,
    "recovery_action": _TEXT,
    "last_xid": _COUNT,
    "sm_active_fraction": _FRACTION,
    "sm_occupancy_fraction": _FRACTION,
    "tensor_active_fraction": _FRACTION,
    "dram_active_fraction": _FRACTION,
    "tensor_tflops": _AMOUNT,
    "processes": (_processes, "a list of objects with pid, memory_bytes, utilisation_fraction"),
    "health": (Health, "fine, watch or cordon"),
    "health_reason": _TEXT,
}
_REQUIRED = tuple(field.name for field in fields(GpuSample) if field.default is MISSING)
