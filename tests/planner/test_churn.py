"""What a new plan changes of the last one, and whether each change pays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.churn import kept, move_usd, moved, promise_usd
from planner.plan import Placement, Plan, Price, Segment, Status
from planner.problem import Interruption, Problem, Running
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.planner.worlds import job, larger_problem, mode, pool, problem

CHEAP, DEAR = pool("cheap", nodes=2, usd=1.0), pool("dear", nodes=2, usd=3.0)
ONE = job("j", mode(CHEAP, hours=2), mode(DEAR, hours=1))


def at(
    node: str, start: int, end: int, *, mode: int = 0, name: str = "j", device: int = 0
) -> Segment:
    placement = (Placement(node=node, replicas=1, devices=(device,)),)
    return Segment(
        job=name, mode=mode, replicas=1, start=start, end=end, work=1.0, placement=placement
    )


def plan(*segments: Segment, prices: tuple[Price, ...] = ()) -> Plan:
    return Plan(status=Status.FEASIBLE, segments=segments, prices=prices)


def world(**fields: Any) -> Problem:
    return problem((CHEAP, DEAR), (replace(ONE, **fields),))


def test_a_job_on_other_gpus_of_its_node_has_not_moved() -> None:
    old, new = at("cheap-0", 0, 2), at("cheap-0", 0, 2, device=1)
    assert moved(plan(old), plan(new), world()) == ()


def test_a_move_saves_the_difference_of_reduced_costs() -> None:
    # cheap: 2 h x $1 + 2 h x $0.8 for what it takes = $3.6; dear: $3. A promise of $2 is worth 2 c.
    prices = (Price(pool="cheap", start=0, end=6, usd_per_gpu_hour=0.8),)
    new = plan(at("dear-0", 0, 1, mode=1), prices=prices)
    (move,) = moved(plan(at("cheap-0", 0, 2)), new, world())
    assert [move.price_usd, move.saving_usd] == pytest.approx([0.02, 0.6])
    assert move.pays
    (back,) = moved(new, replace(plan(at("cheap-0", 0, 2)), prices=prices), world())
    assert back.saving_usd == pytest.approx(-0.6)
    assert not back.pays


def test_another_node_of_the_same_pool_saves_nothing_and_does_not_pay() -> None:
    (move,) = moved(plan(at("cheap-0", 0, 2)), plan(at("cheap-1", 0, 2)), world())
    assert (move.saving_usd, move.pays) == (0.0, False)


def test_a_promised_place_is_worth_a_hundredth_of_its_money_and_a_cent_at_least() -> None:
    assert promise_usd(250.0) == 2.5
    assert promise_usd(0.2) == 0.01


def test_a_running_job_pays_for_lost_work_and_its_restart() -> None:
    # A quarter of the work since the checkpoint is 0.25 h on one dear GPU; with 15 minutes of
    # restart half an hour at $3.
    stopped = replace(ONE, interruption=Interruption(restart_seconds=900.0))
    here = Running(job="j", mode=0, nodes=("cheap-0",), work_done=0.5, work_since_checkpoint=0.25)
    assert move_usd(stopped, stopped.modes[1], here) == pytest.approx(1.5)
    running = replace(world(interruption=stopped.interruption), running=(here,))
    prices = (Price(pool="cheap", start=0, end=6, usd_per_gpu_hour=1.0),)
    (move,) = moved(
        plan(at("cheap-0", 0, 2)), plan(at("dear-0", 0, 1, mode=1), prices=prices), running
    )
    assert [move.price_usd, move.saving_usd] == pytest.approx([1.5, 1.0])
    assert not move.pays


def test_a_job_whose_node_is_lost_has_to_move() -> None:
    lost = replace(world(unplaced_usd=50.0), nodes=world().nodes[1:])
    old = plan(at("cheap-0", 0, 2))
    assert kept(old, lost) == ()
    (move,) = moved(old, plan(at("cheap-1", 0, 2)), lost)
    assert (move.forced, move.pays) == (True, True)
    assert move.saving_usd == pytest.approx(48.0)  # $50 of not running it, less $2


def test_what_is_still_allowed_is_kept_whole() -> None:
    segments = (at("cheap-0", 0, 1), at("cheap-1", 2, 3), at("dear-0", 0, 1, mode=1, name="k"))
    both = replace(world(), jobs=(ONE, replace(ONE, name="k")))
    assert set(kept(plan(*segments), both)) == set(segments)
    assert kept(plan(*segments), world()) == segments[:2]  # k is gone
    assert kept(plan(*segments), world(deadline=2)) == ()  # its second half is too late
    cordoned = replace(
        both, nodes=tuple(replace(n, cordoned="broken") for n in both.nodes[:1]) + both.nodes[1:]
    )
    assert kept(plan(*segments), cordoned) == (segments[2],)
    smaller = replace(CHEAP, windows=(replace(CHEAP.windows[0], nodes=1),))
    assert kept(plan(*segments), replace(both, pools=(smaller, DEAR))) == (segments[2],)


def test_a_plan_is_kept_by_its_own_problem() -> None:
    for seed in range(3):
        at_hand = larger_problem(seed)
        found = solve(at_hand, Limits(seconds=0.5))
        assert set(kept(found, at_hand)) == set(found.segments)
        assert moved(found, found, at_hand) == ()
