"""Measured throughput corrects the model, as far as what was measured supports it.

Each measurement is how fast a job ran over how fast the uncorrected model says it would. The
logarithm of that ratio is the sum of four errors, each normal with mean 0 and its own deviation:

    log(measured / promised) = of the accelerator + of the model + of the subject + of the run

so what was measured of one subject (a model on an accelerator in one precision by one method)
tells most about itself, something about the same accelerator and the same model, and nothing
about the rest. The factor of a subject is the exponential of its posterior mean: with nothing
measured it is 1, and with little it stays near 1. With r = log(measured / promised) of one run:

    factor = exp(r (a² + m² + s²) / (a² + m² + s² + n²))        a = m = s = 0.15, n = 0.1: 0.87 r

The deviations are judgements. Together, without the run's, they are 0.26: against published runs
the model is off by 0.13 at the median (tests/cost_models/test_training.py), a deviation of 0.19,
and those runs were tuned better than most. They are split evenly, as nothing says otherwise.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

ACCELERATOR_DEVIATION = 0.15  # of the logarithm of the ratio
MODEL_DEVIATION = 0.15
SUBJECT_DEVIATION = 0.15
RUN_DEVIATION = 0.10
INTERVAL_DEVIATIONS = 1.645  # either side: nine in ten
DRIFT_FRACTION = 0.1  # a ratio further from 1 than this is a drift
KIND = "Calibration"
API_VERSION = "flopwise.dev/v1alpha1"


class CalibrationError(ValueError):
    """A file that holds no calibration: one line with file, field, found and allowed."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Subject:
    """What one number is measured of; model is empty where only FLOPs are stated."""

    model: str
    accelerator: str  # ids of the catalogs
    precision: str
    method: str  # Pretrain, Full, Lora, Qlora, or Serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How fast one job ran, and how fast the model without any correction says."""

    subject: Subject
    job: str
    time: datetime  # aware: when it was measured
    gpus: int
    unit: str  # of work: tokens, requests, flops
    promised_per_gpu_second: float
    measured_per_gpu_second: float
    flops_per_work: float = 0.0  # useful ones; 0: not known

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError("time: found one without a zone, allowed: one with its zone")
        for name in ("promised_per_gpu_second", "measured_per_gpu_second"):
            if not 0 < getattr(self, name) < math.inf:
                found = getattr(self, name)
                raise ValueError(f"{name}: found {found}, allowed: a number above 0")
        if self.gpus < 1:
            raise ValueError(f"gpus: found {self.gpus}, allowed: 1 or more")

    @property
    def ratio(self) -> float:
        """Measured over promised."""
        return self.measured_per_gpu_second / self.promised_per_gpu_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What a promise is multiplied by, and where the truth lies with nine in ten."""

    value: float
    low: float
    high: float
    runs: int  # measured of this very subject

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A subject that has been slower or faster than promised, and since when."""

    subject: Subject
    since: datetime  # the first measurement of those in a row
    measurements: int
    unit: str
    promised_per_gpu_second: float  # means over those
    measured_per_gpu_second: float
    flops_per_work: float

    @property
    def ratio(self) -> float:
        """Measured over promised."""
        return self.measured_per_gpu_second / self.promised_per_gpu_second

    def __str__(self) -> str:
        """Promised 410 TFLOP/s, measured 280 TFLOP/s a GPU (68 %) since ..."""
        promised, measured = (
            self._rate(value)
            for value in (self.promised_per_gpu_second, self.measured_per_gpu_second)
        )
        since = self.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"promised {promised}, measured {measured} a GPU ({self.ratio:.0%}) since {since}"

    def _rate(self, per_second: float) -> str:
        if self.flops_per_work:
            return f"{per_second * self.flops_per_work / 1e12:,.0f} TFLOP/s"
        return f"{per_second:,.4g} {self.unit}/s"


@dataclass(frozen=True)
class Calibration:
    """All that was measured. Empty: every factor is 1."""

    measurements: tuple[Measurement, ...] = ()
    _known: dict[Subject, Factor] = field(default_factory=dict, repr=False, compare=False)

    def factor(self, subject: Subject) -> Factor:
        """What the model's throughput of ``subject`` is to be multiplied by."""
        if subject not in self._known:
            self._known[subject] = self._posterior(subject)
        return self._known[subject]

    def subjects(self) -> tuple[Subject, ...]:
        """Those of which something was measured, in order."""
        return tuple(sorted({one.subject for one in self.measurements}))

    def with_more(self, more: Iterable[Measurement]) -> Calibration:
        """With further measurements; one of the same job and time is replaced."""
        known = {(one.job, one.subject, one.time): one for one in (*self.measurements, *more)}
        return Calibration(tuple(sorted(known.values(), key=attrgetter("time", "job"))))

    @cached_property
    def _runs(self) -> tuple[tuple[Subject, float, int], ...]:
        """By subject, the mean logarithm of its jobs' newest ratios, and how many jobs."""
        newest = {(one.subject, one.job): math.log(one.ratio) for one in self._by_time()}
        logs = sorted((subject, value) for (subject, _), value in newest.items())
        grouped = groupby(logs, key=lambda entry: entry[0])
        return tuple(
            (subject, fmean(values), len(values))
            for subject, entries in grouped
            if (values := [value for _, value in entries])
        )

    def _by_time(self) -> list[Measurement]:
        return sorted(self.measurements, key=attrgetter("time"))

    @cached_property
    def _inverse(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        shared = [[_covariance(one, other) for other, *_ in self._runs] for one, *_ in self._runs]
        noise = np.diag([RUN_DEVIATION**2 / runs for *_, runs in self._runs])
        inverse: np.ndarray[Any, np.dtype[np.float64]] = np.linalg.inv(np.array(shared) + noise)
        return inverse

    def _posterior(self, subject: Subject) -> Factor:
        """Of a Gaussian with the covariance of the four errors, given what was measured."""
        prior = _covariance(subject, subject)
        mean, variance, runs = 0.0, prior, 0
        if self._runs:
            shared = np.array([_covariance(subject, one) for one, *_ in self._runs])
            logs = np.array([value for _, value, _ in self._runs])
            weights = shared @ self._inverse
            mean = float(weights @ logs)
            variance = max(0.0, prior - float(weights @ shared))
            runs = next((count for one, _, count in self._runs if one == subject), 0)
        reach = INTERVAL_DEVIATIONS * math.sqrt(variance)
        return Factor(
            value=math.exp(mean), low=math.exp(mean - reach), high=math.exp(mean + reach), runs=runs
        )


NONE = Calibration()


def drifts(
    measurements: Iterable[Measurement], tolerance_fraction: float = DRIFT_FRACTION
) -> tuple[Drift, ...]:
    """Subjects whose newest measurements are all too slow, or all too fast; the slowest first."""
    by_subject: dict[Subject, list[Measurement]] = {}
    for one in sorted(measurements, key=attrgetter("time")):
        by_subject.setdefault(one.subject, []).append(one)
    found = (_drift(rows, tolerance_fraction) for rows in by_subject.values())
    return tuple(sorted((one for one in found if one), key=lambda one: (one.ratio, one.subject)))


def _drift(rows: Sequence[Measurement], tolerance_fraction: float) -> Drift | None:
    side = _side(rows[-1], tolerance_fraction)
    if side == 0:
        return None
    since = len(rows)
    while since and _side(rows[since - 1], tolerance_fraction) == side:
        since -= 1
    run = rows[since:]
    return Drift(
        subject=run[-1].subject,
        since=run[0].time,
        measurements=len(run),
        unit=run[-1].unit,
        promised_per_gpu_second=fmean(one.promised_per_gpu_second for one in run),
        measured_per_gpu_second=fmean(one.measured_per_gpu_second for one in run),
        flops_per_work=run[-1].flops_per_work,
    )


def _side(one: Measurement, tolerance_fraction: float) -> int:
    if abs(one.ratio - 1.0) <= tolerance_fraction:
        return 0
    return 1 if one.ratio > 1.0 else -1


def _covariance(one: Subject, other: Subject) -> float:
    return (
        ACCELERATOR_DEVIATION**2 * (one.accelerator == other.accelerator)
        + MODEL_DEVIATION**2 * (one.model == other.model and one.model != "")
        + SUBJECT_DEVIATION**2 * (one == other)
    )


# -- the file --------------------------------------------------------------------------------------


def write(path: Path, calibration: Calibration) -> None:
    """Write what was measured, whole or not at all."""
    rows = [
        asdict(one) | {"time": one.time.isoformat(), "subject": asdict(one.subject)}
        for one in calibration.measurements
    ]
    text = json.dumps(
        {"apiVersion": API_VERSION, "kind": KIND, "measurements": rows}, indent=1, allow_nan=False
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> Calibration:
    """What `write` wrote. Raises `CalibrationError`, OSError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CalibrationError(f"{path}: found no JSON ({error}), allowed: a calibration") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        found = document.get("kind") if isinstance(document, dict) else type(document).__name__
        raise CalibrationError(f"{path}: kind: found {found!r}, allowed: {KIND!r}")
    rows = document.get("measurements")
    if not isinstance(rows, list):
        raise CalibrationError(f"{path}: measurements: found {rows!r:.40}, allowed: a list")
    return Calibration(tuple(_measurements(path, rows)))


def _measurements(path: Path, rows: Sequence[Any]) -> Iterator[Measurement]:
    for number, row in enumerate(rows):
        try:
            yield _measurement(row)
        except ValueError as error:
            raise CalibrationError(f"{path}: measurements[{number}].{error}") from None


def _measurement(row: Any) -> Measurement:
    subject = _field(row, "subject", _mapping, "an object")
    return Measurement(
        subject=Subject(
            **{one.name: _field(subject, one.name, _text, "text") for one in fields(Subject)}
        ),
        job=_field(row, "job", _text, "text"),
        time=_field(row, "time", _time, "a time with its zone"),
        gpus=_field(row, "gpus", _count, "a whole number"),
        unit=_field(row, "unit", _text, "text"),
        **{name: _field(row, name, _number, "a number") for name in _NUMBERS},
    )


_NUMBERS = ("promised_per_gpu_second", "measured_per_gpu_second", "flops_per_work")


def _field(row: Any, name: str, parse: Callable[[Any], T], allowed: str) -> T:
    value = row.get(name) if isinstance(row, dict) else None
    try:
        return parse(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: found {value!r:.40}, allowed: {allowed}") from None


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError
    return time
