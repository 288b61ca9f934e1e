"""``flopwise mix``: the cheapest GPUs that carry a stream of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.errors import INFEASIBLE, Fail
from flopwise.plan import duration

if TYPE_CHECKING:
    from planner.serving import Mix, Workload

HEADINGS = ("GPU", "count", "$/h each", "$/h", "requests/s")


class Output(StrEnum):
    """How the mix is printed."""

    TABLE = "table"
    JSON = "json"


def mix(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Mélange's JSON.")],
    time_limit: Annotated[
        str, typer.Option(metavar="LENGTH", help="Stop then with the best mix found.")
    ] = "30s",
    output: Annotated[Output, typer.Option("-o", "--output", help="How it is printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Choose how many GPUs of which types carry a workload at the least cost, with a proof.

    FILE is in Mélange's format: gpu_info {name: {cost, tputs}}, workload_distribution,
    total_request_rate. The requests of one size may go to several types. Exit code 3 where no type
    serves a size that is asked for.
    """
    from planner.convert.melange import read_melange
    from planner.solve.mix import cheapest

    seconds = duration(time_limit).total_seconds()
    workload = read_melange(file).workload
    found = cheapest(workload, seconds=seconds)
    if found is None:
        raise Fail("\n".join(_unserved(file, workload)), INFEASIBLE)
    if output is Output.JSON:
        typer.echo(json.dumps(document(workload, found), indent=1, allow_nan=False))
    else:
        typer.echo(as_text(workload, found), nl=False)


def document(workload: Workload, mix: Mix) -> dict[str, Any]:
    """The mix for another program: GPUs and, by bucket, the part of it that each type serves."""
    names = [offer.name for offer in workload.offers]
    return {
        "gpus": dict(zip(names, mix.gpus, strict=True)),
        "usdPerHour": mix.usd_per_hour,
        "boundUsdPerHour": mix.bound_usd_per_hour,
        "gapFraction": mix.gap_fraction,
        "split": {
            bucket: {name: part for name, part in zip(names, parts, strict=True) if part}
            for bucket, parts in zip(workload.buckets, mix.split, strict=True)
        },
    }


def as_text(workload: Workload, mix: Mix) -> str:
    """A line for each type, and the price with what is proved of it."""
    lines = [HEADINGS]
    for o, (offer, count) in enumerate(zip(workload.offers, mix.gpus, strict=True)):
        served = sum(
            rate * parts[o]
            for rate, parts in zip(workload.requests_per_second, mix.split, strict=True)
        )
        usd = offer.usd_per_hour
        cells = (f"{count:,}", f"{usd:,.2f}", f"{count * usd:,.2f}", f"{served:,.2f}")
        lines.append((offer.name, *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in lines
    ]
    proved = f"gap {mix.gap_fraction:.2%}" if mix.gap_fraction else "the least there is, proved"
    return "\n".join([*table, "", f"${mix.usd_per_hour:,.2f} an hour: {proved}", ""])


def _unserved(file: Path, workload: Workload) -> Iterator[str]:
    for bucket in workload.unserved:
        yield f"{file}: no mix: no GPU serves the requests of bucket {bucket}"
