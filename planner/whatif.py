"""What a change makes of a plan: the first-order answer from its prices, and the exact one.

The first-order answer takes no solve. It is a range (from, to) of the change of the objective:

- nodes: the GPU-hours of a node in each price's stretch x that price. More of them save ``low`` to
  the price itself, fewer cost the price to ``high`` (`planner.plan.Price`); as the least cost is
  convex in what there is, many nodes save less each than one does, and cost more each to lose.
- limit, budget: what one unit is worth x units, in the same way; guaranteed, lendable: none.
- price, due, unplaced: the plan as it is, at the new numbers. Some other plan may cost less.
- demand: the job's own money and what it takes from others, in proportion.
- deadline: nothing where the job still ends in time and has no more of it; else it has no price.

The exact answer is another solve. Both plans have a bound, so the true change of the least cost
lies between (bound after - objective before) and (objective after - bound before).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from planner import cost
from planner.changes import Change, Scenario, apply
from planner.check import violations
from planner.plan import Plan, Price, QueuePrice, Status
from planner.problem import Problem
from planner.worth import Worth

Range = tuple[float, float]  # USD of the objective, from least to most


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A scenario beside the plan without it."""

    scenario: Scenario
    base: Plan
    plan: Plan | None  # None: not solved
    first_order: Range | None  # None: some change has no price

    @property
    def found(self) -> Plan:
        """The plan. Raises ValueError where the scenario was not solved."""
        if self.plan is None:
            raise ValueError(f"{self.scenario.name} was not solved")
        return self.plan

    @property
    def change_usd(self) -> float:
        """Of the objective, as found."""
        return self.found.costs.objective - self.base.costs.objective

    @property
    def proved_usd(self) -> Range:
        """Between these lies the change of the least cost."""
        return (
            self.found.bound.usd - self.base.costs.objective,
            self.found.costs.objective - self.base.bound.usd,
        )

    @property
    def now_placed(self) -> tuple[str, ...]:
        """Jobs that run only with the scenario."""
        return tuple(sorted(_out(self.base) - _out(self.found)))

    @property
    def now_out(self) -> tuple[str, ...]:
        """Jobs that run only without it."""
        return tuple(sorted(_out(self.found) - _out(self.base)))


def _out(plan: Plan) -> set[str]:
    return {u.job for u in plan.unplaced}


def first_order(problem: Problem, plan: Plan, scenario: Scenario) -> Range | None:
    """The sum over the changes, each by the prices of ``plan``. Raises `ChangeError`."""
    parts = []
    for change in scenario.changes:
        after = apply(problem, Scenario(name=change.text, changes=(change,)))
        parts.append(_of(problem, after, plan, change))
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return sum(low for low, _ in known), sum(high for _, high in known)


def _of(problem: Problem, after: Problem, plan: Plan, change: Change) -> Range | None:
    match change.field:
        case "nodes":
            return _of_nodes(problem, after, plan, change)
        case "limit" | "budget":
            return _of_queue(problem, after, plan, change)
        case "guaranteed" | "lendable":
            return None  # who is covered is decided anew: that has no price
        case "demand":
            return _of_demand(problem, plan, change)
        case "deadline":
            return _of_deadline(problem, after, plan, change.name)
        case _:
            usd = _objective(after, plan) - _objective(problem, plan)
            return usd, usd


def _objective(problem: Problem, plan: Plan) -> float:
    return cost.costs(problem, plan.segments, [u.job for u in plan.unplaced]).objective


def _of_nodes(problem: Problem, after: Problem, plan: Plan, change: Change) -> Range:
    pool = problem.pool_by_name[change.name]
    total = [0.0, 0.0]
    for price in (p for p in plan.prices if p.pool == pool.name):
        for t in range(price.start, price.end):
            nodes = after.pool_by_name[pool.name].nodes_at(t) - pool.nodes_at(t)
            hours = nodes * pool.gpus_per_node * problem.grid.slot_hours
            for i, usd in enumerate(_usd(price, nodes)):
                total[i] -= hours * usd
    return min(total), max(total)


def _usd(price: Price, more: float) -> Range:
    """What a unit is worth: between the price and the end of its range on the side of ``more``."""
    end = price.low_usd_per_gpu_hour if more > 0 else price.high_usd_per_gpu_hour
    usd = price.usd_per_gpu_hour
    return usd, usd if end is None else end


def _of_queue(problem: Problem, after: Problem, plan: Plan, change: Change) -> Range | None:
    old, new = problem.queue_by_name[change.name], after.queue_by_name[change.name]
    if change.field == "budget":
        what, was, now = "budget", old.budget_usd_per_month, new.budget_usd_per_month
        units = 1.0
    else:
        what = change.key
        was, now = dict(old.limit).get(what), dict(new.limit).get(what)
        units = problem.grid.slots * problem.grid.slot_hours
    if was is None or now is None:
        return None  # nothing bound there before: it has no price
    found = [
        q for q in plan.queue_prices if (q.queue, q.what) == (change.name, what) and not q.keepers
    ]
    ends = [-(now - was) * units * usd for q in found for usd in _queue_usd(q, now - was)]
    return min(ends, default=0.0), max(ends, default=0.0)


def _queue_usd(price: QueuePrice, more: float) -> Range:
    end = price.low_usd if more > 0 else price.high_usd
    return price.usd, price.usd if end is None else end


def _of_demand(problem: Problem, plan: Plan, change: Change) -> Range:
    worth = Worth(problem, plan)
    mine = [s for s in plan.segments if s.job == change.name]
    bare = (replace(s, egress_usd=0.0) for s in mine)  # its data do not grow with it
    taken = sum(cost.segment_usd(problem, s) + worth.of_segment(s) for s in bare)
    usd = (change.number(1.0) - 1.0) * taken
    return usd, usd


def _of_deadline(problem: Problem, after: Problem, plan: Plan, name: str) -> Range | None:
    old, new = problem.job_by_name[name], after.job_by_name[name]
    ends = [s.end for s in plan.segments if s.job == name]
    if new.deadline == old.deadline or (
        new.deadline < old.deadline and all(end <= new.deadline for end in ends)
    ):
        return 0.0, 0.0
    return None


def outcomes(
    problem: Problem, base: Plan, scenarios: Sequence[Scenario], plans: Sequence[Plan]
) -> tuple[Outcome, ...]:
    """Each scenario with its plan, as far as there are plans. Raises `ChangeError`."""
    return tuple(
        Outcome(
            scenario=scenario,
            base=base,
            plan=None if plan is None else cheaper(apply(problem, scenario), base, plan),
            first_order=first_order(problem, base, scenario),
        )
        for scenario, plan in zip_longest(scenarios, plans)
    )


def cheaper(after: Problem, base: Plan, plan: Plan) -> Plan:
    """``plan``, or the plan as it was where that still holds after the change and costs less.

    A search that is stopped by its time may miss what it had found without the change.
    """
    nodes = {place.node for s in base.segments for place in s.placement}
    if plan.status is Status.OPTIMAL or not nodes <= after.node_by_name.keys():
        return plan
    costs = cost.costs(after, base.segments, [u.job for u in base.unplaced])
    if costs.objective >= plan.costs.objective:
        return plan
    kept = replace(
        plan,
        status=Status.FEASIBLE,
        segments=base.segments,
        unplaced=base.unplaced,
        costs=costs,
        full_cost_usd=costs.money + costs.moving + cost.sunk_usd(after),
        useful_flops=base.useful_flops,
    )
    return plan if violations(after, kept) else kept
