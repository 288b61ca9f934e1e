"""``flopwise explain``: why a job is where it is, what its other ways would cost, what binds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.columns import NONE, counted, dollars, table, timed, without_empty
from flopwise.errors import NOT_FOUND, Fail

if TYPE_CHECKING:
    from planner.explain import Expected, Explanation, Way
    from planner.planfile import PlanFile
    from planner.problem import Grid

MOST_WAYS = 8  # of a plain table; -o wide has all
MOST_CLOSED = 6
HEAD = (
    *("WAY", "POOL", "GPUS", "START", "END", "MONEY", "DATA", "LATENESS"),
    *("CAPACITY", "TOTAL", "PLAN COSTS", "FITS"),
)


class Output(StrEnum):
    """How the explanation is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def explain(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job of the plan.")],
    file: Annotated[Path, typer.Option("-f", "--file", metavar="PLAN", help="A plan.json.")] = Path(
        "plan.json"
    ),
    output: Annotated[Output, typer.Option("-o", "--output", help="How it is printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Say why a job is where it is: its other ways, what each would cost, and what binds it.

    CAPACITY is what the job takes from others, at the plan's shadow prices. PLAN COSTS is what the
    whole plan would cost more with the job there and nobody else moved.
    """
    from planner.explain import UnknownJob
    from planner.explain import explain as ask
    from planner.manifests.write import plain_yaml

    made = proved_plan(file)
    try:
        found = ask(made.problem, made.plan, job)
    except UnknownJob:
        raise Fail(_unknown(file, job, made), NOT_FOUND) from None
    if output is Output.JSON:
        typer.echo(json.dumps(document(made.problem.grid, found), indent=1, allow_nan=False))
    elif output is Output.YAML:
        typer.echo(plain_yaml(document(made.problem.grid, found)), nl=False)
    else:
        typer.echo(as_text(made.problem.grid, found, wide=output is Output.WIDE), nl=False)


def proved_plan(file: Path) -> PlanFile:
    """A plan file whose plan holds. Raises PlanFileError for another."""
    from planner.check import violations
    from planner.planfile import PlanFileError, read_plan

    made = read_plan(file)
    if wrong := violations(made.problem, made.plan):
        raise PlanFileError(f"{file}: answer: {wrong[0]}")
    return made


def _unknown(file: Path, job: str, made: PlanFile) -> str:
    from cost_models.names import nearest

    near = nearest(job, made.problem.job_by_name)
    hint = f", nearest: {', '.join(near)}" if near else ""
    return f"{file}: found no job {job!r}{hint}"


# -- for scripts -----------------------------------------------------------------------------------


def document(grid: Grid, found: Explanation) -> dict[str, Any]:
    """The explanation as JSON has it."""
    return {
        "job": found.job,
        "why": found.why,
        "plan": _plain(grid, found.now) if found.now else None,
        "ways": [_plain(grid, way) for way in found.ways],
        "binds": [
            {"what": b.what.value, "name": b.name, "message": b.message} for b in found.binds
        ],
        "closed": [
            {"pool": c.pool, "reason": c.reason, "message": c.message} for c in found.closed
        ],
        "expected": _expected(grid, found.expected) if found.expected else None,
    }


def _plain(grid: Grid, way: Way) -> dict[str, Any]:
    return {
        "pool": way.pool,
        "gpus": way.gpus,
        "layout": way.layout,
        "start": grid.time(way.start).isoformat(),
        "end": grid.time(way.end).isoformat(),
        "costUsd": way.money_usd,
        "egressUsd": way.egress_usd,
        "latenessUsd": way.lateness_usd,
        "capacityUsd": way.capacity_usd,
        "totalUsd": way.total_usd,
        "fits": way.fits,
        "planChangeUsd": way.change_usd,
        "displaces": list(way.displaces),
        "binds": [b.message for b in way.binds],
    }


def _expected(grid: Grid, expected: Expected) -> dict[str, Any]:
    start = None if expected.start is None else grid.time(expected.start).isoformat()
    return {"start": start, "pool": expected.pool, "message": expected.message}


# -- for people ------------------------------------------------------------------------------------


def as_text(grid: Grid, found: Explanation, *, wide: bool) -> str:
    """The explanation in sections."""
    sections = [_headline(grid, found), _ways(grid, found, wide), _binds(found)]
    return "\n".join(s for s in (*sections, _closed(found, wide)) if s)


def _headline(grid: Grid, found: Explanation) -> str:
    now = found.now
    if now is None:
        lines = [f"{found.job} is not in the plan.", found.why]
        if found.expected is not None:
            lines.append(_when(grid.time, found.expected))
    else:
        gpus = counted(now.gpus, "GPU")
        span = f"{timed(grid.time(now.start))} to {timed(grid.time(now.end))} UTC"
        lines = [f"{found.job} runs on {now.pool}, {gpus}, {span}.", found.why]
    return "".join(f"{line}\n" for line in lines)


def _when(time: Callable[[int], datetime], expected: Expected) -> str:
    if expected.start is None:
        return f"As the plan is, it would not start: {expected.message}."
    start = timed(time(expected.start))
    return f"As the plan is, it would fit first {start} UTC on {expected.pool}: {expected.message}."


def _ways(grid: Grid, found: Explanation, wide: bool) -> str:
    shown = found.ways if wide else found.ways[:MOST_WAYS]
    lines = [[*HEAD, "LAYOUT"] if wide else list(HEAD)]
    lines += [_line(grid, "this plan", found.now, wide)] if found.now else []
    lines += [_line(grid, f"other {i}", way, wide) for i, way in enumerate(shown, 1)]
    if len(lines) == 1:
        return ""
    hidden = len(found.ways) - len(shown)
    more = f"… and {counted(hidden, 'more way')} (-o wide has all)\n" if hidden else ""
    return table(without_empty(lines)) + more


def _line(grid: Grid, name: str, way: Way, wide: bool) -> list[str]:
    line = [
        name,
        way.pool,
        str(way.gpus),
        timed(grid.time(way.start)),
        timed(grid.time(way.end)),
        dollars(way.money_usd),
        dollars(way.egress_usd) if way.egress_usd else NONE,
        dollars(way.lateness_usd) if way.lateness_usd else NONE,
        dollars(way.capacity_usd) if way.capacity_usd else NONE,
        dollars(way.total_usd),
        _signed(way.change_usd),
        _fits(way, wide),
    ]
    return [*line, way.layout or NONE] if wide else line


def _signed(usd: float | None) -> str:
    if usd is None:
        return NONE
    return f"+{dollars(usd)}" if usd >= 0.005 else dollars(usd)


def _fits(way: Way, wide: bool) -> str:
    if way.fits:
        return "yes"
    if not way.displaces:
        return "no"
    shown = way.displaces if wide else way.displaces[:2]
    more = len(way.displaces) - len(shown)
    return f"without {', '.join(shown)}" + (f" and {more} more" if more else "")


def _binds(found: Explanation) -> str:
    lines = [["BINDS", "WHY"], *([b.what.value, b.message] for b in found.binds)]
    return table(lines) if found.binds else ""


def _closed(found: Explanation, wide: bool) -> str:
    shown = found.closed if wide else found.closed[:MOST_CLOSED]
    lines = [["NO WAY ON", "REASON", "WHY"], *([c.pool, c.reason, c.message] for c in shown)]
    hidden = len(found.closed) - len(shown)
    more = f"… and {counted(hidden, 'more')} (-o wide has all)\n" if hidden else ""
    return table(lines) + more if found.closed else ""
