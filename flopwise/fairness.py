"""``flopwise fairness``: what each queue's weight would give it, and what a plan gives it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.columns import NONE, table
from flopwise.errors import NOT_FOUND, Fail
from flopwise.explain import proved_plan

if TYPE_CHECKING:
    from planner.queue_shares import QueueShare

HEAD: tuple[str, ...] = ("QUEUE", "JOBS", "WEIGHT", "FAIR", "PLAN", "SLOWEST FAIR", "SLOWEST PLAN")


class Output(StrEnum):
    """How the shares are printed."""

    TABLE = "table"
    JSON = "json"


def fairness(
    file: Annotated[Path, typer.Option("-f", "--file", metavar="PLAN", help="A plan.json.")] = Path(
        "plan.json"
    ),
    output: Annotated[Output, typer.Option("-o", "--output", help="How it is printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Hold a plan's queues against weighted max-min fairness over throughput.

    FAIR and PLAN are a queue's parts of all GPUs times speed, WEIGHT its part of all weight. Speed
    is a job's work over its hours in the system; 1.00 is as fast as with an equal part of each GPU
    type all the time. FAIR lets all batch jobs run at once and makes the least speed by weight the
    greatest, then the next, and so on.
    """
    from planner.queue_shares import contest_of, shares_by_queue
    from planner.solve.max_min import fill

    made = proved_plan(file)
    contest = contest_of(made.problem)
    if contest is None:
        raise Fail(
            f"{file}: nothing to share: no batch job fits the GPUs that are there at the start",
            NOT_FOUND,
        )
    rows = shares_by_queue(made.problem, made.plan, contest, fill(contest))
    if output is Output.JSON:
        typer.echo(json.dumps({"queues": [document(row) for row in rows]}, indent=1))
    else:
        typer.echo(as_text(rows), nl=False)


def document(row: QueueShare) -> dict[str, Any]:
    """A queue's shares for scripts."""
    return {
        "queue": row.queue,
        "jobs": row.jobs,
        "weightFraction": row.weight_fraction,
        "fairFraction": row.fair_fraction,
        "planFraction": row.plan_fraction,
        "leastFairSpeed": row.least_fair_speed,
        "leastPlanSpeed": row.least_plan_speed,
    }


def as_text(rows: Sequence[QueueShare]) -> str:
    """A line a queue."""
    lines = [HEAD]
    for row in rows:
        parts = (row.weight_fraction, row.fair_fraction, row.plan_fraction)
        speeds = (row.least_fair_speed, row.least_plan_speed)
        cells = (*(f"{part:.1%}" for part in parts), *(f"{speed:.2f}" for speed in speeds))
        lines.append((row.queue or NONE, f"{row.jobs:,}", *cells))
    return table(lines)
