"""``flopwise apply``: carry a plan out on Ray."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.errors import FAILED
from flopwise.jobs import (
    AddressOption,
    Output,
    OutputOption,
    StateOption,
    fails_plainly,
    print_rows,
    print_views,
    say,
    world_of,
)

if TYPE_CHECKING:
    from planner.planfile import PlanFile
    from scheduler.executor.executor import Options
    from scheduler.executor.launches import Launch


class DryRun(StrEnum):
    """How far to go."""

    NONE = "none"
    CLIENT = "client"  # say what would be started


def apply(
    file: Annotated[Path, typer.Option("-f", "--file", metavar="PLAN", help="A plan.json.")],
    speed: Annotated[
        float, typer.Option(metavar="N", help="Plan seconds in a real second; 1: the wall clock.")
    ] = 1.0,
    retries: Annotated[int, typer.Option(min=0, help="New starts after a crash, each job.")] = 2,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Run small CPU programs in place of the jobs.")
    ] = False,
    keep_ray: Annotated[
        bool, typer.Option("--keep-ray", help="Leave the local Ray running at the end.")
    ] = False,
    address: AddressOption = "",
    state_dir: StateOption = None,
    output: OutputOption = Output.TABLE,
    dry_run: Annotated[DryRun, typer.Option(help="client: say what would be started.")] = (
        DryRun.NONE
    ),
) -> None:
    """Start the jobs of a plan on Ray, in its order, on the nodes that it names.

    Ends when all have ended: 0 where every job succeeded, else 1. Killed or cut off, it goes on
    where it was when it is called again with the same plan and options; the jobs run on meanwhile.
    """
    with fails_plainly():
        from scheduler.executor.executor import Options, plan_launches

        options = Options(
            speed=_positive(speed),
            retries=retries,
            stand_in=stand_in,
            keep_ray=keep_ray,
            address=address,
            environment=os.environ,
        )
        plan = _true_plan(file)
        made = plan_launches(plan.problem, plan.plan, options, Path.cwd())
        if dry_run is DryRun.CLIENT:
            print_rows([_row(launch) for launch in made], output)
        elif not _carried_out(plan, options, state_dir, output):
            raise typer.Exit(FAILED)


def _carried_out(plan: PlanFile, options: Options, state_dir: Path | None, output: Output) -> bool:
    """Whether every job succeeded."""
    from scheduler.executor.control import views_of
    from scheduler.executor.executor import apply_plan
    from scheduler.executor.records import ENDED_WELL

    if options.stand_in:
        say("stand-ins: small CPU programs run in place of the jobs, and no GPU is used")
    if options.speed != 1:
        say(f"compressed time: an hour of the plan takes {3600 / options.speed:g} s")
    world = world_of(state_dir, lambda: datetime.now(UTC), time.sleep)
    run = apply_plan(plan.problem, plan.plan, options, world, Path.cwd())
    print_views(views_of(run), output)
    return all(record.outcome in ENDED_WELL for record in run.records.values())


def _true_plan(file: Path) -> PlanFile:
    from planner.check import violations
    from planner.planfile import read_plan
    from scheduler.executor.errors import BadRequestError

    plan = read_plan(file)
    if wrong := violations(plan.problem, plan.plan):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadRequestError(f"{file}: not a true plan: {wrong[0]}{more}")
    return plan


def _positive(speed: float) -> float:
    if not 0 < speed < float("inf"):
        raise typer.BadParameter(f"found {speed:g}, allowed: a number above 0")
    return speed


def _row(launch: Launch) -> dict[str, str | float]:
    return {
        "name": launch.name,
        "pool": launch.pool,
        "gpus": launch.gpus,
        "nodes": ",".join(node for node, _ in launch.gpu_milli),
        "start": launch.start.isoformat(),
        "end": launch.end.isoformat(),
        "after": ",".join(launch.after),
        "entrypoint": launch.entrypoint,
    }
