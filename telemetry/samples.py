"""What one GPU did at one instant, and the file such samples are kept in.

The file is JSON lines, one sample a line, written whole and synced before ``append`` returns. A
process that dies while it writes leaves at most an unfinished last line: reading leaves it out,
and the next append cuts it off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

_LINE_START = b'{"time": '


class SamplesError(ValueError):
    """A file that does not hold samples: one line with file, line, field, found and allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One reading of one GPU. A measure is None where the GPU or its driver does not give it.

    A GPU is known by its UUID: its index changes with a reboot, or when another one is lost.
    """

    time: datetime  # aware
    node: str
    uuid: str
    name: str  # as NVML says it
    utilisation_fraction: float | None = None  # of the last moments in which any kernel ran
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None  # a counter: from the driver's start, back to 0 with it
    temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    pids: tuple[int, ...] | None = None  # of compute processes, in this process's PID namespace

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError("GpuSample.time must carry a time zone")


def to_line(sample: GpuSample) -> str:
    """The sample as one line of JSON, without the newline."""
    return json.dumps(asdict(sample) | {"time": sample.time.isoformat()}, ensure_ascii=False)


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


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


_ALLOWED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "time": (_time, "an ISO 8601 time with its zone"),
    "node": (_text, "text"),
    "uuid": (_text, "text"),
    "name": (_text, "text"),
    "utilisation_fraction": (_fraction, "a number from 0 to 1"),
    "memory_used_bytes": (_count, "a whole number, 0 or above"),
    "memory_total_bytes": (_count, "a whole number, 0 or above"),
    "power_watts": (_amount, "a number, 0 or above"),
    "energy_joules": (_amount, "a number, 0 or above"),
    "temperature_celsius": (_number, "a number"),
    "sm_clock_mhz": (_count, "a whole number, 0 or above"),
    "pids": (_counts, "a list of whole numbers, 0 or above"),
}
_REQUIRED = tuple(field.name for field in fields(GpuSample) if field.default is MISSING)
