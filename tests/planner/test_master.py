"""The relaxation: linear programs solved by hand, and never above the optimum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from planner.plan import Price
from planner.problem import Billing, Job, Problem, Queue
from planner.solve.master import Master, Relaxed
from planner.table import build
from tests.planner.brute_force import optimum
from tests.planner.worlds import job, mode, pool, problem, random_problem

ONE = pool("a")  # one GPU at $1, six slots of an hour
DEAR = pool("b", nodes=3, usd=3.0)


def relaxed(asked: Problem) -> Relaxed:
    return Master(build(asked)).relax(seconds=5)


def chosen(asked: Problem) -> Relaxed:
    return Master(build(asked)).choose(seconds=5, gap=0.0)


def shares(asked: Problem, answer: Relaxed) -> dict[tuple[str, str], float]:
    """Share of each job on each pool."""
    options = build(asked).options
    return {
        (asked.jobs[o.job].name, asked.pools[o.pool].name): round(float(answer.share[o.index]), 6)
        for o in options
    }


def choice(*names: str, hours: float, deadline: int = 6) -> tuple[Job, ...]:
    """Jobs that may run on the cheap GPU or on a dear one."""
    modes = (mode(ONE, hours=hours), mode(DEAR, hours=hours))
    return tuple(job(n, *modes, deadline=deadline) for n in names)


def priced(answer: Relaxed) -> list[Price]:
    """The shadow prices, to a millionth of a dollar."""
    return [replace(p, usd_per_gpu_hour=round(p.usd_per_gpu_hour, 6)) for p in answer.prices]


def test_an_area_is_shared_and_its_dual_is_the_price_of_a_gpu_hour() -> None:
    # Four jobs of 2 h want 8 h of a GPU that has 6: 6 h at $1 and 2 h at $3. One more hour of it
    # would save $3 - $1 = $2. By whole jobs three go there: 6 x $1 + 2 x $3, the same $12.
    asked = problem((ONE, DEAR), choice("w", "x", "y", "z", hours=2))
    answer = relaxed(asked)
    assert answer.usd == pytest.approx(12.0)
    assert priced(answer) == [Price(pool="a", start=0, end=6, usd_per_gpu_hour=2.0)]
    assert chosen(asked).usd == pytest.approx(12.0)


def test_whole_jobs_cost_more_than_parts_of_them() -> None:
    # Five slots: three jobs of 2 h take 5 h of it by parts: 5 x $1 + 1 x $3 = $8; whole, two of
    # them: 4 x $1 + 2 x $3 = $10.
    slots = 5
    one, dear = pool("a", slots=slots), pool("b", nodes=3, usd=3.0, slots=slots)
    modes = (mode(one, hours=2), mode(dear, hours=2))
    jobs = tuple(job(n, *modes, slots=slots) for n in "xyz")
    asked = problem((one, dear), jobs, slots=slots)
    assert relaxed(asked).usd == pytest.approx(8.0)
    assert chosen(asked).usd == pytest.approx(10.0)


def test_a_stretch_before_a_deadline_is_found_and_cut() -> None:
    # Over six slots there is room for all; before the deadline at 2 for two of three jobs of 1 h:
    # 2 x $1 + 1 x $3. The price is that of slots 0 to 2, and of no other.
    asked = problem((ONE, DEAR), choice("x", "y", "z", hours=1, deadline=2))
    answer = relaxed(asked)
    assert answer.usd == pytest.approx(5.0)
    assert priced(answer) == [Price(pool="a", start=0, end=2, usd_per_gpu_hour=2.0)]


def test_two_jobs_too_wide_to_be_one_after_the_other_do_not_share_a_gpu() -> None:
    # 4 h each of six: their areas fit by parts (6 of 8 h: $12), but any two overlap at hours 2
    # to 4: one at 4 x $1, the other at 4 x $3.
    asked = problem((ONE, DEAR), choice("x", "y", hours=4))
    assert relaxed(asked).usd == pytest.approx(16.0)


def test_nodes_that_are_away_have_no_area() -> None:
    # Of 6 h the GPU is there for 3: 3 h at $1 and 1 h at $3.
    cut = pool("a", windows=((0, 1, 1), (1, 4, 0), (4, 6, 1)))
    modes = (mode(cut, hours=1), mode(DEAR, hours=1))
    asked = problem((cut, DEAR), tuple(job(n, *modes) for n in "wxyz"))
    assert relaxed(asked).usd == pytest.approx(6.0)


def test_a_job_is_left_out_by_parts_and_whole() -> None:
    # Two jobs, $4 each to run, $10 to leave out, $6 to spend: one and a half run, 6 + 0.5 x 10;
    # whole, one does: 4 + 10. (On two nodes, so that only the budget binds.)
    two = pool("a", nodes=2)
    team = Queue(name="team", budget_usd_per_month=6.0)
    jobs = tuple(job(n, mode(two, hours=4), queue="team", unplaced_usd=10.0) for n in "xy")
    asked = problem((two,), jobs, queues=(team,))
    assert relaxed(asked).usd == pytest.approx(11.0)
    assert chosen(asked).usd == pytest.approx(14.0)


def test_a_queues_limit_is_an_area_over_the_grid() -> None:
    # One GPU for six slots under the limit, three jobs of 3 h ($3 each, $12 to leave out): two
    # thirds of them: 6 x $1 + 1 x $12.
    many = pool("a", nodes=3)
    team = Queue(name="team", limit=(("a", 1),))
    jobs = tuple(job(n, mode(many, hours=3), queue="team", unplaced_usd=12.0) for n in "xyz")
    assert relaxed(problem((many,), jobs, queues=(team,))).usd == pytest.approx(18.0)


def test_what_waits_for_a_job_runs_no_more_than_it_does() -> None:
    # The first costs $5 to run and $1 to leave out, the second $1 and $2: both out, $3. Were they
    # not linked, the second would run: $1 + $1.
    first = job("first", mode(ONE, hours=5), unplaced_usd=1.0)
    then = job("then", mode(ONE, hours=1), unplaced_usd=2.0, after=("first",))
    assert relaxed(problem((ONE,), (first, then))).usd == pytest.approx(3.0)
    free = job("then", mode(ONE, hours=1), unplaced_usd=2.0)
    assert relaxed(problem((ONE,), (first, free))).usd == pytest.approx(2.0)


def test_a_required_job_that_has_no_room_is_infeasible() -> None:
    jobs = tuple(job(n, mode(ONE, hours=4), required=True) for n in "xy")
    answer = relaxed(problem((ONE,), jobs))
    assert (answer.feasible, answer.usd) == (False, math.inf)


def test_a_rented_node_costs_its_start_beside_the_shares_of_its_hours() -> None:
    # Two GPUs at $1; a job takes both for 3 h: 3 x $2, and $2 for an hour of start-up.
    rented = pool("r", gpus=2, billing=Billing.NODE, startup_seconds=3600)
    asked = problem((rented,), (job("x", mode(rented, gpus=2, hours=3)),))
    assert relaxed(asked).usd == pytest.approx(8.0)


def test_the_shares_of_a_job_add_up_to_what_is_not_left_out() -> None:
    asked = problem((ONE, DEAR), choice("w", "x", "y", "z", hours=2))
    answer = shares(asked, relaxed(asked))
    for j in asked.jobs:
        assert answer[j.name, "a"] + answer[j.name, "b"] == pytest.approx(1.0)
    assert sum(answer[j.name, "a"] for j in asked.jobs) == pytest.approx(3.0)


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_the_relaxation_is_never_above_the_optimum(first: int) -> None:
    above = {}
    for seed in range(first, first + 100):
        asked = random_problem(seed)
        best = optimum(asked)
        most = math.inf if best is None else best.objective_usd + 1e-6
        if any(j.required and not o for j, o in zip(asked.jobs, build(asked).of_job, strict=True)):
            continue  # told apart before there is a relaxation
        for bound in (relaxed(asked).usd, chosen(asked).usd):
            if bound > most:
                above[seed] = (bound, most)
    assert above == {}


def test_the_relaxation_is_mostly_close_to_the_optimum() -> None:
    parts = []
    for seed in range(150):
        asked = random_problem(seed)
        best = optimum(asked)
        if best is not None and best.objective_usd > 0:
            parts.append(chosen(asked).usd / best.objective_usd)
    parts.sort()
    assert parts[len(parts) // 2] > 0.99
    assert parts[len(parts) // 10] > 0.6


def test_an_area_that_nothing_takes_has_no_price() -> None:
    asked = problem((ONE, DEAR), choice("x", hours=2))
    assert relaxed(asked).prices == ()


def test_a_question_without_jobs_costs_nothing() -> None:
    assert relaxed(problem((ONE, DEAR), ())).usd == 0.0
