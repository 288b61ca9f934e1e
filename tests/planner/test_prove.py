"""Bounds and plans of hundreds of jobs, on fleets small enough to try everything."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from planner.problem import Interruption, Problem
from planner.solve.clock import Clock, Limits, Step, Stop
from planner.solve.fleet import linear, packing
from planner.solve.fleet.benders import Benders, suits
from planner.solve.fleet.columns import Columns
from planner.solve.fleet.contest import compete
from planner.solve.fleet.improve import Chosen, chosen
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.prove import Proof, feasible, prove, within_reach
from planner.solve.fleet.reading import read
from tests.planner.worlds import job, mode, pool, problem

SEEDS = range(25)
SLOTS = 5


def world(seed: int) -> Problem:
    """Up to five gangs on two small pools, some with a deadline, some with a price on lateness."""
    rng = random.Random(seed)
    fast = pool("fast", nodes=1, gpus=rng.choice((4, 6)), slots=SLOTS, usd=3.0)
    slow = pool("slow", nodes=1, gpus=6, slots=SLOTS, usd=1.0)
    jobs = []
    for n in range(rng.randint(2, 5)):
        gpus, hours = rng.choice((1, 2, 4)), rng.randint(1, 3)
        jobs.append(
            job(
                f"j{n}",
                mode(fast, replicas=gpus, hours=hours),
                mode(slow, replicas=gpus, hours=hours + rng.random()),
                slots=SLOTS,
                release=rng.randint(0, 1),
                deadline=rng.choice((SLOTS, 4)),
                due=rng.choice((None, 2)),
                lateness_usd_per_hour=2.5,
                unplaced_usd=40.0,
                preemptible=False,
            )
        )
    return problem((fast, slow), tuple(jobs), slots=SLOTS)


def nothing(c: Columns) -> Chosen:
    """Everybody left out."""
    return chosen(c, *(np.full(c.job_count, -1, dtype=np.int32) for _ in range(2)))


def plans(c: Columns) -> Iterator[tuple[float, list[int]]]:
    """(cost, columns) of every plan that keeps capacity, by trying them all."""
    starts = linear.starts_of(c)
    free = c.capacity.astype(np.int64)

    def place(j: int, usd: float, held: list[int]) -> Iterator[tuple[float, list[int]]]:
        if j == c.job_count:
            yield usd, held
            return
        yield from place(j + 1, usd + float(c.jobs["unplaced_usd"][j]), held)
        for n in np.flatnonzero(starts.job == j):
            m, s = c.modes[starts.mode[n]], starts.start[n]
            rows = [r for r in c.rows[m["cls"]] if r >= 0]
            if all((free[r, s : s + m["length"]] >= m["takes"]).all() for r in rows):
                for r in rows:
                    free[r, s : s + m["length"]] -= m["takes"]
                yield from place(j + 1, usd + float(starts.usd[n]), [*held, int(n)])
                for r in rows:
                    free[r, s : s + m["length"]] += m["takes"]

    return place(0, 0.0, [])


def least(c: Columns) -> float:
    return min(usd for usd, _ in plans(c))


def relaxed(c: Columns) -> linear.Linear:
    return linear.relax(c, np.zeros(c.capacity.shape), lambda _: False)


def proof_of(c: Columns, seconds: float = 20.0, work: float | None = 2.0) -> Proof:
    clock = Clock(Limits(seconds=seconds))
    return prove(c, np.zeros(c.capacity.shape), nothing(c), clock, work)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_plan_proved_best_is_the_one_that_trying_everything_finds(seed: int) -> None:
    c = read(world(seed))
    proof, best = proof_of(c), least(c)
    assert proof.optimal
    assert proof.best.usd == pytest.approx(best)
    assert proof.bound_usd <= best + 1e-6
    assert feasible(c, proof.best)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_better_than_the_known_one_loses_a_column(seed: int) -> None:
    c = linear.sharpen(read(world(seed)))
    found, every = relaxed(c), list(plans(c))
    best = min(usd for usd, _ in every)
    for known in (best, 1.1 * best):
        kept = linear.fix(found, known)
        assert all(kept[held].all() for usd, held in every if usd <= known)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounded_rows_hold_the_same_plans_and_bounds_stay_below_the_best(seed: int) -> None:
    c = read(world(seed))
    sharp = linear.sharpen(c)
    assert sorted(usd for usd, _ in plans(sharp)) == sorted(usd for usd, _ in plans(c))
    plain, rounded, best = relaxed(c), relaxed(sharp), least(c)
    kept = linear.fix(rounded, best)
    starts = linear.starts_of(sharp)
    packed = packing.bound(sharp, starts, rounded, kept, Clock(Limits(seconds=10.0)), area=0.0)
    assert plain.bound_usd <= rounded.bound_usd + 1e-6
    assert rounded.bound_usd <= packed + 1e-6
    assert packed <= best + 1e-4


def test_the_lp_is_no_lower_than_prices_drawn_at_random() -> None:
    c = read(world(3))
    best, rng = relaxed(c).bound_usd, np.random.default_rng(0)
    starts = linear.starts_of(c)
    for _ in range(50):
        prices = rng.random(c.capacity.shape) * 2e-3
        assert linear.at_prices(Pricer(c), starts, prices).bound_usd <= best + 1e-6


def gangs_of_four(count: int) -> Columns:
    """On 6 GPUs for two slots; each takes one slot, for $4, or $40 left out."""
    one = pool("one", nodes=1, gpus=6, slots=2, usd=1.0)
    jobs = tuple(
        job(f"j{n}", mode(one, replicas=4, hours=1), slots=2, unplaced_usd=40.0, preemptible=False)
        for n in range(count)
    )
    return read(problem((one,), jobs, slots=2))


def test_gangs_of_four_on_six_gpus_pay_for_what_they_cannot_fill() -> None:
    # By GPUs alone two slots of 6 hold three gangs (12 <= 12): $12. Rounded, a slot holds one, so
    # one gang stays out: 4 + 4 + 40 = $48.
    c = gangs_of_four(3)
    assert relaxed(c).bound_usd == pytest.approx(12.0)
    assert relaxed(linear.sharpen(c)).bound_usd == pytest.approx(48.0)


def test_in_one_piece_gangs_earn_less_than_the_lp_lets_them() -> None:
    # Four gangs. By GPUs three of them fit: 3 x 4 + 40 = $52. A gang earns 40 - 4 = $36, so the LP
    # prices a GPU at 36 / 4 = $9, and the pool at 12 x 9 = $108. It holds two, which earn $72:
    # 4 x 40 - 72 = $88.
    c = gangs_of_four(4)
    found = relaxed(c)
    kept = linear.fix(found, 88.0)
    clock = Clock(Limits(seconds=10.0))
    assert found.bound_usd == pytest.approx(52.0)
    packed = packing.bound(c, linear.starts_of(c), found, kept, clock)
    assert packed == pytest.approx(88.0, abs=1e-3)


def timeless(seed: int) -> Columns:
    """The same worlds, where being late costs nothing."""
    base = world(seed)
    return read(replace(base, jobs=tuple(replace(j, due=None) for j in base.jobs)))


def benders_of(c: Columns) -> Benders:
    sharp = linear.sharpen(c)
    return Benders(c, sharp, relaxed(sharp), nothing(c), Clock(Limits(seconds=30.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_modes_and_parts_that_say_no_end_at_what_trying_everything_finds(seed: int) -> None:
    c = timeless(seed)
    assert suits(c)
    found, best = benders_of(c), least(c)
    found.run(until=30.0)
    assert found.best.usd == pytest.approx(best)
    assert best * (1 - 2e-5) <= found.bound_usd <= best + 1e-6
    assert feasible(c, found.best)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_breaks_a_row_that_is_learnt(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Benders, "offer", lambda *_: None)  # rows then hold for every plan
    c = timeless(seed)
    found = benders_of(c)
    found.run(until=found.clock.seconds + 0.5)
    every = list(plans(c))
    for _, held in every:
        on = np.isin(np.arange(c.modes.size), found.starts.mode[held]).astype(float)
        for row in [*found.rows, *found.covers]:
            assert float(row.weight @ on[row.modes]) <= row.most + 1e-6
    assert found.bound_usd <= min(usd for usd, _ in every) + 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_those_who_want_the_same_pools_share_them_at_the_least_cost(seed: int) -> None:
    c = timeless(seed)
    found, best = benders_of(c), least(c)
    compete(found, until=10.0)
    assert found.bound_usd <= best + 1e-6
    assert best - 1e-6 <= found.best.usd
    assert feasible(c, found.best)


def test_a_seed_and_an_amount_of_work_give_one_proof() -> None:
    c = read(world(7))
    first, second = proof_of(c), proof_of(c)
    assert first.bound_usd == second.bound_usd
    assert (first.best.mode == second.best.mode).all()
    assert (first.best.start == second.best.start).all()


def test_what_is_known_is_told_and_a_stop_is_heard() -> None:
    c = read(world(1))
    heard: list[Step] = []
    prove(c, np.zeros(c.capacity.shape), nothing(c), Clock(Limits(seconds=5.0), heard.append))
    assert heard
    assert all(step.bound_usd <= step.best_usd + 1e-6 for step in heard)
    stopped = Clock(Limits(seconds=60.0), None, Stop(asked=True))
    proof = prove(c, np.zeros(c.capacity.shape), nothing(c), stopped)
    assert proof.best.usd == nothing(c).usd
    assert proof.bound_usd <= least(c) + 1e-6


def test_jobs_that_may_be_split_get_a_bound_and_keep_their_plan() -> None:
    base, saves = world(2), Interruption(checkpoint_seconds=600)
    split = replace(
        base, jobs=tuple(replace(j, preemptible=True, interruption=saves) for j in base.jobs)
    )
    c = read(split)
    proof = proof_of(c, work=None)
    assert proof.best.usd == nothing(c).usd
    assert proof.bound_usd <= least(read(base)) + 1e-6


def test_a_million_columns_are_out_of_reach() -> None:
    c = read(world(0))
    modes = c.modes.copy()
    modes["last"][0] = 1_000_000
    assert within_reach(c)
    assert not within_reach(c._replace(modes=modes))
