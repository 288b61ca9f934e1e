"""One arriving job, placed at shadow prices: where, when, and why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from planner import cost
from planner.check import violations
from planner.fast import Case, Placed, case_of, decide, start_at
from planner.live import Live
from planner.plan import Plan, Price, QueuePrice, Reason, Segment, Status, Unplaced
from planner.problem import Billing, Demand, Excluded, Job, Pool, Problem, Queue
from planner.table import build
from planner.ways import ways_of
from tests.planner.brute_force import optimum
from tests.planner.worlds import (
    HOSTNAME,
    grid,
    job,
    larger_problem,
    mode,
    pool,
    problem,
    random_problem,
)

CHEAP, DEAR = pool("cheap", usd=1.0), pool("dear", usd=3.0)
ROW = pool("row", nodes=2, gpus=2)


def live(*pools: Pool, prices: tuple[Price, ...] = (), queues: tuple[Queue, ...] = ()) -> Live:
    found = Live(problem(pools, (), queues=queues))
    found.reprice(prices)
    return found


def price(pool_name: str, usd: float, start: int = 0, end: int = 6) -> Price:
    return Price(pool=pool_name, start=start, end=end, usd_per_gpu_hour=usd)


def where(answer: Placed | Unplaced) -> tuple[str, int]:
    """(node, start) of a job on one node."""
    assert isinstance(answer, Placed), answer
    (segment,) = answer.segments
    (place,) = segment.placement
    return place.node, segment.start


def why(answer: Placed | Unplaced) -> Reason:
    assert isinstance(answer, Unplaced), answer
    return answer.reason


def booked(live: Live, one: Job, now: int = 0) -> Placed:
    answer = decide(live, one, now)
    assert isinstance(answer, Placed), answer
    live.book(one, answer.segments)
    return answer


# -- least reduced cost ----------------------------------------------------------------------------


def test_without_prices_a_job_goes_where_its_own_cost_is_least() -> None:
    # 2 h at $1 = $2 against 1 h at $3 = $3.
    one = job("j", mode(CHEAP, hours=2), mode(DEAR, hours=1))
    answer = decide(live(CHEAP, DEAR), one, 0)
    assert where(answer) == ("cheap-0", 0)
    assert isinstance(answer, Placed)
    assert (answer.usd, answer.reduced_usd) == (2.0, 2.0)


def test_what_a_job_takes_from_others_counts_at_the_shadow_price() -> None:
    # cheap: $2 + 2 h x $0.6 = $3.2; dear: $3 + nothing.
    one = job("j", mode(CHEAP, hours=2), mode(DEAR, hours=1))
    answer = decide(live(CHEAP, DEAR, prices=(price("cheap", 0.6),)), one, 0)
    assert where(answer) == ("dear-0", 0)
    assert isinstance(answer, Placed)
    assert (answer.usd, answer.reduced_usd) == (3.0, 3.0)


def test_a_job_with_time_waits_for_the_cheaper_hour_and_is_told_so() -> None:
    # $1 of its own; $2 more in slots 0 to 3.
    answer = decide(live(CHEAP, prices=(price("cheap", 2.0, 0, 3),)), job("j", mode(CHEAP)), 1)
    assert where(answer) == ("cheap-0", 3)
    assert isinstance(answer, Placed)
    assert answer.reason is Reason.NOT_WORTH
    assert "costs more, at the prices of now, than to wait" in answer.message


def test_it_does_not_wait_where_being_late_costs_more() -> None:
    # At once: $1 + $2. In slot 3: $1 + two hours late at $1.5 = $4.
    one = job("j", mode(CHEAP), due=2, lateness_usd_per_hour=1.5)
    answer = decide(live(CHEAP, prices=(price("cheap", 2.0, 0, 3),)), one, 0)
    assert where(answer) == ("cheap-0", 0)
    assert isinstance(answer, Placed)
    assert answer.reduced_usd == pytest.approx(3.0)


def test_it_does_not_wait_past_its_deadline() -> None:
    answer = decide(
        live(CHEAP, prices=(price("cheap", 2.0, 0, 3),)), job("j", mode(CHEAP), deadline=3), 1
    )
    assert where(answer) == ("cheap-0", 1)


def test_a_queue_price_is_a_toll_on_what_the_queue_takes() -> None:
    # cheap: $2 + 2 GPU-hours x $0.7 of the limit on its accelerator = $3.4; dear: $3.
    one = job("j", mode(CHEAP, hours=2), mode(DEAR, hours=1), queue="team")
    found = live(CHEAP, DEAR, queues=(Queue(name="team", limit=(("cheap", 1),)),))
    found.reprice((), queue_prices=(QueuePrice(queue="team", what="cheap", usd=0.7),))
    assert where(decide(found, one, 0)) == ("dear-0", 0)


def test_a_job_whose_room_is_worth_more_to_others_is_left_out() -> None:
    # $1 + $5 for what it takes, against $4 for leaving it out.
    one = job("j", mode(CHEAP), unplaced_usd=4.0)
    at = live(CHEAP, prices=(price("cheap", 5.0),))
    answer = decide(at, one, 0)
    assert why(answer) is Reason.NOT_WORTH
    assert isinstance(answer, Unplaced)
    assert answer.message == ("running it costs $6.00 at the prices of now, not running it $4.00")
    assert isinstance(decide(at, replace(one, required=True), 0), Placed)


# -- room ------------------------------------------------------------------------------------------


def test_a_job_that_cannot_start_is_told_when_it_will_and_what_it_waits_for() -> None:
    found = live(CHEAP)
    booked(found, job("before", mode(CHEAP, hours=2)))
    answer = decide(found, job("j", mode(CHEAP)), 0)
    assert where(answer) == ("cheap-0", 2)
    assert isinstance(answer, Placed)
    assert (answer.reason, answer.binds) == (Reason.CAPACITY, ("cheap",))
    assert answer.message == "cheap has 0 of the 1 free GPUs left that it takes"


def test_room_in_pieces_that_no_node_has_is_not_room() -> None:
    # One GPU is free on each node until slot 2: two in all, none with two.
    found = live(ROW)
    for name in ("a", "b"):
        segment = Segment(job=name, mode=0, replicas=1, start=0, end=2, work=1.0)
        one = job(name, mode(ROW, hours=2))
        node = "row-0" if name == "a" else "row-1"
        place = decide(live(ROW), one, 0)
        assert isinstance(place, Placed)
        devices = replace(place.segments[0].placement[0], node=node)
        found.book(one, (replace(segment, placement=(devices,)),))
    assert where(decide(found, job("wide", mode(ROW, gpus=2)), 0))[1] == 2
    answer = decide(found, job("spread", mode(ROW, replicas=2, spread=HOSTNAME)), 0)
    assert isinstance(answer, Placed)
    assert answer.start == 0


def test_a_start_in_just_one_slot_is_there_or_not() -> None:
    # One GPU is taken until 3; two hours fit from 3 on, and are not worth more than $2.
    found = live(CHEAP)
    booked(found, job("first", mode(CHEAP, hours=3)))
    case = case_of(found, job("then", mode(CHEAP, hours=2)))
    assert isinstance(case, Case)
    assert start_at(found, case, 2) is None
    placed = start_at(found, case, 4)
    assert isinstance(placed, Placed)
    assert (placed.start, placed.usd) == (4, 2.0)
    assert start_at(found, case, 5) is None  # it would end at 7
    cheap = case._replace(job=replace(case.job, unplaced_usd=1.9))
    refused = start_at(found, cheap, 4)
    assert isinstance(refused, Unplaced)
    assert refused.reason is Reason.NOT_WORTH


def test_a_node_that_goes_takes_its_jobs_with_it_and_they_find_another_place() -> None:
    found = live(ROW)
    one = job("j", mode(ROW, gpus=2, hours=3))
    node, _ = where(booked(found, one))
    assert found.lose(node, 1) == ("j",)
    other, start = where(decide(found, one, 1))
    assert (other != node, start) == (True, 1)
    found.lose(other, 0)
    assert why(decide(found, one, 1)) is Reason.WINDOW


def test_what_ends_early_gives_back_the_rest() -> None:
    found = live(CHEAP)
    booked(found, job("before", mode(CHEAP, hours=4)))
    found.release("before", 1)
    assert where(decide(found, job("j", mode(CHEAP)), 0)) == ("cheap-0", 1)


def test_a_service_grows_and_shrinks_in_place() -> None:
    need = Demand(per_slot=(1.0, 3.0, 2.0, 1.0, 1.0, 1.0))
    one = job("s", mode(ROW, serves=1.0), need=need)
    answer = booked(found := live(ROW), one)
    assert [(s.start, s.end, s.replicas) for s in answer.segments] == [
        (0, 1, 1),
        (1, 2, 3),
        (2, 3, 2),
        (3, 6, 1),
    ]
    assert answer.usd == pytest.approx(9.0)  # replica-hours at $1
    assert list(found.rows[0]) == [3, 1, 2, 3, 3, 3]


# -- reasons ---------------------------------------------------------------------------------------


def test_every_reason_is_said_and_none_is_raised() -> None:
    full = live(CHEAP)
    booked(full, job("before", mode(CHEAP, hours=6)))
    excluded = (Excluded(pool="cheap", reason="accelerator", message="not an h100"),)
    always = job("j", mode(CHEAP, serves=1.0), need=Demand(per_slot=(1.0,) * 6))
    cases = {
        Reason.NO_OPTION: [
            decide(full, job("j", excluded=excluded), 0),
            decide(full, job("j", mode(DEAR)), 0),  # a pool that is not here
            decide(live(ROW), job("j", mode(ROW, gpus=4)), 0),
            decide(full, job("j", mode(CHEAP, serves=1.0), need=Demand(per_slot=(1.0,))), 0),
        ],
        Reason.WINDOW: [
            decide(full, job("j", mode(CHEAP, hours=2), deadline=1), 0),
            decide(full, job("j", mode(CHEAP)), 6),  # after the horizon
            decide(live(CHEAP), always, 1),  # it was to be up from slot 0
        ],
        Reason.CAPACITY: [decide(full, job("j", mode(CHEAP)), 0)],
        Reason.NOT_WORTH: [decide(full, job("j", mode(CHEAP), unplaced_usd=0.5), 0)],
        Reason.DEPENDENCY: [decide(full, job("j", mode(CHEAP), after=("who",)), 0)],
    }
    for reason, answers in cases.items():
        assert {why(answer) for answer in answers} == {reason}
    (crowded,) = cases[Reason.CAPACITY]
    assert isinstance(crowded, Unplaced)
    assert crowded.binds == ("cheap", "before")


def test_a_queue_that_is_used_up_is_named() -> None:
    queues = (
        Queue(name="org", limit=(("row", 3),)),
        Queue(name="team", parent="org", budget_usd_per_month=5.0),
    )
    found = live(ROW, queues=queues)
    booked(found, job("before", mode(ROW, replicas=2, hours=2), queue="team"))  # $4, until slot 2
    answer = booked(found, job("waits", mode(ROW, replicas=2, usd=0.25), queue="team"))
    assert (answer.start, answer.reason, answer.binds) == (2, Reason.QUEUE_LIMIT, ("org",))
    hurried = decide(found, job("j", mode(ROW, replicas=2), queue="org", deadline=1), 0)
    assert (why(hurried), hurried.message) == (
        Reason.QUEUE_LIMIT,
        "queue org has 1 of the 2 row left that it takes",
    )
    poor = decide(found, job("j", mode(ROW), queue="team"), 0)  # $1, and $0.50 are left
    assert (why(poor), poor.message) == (Reason.BUDGET, "the budget of queue team is used up")
    assert isinstance(poor, Unplaced)
    assert poor.binds == ("team",)


def test_a_job_starts_behind_what_it_waits_for() -> None:
    found = live(CHEAP, DEAR)
    booked(found, job("first", mode(CHEAP, hours=2)))
    assert where(decide(found, job("j", mode(DEAR), after=("first",)), 0)) == ("dear-0", 2)


# -- prices ----------------------------------------------------------------------------------------


def test_prices_of_another_grid_are_read_by_the_clock_and_past_it_by_their_mean() -> None:
    # Yesterday's plan ends at our slot 2: its last two slots are ours, then the mean of six.
    found = live(CHEAP)
    yesterday = replace(grid(), start=grid().start - timedelta(hours=4))
    stated = (price("cheap", 6.0, 0, 1), price("cheap", 3.0, 4, 6), price("gone", 9.0))
    found.reprice(stated, since=yesterday)
    assert list(np.diff(found.dear[0])) == [3.0, 3.0, 2.0, 2.0, 2.0, 2.0]


def test_a_plan_is_booked_with_its_prices() -> None:
    one = job("before", mode(CHEAP, hours=2))
    world = problem((CHEAP,), (one,))
    answer = decide(Live(world), one, 0)
    assert isinstance(answer, Placed)
    plan = Plan(status=Status.FEASIBLE, segments=answer.segments, prices=(price("cheap", 1.0),))
    found = Live(world, plan)
    assert list(found.rows[0]) == [0, 0, 1, 1, 1, 1]
    assert found.dear[0, 6] == 6.0


# -- against the rest of the planner ---------------------------------------------------------------


def by_modes(world: Problem) -> Problem:
    """MIG instances and mixes are left to the plan of the whole queue."""
    return replace(
        world,
        jobs=tuple(
            replace(one, modes=tuple(m for m in one.modes if not m.amounts.mig), mixes=())
            for one in world.jobs
        ),
    )


def options(world: Problem) -> dict[tuple[str, int], tuple[int, int, float]]:
    """(length, latest start, money) of what the planner's table holds, by job and mode."""
    table = build(world)
    return {
        (world.jobs[o.job].name, o.mode): (o.length, o.last, round(o.usd, 6)) for o in table.options
    }


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_ways_are_the_options_of_the_planner(first: int) -> None:
    compared = 0
    for seed in range(first, first + 100):
        world = by_modes(random_problem(seed))
        world = replace(
            world, jobs=tuple(replace(j, after=(), tier=0, guarantee="") for j in world.jobs)
        )
        at = Live(replace(world, jobs=()))
        found = {
            (one.name, way.number): (way.length, way.last, round(way.usd, 6))
            for one in world.jobs
            for way in ways_of(at, one)
        }
        wanted = options(world)
        assert {key: found.get(key) for key in wanted} == wanted
        compared += len(wanted)
    assert compared > 50


def replayed(world: Problem) -> Plan:
    """Each job decided at its release, behind what it waits for, and booked."""
    at = Live(replace(world, jobs=()))
    segments: list[Segment] = []
    left: list[Unplaced] = []
    todo = sorted(world.jobs, key=lambda one: (one.release, one.name))
    done: set[str] = set()
    while todo:
        one = next(each for each in todo if done.issuperset(each.after))
        todo.remove(one)
        done.add(one.name)
        answer = decide(at, one, one.release)
        if isinstance(answer, Placed):
            at.book(one, answer.segments)
            segments += answer.segments
        else:
            left.append(answer)
    return assembled(world, segments, left)


def assembled(world: Problem, segments: list[Segment], left: list[Unplaced]) -> Plan:
    made = tuple(sorted(segments, key=lambda s: (s.start, s.job)))
    missing = any(world.job_by_name[u.job].required for u in left)
    return Plan(
        status=Status.INFEASIBLE if missing else Status.FEASIBLE,
        segments=made,
        unplaced=tuple(left),
        costs=cost.costs(world, made, [u.job for u in left]),
        useful_flops=sum(cost.segment_flops(world, s) for s in made),
    )


def untrue(world: Problem, plan: Plan) -> list[str]:
    """What the check finds, but for priorities: these are for the plan of the whole queue."""
    return [v for v in violations(world, plan) if "once lower priorities are dropped" not in v]


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_jobs_decided_one_by_one_make_a_true_plan(first: int) -> None:
    for seed in range(first, first + 100):
        world = random_problem(seed)
        assert untrue(world, replayed(world)) == []
    for seed in range(first // 10, first // 10 + 10):
        world = larger_problem(seed)
        plan = replayed(world)
        assert untrue(world, plan) == []
        assert plan.segments


def test_a_job_alone_costs_what_trying_everything_finds() -> None:
    compared = 0
    for seed in range(300):
        world = by_modes(random_problem(seed))
        for one in world.jobs:
            rented = any(world.pool_by_name[m.pool].billing is Billing.NODE for m in one.modes)
            if rented or isinstance(one.need, Demand):
                continue  # a node's bill is known when the whole plan is; services keep their peak
            alone = replace(world, jobs=(replace(one, after=(), required=False),))
            best = optimum(alone)
            assert best is not None
            answer = decide(Live(replace(alone, jobs=())), alone.jobs[0], 0)
            usd = answer.usd if isinstance(answer, Placed) else one.unplaced_usd
            assert usd == pytest.approx(best.objective_usd), (seed, one.name)
            compared += isinstance(answer, Placed)
    assert compared > 80
