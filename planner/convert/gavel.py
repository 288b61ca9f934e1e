"""Gavel's measured throughputs and its jobs, as manifests.

D. Narayanan et al., Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads,
OSDI 2020. Its matrix has, by GPU type, job type and number of GPUs, the steps per second of the
job alone (``null``) and beside another. Its jobs come as a table (job, model, gpus, total_steps) or
as a trace of ten tab-separated fields. A job becomes a task of as many replicas as it has GPUs, one
GPU a node, with its hours on each type that can run it. It stays on one type, or changes it so
often as is asked for, at the end of a round and for nothing, as the paper's policies let it.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from cost_models.prices import Purchase
from planner.convert import CONVERTED_FROM
from planner.fairness import Claim, Contest, Rates
from planner.manifests.errors import Fault, ManifestErrors, found
from planner.manifests.schema import (
    Checkpoint,
    ClusterMetadata,
    GpuJob,
    GpuJobSpec,
    GpuPool,
    GpuPoolSpec,
    Metadata,
    Price,
    RentBilling,
    TaskSpec,
)

MATRIX = "simulation_throughputs.json"
JOB_TYPE = "flopwise.dev/gavel-job-type"
WEIGHT = "flopwise.dev/gavel-weight"  # of its share in max-min fairness: it is no priority

# USD per GPU-hour: Google Cloud's spot prices as the paper's simulator has them
# (github.com/stanford-futuredata/gavel, scheduler/utils.py, 2020).
SPOT_USD_PER_GPU_HOUR = {"v100": 0.74, "p100": 0.43, "k80": 0.135}
ROUND_SECONDS = 360  # after which the paper's scheduler may stop a job at a checkpoint

_TABLE = ("job", "model", "gpus", "total_steps")
_TRACE = (
    *("model", "command", "directory", "steps_argument", "needs_data", "total_steps", "gpus"),
    *("weight", "SLO", "arrival"),
)
_MATRIX_KEY = re.compile(r"\('(.*)', (\d+)\)")
_CHECKS = {
    "job": (
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "lower-case letters, digits and '-', at most 63",
    ),
    "gpus": (r"[1-9]\d{0,5}", "a whole number above 0"),
    "total_steps": (r"[1-9]\d{0,14}", "a whole number above 0"),
    "weight": (r"\d{1,9}(\.\d+)?", "a number"),
    "SLO": (r"-\d+(\.\d+)?", "a number below 0, which is none: deadlines are not converted"),
    "arrival": (r"\d{1,9}(\.\d+)?", "seconds from the start of the trace"),
}

Throughputs = Mapping[tuple[str, int], Mapping[str, float]]  # (model, GPUs) -> type -> steps/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job as a table or a trace states it, each field checked."""

    place: str  # "jobs.csv: line 3"
    fields: Mapping[str, str]

    @property
    def kind(self) -> tuple[str, int]:
        """What the matrix knows it by: model, GPUs."""
        return self.fields["model"], int(self.fields["gpus"])


def pools(nodes: int) -> tuple[GpuPool, ...]:
    """``nodes`` nodes of one GPU of each type, at the paper's spot prices, billed by GPU."""
    return tuple(_pool(name, usd, nodes) for name, usd in SPOT_USD_PER_GPU_HOUR.items())


def jobs(
    files: Sequence[Path],
    *,
    throughputs: Path | None = None,
    start: datetime,
    switches: int = 0,
) -> tuple[GpuJob, ...]:
    """The jobs of tables and traces, in their order.

    ``throughputs``: the matrix; by default the one beside the first file, or in the folder above.
    ``start`` (aware): when a trace begins; its arrivals become earliest starts. A table has none.
    ``switches``: how often each may go on from a checkpoint on another type; 0 keeps it on one.

    Raises:
        ManifestErrors: something in the files or the matrix is wrong; it names all that is.
    """
    rates = read_throughputs(throughputs or _matrix_near(files[0]))
    read = [each for file in files for each in _rows(file)]
    converted = [
        _job(row, number, rates, start, switches) if isinstance(row, Row) else row
        for number, row in enumerate(read)
    ]
    faults = [each for each in converted if isinstance(each, Fault)]
    named = [each for each in converted if isinstance(each, GpuJob)]
    if not faults:
        faults += _twice(named, [row.place for row in read if isinstance(row, Row)])
    if faults:
        raise ManifestErrors(faults)
    return tuple(named)


def contest(files: Sequence[Path], matrix: Path, gpus: Mapping[str, int]) -> Contest:
    """The jobs of tables and traces as claims on a fleet with ``gpus`` of each type.

    Two jobs may share GPUs where the matrix has their co-located steps per second.

    Raises:
        ManifestErrors: something in the files or the matrix is wrong, or it does not know a job.
    """
    kinds, rates = read_rates(matrix, tuple(gpus))
    number = {kind: k for k, kind in enumerate(kinds)}
    read = [_claim(row, n, number) for n, row in enumerate(r for f in files for r in _rows(f))]
    if faults := [each for each in read if isinstance(each, Fault)]:
        raise ManifestErrors(faults)
    claims = tuple(each for each in read if isinstance(each, Claim))
    return Contest(types=tuple(gpus), gpus=tuple(gpus.values()), rates=rates, claims=claims)


def _claim(row: Row | Fault, number: int, kinds: Mapping[tuple[str, int], int]) -> Claim | Fault:
    if isinstance(row, Fault):
        return row
    weight = row.fields.get("weight", "1")
    if row.kind not in kinds:
        message = (
            f"found {found(row.kind[0])} on {row.kind[1]} GPUs, which the matrix does not have"
        )
        return Fault(place=row.place, path="model", message=message)
    if not float(weight):
        return Fault(place=row.place, path="weight", message="found 0, allowed: above 0")
    name = row.fields.get("job", f"job-{number:04d}")
    return Claim(job=name, kind=kinds[row.kind], weight=float(weight))


def read_rates(path: Path, types: Sequence[str]) -> tuple[tuple[tuple[str, int], ...], Rates]:
    """Steps per second on ``types``, alone and co-located, with the kinds as (model, GPUs).

    Raises:
        ManifestErrors: the file is not Gavel's matrix of all these types.
    """
    text = _text(path)
    if isinstance(text, Fault):
        raise ManifestErrors([text])
    try:
        matrix = json.loads(text)
        names = sorted({name for t in types for name in matrix[t]})
        kinds = tuple(map(_kind, names))
        rows = [[matrix[t].get(name, {}) for name in names] for t in types]
        alone = np.array([[_rate(row.get("null", 0)) for row in of_type] for of_type in rows])
        beside = np.array([[_shared(row, names) for row in of_type] for of_type in rows])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        wanted = ", ".join(types)
        message = f"not Gavel's matrix of {wanted} -> job type -> null or job type -> steps/s"
        raise ManifestErrors([Fault(place=str(path), message=message)]) from error
    gpus = tuple(gpus for _, gpus in kinds)
    beside[:, np.not_equal.outer(gpus, gpus)] = 0.0
    return kinds, Rates(kinds=tuple(names), gpus=gpus, alone=alone.T, beside=beside)


def _shared(row: Mapping[str, Sequence[object]], names: Sequence[str]) -> list[float]:
    """Steps per second of the row's job beside each other one; 0 where that was not measured."""
    return [_rate(row[name][0]) if name in row else 0.0 for name in names]


def read_throughputs(path: Path) -> Throughputs:
    """Steps per second of each job type alone, by GPU type; 0 where it cannot run.

    Raises:
        ManifestErrors: the file is not Gavel's matrix.
    """
    text = _text(path)
    if isinstance(text, Fault):
        raise ManifestErrors([text])
    rates: dict[tuple[str, int], dict[str, float]] = {}
    try:
        matrix = json.loads(text)
        for gpu in SPOT_USD_PER_GPU_HOUR:
            for key, beside in matrix[gpu].items():
                rates.setdefault(_kind(key), {})[gpu] = _rate(beside["null"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = "not Gavel's matrix of v100, p100, k80 -> job type -> null -> steps per second"
        raise ManifestErrors([Fault(place=str(path), message=message)]) from error
    return rates


def _kind(key: str) -> tuple[str, int]:
    """Model and GPUs of a row's name; ValueError for another text."""
    found = _MATRIX_KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"no job type: {key}")
    return found[1], int(found[2])


def _rate(value: object) -> float:
    if not isinstance(value, float | int) or not 0 <= value < math.inf:
        raise ValueError("a throughput is a number from 0")
    return float(value)


def _matrix_near(file: Path) -> Path:
    above = file.parent.parent / MATRIX
    beside = file.parent / MATRIX
    return above if above.is_file() and not beside.is_file() else beside


def _pool(name: str, usd_per_gpu_hour: float, nodes: int) -> GpuPool:
    price = Price(
        purchase=Purchase.SPOT, usd_per_gpu_hour=usd_per_gpu_hour, billing=RentBilling.GPU
    )
    spec = GpuPoolSpec(accelerator=name, gpus_per_node=1, nodes=nodes, price=price)
    return GpuPool(metadata=ClusterMetadata(name=name), spec=spec)


def _job(
    row: Row, number: int, rates: Throughputs, start: datetime, switches: int
) -> GpuJob | Fault:
    model, gpus = row.kind
    alone = {gpu: rate for gpu, rate in rates.get(row.kind, {}).items() if rate > 0}
    if not alone:
        message = f"found {found(model)} on {gpus} GPUs, which no type runs as the matrix has it"
        return Fault(place=row.place, path="model", message=message)
    steps = int(row.fields["total_steps"])
    hours = {gpu: steps / rate / 3600 for gpu, rate in alone.items()}
    arrival = row.fields.get("arrival")
    spec = GpuJobSpec(
        earliest_start=start + timedelta(seconds=float(arrival)) if arrival else None,
        task=TaskSpec(replicas=gpus, hours=hours),
        checkpoint=_checkpoint(switches),
    )
    name = row.fields.get("job", f"job-{number:04d}")
    return GpuJob(metadata=Metadata(name=name, annotations=_annotations(row)), spec=spec)


def _checkpoint(switches: int) -> Checkpoint:
    if not switches:
        return Checkpoint()
    return Checkpoint(interval_seconds=ROUND_SECONDS, switches=switches)


def _annotations(row: Row) -> dict[str, str]:
    weight = row.fields.get("weight", "1")
    told = {CONVERTED_FROM: "gavel", JOB_TYPE: row.fields["model"]}
    return told if float(weight) == 1 else told | {WEIGHT: weight}


def _twice(named: Sequence[GpuJob], places: Sequence[str]) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for job, place in zip(named, places, strict=True):
        before = first.setdefault(job.metadata.name, place)
        if before is not place:
            message = f"found {found(job.metadata.name)}, which is taken by {before}"
            yield Fault(place=place, path="job", message=message)


def _rows(path: Path) -> Iterator[Row | Fault]:
    text = _text(path)
    if isinstance(text, Fault):
        yield text
        return
    lines = text.splitlines()
    if lines and lines[0].split(",") == list(_TABLE):
        yield from _checked(path, _TABLE, csv.reader(lines[1:]), first=2)
    elif lines and "\t" in lines[0]:
        yield from _checked(path, _TRACE, (line.split("\t") for line in lines), first=1)
    else:
        allowed = f"a table headed {','.join(_TABLE)}, or a trace of ten fields between tabs"
        yield Fault(place=str(path), message=f"found neither, allowed: {allowed}")


def _checked(
    path: Path, names: Sequence[str], rows: Iterator[list[str]], first: int
) -> Iterator[Row | Fault]:
    for line, values in enumerate(rows, start=first):
        if not any(values):
            continue
        place = f"{path}: line {line}"
        if len(values) != len(names):
            message = f"found {len(values)} fields, allowed: {len(names)}"
            yield Fault(place=place, message=message)
            continue
        row = Row(place=place, fields=dict(zip(names, map(str.strip, values), strict=True)))
        faults = tuple(_wrong(row))
        yield from faults or (row,)


def _wrong(row: Row) -> Iterator[Fault]:
    for name, value in row.fields.items():
        pattern, allowed = _CHECKS.get(name, (".*", ""))
        if not re.fullmatch(pattern, value):
            message = f"found {found(value)}, allowed: {allowed}"
            yield Fault(place=row.place, path=name, message=message)


def _text(path: Path) -> str | Fault:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return Fault(place=str(path), message=error.strerror or "cannot be read")
    except UnicodeDecodeError as error:
        return Fault(place=str(path), message=f"not UTF-8 text at byte {error.start}")
