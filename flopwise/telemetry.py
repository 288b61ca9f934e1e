"""``flopwise telemetry``: collect samples of this machine's GPUs, and say what they add up to."""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flopwise.errors import BAD_INPUT, Fail
from flopwise.plan import duration
from telemetry import nvml, samples, usage

app = typer.Typer(help="What the GPUs did: collect samples, sum them up.", no_args_is_help=True)


class Output(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


def _length(text: str, option: str) -> timedelta:
    try:
        return duration(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None


def ticks(
    interval: timedelta,
    length: timedelta,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Yields at once and then each ``interval`` while ``length`` lasts, its end included.

    What is late moves no later tick: those that were missed are left out.
    """
    start = clock()
    step, last = interval.total_seconds(), length / interval
    tick = 0
    while tick <= last:
        sleep(max(0.0, start + tick * step - clock()))
        yield
        tick = max(tick + 1, math.ceil((clock() - start) / step))


@app.command()
def collect(
    interval: Annotated[str, typer.Option(help="Time between two samples: 0.5s, 1s, 1m.")] = "1s",
    length: Annotated[
        str, typer.Option("--duration", help="How long to collect: 10s, 1h, 7d.")
    ] = "10s",
    out: Annotated[Path, typer.Option(help="JSON lines, added to.")] = Path("samples.jsonl"),
) -> None:
    """Add one sample of each GPU of this machine to a file, each interval."""
    every, last = _length(interval, "--interval"), _length(length, "--duration")
    try:
        written = add_samples(ticks(every, last), out)
    except (nvml.NvmlUnavailableError, samples.SamplesError, OSError) as error:
        raise Fail(_wording(error)) from None
    if not written:
        raise Fail("the driver shows no GPU to read")
    typer.echo(f"{out}: {written} samples added", err=True)


@app.command("usage")
def show_usage(
    file: Annotated[Path, typer.Argument(help="What `collect` wrote.")],
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Sum samples up: GPU-hours, hours at work, utilisation and energy of each GPU."""
    try:
        found = usage.usage(samples.read(file))
    except (samples.SamplesError, OSError) as error:
        raise Fail(_wording(error), BAD_INPUT) from None
    typer.echo(_as_json(found) if output is Output.JSON else _as_table(found))


def add_samples(at: Iterator[None], out: Path) -> int:
    """Add a sample of each GPU to ``out`` at each tick of ``at``; how many.

    Raises `nvml.NvmlUnavailableError` where there is no driver.
    """
    node = socket.gethostname()
    written = 0
    known: tuple[nvml.Unreadable, ...] = ()
    with nvml.session():
        for _ in at:
            reading = nvml.read_all(datetime.now(UTC), node=node)
            if reading.unreadable != known:
                known = reading.unreadable
                _tell(known)
            samples.append(out, reading.samples)
            written += len(reading.samples)
    return written


def _tell(unreadable: Sequence[nvml.Unreadable]) -> None:
    for gpu in unreadable:
        typer.echo(f"GPU {gpu.index} cannot be read: {gpu.reason}", err=True)
    if not unreadable:
        typer.echo("every GPU can be read again", err=True)


def _wording(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _as_json(found: Sequence[usage.GpuUsage]) -> str:
    return json.dumps(
        {"gpus": [_camel(asdict(one)) for one in found]}, indent=2, default=datetime.isoformat
    )


def _camel(values: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"_(\w)", lambda m: m[1].upper(), name): v for name, v in values.items()}


_COLUMNS = ("NODE", "GPU", "NAME", "GPU-HOURS", "ACTIVE", "UTILISATION", "ENERGY", "GAPS")


def _as_table(found: Sequence[usage.GpuUsage]) -> str:
    rows = [_COLUMNS, *(_row(one) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(one: usage.GpuUsage) -> tuple[str, ...]:
    mean, joules = one.mean_utilisation_fraction, one.energy_joules
    return (
        one.node,
        one.uuid,
        one.name,
        f"{one.observed_gpu_hours:.3f}",
        f"{one.active_gpu_hours:.3f}",
        "unknown" if mean is None else f"{mean:.1%}",
        "unknown" if joules is None else f"{joules / 3.6e6:.3f} kWh",
        f"{one.gap_hours:.3f} h",
    )
