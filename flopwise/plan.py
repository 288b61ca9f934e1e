"""``flopwise plan``: which job runs where and when, at what cost, how near the best, and why not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.errors import INFEASIBLE, OUT_OF_TIME, Fail

if TYPE_CHECKING:
    from planner.options import Horizon
    from planner.planfile import PlanFile
    from planner.problem import Problem
    from planner.solve.clock import Step


class Output(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(text: str) -> timedelta:
    """``168h``, ``7d``, ``30m`` as a length of time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found or float(found[1]) == 0:
        raise typer.BadParameter(f"found {text!r}, allowed: a length above 0 such as 90m, 168h, 7d")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def slot_length(text: str) -> timedelta | None:
    """``auto``, or a length of whole seconds."""
    if text == "auto":
        return None
    length = duration(text)
    if length.total_seconds() % 1:
        raise typer.BadParameter(f"found {text!r}, allowed: auto, or whole seconds")
    return length


def instant(text: str) -> datetime:
    """An ISO 8601 time; UTC where it names no zone."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"found {text!r}, allowed: a time such as 2026-12-07T00:00Z") from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def plan(
    files: Annotated[
        list[str],
        typer.Option("-f", "--file", metavar="FILE", help="Manifests: files, folders, - for stdin."),
    ],
    horizon: Annotated[str, typer.Option(help="Everything ends within it: 168h, 7d.")] = "168h",
    start: Annotated[
        str,
        typer.Option(metavar="TIME", help="Default: the earliest start a job names, else this hour."),
    ] = "",
    slot: Annotated[
        str, typer.Option(help="The clock's step: 1h, 5m; auto: the coarsest that rounds up by 0.1 %.")
    ] = "auto",
    time_limit: Annotated[str, typer.Option(help="Stop then with the best plan found.")] = "60s",
    gap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop once this gap is proved; 0: at the optimum.")
    ] = 0.005,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Exit 3 where any job is left out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write plan.json here.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How it is printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Plan jobs on pools at the least cost, with a proved gap.

    Prints the plan; exit code 3 where a required job cannot run, 5 where time ran out first.
    """
    from planner.options import Horizon
    from planner.planfile import write_plan

    length = duration(horizon)
    step = slot_length(slot)
    if step is not None and step > length:
        raise typer.BadParameter(f"--slot {slot} is longer than --horizon {horizon}")
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(f"--out {out}: no such folder: {out.parent}")
    made = solved(
        files,
        Horizon(start=instant(start) if start else None, length=length, slot=step),
        seconds=duration(time_limit).total_seconds(),
        gap=gap,
        seed=seed,
    )
    _print(made, output)
    _end(made, require_all)
    if out is not None:
        write_plan(out, made)
        typer.echo(f"written: {out}", err=True)


def solved(
    files: list[str], horizon: Horizon, *, seconds: float, gap: float, seed: int
) -> PlanFile:
    """Read, plan, and set first come, first served beside it."""
    from planner.manifests.read import read
    from planner.options import build
    from planner.planfile import PlanFile
    from planner.solve.clock import Limits
    from planner.solve.pick import solve
    from scheduler.baselines import first_come_first_served

    built = build(read(files, sys.stdin), horizon, datetime.now(UTC))
    for note in built.notes:
        typer.echo(f"note: {note}", err=True)
    problem = built.problem
    made = solve(problem, Limits(seconds=seconds, gap=gap, seed=seed), _listener(problem))
    return PlanFile(problem=problem, plan=made, baseline=first_come_first_served(problem))


def _listener(problem: Problem) -> Callable[[Step], None] | None:
    """A line that tells what is known so far; only where a person watches."""
    if not sys.stderr.isatty():
        return None
    del problem

    def show(step: Step) -> None:
        best = f"${step.best_usd:,.0f}" if step.best_usd < float("inf") else "none yet"
        gap = f"{100 * step.gap_fraction:.2f} %" if step.gap_fraction < float("inf") else "-"
        typer.echo(
            f"\r\x1b[K{step.seconds:5.1f} s  {step.doing}: best {best}, "
            f"bound ${step.bound_usd:,.0f}, gap {gap}",
            err=True,
            nl=False,
        )

    return show


def _print(made: PlanFile, output: Output) -> None:
    from flopwise import plan_text
    from planner.manifests.write import plain_yaml
    from planner.planfile import document

    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)
    if output is Output.JSON:
        typer.echo(json.dumps(document(made), indent=1, allow_nan=False))
    elif output is Output.YAML:
        typer.echo(plain_yaml(document(made)), nl=False)
    elif output is Output.CSV:
        typer.echo(plan_text.as_csv(made), nl=False)
    else:
        typer.echo(plan_text.as_text(made, wide=output is Output.WIDE), nl=False)


def _end(made: PlanFile, require_all: bool) -> None:
    from planner.plan import Status

    plan = made.plan
    if plan.status is Status.INFEASIBLE:
        required = {j.name for j in made.problem.jobs if j.required}
        missing = [u for u in plan.unplaced if u.job in required]
        lines = [f"no feasible plan: {u.job} is required: {u.message}" for u in missing]
        raise Fail("\n".join(lines), INFEASIBLE)
    if plan.status is Status.TIMEOUT:
        raise Fail("out of time with no plan to show: raise --time-limit", OUT_OF_TIME)
    if require_all and plan.unplaced:
        raise Fail(f"{len(plan.unplaced)} jobs are left out, and --require-all asks for none", INFEASIBLE)
