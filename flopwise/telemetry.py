"""``flopwise telemetry``: collect samples of this machine's GPUs, and say what they add up to."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from flopwise.errors import BAD_INPUT, Fail
from flopwise.plan import duration
from flopwise.telemetry_serve import serve
from telemetry import collect, nvml, samples, usage
from telemetry.plain import plain
from telemetry.usage import By

app = typer.Typer(help="What the GPUs did: collect samples, sum them up.", no_args_is_help=True)
app.command()(serve)


_URL = "A folder, or a URL such as s3://BUCKET/FOLDER (needs s3fs), gs:// (needs gcsfs)."


class Output(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


def length_of(text: str, option: str) -> timedelta:
    """The length that an option states."""
    try:
        return duration(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None


@app.command("collect")
def collect_samples(
    interval: Annotated[str, typer.Option(help="Time between two samples: 0.5s, 1s, 1m.")] = "1s",
    length: Annotated[
        str, typer.Option("--duration", help="How long to collect: 10s, 1h, 7d, forever.")
    ] = "10s",
    out: Annotated[
        Path | None,
        typer.Option(help="JSON lines, added to; default: samples.jsonl, without --store."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="The node's store: the last two days, in one file that no kill breaks."),
    ] = None,
) -> None:
    """Add one sample of each GPU of this machine to a file, each interval."""
    from telemetry.store import StoreError

    every = length_of(interval, "--interval")
    last = None if length == "forever" else length_of(length, "--duration")
    if out is None and store is None:
        out = Path("samples.jsonl")
    try:
        with _stored(store) as also:
            written = add_samples(collect.ticks(every, last), out, every, also)
    except (nvml.NvmlUnavailableError, nvml.DriverLostError, StoreError) as error:
        raise Fail(str(error)) from None
    except (samples.SamplesError, OSError) as error:
        raise Fail(_wording(error)) from None
    if not written:
        raise Fail("the driver shows no GPU to read")
    typer.echo(f"{out or store}: {written} samples added", err=True)


@contextmanager
def _stored(path: Path | None) -> Iterator[Sequence[collect.Sink]]:
    """The sinks that the store is: none, or one."""
    from telemetry.store import Ring

    if path is None:
        yield ()
        return
    with Ring(path) as ring:

        def keep_in_store(tick: collect.Tick) -> None:
            ring.append_samples(tick.samples)

        yield (keep_in_store,)


@app.command("usage")
def show_usage(
    file: Annotated[
        Path | None, typer.Argument(help="What `collect` wrote, or the store of a node.")
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
    by: Annotated[
        str,
        typer.Option(
            metavar="KEYS",
            help=f"Sum up by, such as team,job: {', '.join(By)}; of a history also accelerator, "
            "day, hour.",
        ),
    ] = "",
    history: Annotated[
        str | None, typer.Option(metavar="URL", help="Of a history instead of a file.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="With --history: a day or a full hour, in UTC.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="With --history: the first hour left out.")
    ] = None,
    idle: Annotated[
        bool, typer.Option("--idle", help="List GPUs that someone holds and that do nothing.")
    ] = False,
    after: Annotated[str, typer.Option(help="With --idle: for at least so long.")] = "30m",
    usd_per_gpu_hour: Annotated[
        float | None,
        typer.Option(min=0.0, help="With --idle: the price; default: the catalog's of each GPU."),
    ] = None,
) -> None:
    """Sum samples up: GPU-hours, hours at work, utilisation and energy of each GPU."""
    from flopwise import usage as shown
    from telemetry.store import StoreError

    as_json = output is Output.JSON
    if (file is None) == (history is None):
        raise typer.BadParameter("found both or none, allowed: a file, or --history URL")
    if history is not None:
        typer.echo(_usage_of_history(history, by, since, until, as_json=as_json))
        return
    assert file is not None
    keys, window = shown.keys_of(by), length_of(after, "--after")
    try:
        if idle:
            text = shown.idle_text(file, window, usd_per_gpu_hour, as_json=as_json)
        elif keys:
            text = shown.usage_text(file, keys, as_json=as_json)
        else:
            found = usage.usage(use.sample for use in shown.uses_of(file))
            text = _as_json(found) if as_json else _as_table(found)
    except (samples.SamplesError, StoreError, OSError) as error:
        raise Fail(_wording(error), BAD_INPUT) from None
    typer.echo(text)


def _usage_of_history(
    url: str, by: str, since: str | None, until: str | None, *, as_json: bool
) -> str:
    from flopwise import history
    from flopwise.usage import listed

    keys = [name.strip() for name in (by or "team,job").split(",") if name.strip()]
    times = []
    for option, text in (("--from", since), ("--to", until)):
        try:
            times.append(history.moment(text))
        except ValueError:
            message = f"found {text!r}, allowed: a day or a full hour, such as 2026-12-01T13:00"
            raise typer.BadParameter(message, param_hint=option) from None
    return listed(history.usage_of(url, keys, *times), keys, as_json=as_json)


@app.command("import")
def import_samples(
    files: Annotated[
        list[Path] | None, typer.Argument(help="JSON lines, Parquet, or stores.")
    ] = None,
    url: Annotated[str | None, typer.Option("--history", metavar="URL", help=_URL)] = None,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="Read what this one has kept of GPUs.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Of --prometheus; default: an hour before --to.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Of --prometheus; default: now.")
    ] = None,
    step: Annotated[str, typer.Option(help="Of --prometheus: time between samples.")] = "1m",
    token_file: Annotated[
        Path | None, typer.Option(help="Of --prometheus: a file with its bearer token.")
    ] = None,
    ring: Annotated[
        Path | None, typer.Option("--store", help="Of --prometheus: keep what is read here.")
    ] = None,
) -> None:
    """Bring files of samples, or what a Prometheus has kept, into a history.

    A row that comes again counts once. dcgm-exporter's figures are read as ours are.
    """
    from flopwise import history, telemetry_prometheus

    if not files and prometheus is None:
        raise typer.BadParameter("found neither, allowed: files, or --prometheus URL")
    if url is None and (prometheus is None or ring is None or files):
        raise typer.BadParameter("found none, allowed: a URL", param_hint="--history")
    with TemporaryDirectory() as folder:
        read = list(files or ())
        if prometheus is not None:
            kept = ring or Path(folder) / "samples.db"
            times = [_moment(since, "--from"), _moment(until, "--to")]
            rows = telemetry_prometheus.fetch(
                prometheus,
                kept,
                since=times[0],
                until=times[1],
                step=length_of(step, "--step"),
                token_file=token_file,
            )
            say(f"{prometheus}: {rows:,} samples read")
            read.append(kept)
        if url is not None:
            say(history.import_files(read, url))


def _moment(text: str | None, option: str) -> datetime | None:
    from flopwise import history

    try:
        return history.moment(text)
    except ValueError:
        message = f"found {text!r}, allowed: a day or a time, such as 2026-12-01T13:00"
        raise typer.BadParameter(message, param_hint=option) from None


@app.command("compact")
def compact(
    url: Annotated[str, typer.Option("--history", metavar="URL", help=_URL)],
    ring: Annotated[
        Path | None, typer.Argument(metavar="[STORE]", help="The store of this node.")
    ] = None,
    keep_raw: Annotated[
        str | None, typer.Option(help="Drop raw rows that are older, such as 90d.")
    ] = None,
    keep_hourly: Annotated[
        str | None, typer.Option(help="Drop hourly sums that are older, such as 800d.")
    ] = None,
    keep_bytes: Annotated[
        int | None, typer.Option(min=0, help="Drop the oldest raw rows above this size.")
    ] = None,
) -> None:
    """Bring what is new in a store into a history, sum it up by hour, drop what is old.

    Run it each hour. Killed at any moment and run again, it ends where it would have ended. Without
    a store: for a history of many nodes, whose rows come by their own runs.
    """
    from flopwise import history

    raw_age = None if keep_raw is None else length_of(keep_raw, "--keep-raw")
    hourly_age = None if keep_hourly is None else length_of(keep_hourly, "--keep-hourly")
    told = history.compact_store(
        ring, url, keep_raw=raw_age, keep_hourly=hourly_age, keep_bytes=keep_bytes
    )
    typer.echo(told, err=True)


def add_samples(
    at: Iterator[None],
    out: Path | None,
    interval: timedelta = timedelta(seconds=1),
    also: Sequence[collect.Sink] = (),
) -> int:
    """Add a sample of each GPU at each tick of ``at`` to ``out``, if any, and ``also``; how many.

    Raises `nvml.NvmlUnavailableError` where there is no driver, `nvml.DriverLostError` where it is
    gone for too long.
    """
    causes = nvml.Causes(say)
    driver = nvml.Driver(node=socket.gethostname(), causes=causes, tensor_units=tensor_units)
    budget = interval.total_seconds() * collect.BUDGET_FRACTION
    collector = collect.Collector(driver, budget_seconds=budget)

    def keep(tick: collect.Tick) -> None:
        if out is not None:
            samples.append(out, tick.samples)

    return collect.run(collector, at, [Teller(), keep, *also], causes)


class Teller:
    """Says on standard error which GPUs can't be read, whenever that changes."""

    def __init__(self) -> None:
        self._unreadable: tuple[nvml.Unreadable, ...] = ()
        self._failure: str | None = None

    def __call__(self, tick: collect.Tick) -> None:
        if tick.failure != self._failure:
            self._failure = tick.failure
            say(f"the driver is lost: {tick.failure}" if tick.failure else "the driver is back")
        if tick.failure is None and tick.unreadable != self._unreadable:
            self._unreadable = tick.unreadable
            for gpu in tick.unreadable:
                say(f"GPU {gpu.index} cannot be read: {gpu.reason}")
            if not tick.unreadable:
                say("every GPU can be read again")


def say(line: str) -> None:
    """A line for whoever watches, on standard error."""
    typer.echo(line, err=True)


def tensor_units() -> dict[str, nvml.TensorUnits]:
    """Of the catalog's accelerators, by the name that NVML gives them."""
    from cost_models.accelerators import accelerators

    return {
        one.nvml_name: nvml.TensorUnits(sms=one.sms, flops_per_clock=one.flops_per_clock)
        for one in accelerators().values()
        if one.nvml_name and one.flops_per_clock is not None
    }


def _wording(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _as_json(found: Sequence[usage.GpuUsage]) -> str:
    return json.dumps(
        {"gpus": [camel(asdict(one)) for one in found]}, indent=2, default=datetime.isoformat
    )


def camel(values: dict[str, Any]) -> dict[str, Any]:
    """The fields as JSON has them."""
    return {re.sub(r"_(\w)", lambda m: m[1].upper(), name): v for name, v in values.items()}


_COLUMNS = ("NODE", "GPU", "NAME", "GPU-HOURS", "ACTIVE", "UTILISATION", "ENERGY", "GAPS")


def _as_table(found: Sequence[usage.GpuUsage]) -> str:
    return table([_COLUMNS, *(_row(one) for one in found)])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, the first of them the heading; what would move a cursor is replaced."""
    rows = [[plain(cell) for cell in row] for row in rows]
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
