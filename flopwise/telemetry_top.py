"""``flopwise telemetry top``: what the GPUs do now, for whom, and what an hour of it costs."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.errors import BAD_INPUT, Fail
from flopwise.plan import duration, refuse_target

if TYPE_CHECKING:
    from flopwise.live import Choice, Read
    from telemetry.idle import Rule
    from telemetry.live import Now

PROMETHEUS_SECONDS = 10.0  # between two looks at least: it scrapes no oftener
PICTURE = (132, 25)  # columns and lines


def top(
    file: Annotated[
        Path | None,
        typer.Argument(help="A node's store or a samples file; default: this machine's GPUs."),
    ] = None,
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="A cluster's, with dcgm-exporter's figures or ours.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="With --prometheus: a file with its bearer token.")
    ] = None,
    table: Annotated[str, typer.Option(help="gpus, nodes or jobs.")] = "gpus",
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Heading to sort by, such as active; -active.")
    ] = "",
    filter_text: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Only rows that hold it.")
    ] = "",
    idle_only: Annotated[bool, typer.Option("--idle", help="Only what is idle.")] = False,
    after: Annotated[str, typer.Option(help="Idle is what did nothing for so long.")] = "30m",
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Default: the catalog's, of each GPU.")
    ] = None,
    interval: Annotated[str, typer.Option(help="Time between two looks.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print one frame as text, and end.")] = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw one frame to it, and end.")
    ] = None,
) -> None:
    """Show nodes, GPUs and jobs, with the dollars an hour they burn; what is idle is red.

    Keys: g n j choose the table, s r sort, / filters, i shows what is idle, q ends.
    """
    from telemetry.idle import Rule

    refuse_target("--svg", svg)
    rule = Rule(window=_length(after, "--after"))
    choice = _choice(table, sort, filter_text, idle_only)
    seconds = _length(interval, "--interval").total_seconds()
    if prometheus:
        seconds = max(seconds, PROMETHEUS_SECONDS)
    with _fails_plainly(), _reading(file, rule, prometheus, token_file) as read:
        look = _look(read, rule, usd_per_gpu_hour)
        if svg is not None:
            svg.write_text(_shown().picture(look, choice=choice, size=PICTURE), encoding="utf-8")
        elif once or not sys.stdout.isatty():
            from flopwise.live import frame

            typer.echo(frame(look(), choice, datetime.now(UTC)))
        else:
            _shown().show(look, interval_seconds=seconds, choice=choice)


def _look(read: Read, rule: Rule, usd_per_gpu_hour: float | None) -> Callable[[], Now]:
    from flopwise.live import seen

    return lambda: seen(read(), rule, usd_per_gpu_hour)


@contextmanager
def _reading(
    file: Path | None, rule: Rule, prometheus: str, token_file: Path | None
) -> Iterator[Read]:
    """From the file, from a Prometheus, or from the driver of this machine."""
    from flopwise.live import of_file, of_prometheus

    if file is not None and prometheus:
        raise typer.BadParameter("found a file beside it, allowed: one", param_hint="--prometheus")
    if prometheus:
        from telemetry.scrape import Prometheus, ScrapeError

        token = token_file.read_text(encoding="utf-8").strip() if token_file else ""
        source = Prometheus(url=prometheus, token=token)
        try:
            yield of_prometheus(source, rule.window, lambda: datetime.now(UTC))
        except ScrapeError as error:
            raise Fail(str(error)) from None
        return

    if file is not None:
        yield of_file(file, rule.window)
        return
    with _driver(rule) as read:
        yield read


@contextmanager
def _driver(rule: Rule) -> Iterator[Read]:
    from flopwise.live import Window
    from telemetry import collect, nvml
    from telemetry.uses import Use

    causes = nvml.Causes(lambda _line: None)  # a full screen has no room for it
    collector = collect.Collector(nvml.Driver(node=socket.gethostname(), causes=causes))
    window = Window(rule.window)

    def read() -> tuple[Use, ...]:
        tick = collector.tick(datetime.now(UTC))
        window.add(Use(sample=sample) for sample in tick.samples)
        return window.uses()

    collector.start()
    try:
        yield read
    finally:
        collector.stop()


@contextmanager
def _fails_plainly() -> Iterator[None]:
    from telemetry.nvml import DriverLostError, NvmlUnavailableError
    from telemetry.samples import SamplesError
    from telemetry.store import StoreError

    try:
        yield
    except (NvmlUnavailableError, DriverLostError) as error:
        raise Fail(f"{error}; a store or a samples file can be shown instead: name it") from None
    except (SamplesError, StoreError) as error:
        raise Fail(str(error), BAD_INPUT) from None
    except OSError as error:
        raise Fail(f"{error.filename}: {error.strerror}", BAD_INPUT) from None


def _choice(table: str, sort: str, filter_text: str, idle_only: bool) -> Choice:
    from flopwise.live import Choice, Table, titles

    if table not in set(Table):
        allowed = ", ".join(Table)
        raise typer.BadParameter(f"found {table!r}, allowed: {allowed}", param_hint="--table")
    headings = titles(Table(table))
    name = sort.removeprefix("-").upper()
    if name and name not in headings:
        allowed = ", ".join(headings).lower()
        raise typer.BadParameter(f"found {sort!r}, allowed: {allowed}", param_hint="--sort")
    return Choice(
        table=Table(table),
        column=headings.index(name) if name else 0,
        descending=sort.startswith("-"),
        idle_only=idle_only,
        filter_text=filter_text,
    )


def _length(text: str, option: str) -> timedelta:
    try:
        return duration(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None


def _shown() -> ModuleType:
    try:
        from flopwise import top
    except ModuleNotFoundError as error:
        raise Fail(f"needs {error.name}: pip install 'flopwise[telemetry]'; or --once") from None
    return top
