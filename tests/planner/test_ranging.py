"""How wide shadow prices are: linear programs solved by hand, with one unit more and one less."""

from __future__ import annotations

import random

import pytest

from planner.plan import Price
from planner.problem import Job, Pool, Problem, Queue
from planner.solve.master import Master, Relaxed
from planner.solve.pick import solve
from planner.solve.ranging import MOST, ranged
from planner.table import build
from tests.planner.worlds import job, mode, pool, problem, random_problem

ONE = pool("a")  # one GPU at $1, six slots of an hour
DEAR = pool("b", nodes=3, usd=3.0)


def prices(asked: Problem) -> Relaxed:
    master = Master(build(asked))
    return ranged(master, master.relax(seconds=5), seconds=5)


def choice(*names: str, hours: float, on: Pool = ONE, cpus: int = 0) -> tuple[Job, ...]:
    """Jobs that may run on ``on`` or on a dear one."""
    modes = (mode(on, hours=hours, cpus=cpus), mode(DEAR, hours=hours))
    return tuple(job(n, *modes) for n in names)


def only(asked: Problem) -> tuple[str, float, float | None, float | None]:
    """(resource, price, low, high) of the only price."""
    (found,) = prices(asked).prices
    low, high = found.low_usd_per_gpu_hour, found.high_usd_per_gpu_hour
    assert low is not None
    assert high is not None
    usd = found.usd_per_gpu_hour
    return found.resource, round(usd, 6), round(low, 6), round(high, 6)


def test_a_node_more_saves_less_than_its_price_where_it_is_more_than_enough() -> None:
    # 8 h of work, 6 h of a GPU at $1, the rest at $3: 6 + 2 x 3 = $12. A node more: 8 x $1, $4
    # saved by 6 h. A node less: 8 x $3, $12 dearer by 6 h.
    asked = problem((ONE, DEAR), choice("w", "x", "y", "z", hours=2))
    assert only(asked) == ("gpu", 2.0, round(4 / 6, 6), 2.0)


def test_a_pool_that_is_full_to_the_hour_has_a_range_and_not_a_number() -> None:
    # 6 h of work in 6 h: one more saves nothing, one less costs 6 x ($3 - $1) by 6 h.
    asked = problem((ONE, DEAR), choice("x", "y", "z", hours=2))
    _, usd, low, high = only(asked)
    assert (low, high) == (0.0, 2.0)
    assert 0.0 <= usd <= 2.0


def test_a_pool_with_a_node_to_spare_has_no_price() -> None:
    two = pool("a", nodes=2)
    asked = problem((two, DEAR), choice("x", "y", "z", hours=2, on=two))
    assert prices(asked).prices == ()


def test_cpus_that_run_out_first_have_the_price() -> None:
    # A job takes one of two GPUs and both CPUs of the node: one runs at a time, 6 of 8 h. A job's
    # hour there saves $2, for two CPUs: $1 for the CPU that goes with one GPU. A node more has
    # room for all: $4 by 12 GPU-hours.
    narrow = pool("a", gpus=2, cpus=2)
    modes = (mode(narrow, hours=1, cpus=2, usd=1.0), mode(DEAR, hours=1))
    asked = problem((narrow, DEAR), tuple(job(f"j{i}", *modes) for i in range(8)))
    assert only(asked) == ("cpu", 1.0, round(4 / 12, 6), 1.0)


def test_a_limit_is_worth_what_its_gpu_hours_let_run() -> None:
    # Three jobs of 3 h: $3 to run, $12 to leave out: $9 by 3 h. One more GPU lets the last one run
    # whole: 18 - 9 = $9 by 6 h. None at all: 36 - 18 = $18 by 6 h.
    many = pool("a", nodes=4)
    team = Queue(name="team", limit=(("a", 1),))
    jobs = tuple(job(n, mode(many, hours=3), queue="team", unplaced_usd=12.0) for n in "xyz")
    (found,) = prices(problem((many,), jobs, queues=(team,))).queue_prices
    assert (found.queue, found.what) == ("team", "a")
    assert (found.low_usd, found.usd, found.high_usd) == pytest.approx((1.5, 3.0, 3.0))


def test_a_budget_is_worth_what_a_dollar_of_it_saves() -> None:
    # $4 to run, $10 to leave out: each dollar of the budget saves 10 / 4 of not running.
    # It costs the dollar itself: $1.50.
    two = pool("a", nodes=2)
    team = Queue(name="team", budget_usd_per_month=6.0)
    jobs = tuple(job(n, mode(two, hours=4), queue="team", unplaced_usd=10.0) for n in "xy")
    (found,) = prices(problem((two,), jobs, queues=(team,))).queue_prices
    assert (found.queue, found.what) == ("team", "budget")
    assert (found.low_usd, found.usd, found.high_usd) == pytest.approx((1.5, 1.5, 1.5))


def test_a_node_that_cannot_be_missed_has_no_upper_end() -> None:
    must = job("must", mode(ONE, hours=6), required=True)
    (found,) = prices(problem((ONE, DEAR), (must, *choice("x", hours=1)))).prices
    assert found.low_usd_per_gpu_hour is not None
    assert found.high_usd_per_gpu_hour is None


@pytest.mark.parametrize("seed", range(30))
def test_both_ends_are_what_the_least_cost_says_of_a_node_more_and_less(seed: int) -> None:
    # The cheap pool takes 6 h a node of the work, the dear one the rest: with W hours on n nodes
    # V(n) = W + 2 max(0, W - 6 n) dollars.
    rng = random.Random(seed)
    nodes, hours = rng.randint(1, 3), [rng.randint(1, 3) for _ in range(rng.randint(4, 12))]
    cheap, dear = pool("a", nodes=nodes), pool("b", nodes=12, usd=3.0)
    jobs = tuple(
        job(f"j{i}", mode(cheap, hours=h), mode(dear, hours=h)) for i, h in enumerate(hours)
    )
    answer = [p for p in prices(problem((cheap, dear), jobs)).prices if p.pool == "a"]

    def least(n: int) -> float:
        return sum(hours) + 2.0 * max(0, sum(hours) - 6 * n)

    low, high = (least(nodes) - least(nodes + 1)) / 6, (least(nodes - 1) - least(nodes)) / 6
    assert len(answer) == (high > 0)
    for p in answer:
        assert p.low_usd_per_gpu_hour == pytest.approx(low)
        assert p.high_usd_per_gpu_hour == pytest.approx(high)


def test_a_range_holds_its_price_in_every_random_world() -> None:
    wrong = {}
    for seed in range(150):
        asked = random_problem(seed)
        answer = prices(asked)
        for p in answer.prices:
            low, high = p.low_usd_per_gpu_hour, p.high_usd_per_gpu_hour
            if not (low is None or high is None or 0 <= low <= p.usd_per_gpu_hour <= high):
                wrong[seed] = p
        assert len(answer.prices) <= MOST
    assert wrong == {}


def test_a_plan_carries_its_ranges() -> None:
    asked = problem((ONE, DEAR), choice("w", "x", "y", "z", hours=2))
    (found,) = solve(asked).prices
    assert isinstance(found, Price)
    assert found.low_usd_per_gpu_hour == pytest.approx(4 / 6)
    assert found.high_usd_per_gpu_hour == pytest.approx(2.0)


def test_without_time_prices_stay_as_they_are() -> None:
    master = Master(build(problem((ONE, DEAR), choice("w", "x", "y", "z", hours=2))))
    relaxed = master.relax(seconds=5)
    assert ranged(master, relaxed, seconds=0.0) == relaxed
