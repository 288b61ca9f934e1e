"""``flopwise whatif``: what changes of fleet, price or demand would make of a plan."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.columns import NONE, dollars, table, without_empty
from flopwise.errors import BAD_INPUT, FAILED, Fail
from flopwise.explain import proved_plan
from flopwise.interrupt import leave
from flopwise.plan import (
    AddressOption,
    GapOption,
    HorizonOption,
    On,
    OnOption,
    SeedOption,
    SlotOption,
    StartOption,
    TimeLimitOption,
    horizon_of,
    question,
    ray_of,
    refuse_target,
    seconds_of,
    watched,
)
from flopwise.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cost_models.report import Row
    from planner.plan import Plan
    from planner.problem import Problem
    from planner.question import Horizon
    from planner.scenarios import Ray
    from planner.solve.clock import Limits
    from planner.whatif import Outcome, Range

BASE = "as it is"
MOST_NAMES = 3


class Output(StrEnum):
    """How the answers are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def whatif(
    files: Annotated[
        list[str],
        typer.Option("-f", "--file", metavar="FILE", help="Manifests, or one plan.json."),
    ],
    change: Annotated[
        list[str],
        typer.Option(
            "--change",
            metavar="CHANGE",
            help="A scenario: pool/NAME.nodes+=8; several changes are joined by commas. "
            "Fields: pool nodes, price; queue limit.ACCELERATOR (or guaranteed, lendable), budget; "
            "job demand, deadline, due, unplaced.",
        ),
    ],
    horizon: HorizonOption = "168h",
    start: StartOption = "",
    slot: SlotOption = "auto",
    time_limit: TimeLimitOption = "60s",
    gap: GapOption = None,
    seed: SeedOption = 0,
    first_order: Annotated[
        bool, typer.Option("--first-order", help="Only what the shadow prices say: no new solve.")
    ] = False,
    on: OnOption = On.HERE,
    address: AddressOption = "",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the answers into an HTML file.")
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How they are printed.")] = (
        Output.TABLE
    ),
) -> None:
    """Say what changes of the fleet, of prices or of demand would make of the plan.

    FIRST ORDER is what the plan's shadow prices say at once; the rest comes from planning anew with
    the same seed and limits. LEAST CHANGES BY is proved: between these two lies the change of the
    least cost. Where -f is a plan.json, its problem and its plan are the ones compared with.
    """
    from planner.changes import ChangeError, apply, parse
    from planner.solve.clock import Limits
    from planner.whatif import outcomes

    ray = ray_of(on, address)
    asked, seconds = horizon_of(horizon, start, slot), seconds_of(time_limit)
    refuse_target("--plot", plot)
    try:
        scenarios = [parse(text) for text in change]
        problem, base = _base(files, asked)
        changed = [] if first_order else [apply(problem, s) for s in scenarios]
        todo = changed if base else [problem, *changed]
        plans = _solved(todo, Limits(seconds=seconds, gap=gap, seed=seed), ray, base)
        base, *plans = [base, *plans] if base else plans
        found = outcomes(problem, base, scenarios, plans)
    except ChangeError as error:
        raise Fail(str(error), BAD_INPUT) from None
    _print(base, found, output)
    if plot is not None:
        _draw(base, found, plot)
    if base.stopped or len(plans) < len(changed) or any(p.stopped for p in plans):
        typer.echo("stopped by Ctrl-C: these are the answers until then", err=True)
        leave(0)


def _base(files: list[str], horizon: Horizon) -> tuple[Problem, Plan | None]:
    """The problem, with its plan where that is what was given."""
    from planner.planfile import is_plan

    if len(files) == 1 and is_plan(files[0]):
        made = proved_plan(Path(files[0]))
        return made.problem, made.plan
    return question(files, horizon), None


def _solved(
    problems: Sequence[Problem], limits: Limits, ray: Ray | None, known: Plan | None
) -> list[Plan]:
    """A plan for each problem; fewer where Ctrl-C stopped it."""
    from planner.scenarios import ScenarioError, solve_here, solve_on
    from planner.solve.clock import Stop

    if not problems:
        return []
    if ray is not None:
        try:
            return solve_on(ray, problems, limits, known)
        except ScenarioError as error:
            raise Fail(str(error), FAILED) from None
    stop, progress = Stop(), Progress(limits.seconds * len(problems))
    return watched(
        lambda: list(solve_here(problems, limits, progress.hear, stop, known)), stop, progress
    )


# -- for scripts -----------------------------------------------------------------------------------


def _print(base: Plan, found: Sequence[Outcome], output: Output) -> None:
    from planner.manifests.write import plain_yaml

    if output is Output.JSON:
        typer.echo(json.dumps(document(base, found), indent=1, allow_nan=False))
    elif output is Output.YAML:
        typer.echo(plain_yaml(document(base, found)), nl=False)
    else:
        typer.echo(as_text(base, found, wide=output is Output.WIDE), nl=False)


def document(base: Plan, found: Sequence[Outcome]) -> dict[str, Any]:
    """The answers as JSON has them."""
    return {"base": _plain(base), "scenarios": [_scenario(outcome) for outcome in found]}


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "status": plan.status.value,
        "objectiveUsd": plan.costs.objective,
        "boundUsd": plan.bound.usd,
        "gapFraction": plan.gap_fraction if math.isfinite(plan.gap_fraction) else None,
        "costUsd": plan.costs.money,
        "movingUsd": plan.costs.moving,
        "latenessUsd": plan.costs.lateness,
        "notRunningUsd": plan.costs.not_running,
        "placed": len({s.job for s in plan.segments}),
        "unplaced": [u.job for u in plan.unplaced],
        "solveSeconds": plan.solve_seconds,
    }


def _scenario(outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.first_order or (None, None)
    answer: dict[str, Any] = {
        "scenario": outcome.scenario.name,
        "firstOrderUsdLow": low,
        "firstOrderUsdHigh": high,
        "plan": None,
    }
    if outcome.plan is not None:
        least, most = outcome.proved_usd
        answer |= {
            "plan": _plain(outcome.plan),
            "changeUsd": outcome.change_usd,
            "changeUsdLow": least,
            "changeUsdHigh": most,
            "nowPlaced": list(outcome.now_placed),
            "nowUnplaced": list(outcome.now_out),
        }
    return answer


# -- for people ------------------------------------------------------------------------------------


def as_text(base: Plan, found: Sequence[Outcome], *, wide: bool) -> str:
    """A line for the plan as it is, and one for each scenario."""
    head = ["SCENARIO", "MONEY", "OBJECTIVE", "CHANGE", "FIRST ORDER", "LEAST CHANGES BY", "GAP"]
    lines = [[*head, "JOBS"]]
    lines.append([BASE, *_money(base), NONE, NONE, NONE, _gap(base), _left_out(base)])
    lines += [_line(outcome, wide) for outcome in found]
    return table(without_empty(lines))


def _line(outcome: Outcome, wide: bool) -> list[str]:
    expected = _range(outcome.first_order) if outcome.first_order else "not priced"
    if outcome.plan is None:
        return [outcome.scenario.name, NONE, NONE, NONE, expected, NONE, NONE, NONE]
    return [
        outcome.scenario.name,
        *_money(outcome.plan),
        _signed(outcome.change_usd),
        expected,
        _range(outcome.proved_usd),
        _gap(outcome.plan),
        _jobs(outcome, wide),
    ]


def _money(plan: Plan) -> tuple[str, str]:
    return dollars(plan.costs.money), dollars(plan.costs.objective)


def _signed(usd: float) -> str:
    return f"+{dollars(usd)}" if usd >= 0.005 else dollars(usd)


def _range(span: Range) -> str:
    low, high = map(_signed, span)
    return low if low == high else f"{low} to {high}"


def _gap(plan: Plan) -> str:
    if not math.isfinite(plan.gap_fraction):
        return plan.status.value
    gap = f"{100 * plan.gap_fraction:.2f} %"
    return f"{gap} (infeasible)" if plan.status.value == "infeasible" else gap


def _left_out(plan: Plan) -> str:
    return f"{len(plan.unplaced)} left out" if plan.unplaced else NONE


def _jobs(outcome: Outcome, wide: bool) -> str:
    said = [
        f"{what} {_named(names, wide)}"
        for what, names in (("now run:", outcome.now_placed), ("now out:", outcome.now_out))
        if names
    ]
    return "; ".join(said) or NONE


def _named(names: Sequence[str], wide: bool) -> str:
    shown = names if wide else names[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _draw(base: Plan, found: Sequence[Outcome], plot: Path) -> None:
    from cost_models.report import write_whatif

    rows = [_row(BASE, base, None)]
    rows += [_row(o.scenario.name, o.plan, o) for o in found if o.plan is not None]
    try:
        write_whatif("What if", rows, plot)
    except OSError as error:
        raise Fail(f"--plot: {plot}: {error.strerror}", BAD_INPUT) from None
    typer.echo(f"wrote {plot}", err=True)


def _row(name: str, plan: Plan, outcome: Outcome | None) -> Row:
    from cost_models.report import Row

    expected = None
    if outcome is not None and outcome.first_order is not None:
        expected = outcome.base.costs.objective + sum(outcome.first_order) / 2
    return Row(
        name=name,
        money_usd=plan.costs.money,
        objective_usd=plan.costs.objective,
        bound_usd=plan.bound.usd,
        first_order_usd=expected,
        left_out=len(plan.unplaced),
    )
