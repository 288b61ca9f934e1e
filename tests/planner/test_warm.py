"""A plan that is known already, under a question that differs from the one it answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.plan import Plan
from planner.problem import Job, Problem
from planner.solve import exact, pick, warm
from planner.solve.clock import Limits
from planner.solve.pick import solve
from planner.table import build as tabulate
from tests.planner.worlds import job, mode, pool, problem, random_problem

WORLDS = 40
TWO = pool("a", nodes=2)  # of one GPU each, for 6 slots
DEAR = pool("b", usd=3.0)


def asked(*jobs: Job, nodes: int = 2) -> Problem:
    return problem((pool("a", nodes=nodes), DEAR), jobs)


def starts(of: Problem, plan: Plan) -> dict[str, tuple[str, int]]:
    """Pool and start of each job in what is made of ``plan``."""
    table = tabulate(of)
    made = warm.bookings(table, plan)
    return {
        of.jobs[j].name: (of.pools[table.options[b.option].pool].name, b.start)
        for j, b in made.items()
    }


def both(name: str, hours: float, *after: str) -> Job:
    return job(name, mode(TWO, hours=hours), mode(DEAR, hours=hours), after=after)


def held(of: Problem, **at: tuple[int, int]) -> Plan:
    """The plan with jobs at (mode, start): found by nobody, for it need not be a good one."""
    plan = solve(of)
    segments = [s for s in plan.segments if s.job not in at]
    by_job = {s.job: s for s in plan.segments}
    for name, (number, start) in at.items():
        s = by_job[name]
        segments.append(replace(s, mode=number, start=start, end=start + s.end - s.start))
    return replace(plan, segments=tuple(segments))


def test_where_nothing_differs_everybody_stays_however_dear() -> None:
    of = asked(both("x", 2), both("y", 3))
    plan = held(of, x=(1, 3), y=(0, 2))
    assert starts(of, plan) == {"x": ("b", 3), "y": ("a", 2)}


def test_who_loses_a_node_to_a_larger_one_goes_where_it_costs_least() -> None:
    # Both hold a GPU of a from 0. With one left, ``large`` stays; behind it ``small`` costs $2 as
    # before, on the dear pool $6.
    of = (both("large", 4), both("small", 2))
    plan = held(asked(*of), large=(0, 0), small=(0, 0))
    assert starts(asked(*of, nodes=1), plan) == {"large": ("a", 0), "small": ("a", 4)}


def test_who_waits_for_one_that_lost_its_place_is_put_behind_it_anew() -> None:
    # ``first`` is moved from 0 to 3, behind ``large``; ``then`` at 2 would come before its end.
    of = (both("large", 3), both("first", 2), both("then", 1, "first"))
    plan = held(asked(*of), large=(0, 0), first=(0, 0), then=(0, 2))
    found = starts(asked(*of, nodes=1), plan)
    assert found["large"] == ("a", 0)
    assert found["then"][1] >= found["first"][1] + 2


def test_who_is_new_goes_into_the_room_that_is_left() -> None:
    old, new = both("old", 6), both("new", 6)
    plan = held(asked(old), old=(0, 0))
    assert starts(asked(old, new), plan) == {"old": ("a", 0), "new": ("a", 0)}


@pytest.mark.parametrize("seed", range(WORLDS))
def test_a_search_from_a_known_plan_ends_with_none_worse(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # Small worlds are proved optimal; without that proof, and without a moment to search, the
    # answer is the known plan or one that costs no more. `solve` checks it to the GPU.
    of = random_problem(seed)
    best = solve(of)
    monkeypatch.setattr(exact, "small", lambda _: False)
    again = pick.solve(of, Limits(seconds=0.05), known=best)
    if not pieced(best):
        assert again.costs.objective <= best.costs.objective + 1e-6


def pieced(plan: Plan) -> bool:
    """Whether some job runs in more than one piece, which is put in anew."""
    return len({s.job for s in plan.segments}) < len(plan.segments)
