"""``flopwise plan``: which job runs where and when, at what cost, how near the best, why not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flopwise.errors import BAD_INPUT, INFEASIBLE, INTERRUPTED, OUT_OF_TIME, Fail
from flopwise.interrupt import interruptible, leave
from flopwise.progress import Progress

if TYPE_CHECKING:
    from planner.planfile import PlanFile
    from planner.problem import Problem
    from planner.question import Horizon
    from planner.scenarios import Ray
    from planner.solve.clock import Stop

T = TypeVar("T")


class Output(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


class On(StrEnum):
    """Where the work of solving is done."""

    HERE = "here"
    RAY = "ray"


HorizonOption = Annotated[
    str, typer.Option(metavar="LENGTH", help="Everything ends within it: 168h, 7d.")
]
StartOption = Annotated[
    str,
    typer.Option(metavar="TIME", help="Default: the earliest start a job names, else this hour."),
]
SlotOption = Annotated[
    str,
    typer.Option(
        metavar="LENGTH",
        help="The clock's step: 1h, 5m; auto: the coarsest that rounds work up by 0.1 %.",
    ),
]
TimeLimitOption = Annotated[
    str, typer.Option(metavar="LENGTH", help="Stop then with the best plan found.")
]
GapOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="FRACTION",
        help="Stop once this gap is proved; 0: at the optimum. "
        "Default: below 0.01, once the search has stalled.",
    ),
]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, help="Of the search.")]

OnOption = Annotated[On, typer.Option("--on", help="Solve here, or on a Ray.")]
AddressOption = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", help="With --on ray: a given Ray; default: one of our own."),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = timedelta(days=3660)
_MOST_SLOTS = 1_000_000


def duration(text: str) -> timedelta:
    """``168h``, ``7d``, ``30m`` as a length of time, ten years at most.

    Raises typer.BadParameter for another text.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise typer.BadParameter(
            f"found {text!r}, allowed: a length above 0 such as 90m, 168h, 7d, at most ten years"
        )
    return timedelta(seconds=seconds)


def slot_length(text: str) -> timedelta | None:
    """``auto`` as None, else a length of whole seconds."""
    if text == "auto":
        return None
    length = duration(text)
    if length.total_seconds() % 1:
        raise typer.BadParameter(f"found {text!r}, allowed: auto, or whole seconds")
    return length


def instant(text: str) -> datetime | None:
    """An ISO 8601 time from 1970 to 2999, UTC where it names no zone; None for no text.

    Raises typer.BadParameter for another text.
    """
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or not 1970 <= when.year < 3000:
        raise typer.BadParameter(f"found {text!r}, allowed: a time such as 2026-12-07T00:00Z")
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def plan(
    files: Annotated[
        list[str],
        typer.Option(
            "-f", "--file", metavar="FILE", help="Manifests: files, folders, - for stdin."
        ),
    ],
    horizon: HorizonOption = "168h",
    start: StartOption = "",
    slot: SlotOption = "auto",
    time_limit: TimeLimitOption = "60s",
    gap: GapOption = None,
    seed: SeedOption = 0,
    on: OnOption = On.HERE,
    address: AddressOption = "",
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Exit 3 where any job is left out.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `calibrate` wrote: speeds as they were measured."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the plan here, for apply and report."),
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How it is printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Plan jobs on pools at the least cost, with a proved gap.

    Prints the plan; exit code 3 where a required job cannot run, 5 where time ran out first.
    Ctrl-C ends the search and prints the best plan found so far; a second one leaves at once.
    """
    asked = horizon_of(horizon, start, slot)
    seconds = seconds_of(time_limit)
    refuse_target("--out", out)
    ray = ray_of(on, address)
    made = solved(
        files, asked, seconds=seconds, gap=gap, seed=seed, ray=ray, calibration=calibration
    )
    failure = _failure(made, require_all)
    if out is not None and failure is None:
        _write(out, made)
    _print(made, output)
    if failure is not None:
        raise failure
    if made.plan.stopped:
        typer.echo("stopped by Ctrl-C: this is the best plan found until then", err=True)
        leave(0)


def _option(name: str, parse: Callable[[str], T], text: str) -> T:
    """``parse(text)``; its error names the option."""
    try:
        return parse(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=name) from None


def ray_of(on: On, address: str) -> Ray | None:
    """Where to, from the options ``--on`` and ``--address``; None for here."""
    from planner.scenarios import Ray

    if on is On.RAY:
        return Ray(address=address)
    if address:
        raise typer.BadParameter("allowed with --on ray only", param_hint="--address")
    return None


def seconds_of(time_limit: str) -> float:
    """The option ``--time-limit``."""
    return _option("--time-limit", duration, time_limit).total_seconds()


def horizon_of(horizon: str, start: str, slot: str) -> Horizon:
    """The time to plan over, from the options of that name."""
    from planner.question import Horizon

    length = _option("--horizon", duration, horizon)
    begin = _option("--start", instant, start)
    step = _option("--slot", slot_length, slot)
    if step is not None and not 1 <= length / step <= _MOST_SLOTS:
        raise typer.BadParameter(
            f"found {slot!r}, allowed: 1 to {_MOST_SLOTS:,} of them in --horizon {horizon}",
            param_hint="--slot",
        )
    return Horizon(start=begin, length=length, slot=step)


def refuse_target(option: str, out: Path | None) -> None:
    """Say before the work, not after it, that a file could not be written."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise Fail(f"{option}: {out}: no such folder: {out.parent}", BAD_INPUT)
    if out.is_dir():
        raise Fail(f"{option}: {out}: is a folder, allowed: a file", BAD_INPUT)


def _write(out: Path, made: PlanFile) -> None:
    from planner.planfile import write_plan

    try:
        write_plan(out, made)
    except OSError as error:
        raise Fail(f"--out: {out}: {error.strerror}", BAD_INPUT) from None
    typer.echo(f"wrote {out}", err=True)


def solved(
    files: list[str],
    horizon: Horizon,
    *,
    seconds: float,
    gap: float | None,
    seed: int,
    ray: Ray | None = None,
    calibration: Path | None = None,
) -> PlanFile:
    """Read, plan, and set first come, first served beside it."""
    from planner.collector import kept
    from planner.planfile import PlanFile
    from planner.scenarios import ScenarioError
    from planner.solve.clock import Limits, Stop
    from planner.solve.fleet.engine import is_fleet
    from planner.solve.pick import solve
    from scheduler.baselines import first_come_first_served, in_reach

    problem = question(files, horizon, calibration)
    if ray is not None and not is_fleet(problem):
        typer.echo("note: too small to be spread over a Ray: solved here", err=True)
    limits = Limits(seconds=seconds, gap=gap, seed=seed)
    stop, progress = Stop(), Progress(seconds)

    def work() -> PlanFile:
        made = solve(problem, limits, progress.hear, stop, ray)
        rival = first_come_first_served(problem) if in_reach(problem) else None
        return PlanFile(problem=problem, plan=made, baseline=rival)

    if not in_reach(problem):
        typer.echo("note: too large to set first come, first served beside it", err=True)
    try:
        with kept():
            return watched(work, stop, progress)
    except ScenarioError as error:
        raise Fail(str(error)) from None


def question(files: list[str], horizon: Horizon, calibration: Path | None = None) -> Problem:
    """The problem that manifests state; what is not used of them is said.

    ``calibration``: a file of measured speeds that correct the modelled ones.
    """
    from flopwise.calibrate import calibration_of
    from planner.manifests.read import read
    from planner.question import build

    measured = calibration_of(calibration)
    built = build(read(files, sys.stdin), horizon, datetime.now(UTC), measured)
    for note in built.notes:
        typer.echo(f"note: {note}", err=True)
    return built.problem


def watched(work: Callable[[], T], stop: Stop, progress: Progress) -> T:
    """``work()`` with its progress shown, and stopped at the first Ctrl-C."""

    def ask_to_stop() -> None:
        progress.stopping = True
        stop.set()

    try:
        return interruptible(work, stop=ask_to_stop, tick=progress.draw)
    finally:
        progress.clear()


def _print(made: PlanFile, output: Output) -> None:
    from flopwise import plan_text
    from planner.manifests.write import plain_yaml
    from planner.planfile import document

    if output is Output.JSON:
        typer.echo(json.dumps(document(made), indent=1, allow_nan=False))
    elif output is Output.YAML:
        typer.echo(plain_yaml(document(made)), nl=False)
    elif output is Output.CSV:
        typer.echo(plan_text.as_csv(made), nl=False)
    else:
        typer.echo(plan_text.as_text(made, wide=output is Output.WIDE), nl=False)


def _failure(made: PlanFile, require_all: bool) -> Fail | None:
    """What makes the plan no success, if anything does."""
    from planner.plan import Status

    plan = made.plan
    if plan.status is Status.INFEASIBLE:
        required = {j.name for j in made.problem.jobs if j.required}
        missing = [u for u in plan.unplaced if u.job in required]
        lines = [f"no feasible plan: {u.job} is required: {u.message}" for u in missing]
        return Fail("\n".join(lines), INFEASIBLE)
    if plan.status is Status.TIMEOUT and plan.stopped:
        return Fail("stopped by Ctrl-C before a plan was found", INTERRUPTED)
    if plan.status is Status.TIMEOUT:
        return Fail("out of time with no plan to show: raise --time-limit", OUT_OF_TIME)
    if require_all and plan.unplaced:
        left = len(plan.unplaced)
        jobs = "1 job is" if left == 1 else f"{left} jobs are"
        return Fail(f"{jobs} left out, and --require-all asks for none", INFEASIBLE)
    return None
