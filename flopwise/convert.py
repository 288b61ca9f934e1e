"""``flopwise convert``: others' jobs, traces and measurements into our manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from planner.convert import CONVERTED_FROM
from planner.manifests.errors import Fault, ManifestErrors, found

POOLS, JOBS = "pools.yaml", "jobs.jsonl"
FORMATS = ("gavel", "openb")
LATER = ("eva", "azure-llm", "sacct", "kueue", "csv")

_NOT_OURS = "exists and was not written by convert; --force overwrites it"
_HEADING = "# Written by flopwise convert"
_GAVEL_HEADING = f"""{_HEADING} gavel.
# USD per GPU-hour: Google Cloud's spot prices of 2020, as the simulator of D. Narayanan et al.,
# Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads, OSDI 2020, has them.
"""
_OPENB_HEADING = f"""{_HEADING} openb.
# Alibaba's trace (Q. Weng et al., Beware of Fragmentation, USENIX ATC 2023) has no prices: each GPU
# is $1 an hour here. It does not disclose its models G2 and G3: A100s of 40 and 80 GB stand in.
"""


def convert(
    source_format: Annotated[
        str, typer.Argument(metavar="FORMAT", help="What the files are: gavel, openb.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Tables or traces; openb: nodes, then pods."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for pools.yaml and jobs.jsonl.")],
    throughputs: Annotated[
        Path | None,
        typer.Option(
            help="Gavel's matrix; default: simulation_throughputs.json near the first file."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of each pool, of one GPU each.")] = 32,
    start: Annotated[
        str, typer.Option(metavar="TIME", help="When a trace begins (UTC).")
    ] = "2026-12-01T00:00:00Z",
    switches: Annotated[
        int,
        typer.Option(
            min=0, help="Gavel's: how often a job may go on from a checkpoint on another type."
        ),
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what others wrote.")] = False,
) -> None:
    """Turn others' jobs, traces and measurements into our manifests.

    gavel: the published throughput matrix with a table of jobs (job,model,gpus,total_steps) or a
    trace, as tasks with their hours on V100, P100 and K80, and a pool of each.

    openb: Alibaba's trace of 2023, the list of nodes and one of pods, as pools and tasks.
    """
    if source_format not in FORMATS:
        raise ManifestErrors([_unknown_format(source_format)])
    begin = _instant(start)
    made = (
        _openb(files, begin)
        if source_format == "openb"
        else _gavel(files, throughputs, nodes, begin, switches)
    )
    texts = {out / name: text for name, text in made.items()}
    others = () if force else tuple(path for path in texts if not _ours(path))
    if others:
        raise ManifestErrors(Fault(place=str(path), message=_NOT_OURS) for path in others)
    for path, text in texts.items():
        _write(path, text)
        typer.echo(f"wrote {path}", err=True)


def _instant(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        message = f"found {found(text)}, allowed: a time such as 2026-12-01T00:00:00Z"
        raise ManifestErrors([Fault(place="convert", path="--start", message=message)]) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _unknown_format(name: str) -> Fault:
    what = "which is not read yet" if name in LATER else "which is no format"
    return Fault(
        place="convert",
        path="FORMAT",
        message=f"found {found(name)}, {what}; allowed: {', '.join(FORMATS)}",
    )


def _gavel(
    files: list[Path], throughputs: Path | None, nodes: int, start: datetime, switches: int
) -> Mapping[str, str]:
    from planner.convert import gavel
    from planner.manifests.write import document, dump

    made = gavel.jobs(files, throughputs=throughputs, start=start, switches=switches)
    jobs = [document(job) for job in made]
    return {
        POOLS: _GAVEL_HEADING + dump(gavel.pools(nodes)),
        JOBS: "".join(f"{json.dumps(job)}\n" for job in jobs),
    }


def _openb(files: list[Path], start: datetime) -> Mapping[str, str]:
    from planner.convert import openb
    from planner.manifests.write import document, dump

    if len(files) != 2:
        message = f"found {len(files)} files, allowed: the list of nodes, then one of pods"
        raise ManifestErrors([Fault(place="convert", path="FILE", message=message)])
    pools = openb.pools(openb.read_nodes(files[0]))
    pods = openb.read_pods(files[1])
    if idle := sum(not pod.gpus for pod in pods):
        typer.echo(f"left out {idle} pods that ask for no GPU", err=True)
    jobs = [document(job) for job in openb.jobs(pods, start=start)]
    return {
        POOLS: _OPENB_HEADING + dump(pools),
        JOBS: "".join(f"{json.dumps(job)}\n" for job in jobs),
    }


def _ours(path: Path) -> bool:
    """Whether nothing is lost by writing ``path``: it is not there, or convert wrote it."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ManifestErrors([Fault(place=str(path), message=_reason(error))]) from error
    return first.startswith(_HEADING) or CONVERTED_FROM in first


def _write(path: Path, text: str) -> None:
    """All of it or nothing: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ManifestErrors([Fault(place=str(path), message=_reason(error))]) from error


def _reason(error: OSError) -> str:
    return error.strerror or "cannot be read or written"
