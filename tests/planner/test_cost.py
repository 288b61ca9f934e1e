"""What segments cost: shares, whole-node bills, lateness, and what is sunk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import cost
from planner.plan import Costs, Placement, Rental, Segment
from planner.problem import Billing, Demand, Problem
from tests.planner.worlds import job, mode, pool, problem


def seg(name: str, start: int, end: int, node: str, *, replicas: int = 1) -> Segment:
    place = (Placement(node=node, replicas=replicas),)
    return Segment(
        job=name, mode=0, replicas=replicas, start=start, end=end, work=1.0, placement=place
    )


def rented(windows: tuple[tuple[int, int, int], ...] = ()) -> Problem:
    """Nodes of two GPUs at $3 each, an hour from launch to ready."""
    nodes = pool(
        "r", nodes=2, gpus=2, usd=3.0, billing=Billing.NODE, startup_seconds=3600, windows=windows
    )
    return problem((nodes,), (job("x", mode(nodes)), job("y", mode(nodes))))


def bills(asked: Problem, *segments: Segment) -> list[tuple[str, float, float, float]]:
    """(node, launch and end in hours, USD)."""
    return [
        (r.node, r.launch_seconds / 3600, r.end_seconds / 3600, r.usd)
        for r in cost.rentals(asked, segments)
    ]


def test_a_share_is_paid_for_the_hours_of_work_not_for_the_slots() -> None:
    # 1.5 h of two GPUs at $3, though they are held for two slots.
    p = pool("p", gpus=2, usd=3.0)
    asked = problem((p,), (job("x", mode(p, hours=1.5, gpus=2)),))
    held = seg("x", 0, 2, "p-0")
    assert cost.segment_hours(asked, held) == pytest.approx(1.5)
    assert cost.costs(asked, [held], []).money == pytest.approx(9.0)


def test_a_service_is_paid_for_all_of_its_replicas_and_hours() -> None:
    # 3 h x 2 replicas x $3.
    p = pool("p", gpus=2, usd=3.0)
    need = Demand(per_slot=(2.0,) * 6)
    asked = problem((p,), (job("x", mode(p, serves=1.0), need=need),))
    assert cost.segment_usd(asked, seg("x", 1, 4, "p-0", replicas=2)) == pytest.approx(18.0)


def test_a_node_is_paid_from_launch_to_termination_whatever_runs_on_it() -> None:
    # From an hour before slot 1 to the end of the later job at 4: 4 h x 2 x $3.
    both = (seg("x", 1, 3, "r-0"), seg("y", 2, 4, "r-0"))
    assert bills(rented(), *both) == [("r-0", 0.0, 4.0, 24.0)]
    assert cost.costs(rented(), both, []).money == 24.0


def test_two_nodes_have_two_bills() -> None:
    apart = (seg("x", 1, 2, "r-0"), seg("y", 1, 2, "r-1"))
    assert bills(rented(), *apart) == [("r-0", 0.0, 2.0, 12.0), ("r-1", 0.0, 2.0, 12.0)]


def test_a_gap_is_paid_where_it_costs_no_more_than_a_start() -> None:
    assert bills(rented(), seg("x", 1, 2, "r-0"), seg("y", 3, 4, "r-0")) == [
        ("r-0", 0.0, 4.0, 24.0)
    ]
    assert bills(rented(), seg("x", 1, 2, "r-0"), seg("y", 4, 5, "r-0")) == [
        ("r-0", 0.0, 2.0, 12.0),
        ("r-0", 3.0, 5.0, 12.0),
    ]


def test_a_node_that_is_taken_away_in_between_cannot_be_kept() -> None:
    away = rented(windows=((0, 2, 2), (2, 3, 1), (3, 6, 2)))
    assert len(bills(away, seg("x", 1, 2, "r-1"), seg("y", 3, 4, "r-1"))) == 2
    assert len(bills(away, seg("x", 1, 2, "r-0"), seg("y", 3, 4, "r-0"))) == 1


def test_a_launch_before_the_grid_is_paid_at_the_first_price() -> None:
    assert cost.rentals(rented(), [seg("x", 0, 1, "r-0")]) == (
        Rental(pool="r", node="r-0", launch_seconds=-3600, end_seconds=3600, usd=12.0),
    )


def test_a_price_that_changes_is_paid_by_the_hour() -> None:
    # An hour at $6 and two at $12; outside of the windows the nearest price holds.
    (nodes,) = rented().pools
    (window,) = nodes.windows
    cheap = replace(window, end=2)
    dear = replace(window, start=2, usd_per_node_hour=12.0)
    both = replace(nodes, windows=(cheap, dear))
    assert cost.node_usd(both, 3600, 4 * 3600, 3600) == 6 + 2 * 12
    assert cost.node_usd(both, -3600, 0, 3600) == 6
    assert cost.node_usd(both, 6 * 3600, 7 * 3600, 3600) == 12


def test_lateness_is_of_the_last_end_and_never_negative() -> None:
    p = pool("p")
    late = job("x", mode(p), due=2, lateness_usd_per_hour=5.0)
    asked = problem((p,), (late,), slot_seconds=1800)
    assert [cost.lateness_usd(asked, late, end) for end in (1, 2, 3)] == [0.0, 0.0, 2.5]
    assert cost.lateness_usd(asked, replace(late, due=None), 6) == 0.0
    parts = [seg("x", 4, 5, "p-0"), seg("x", 0, 1, "p-0")]
    assert cost.costs(asked, parts, []).lateness == 7.5


def test_what_is_left_out_is_counted_apart() -> None:
    asked = problem((pool("p"),), (job("x", unplaced_usd=7.0), job("y", unplaced_usd=2.0)))
    told = cost.costs(asked, [], ["x", "y"])
    assert told == Costs(not_running=9.0)
    assert told.objective == 9.0


def test_owned_nodes_cost_what_they_cost_whether_they_work_or_not() -> None:
    # Two nodes of $4 for two hours, one for four: 2 x 2 x 4 + 4 x 4. Rented ones are not sunk.
    windows = ((0, 2, 2), (2, 6, 1))
    own = pool("own", nodes=2, gpus=2, usd=2.0, billing=Billing.SUNK, windows=windows)
    assert cost.sunk_usd(problem((own, *rented().pools), ())) == 32.0


def test_energy_and_useful_work_follow_the_hours_and_the_work() -> None:
    # 1.5 h x 3,600 s x 100 W, and one unit of 1e15 FLOPs.
    p = pool("p")
    watts = replace(mode(p, hours=1.5), watts_per_replica=100.0)
    asked = problem((p,), (job("x", watts),))
    assert cost.segment_joules(asked, seg("x", 0, 2, "p-0")) == pytest.approx(540_000)
    assert cost.segment_flops(asked, seg("x", 0, 2, "p-0")) == 1e15


def test_runs_of_equal_numbers_are_told_with_their_ends() -> None:
    assert cost.runs([2, 2, 1, 3, 3]) == [(0, 2, 2), (2, 3, 1), (3, 5, 3)]
    assert cost.runs([]) == []
