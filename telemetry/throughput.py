"""What jobs say of their own speed: lines of their logs, and single numbers that are pushed.

A job prints, as often as it likes, a line that holds

    flopwise: throughput=12345.6 tokens/s

of all its GPUs together, or with ``/gpu`` at the end of each one. Any other form is read by a
pattern of one's own. What counts is the median of the later half: starting up and compiling is
slow, and says nothing of how a job runs.

A job may also keep a metric of its own (``ray.util.metrics``, or any page in Prometheus' format),
one series for each worker: a gauge of its speed, or better a counter of its work, which a worker
that is gone moves no more. Workers add up; where each tells of one GPU, their mean counts.

Pushed numbers are JSON lines, one number a line, added to a file that a kill leaves readable.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from math import fsum
from pathlib import Path
from statistics import fmean, median
from typing import Any

NUMBER = r"[0-9][0-9,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
PATTERN = re.compile(
    rf"flopwise: throughput=(?P<value>{NUMBER}) ?(?P<unit>tokens|requests|flops)/s(?P<each>/gpu)?"
)
UNITS = ("tokens", "requests", "flops")
MOST_LINE = 2000  # characters of a line that are looked at


class ThroughputError(ValueError):
    """A file or a pattern that cannot be used: one line with where, found and allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How fast one job ran."""

    time: datetime  # aware
    job: str
    per_second: float
    unit: str  # of work: tokens, requests, flops
    per_gpu: bool = False  # of each GPU, else of all together

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError("time: found one without a zone, allowed: one with its zone")
        if not 0 < self.per_second < math.inf:
            raise ValueError(f"per_second: found {self.per_second}, allowed: a number above 0")
        if self.unit not in UNITS:
            raise ValueError(f"unit: found {self.unit!r}, allowed: {', '.join(UNITS)}")

    def of_each(self, gpus: float) -> float:
        """Work of one GPU in a second, of a job that has so many."""
        return self.per_second if self.per_gpu else self.per_second / gpus


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of one's own, with a group ``value``, and if wanted ``unit`` and ``each``.

    Raises ``ThroughputError``.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ThroughputError(f"pattern: found {error}, allowed: a regular expression") from None
    if "value" not in found.groupindex:
        raise ThroughputError(
            f"pattern: found {pattern!r}, allowed: one with a group (?P<value>...) for the number"
        )
    return found


def from_log(
    text: str,
    *,
    job: str,
    time: datetime,
    pattern: re.Pattern[str] = PATTERN,
    unit: str = "tokens",
) -> Throughput | None:
    """What the log says of the job's speed at ``time``, or None where it says nothing.

    ``unit`` counts where the pattern has none.
    """
    found = [match for line in text.splitlines() if (match := pattern.search(line[:MOST_LINE]))]
    speeds = [(speed, match) for match in found if (speed := _speed(match)) is not None]
    if not speeds:
        return None
    later = [speed for speed, _ in speeds[len(speeds) // 2 :]]
    groups = speeds[-1][1].groupdict()
    said = groups.get("unit") or unit
    return Throughput(
        time=time,
        job=job,
        per_second=median(later),
        unit=said if said in UNITS else unit,
        per_gpu=bool(groups.get("each")),
    )


def _speed(match: re.Match[str]) -> float | None:
    """The number of a line; None for what is no speed, as a first line of 0 is."""
    try:
        value = float(match["value"].replace(",", ""))
    except (ValueError, AttributeError):
        return None
    return value if 0 < value < math.inf else None


Labels = tuple[tuple[str, str], ...]  # of one series, in order


def of_metric(
    values: Mapping[Labels, float],
    *,
    time: datetime,
    job: str = "",
    label: str = "job",
    unit: str = "tokens",
    per_gpu: bool = False,
) -> tuple[Throughput, ...]:
    """What a metric says at ``time`` of each job, which ``label`` names where ``job`` does not.

    Values are work in a second; what is no speed, as that of a worker that waits, is left out.
    """
    by_job: dict[str, list[float]] = defaultdict(list)
    for labels, value in values.items():
        name = job or dict(labels).get(label, "")
        if name and 0 < value < math.inf:
            by_job[name].append(value)
    mean = fmean if per_gpu else fsum
    return tuple(
        Throughput(time=time, job=name, per_second=mean(found), unit=unit, per_gpu=per_gpu)
        for name, found in sorted(by_job.items())
    )


def risen(
    before: Mapping[Labels, float], after: Mapping[Labels, float], seconds: float
) -> dict[Labels, float]:
    """By how much a second each counter rose; one that fell has restarted, and counts from 0."""
    known = {labels: (before[labels], value) for labels, value in after.items() if labels in before}
    return {
        labels: (value - began if value >= began else value) / seconds
        for labels, (began, value) in known.items()
    }


def push(path: Path, one: Throughput) -> None:
    """Add a number to the file and wait until it is on the disk."""
    line = json.dumps(asdict(one) | {"time": one.time.isoformat()}) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Throughput]:
    """What was pushed, in its order; none where there is no file. An unfinished last line is cut.

    Raises ``ThroughputError``, OSError.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield _parsed(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise ThroughputError(f"{path}: line {number}: {_why(error)}") from None


def _parsed(row: Any) -> Throughput:
    return Throughput(
        time=datetime.fromisoformat(row["time"]),
        job=str(row["job"]),
        per_second=float(row["per_second"]),
        unit=str(row["unit"]),
        per_gpu=row.get("per_gpu") is True,
    )


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]}: found nothing, allowed: it stated"
    return str(error)
