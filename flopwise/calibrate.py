"""``flopwise calibrate``: how fast jobs ran against what was promised; the next plan uses it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.errors import BAD_INPUT, NOT_FOUND, Fail
from flopwise.telemetry import Output, camel, table

if TYPE_CHECKING:
    from cost_models.calibration import Calibration, Drift, Measurement, Subject
    from planner.manifests.schema import GpuJob
    from planner.options import Promise
    from planner.problem import Pool
    from scheduler.executor.launches import Launch
    from scheduler.executor.records import Attempt, Run
    from telemetry.throughput import Throughput

PUSHED = "throughput.jsonl"  # in the state folder


def calibrate(
    files: Annotated[
        list[str],
        typer.Option("-f", "--file", metavar="FILE", help="The manifests that were planned."),
    ],
    runs: Annotated[
        Path, typer.Option(metavar="DIR", help="State folder of the executor: what ran.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="What was measured, added to; for `plan`.")
    ] = Path("calibration.json"),
    pattern: Annotated[
        str,
        typer.Option(
            metavar="REGEX",
            help="Of a line of a log that says the speed, with a group (?P<value>...); "
            "default: 'flopwise: throughput=N tokens/s'.",
        ),
    ] = "",
    unit: Annotated[
        str, typer.Option(help="Of the pattern's number: tokens, requests or flops a second.")
    ] = "tokens",
    drift: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="FRACTION", help="Said from here on.")
    ] = 0.1,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Set the measured speed of jobs beside the promised one, and keep what the next plan needs.

    The speed is what `flopwise telemetry push` was told, else what the job's log says, else the
    hours of a training that ran to its end. Print factors with their nine-in-ten interval, and
    drifts with the time since when.
    """
    from cost_models.calibration import drifts, write

    before = calibration_of(out) if out.exists() else calibration_of(None)
    found = list(_measured(files, runs, _pattern(pattern), unit))
    if not found and not before.measurements:
        raise Fail(f"--runs: {runs}: found no job that says how fast it ran", NOT_FOUND)
    made = before.with_more(found)
    try:
        write(out, made)
    except OSError as error:
        raise Fail(f"--out: {out}: {error.strerror}", BAD_INPUT) from None
    off = drifts(made.measurements, drift)
    typer.echo(_as_json(made, off) if output is Output.JSON else _as_table(made, off))
    typer.echo(f"wrote {out}: {len(found)} measured now, {len(made.measurements)} in all", err=True)


def calibration_of(path: Path | None) -> Calibration:
    """The option ``--calibration``; nothing measured without a file."""
    from cost_models.calibration import NONE, CalibrationError, read

    if path is None:
        return NONE
    try:
        return read(path)
    except CalibrationError as error:
        raise Fail(str(error), BAD_INPUT) from None
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}", BAD_INPUT) from None


def push(
    job: Annotated[str, typer.Argument(help="As `flopwise get jobs` lists it.")],
    number: Annotated[float, typer.Argument(help="Work in a second.")],
    unit: Annotated[str, typer.Option(help="tokens, requests or flops.")] = "tokens",
    per_gpu: Annotated[
        bool, typer.Option("--per-gpu", help="Of each GPU, not of all together.")
    ] = False,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the executor; as for `apply`.")
    ] = None,
) -> None:
    """Tell how fast a job runs, by one number; `flopwise calibrate` sets it beside the promise."""
    import os

    from scheduler.executor.journal import default_root
    from telemetry.throughput import Throughput
    from telemetry.throughput import push as push_one

    root = state_dir or default_root(os.environ)
    try:
        one = Throughput(
            time=datetime.now(UTC), job=job, per_second=number, unit=unit, per_gpu=per_gpu
        )
        push_one(root / PUSHED, one)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        raise Fail(f"{error.filename}: {error.strerror}", BAD_INPUT) from None


def pull(
    url: Annotated[
        str, typer.Argument(help="Of a page of metrics: that of a Ray node, or a job's own.")
    ],
    metric: Annotated[str, typer.Argument(help="Its name, without the ray_ that Ray adds.")],
    job: Annotated[
        str, typer.Option(metavar="JOB", help="Whose it is, where no label says so.")
    ] = "",
    label: Annotated[str, typer.Option(help="The label that names the job.")] = "job",
    over: Annotated[
        str,
        typer.Option(metavar="TIME", help="It counts work: by how much it rises in 10s, 1m."),
    ] = "",
    unit: Annotated[str, typer.Option(help="tokens, requests or flops.")] = "tokens",
    per_gpu: Annotated[
        bool, typer.Option("--per-gpu", help="Each series is of one GPU; else they add up.")
    ] = False,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the executor; as for `apply`.")
    ] = None,
) -> None:
    """Tell how fast jobs run by a metric that they keep, as `push` does by a number.

    A job on Ray makes one with ray.util.metrics, and tags it with job: $FLOPWISE_JOB.
    """
    import os

    from flopwise.telemetry import length_of
    from scheduler.executor.journal import default_root
    from telemetry.scrape import ScrapeError, read_metric
    from telemetry.throughput import UNITS, of_metric, risen
    from telemetry.throughput import push as push_one

    if unit not in UNITS:
        message = f"found {unit!r}, allowed: {', '.join(UNITS)}"
        raise typer.BadParameter(message, param_hint="--unit")
    seconds = length_of(over, "--over").total_seconds() if over else 0.0
    path = (state_dir or default_root(os.environ)) / PUSHED
    try:
        values = read_metric(url, metric)
        if seconds:
            began = time.monotonic()
            time.sleep(seconds)  # a counter says nothing at one instant
            values = risen(values, read_metric(url, metric), time.monotonic() - began)
        found = of_metric(
            values, time=datetime.now(UTC), job=job, label=label, unit=unit, per_gpu=per_gpu
        )
        for one in found:
            push_one(path, one)
    except ScrapeError as error:
        raise Fail(str(error)) from None
    except OSError as error:
        raise Fail(f"{error.filename}: {error.strerror}", BAD_INPUT) from None
    if not found:
        allowed = f"a number above 0 with a label {label!r}, or --job"
        raise Fail(f"{url}: {metric}: found no speed of a job, allowed: {allowed}", NOT_FOUND)
    for one in found:
        each = " a GPU" if one.per_gpu else ""
        typer.echo(f"{one.job}: {one.per_second:,.6g} {one.unit}/s{each}", err=True)


# -- what was measured -----------------------------------------------------------------------------


def _measured(
    files: list[str], state: Path, pattern: re.Pattern[str], unit: str
) -> Iterator[Measurement]:
    from cost_models.calibration import Measurement
    from planner.options import promise

    jobs, pools = _promised(files)
    for run, launch, said in _said(state, pattern, unit):
        job, pool = jobs.get(_name(launch)), pools.get(launch.pool)
        if job is None or pool is None:
            _note(f"{launch.job}: its job or its pool {launch.pool!r} is in none of the manifests")
            continue
        gpus = max(1, round(launch.gpus))
        promised = promise(job, pool, gpus)
        if promised is None or promised.unit != said.unit:
            _note(f"{launch.job}: {_no_promise(promised, said)}")
            continue
        yield Measurement(
            subject=promised.subject,
            job=f"{run.name}/{launch.name}",
            time=said.time,
            gpus=gpus,
            unit=said.unit,
            promised_per_gpu_second=promised.work_per_gpu_second,
            measured_per_gpu_second=said.of_each(gpus),
            flops_per_work=promised.flops_per_work,
        )


def _no_promise(promised: Promise | None, said: Throughput) -> str:
    if promised is None:
        return "its speed is stated in its manifest and not modelled: nothing to compare with"
    return f"it says {said.unit} a second, and {promised.unit} were promised"


def _promised(files: list[str]) -> tuple[Mapping[tuple[str, str], GpuJob], Mapping[str, Pool]]:
    from planner.fleet import pool_of
    from planner.manifests.read import read
    from planner.problem import Grid

    manifests = read(files, sys.stdin)
    grid = Grid(start=datetime.now(UTC), slot_seconds=3600, slots=1)
    jobs = {(job.metadata.namespace, job.metadata.name): job for job in manifests.jobs}
    return jobs, {pool.metadata.name: pool_of(pool, grid) for pool in manifests.pools}


def _name(launch: Launch) -> tuple[str, str]:
    """Namespace and name of the job; twins of several namespaces are called NAMESPACE/NAME."""
    return launch.namespace, launch.job.rpartition("/")[2]


def _said(
    state: Path, pattern: re.Pattern[str], unit: str
) -> Iterator[tuple[Run, Launch, Throughput]]:
    """What is known of the speed of each launch: pushed, else logged, else by its hours."""
    from scheduler.executor.journal import Journal, StateDirectory
    from telemetry.throughput import ThroughputError, read

    folder = StateDirectory(root=state)
    if not folder.journal.exists():
        raise Fail(f"--runs: {state}: found no state of the executor there", NOT_FOUND)
    try:
        pushed = list(read(state / PUSHED))
    except (ThroughputError, OSError) as error:
        raise Fail(str(error), BAD_INPUT) from None
    for run in Journal(folder.journal).refresh().values():
        for record in run.records.values():
            launch = record.launch
            told = [one for one in pushed if one.job in (launch.name, launch.job)]
            started = [a for a in record.attempts if a.ending is None or a.ending.start]
            if told and started:
                yield from ((run, launch, one) for one in told)
                continue
            for attempt in record.attempts:
                log = folder.log(attempt.submission_id)
                if one := _of_attempt(run, launch, attempt, log, pattern, unit):
                    yield run, launch, one


def _of_attempt(
    run: Run, launch: Launch, attempt: Attempt, log: Path, pattern: re.Pattern[str], unit: str
) -> Throughput | None:
    from telemetry.throughput import from_log

    if attempt.ending is None:
        return None
    end = attempt.ending.end
    if log.exists():
        text = log.read_text(encoding="utf-8", errors="replace")
        if found := from_log(text, job=launch.job, time=end, pattern=pattern, unit=unit):
            return found
    return _by_hours(run, launch, attempt)


def _by_hours(run: Run, launch: Launch, attempt: Attempt) -> Throughput | None:
    """All the work over the time from its start to its end, where that is the job's own time."""
    from scheduler.executor import stand_in
    from scheduler.executor.records import RunStatus
    from telemetry.throughput import UNITS, Throughput

    ending = attempt.ending
    if ending is None or ending.start is None or ending.status is not RunStatus.SUCCEEDED:
        return None
    seconds = (ending.end - ending.start).total_seconds()
    compressed = run.clock.speed != 1.0 or stand_in.__file__ in launch.entrypoint
    if compressed or launch.unit not in UNITS or launch.stops_at_end:
        return None
    if launch.work <= 0 or seconds <= 0:
        return None
    return Throughput(
        time=ending.end, job=launch.job, per_second=launch.work / seconds, unit=launch.unit
    )


def _pattern(pattern: str) -> re.Pattern[str]:
    from telemetry.throughput import PATTERN, ThroughputError, compiled

    try:
        return compiled(pattern) if pattern else PATTERN
    except ThroughputError as error:
        raise typer.BadParameter(str(error), param_hint="--pattern") from None


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


# -- what is said ----------------------------------------------------------------------------------

_COLUMNS = ("MODEL", "ACCELERATOR", "PRECISION", "METHOD", "RUNS", "FACTOR", "NINE IN TEN")


def _as_table(made: Calibration, off: Sequence[Drift]) -> str:
    rows = [_row(made, subject) for subject in made.subjects()]
    lines = [table([_COLUMNS, *rows])]
    lines += [f"drift: {_subject(one.subject)}: {one}" for one in off]
    return "\n".join(lines)


def _row(made: Calibration, subject: Subject) -> tuple[str, ...]:
    factor = made.factor(subject)
    return (
        subject.model or "-",
        subject.accelerator,
        subject.precision,
        subject.method,
        str(factor.runs),
        f"{factor.value:.3f}",
        f"{factor.low:.3f} to {factor.high:.3f}",
    )


def _subject(subject: Subject) -> str:
    return " ".join(
        filter(None, (subject.model, subject.accelerator, subject.precision, subject.method))
    )


def _as_json(made: Calibration, off: Sequence[Drift]) -> str:
    factors = [
        camel(asdict(subject)) | camel(asdict(made.factor(subject))) for subject in made.subjects()
    ]
    return json.dumps({"factors": factors, "drifts": [_drift(one) for one in off]}, indent=2)


def _drift(one: Drift) -> dict[str, Any]:
    values = asdict(one) | {"since": one.since.isoformat(), "ratio": one.ratio, "text": str(one)}
    subject = values.pop("subject")
    return camel(subject) | camel(values)
