"""First-order answers by hand, and beside what another solve says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.changes import apply, parse
from planner.check import violations
from planner.plan import Bound, Costs, Plan, Price, QueuePrice, Reason, Status, Unplaced
from planner.problem import Problem, Queue
from planner.solve.pick import solve
from planner.whatif import Outcome, first_order, outcomes
from tests.planner.worlds import job, mode, pool, problem

ONE = pool("a")  # one GPU at $1, six slots of an hour
DEAR = pool("b", nodes=3, usd=3.0)


def world(count: int = 4, **fields: Any) -> Problem:
    """Jobs of 2 h on the cheap GPU or on a dear one."""
    modes = (mode(ONE, hours=2), mode(DEAR, hours=2))
    jobs = tuple(replace(job(f"j{i}", *modes), **fields) for i in range(count))
    return problem((ONE, DEAR), jobs)


def expected(asked: Problem, text: str, **fields: Any) -> tuple[float, float] | None:
    """The first-order answer by the plan's own prices, or by those given."""
    plan = replace(solve(asked), **fields)
    return first_order(asked, plan, parse(text))


PRICE = Price(
    pool="a",
    start=0,
    end=6,
    usd_per_gpu_hour=1.0,
    low_usd_per_gpu_hour=0.5,
    high_usd_per_gpu_hour=2.0,
)


def test_a_node_more_saves_between_its_price_and_the_low_end_and_one_less_costs_to_the_high() -> (
    None
):
    # Six GPU-hours a node: at $1 saves $6, at $0.50 $3; one less costs $6 to $12.
    asked = world()
    assert expected(asked, "pool/a.nodes+=1", prices=(PRICE,)) == (-6.0, -3.0)
    assert expected(asked, "pool/a.nodes-=1", prices=(PRICE,)) == (6.0, 12.0)
    plain = replace(PRICE, low_usd_per_gpu_hour=None, high_usd_per_gpu_hour=None)
    assert expected(asked, "pool/a.nodes+=2", prices=(plain,)) == (-12.0, -12.0)


def test_the_first_node_is_worth_what_its_low_end_says() -> None:
    # Four jobs of 2 h in six: $12. A node more: $8. The low end is exactly that, $4.
    asked = world()
    low, high = expected(asked, "pool/a.nodes+=1") or (0.0, 0.0)
    exact = solve(apply(asked, parse("pool/a.nodes+=1")))
    assert exact.costs.objective == pytest.approx(8.0)
    assert (low, high) == pytest.approx((-12.0, -4.0))


def test_a_dearer_pool_costs_what_the_plan_uses_of_it() -> None:
    # Three of four jobs run there: 6 h at $0.50 more.
    asked = world()
    assert expected(asked, "pool/a.price+=0.5") == pytest.approx((3.0, 3.0))
    assert expected(asked, "pool/a.price-=0.5") == pytest.approx((-3.0, -3.0))


def test_demand_costs_its_money_and_what_it_takes_from_others() -> None:
    # 2 h at $1 and, at the price of others, $1 more: a tenth more of $4.
    asked = world(1)
    assert expected(asked, "job/j0.demand*=1.1", prices=(PRICE,)) == pytest.approx((0.4, 0.4))


def test_a_limit_and_a_budget_count_by_their_units() -> None:
    team = Queue(name="team", limit=(("a", 1),), budget_usd_per_month=10.0)
    asked = replace(world(queue="team"), queues=(team,))
    prices = (
        QueuePrice(queue="team", what="budget", usd=2.0, low_usd=1.5, high_usd=3.0),
        QueuePrice(queue="team", what="h100-sxm5-80gb", usd=9.0),
    )
    assert expected(asked, "queue/team.budget+=4", queue_prices=prices) == (-8.0, -6.0)
    assert expected(asked, "queue/team.budget-=1", queue_prices=prices) == (2.0, 3.0)
    # No limit of it stood there: nothing is known of one.
    assert expected(asked, "queue/team.limit.h100=8", queue_prices=prices) is None


def test_a_limits_price_counts_each_hour_of_the_grid() -> None:
    limited = Queue(name="team", limit=(("h100-sxm5-80gb", 1),))
    asked = replace(world(queue="team"), queues=(limited,))
    prices = (QueuePrice(queue="team", what="h100-sxm5-80gb", usd=1.5),)
    # Two GPUs for six hours at $1.50.
    assert expected(asked, "queue/team.limit.h100+=2", queue_prices=prices) == (-18.0, -18.0)


def test_an_earlier_deadline_costs_nothing_where_the_job_ends_before_and_else_has_no_price() -> (
    None
):
    asked = world(1)
    assert expected(asked, "job/j0.deadline-=2h") == (0.0, 0.0)
    assert expected(asked, "job/j0.deadline-=5h") is None
    early = world(1, deadline=3)
    assert expected(early, "job/j0.deadline+=1h") is None


def test_what_is_late_or_left_out_costs_by_its_new_price() -> None:
    late = problem((ONE,), (job("x", mode(ONE, hours=4), due=2, lateness_usd_per_hour=5.0),))
    # It ends at 4: two hours late at $5; due an hour later, one.
    assert expected(late, "job/x.due+=1h") == (-5.0, -5.0)
    out = problem((ONE,), (job("x", mode(ONE, hours=4), unplaced_usd=2.0),))
    assert expected(out, "job/x.unplaced+=1") == (1.0, 1.0)


def test_changes_that_are_made_together_add_up_and_one_unpriced_leaves_none() -> None:
    asked = world()
    assert expected(asked, "pool/a.nodes-=1,pool/a.price+=0.5", prices=(PRICE,)) == pytest.approx(
        (9.0, 15.0)
    )
    assert expected(asked, "pool/a.nodes-=1,job/j0.deadline=2026-12-01T01:00") is None


def made(objective: float, bound: float, *out: str) -> Plan:
    unplaced = tuple(Unplaced(job=n, reason=Reason.CAPACITY, message="") for n in out)
    return Plan(
        status=Status.FEASIBLE,
        costs=Costs(money=objective),
        bound=Bound(usd=bound),
        unplaced=unplaced,
    )


def test_the_least_cost_changes_between_the_bounds() -> None:
    scenario = parse("pool/a.nodes+=1")
    outcome = Outcome(
        scenario=scenario,
        base=made(100.0, 95.0, "x", "y"),
        plan=made(90.0, 88.0, "y", "z"),
        first_order=None,
    )
    # Least 95 to 100 before, 88 to 90 after.
    assert outcome.change_usd == -10.0
    assert outcome.proved_usd == (-12.0, -5.0)
    assert (outcome.now_placed, outcome.now_out) == (("x",), ("z",))


def test_a_plan_that_still_holds_and_costs_less_than_the_one_found_is_kept() -> None:
    # With a node more the plan of $12 still holds; a search that found $14 only is worth less. Its
    # bound stays.
    asked, scenario = world(), parse("pool/a.nodes+=1")
    base, dear = solve(asked), made(14.0, 8.0)
    kept = outcomes(asked, base, [scenario], [dear])[0].found
    assert kept.segments == base.segments
    assert (kept.costs.objective, kept.bound.usd, kept.status) == (12.0, 8.0, Status.FEASIBLE)
    assert violations(apply(asked, scenario), kept) == ()


def test_a_plan_that_no_longer_holds_is_not_kept() -> None:
    # Without its node nobody runs on the cheap pool.
    asked, scenario = world(), parse("pool/a.nodes-=1")
    dear = solve(apply(asked, scenario))
    assert outcomes(asked, solve(asked), [scenario], [dear])[0].plan == dear


def test_a_scenario_that_was_not_solved_has_its_first_order_answer_alone() -> None:
    asked = world()
    scenarios = [parse("pool/a.nodes+=1"), parse("pool/a.price+=0.5")]
    first, second = outcomes(asked, solve(asked), scenarios, [made(1.0, 1.0)])
    assert first.plan == made(1.0, 1.0)  # cheaper than the plan as it is
    assert second.plan is None
    assert second.first_order == pytest.approx((3.0, 3.0))
    with pytest.raises(ValueError, match="was not solved"):
        _ = second.change_usd


@pytest.mark.parametrize("text", ["pool/a.nodes+=1", "pool/a.price-=0.25", "job/j0.unplaced-=999"])
def test_another_solve_never_costs_more_than_a_first_order_answer_that_keeps_the_plan(
    text: str,
) -> None:
    asked = world()
    base = solve(asked)
    exact = solve(apply(asked, parse(text))).costs.objective - base.costs.objective
    _, high = first_order(asked, base, parse(text)) or (0.0, 0.0)
    assert exact <= high + 1e-6
