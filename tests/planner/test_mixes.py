"""Services on two GPU types at once, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.check import violations
from planner.mixes import MOST, offered
from planner.plan import Plan, Segment, Status
from planner.problem import Demand, Job, Mix, Mode, Problem, halves, replicas_for
from planner.solve import exact, search
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.planner.worlds import job, mode, pool, problem

CHEAP = pool("cheap", nodes=2, usd=1.0, slots=4)
DEAR = pool("dear", nodes=4, usd=3.0, slots=4)
DAY = (2.0, 4.0, 4.0, 2.0)


def service(*modes: Mode, mixes: tuple[Mix, ...] = (), demand: tuple[float, ...] = DAY) -> Job:
    return job("chat", *modes, slots=4, need=Demand(per_slot=demand), mixes=mixes)


def day(*mixes: Mix) -> Problem:
    """Demand of 2, 4, 4, 2 on GPUs that carry 1 each: two at $1, four at $3 an hour."""
    return problem(
        (CHEAP, DEAR), (service(mode(CHEAP, serves=1), mode(DEAR, serves=1), mixes=mixes),), slots=4
    )


def told(plan: Plan) -> list[tuple[int, int, int, int, float]]:
    """(mode, replicas, start, end, work) of what holds something."""
    return sorted((s.mode, s.replicas, s.start, s.end, s.work) for s in plan.segments if s.replicas)


BOTH = Mix(base=0, replicas=2, rest=1)


def test_the_night_is_on_the_cheap_gpus_and_the_day_on_both() -> None:
    # Cheap alone cannot carry 4. Dear alone: 12 GPU-hours at $3 = $36. Two cheap all the time, 8 at
    # $1, and two dear in two of the hours, 4 at $3: $20. By day each carries half of 4.
    alone = solve(day())
    assert alone.costs.objective == pytest.approx(36)
    plan = solve(day(BOTH))
    assert plan.status is Status.OPTIMAL
    assert plan.costs.objective == plan.bound.usd == pytest.approx(20)
    # cheap serves 2 + 2 + 2 + 2 in one stretch, dear 2 + 2 in the middle
    assert told(plan) == [(0, 2, 0, 4, 8.0), (1, 2, 1, 3, 4.0)]


def test_a_service_too_large_for_any_pool_runs_on_two() -> None:
    small = replace(day(BOTH), pools=(CHEAP, pool("dear", nodes=2, usd=3.0, slots=4)))
    small = replace(small, nodes=tuple(n for n in small.nodes if n.index < 2))
    assert solve(replace(small, jobs=day().jobs)).segments == ()
    assert solve(small).costs.objective == pytest.approx(20)


def test_the_search_finds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "small", lambda _: False)
    monkeypatch.setattr(search, "FEW", 0)
    plan = solve(day(BOTH), Limits(seconds=3, gap=None))
    assert plan.costs.objective == pytest.approx(20)
    assert plan.bound.usd <= 20 + 1e-6


def test_a_mix_is_two_services() -> None:
    need = Demand(per_slot=(1.0, 5.0, 3.0), min_replicas=3)
    base, rest = halves(
        replace(service(mode(CHEAP, serves=2), mode(DEAR, serves=1.5)), need=need),
        Mix(base=0, replicas=1, rest=1),
    )
    # One replica of 2 always; what is left, 0, 3 and 1, takes 0, 2 and 1 of 1.5, two at least.
    assert isinstance(base.need, Demand)
    assert [replicas_for(base.need, base.modes[0], t) for t in range(3)] == [1, 1, 1]
    assert isinstance(rest.need, Demand)
    assert [replicas_for(rest.need, rest.modes[1], t) for t in range(3)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("mixes", "fault"),
    [
        ((), "modes at once that are no mix"),
        ((Mix(base=0, replicas=1, rest=1),), "modes at once that are no mix"),
        ((Mix(base=1, replicas=2, rest=0),), "modes at once that are no mix"),
    ],
)
def test_a_plan_in_another_mix_is_refused(mixes: tuple[Mix, ...], fault: str) -> None:
    plan = solve(day(BOTH))
    assert violations(day(BOTH), plan) == ()
    assert any(fault in said for said in violations(day(*mixes), plan))


def test_a_mix_that_carries_too_little_or_says_another_work_is_refused() -> None:
    asked = day(BOTH)
    plan = solve(asked)

    def changed(mode: int, **fields: Any) -> tuple[str, ...]:
        def change(s: Segment) -> Segment:
            return replace(s, **fields) if s.mode == mode else s

        return violations(asked, replace(plan, segments=tuple(map(change, plan.segments))))

    assert any("a segment serves 9 where 8 are asked" in said for said in changed(0, work=9.0))
    assert any("3 replicas do not carry 4 requests" in said for said in changed(1, replicas=1))
    late = [said for said in changed(0, start=1) if "no mix" in said]
    assert late == ["chat: runs in modes at once that are no mix of its own"]


@pytest.mark.parametrize(
    "mix",
    [
        Mix(base=0, replicas=0, rest=1),
        Mix(base=0, replicas=1, rest=0),
        Mix(base=0, replicas=1, rest=5),
    ],
)
def test_a_mix_is_of_two_pools(mix: Mix) -> None:
    with pytest.raises(ValueError, match="a mix that is none of two pools"):
        day(mix)


# -- what is offered -----------------------------------------------------------------------------


def test_the_cheapest_mixes_are_offered() -> None:
    pools = {p.name: p for p in (CHEAP, DEAR)}
    found = offered(service(mode(CHEAP, serves=1), mode(DEAR, serves=1)), pools)
    # Two cheap throughout: $20. One: 4 + 3 (1 + 3 + 3 + 1) = $28. Two or three dear throughout with
    # cheap beside: 24 + 4 = $28 and 36 + 2 above the dearest mode, dear alone at $36.
    assert found[0] == BOTH
    assert Mix(base=1, replicas=2, rest=0) in found
    assert Mix(base=1, replicas=3, rest=0) not in found
    assert len(found) <= MOST


def test_nothing_is_offered_in_one_pool_or_for_nothing() -> None:
    pools = {p.name: p for p in (CHEAP, DEAR)}
    one = service(mode(CHEAP, serves=1), mode(CHEAP, serves=2))
    assert offered(one, pools) == ()
    idle = service(mode(CHEAP, serves=1), mode(DEAR, serves=1), demand=(0.0,) * 4)
    assert offered(idle, pools) == ()
    batch = job("batch", mode(CHEAP), mode(DEAR), slots=4)
    assert offered(batch, pools) == ()
