"""Max-min fairness against answers by hand and an LP that is written out in full."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ortools.glop import parameters_pb2
from ortools.math_opt.python import mathopt

from planner.convert import gavel
from planner.fairness import (
    NOBODY,
    Claim,
    Contest,
    Portion,
    Rates,
    Shares,
    runnable,
    violations,
)
from planner.solve import max_min as solver
from planner.solve.max_min import fill, max_min, staircase

GAVEL = Path(__file__).parents[3] / "shared" / "data" / "gavel"
CLOSE = 1e-7
EXACT = mathopt.SolveParameters(
    glop=parameters_pb2.GlopParameters(
        primal_feasibility_tolerance=1e-11, dual_feasibility_tolerance=1e-11
    )
)


def contest(
    alone: list[list[float]],
    *,
    fleet: tuple[int, ...],
    claims: list[tuple[int, float]] | None = None,
    beside: np.ndarray | None = None,
    gpus: tuple[int, ...] = (),
    yardstick: tuple[float, ...] = (),
) -> Contest:
    """``alone`` by kind and type; a claim of each kind and weight 1 unless stated."""
    kinds = len(alone)
    rates = Rates(
        kinds=tuple(f"kind{k}" for k in range(kinds)),
        gpus=gpus or (1,) * kinds,
        alone=np.array(alone, dtype=np.float64),
        beside=beside,
    )
    stated = claims if claims is not None else [(k, 1.0) for k in range(kinds)]
    return Contest(
        types=tuple(f"type{t}" for t in range(len(fleet))),
        gpus=fleet,
        rates=rates,
        claims=tuple(Claim(job=f"job{j}", kind=k, weight=w) for j, (k, w) in enumerate(stated)),
        yardstick=yardstick,
    )


# -- by hand -------------------------------------------------------------------------------------


def test_two_jobs_of_one_kind_get_the_same() -> None:
    # A fast GPU (4) and a slow one (2), equal split 3. Both jobs together do 6 a second: 3 each.
    shares = max_min(contest([[4, 2]], fleet=(1, 1), claims=[(0, 1), (0, 1)]))
    assert shares.level == pytest.approx(1.0)
    assert shares.levels == pytest.approx((1.0, 1.0))


def test_each_job_goes_where_it_gains_most() -> None:
    # job0 does 4 on type0 and 1 on type1, job1 1 and 1. Equal split: 2.5 and 1. All of its time on
    # its own type gives 4 / 2.5 = 1.6 and 1; job1 cannot do better than 1 anywhere.
    shares = max_min(contest([[4, 1], [1, 1]], fleet=(1, 1)))
    assert shares.level == pytest.approx(1.0)


def test_a_twice_as_heavy_job_gets_twice_the_throughput() -> None:
    # One type, one GPU, levels x / weight: x = 2/3 and 1/3 give 1/3 to both.
    shares = max_min(contest([[5]], fleet=(1,), claims=[(0, 2), (0, 1)]))
    assert shares.levels == pytest.approx((1 / 3, 1 / 3))


def test_a_job_of_four_gpus_is_owed_a_quarter_of_the_time_of_a_job_of_one() -> None:
    # 4 GPUs, times x of a job of 4 GPUs and y of one of 1: levels 4 x and y, 4 x + y <= 4, y <= 1.
    shares = max_min(contest([[3], [3]], fleet=(4,), gpus=(4, 1)))
    assert shares.level == pytest.approx(1.0)
    # Three such small jobs and one large: 4 x + 3 y = 4 at 4 x = y = 1.
    three = contest([[3], [3]], fleet=(4,), gpus=(4, 1), claims=[(0, 1), (1, 1), (1, 1), (1, 1)])
    assert max_min(three).level == pytest.approx(1.0)
    # With 2 GPUs less it has no room: one left out of two kinds.
    small = max_min(replace(three, gpus=(2,)))
    assert math.isnan(small.levels[0])
    assert small.level == pytest.approx(2 / 3)


def test_two_jobs_on_one_gpu_do_more_than_one_after_the_other() -> None:
    # Half the time alone gives 0.5; together all the time at 0.8 of the speed gives 0.8.
    beside = np.array([[[8.0]]])
    shares = max_min(contest([[10]], fleet=(1,), claims=[(0, 1), (0, 1)], beside=beside))
    assert shares.level == pytest.approx(0.8)
    assert sum(p.fraction for p in shares.portions) == pytest.approx(1.0)


def test_a_job_does_not_share_a_gpu_with_itself() -> None:
    shares = max_min(contest([[10]], fleet=(2,), claims=[(0, 1)], beside=np.array([[[9.0]]])))
    assert shares.level == pytest.approx(1.0)
    assert [p.beside for p in shares.portions] == [NOBODY]


def test_a_job_that_runs_nowhere_is_left_aside() -> None:
    shares = max_min(contest([[2], [0]], fleet=(1,)))
    assert shares.level == pytest.approx(1.0)
    assert math.isnan(shares.levels[1])


def test_nobody_who_runs_is_an_error() -> None:
    with pytest.raises(ValueError, match="no claim runs on any type"):
        max_min(contest([[0]], fleet=(1,)))


def test_filling_raises_those_that_do_not_hold_the_least_up() -> None:
    # job0 and job1 run on type0 only, job2 on type1, alone. Yardstick 1: levels 1/2, 1/2, 1.
    shares = fill(contest([[1, 0], [1, 0], [0, 1]], fleet=(1, 1), yardstick=(1.0, 1.0, 1.0)))
    assert shares.levels == pytest.approx((0.5, 0.5, 1.0))
    assert shares.bound == pytest.approx(0.5)


def test_without_time_there_are_no_shares_and_no_proof() -> None:
    asked = contest([[4, 2]], fleet=(1, 1), claims=[(0, 1), (0, 1)])
    shares = max_min(asked, seconds=0.0)
    assert (shares.level, shares.bound, shares.portions) == (0.0, math.inf, ())
    assert shares.gap_fraction == math.inf
    assert violations(asked, shares) == ()
    assert fill(asked, seconds=0.0).level == 0.0


def test_a_yardstick_replaces_the_equal_split() -> None:
    assert max_min(contest([[6]], fleet=(1,), yardstick=(2.0,))).level == pytest.approx(3.0)


# -- what a true answer is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": 2.0}, "least level"),
        ({"bound": 0.1}, "bound"),
        ({"levels": (1.0, 0.5)}, "job1: level 0.5"),
        ({"portions": (Portion(claim=0, beside=NOBODY, type=0, fraction=2.0),)}, "job0: 2 of its"),
        (
            {
                "portions": tuple(
                    Portion(claim=j, beside=NOBODY, type=0, fraction=1.0) for j in (0, 1)
                )
            },
            "type0: 2 GPUs of 1",
        ),
        ({"portions": (Portion(claim=0, beside=0, type=0, fraction=0.5),)}, "beside itself"),
    ],
)
def test_a_false_answer_is_found_out(change: dict[str, Any], said: str) -> None:
    asked = contest([[4, 2]], fleet=(1, 1), claims=[(0, 1), (0, 1)], beside=np.full((2, 1, 1), 1.0))
    true = max_min(asked)
    assert violations(asked, true) == ()
    false = replace(true, **change)
    assert any(said in message for message in violations(asked, false))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": (0, 0)}, "at least one GPU"),
        ({"gpus": (1,)}, "another number"),
        ({"claims": (Claim(job="a", kind=0), Claim(job="a", kind=0))}, "same job"),
        ({"claims": (Claim(job="a", kind=0, weight=0.0),)}, "weight above 0"),
        ({"claims": (Claim(job="a", kind=7),)}, "kind that the rates know"),
        ({"yardstick": (1.0, 2.0)}, "yardstick"),
    ],
)
def test_a_contest_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(contest([[4, 2]], fleet=(1, 1)), **change)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"alone": np.array([[-1.0]])}, "a number from 0"),
        ({"alone": np.array([[math.nan]])}, "a number from 0"),
        ({"alone": np.array([[1.0], [1.0]])}, "1 kinds"),
        ({"gpus": (0,)}, "at least one GPU"),
        ({"beside": np.ones((2, 1, 1))}, "shared"),
    ],
)
def test_rates_that_cannot_be_are_refused(rates: dict[str, Any], said: str) -> None:
    right: dict[str, Any] = {"kinds": ("a",), "gpus": (1,), "alone": np.array([[1.0]])}
    with pytest.raises(ValueError, match=said):
        Rates(**{**right, **rates})


def test_jobs_of_unlike_gpu_counts_do_not_share() -> None:
    with pytest.raises(ValueError, match="unlike numbers"):
        contest([[1], [1]], fleet=(2,), gpus=(1, 2), beside=np.ones((1, 2, 2)))


# -- against the LP in full ----------------------------------------------------------------------


def drawn(seed: int, *, shared: bool = True) -> Contest:
    """A few kinds, types and claims; some kinds run nowhere, some pairs are not known."""
    rng = random.Random(seed)
    kinds, types = rng.randint(1, 4), rng.randint(1, 3)
    gpus = tuple(rng.choice((1, 1, 2)) for _ in range(kinds))
    alone = [[rng.choice((0, rng.uniform(1, 10))) for _ in range(types)] for _ in range(kinds)]
    beside = np.zeros((types, kinds, kinds))
    for t in range(types):
        for a in range(kinds):
            for b in range(a, kinds):
                if gpus[a] == gpus[b] and rng.random() < 0.7:
                    beside[t, a, b] = alone[a][t] * rng.uniform(0.3, 1.0)
                    beside[t, b, a] = alone[b][t] * rng.uniform(0.3, 1.0) if a != b else 0
                    if a == b:
                        beside[t, a, a] = alone[a][t] * rng.uniform(0.3, 1.0)
    weights = (1.0, 1.0, 2.0, rng.uniform(0.5, 3))
    claims = [(rng.randrange(kinds), rng.choice(weights)) for _ in range(rng.randint(1, 7))]
    return contest(
        alone,
        fleet=tuple(rng.randint(1, 3) for _ in range(types)),
        claims=claims,
        beside=beside if shared else None,
        gpus=gpus,
    )


class Full:
    """Every pair of claims a variable, no groups, no pricing: what `max_min` must equal.

    Levels are written from the definition, not from `Contest.gains`.
    """

    def __init__(self, asked: Contest) -> None:
        self.model = mathopt.Model()
        rates, fleet = asked.rates, asked.gpus
        self.level: dict[int, list[mathopt.LinearExpression]] = {}
        time: dict[int, list[mathopt.Variable]] = {j: [] for j in range(len(asked.claims))}
        terms: dict[int, list[mathopt.LinearTerm]] = {j: [] for j in time}

        def per_rate(j: int) -> float:
            claim = asked.claims[j]
            split = sum(
                r * n / sum(fleet) for r, n in zip(rates.alone[claim.kind], fleet, strict=True)
            )
            return rates.gpus[claim.kind] / claim.weight / split if split else 0.0

        for t, there in enumerate(fleet):
            held = []
            for j, claim in enumerate(asked.claims):
                x = self.model.add_variable(lb=0)
                held.append(rates.gpus[claim.kind] * x)
                time[j].append(x)
                if rates.gpus[claim.kind] <= there:
                    terms[j].append(float(per_rate(j) * rates.alone[claim.kind, t]) * x)
            for i, k in combinations(range(len(asked.claims)), 2):
                a, b = asked.claims[i].kind, asked.claims[k].kind
                if rates.beside is None or rates.gpus[a] != rates.gpus[b]:
                    continue
                if rates.gpus[a] > there:
                    continue
                x = self.model.add_variable(lb=0)
                held.append(rates.gpus[a] * x)
                for j, rate in ((i, rates.beside[t, a, b]), (k, rates.beside[t, b, a])):
                    time[j].append(x)
                    terms[j].append(float(per_rate(j) * rate) * x)
            self.model.add_linear_constraint(mathopt.fast_sum(held) <= there)
        for used in time.values():
            self.model.add_linear_constraint(mathopt.fast_sum(used) <= 1)
        self.terms = {j: mathopt.fast_sum(own) for j, own in terms.items() if own}

    def most(self, objective: mathopt.LinearBase) -> float:
        self.model.maximize(objective)
        result = mathopt.solve(self.model, mathopt.SolverType.GLOP, params=EXACT)
        assert result.termination.reason is mathopt.TerminationReason.OPTIMAL
        return float(result.objective_value())

    def least(self, jobs: list[int]) -> float:
        z = self.model.add_variable(lb=0)
        rows = [self.model.add_linear_constraint(self.terms[j] >= z) for j in jobs]
        found = self.most(z)
        for row in rows:
            self.model.delete_linear_constraint(row)
        return found

    def lexicographic(self, jobs: list[int]) -> dict[int, float]:
        """Round by round; a job is settled when no plan that keeps the others gives it more."""
        settled: dict[int, float] = {}
        while left := [j for j in jobs if j not in settled]:
            least = self.least(left)
            for j in left:
                self.model.add_linear_constraint(self.terms[j] >= least - 1e-10)
            settled |= {j: least for j in left if self.most(self.terms[j]) <= least + 1e-6}
        return settled


def ran(shares: Shares) -> list[int]:
    return [j for j, level in enumerate(shares.levels) if not math.isnan(level)]


@pytest.mark.parametrize("shared", [True, False])
def test_the_least_level_is_that_of_the_lp_in_full(shared: bool) -> None:
    compared = 0
    for seed in range(150):
        asked = drawn(seed, shared=shared)
        if not runnable(asked).any():
            continue
        shares = max_min(asked)
        least = Full(asked).least(ran(shares))
        assert shares.level == pytest.approx(least, rel=CLOSE), seed
        assert shares.bound == pytest.approx(least, rel=CLOSE), seed
        own = max_min(asked, merge=False)
        assert own.level == pytest.approx(least, rel=CLOSE), seed
        assert violations(asked, own) == ()
        compared += 1
    assert compared > 100


def test_filled_levels_are_those_of_one_lp_a_job_and_round() -> None:
    compared = 0
    for seed in range(60):
        asked = drawn(seed)
        if not runnable(asked).any():
            continue
        shares = fill(asked)
        levels = Full(asked).lexicographic(ran(shares))
        for j, level in levels.items():
            assert shares.levels[j] == pytest.approx(level, rel=1e-5), seed
        compared += 1
    assert compared > 40


def large(seed: int, claims: int) -> Contest:
    """Claims of five kinds, each of its own weight, on two types that hold half of them alone."""
    rng = np.random.default_rng(seed)
    alone = rng.uniform(1, 10, (5, 2))
    slowed = rng.uniform(0.4, 0.9, (2, 5, 5))
    return contest(
        alone.tolist(),
        fleet=(claims // 4, claims // 4),
        claims=[
            (int(k), float(w))
            for k, w in zip(rng.integers(0, 5, claims), rng.uniform(1, 2, claims), strict=True)
        ],
        beside=slowed * alone.T[:, :, None],
    )


def test_a_guess_of_the_first_columns_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "COARSE", 10)
    asked = large(3, 60)
    shares = max_min(asked, merge=False)
    assert shares.level == pytest.approx(Full(asked).least(list(range(60))), rel=CLOSE)
    assert shares.gap_fraction < 1e-9


# -- properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [4, 11, 23])
def test_the_order_of_jobs_does_not_matter(seed: int) -> None:
    asked = large(seed, 24)
    turned = replace(asked, claims=asked.claims[::-1])
    assert max_min(turned).level == pytest.approx(max_min(asked).level, rel=CLOSE)
    filled, again = fill(asked), fill(turned)
    assert filled.levels == pytest.approx(again.levels[::-1], rel=1e-6)


@pytest.mark.parametrize("seed", [4, 11, 23])
def test_a_gpu_more_never_lowers_the_least_level(seed: int) -> None:
    # Against one yardstick: under an equal split of the larger fleet the same throughput is less.
    asked = large(seed, 24)
    asked = replace(asked, yardstick=tuple(asked.measure().tolist()))
    level = max_min(asked).level
    for t in range(2):
        more = tuple(n + (t == k) for k, n in enumerate(asked.gpus))
        assert max_min(replace(asked, gpus=more)).level >= level * (1 - CLOSE)


@pytest.mark.parametrize("seed", [4, 11, 23])
def test_a_job_less_never_lowers_the_least_level(seed: int) -> None:
    asked = large(seed, 12)
    fewer = replace(asked, claims=asked.claims[1:])
    assert max_min(fewer).level >= max_min(asked).level * (1 - CLOSE)


def test_a_staircase_shares_both_sides_out_evenly() -> None:
    left, right = np.array([1, 1, 1]), np.array([1, 1])
    i, k, part = staircase(left, right)
    assert np.bincount(i, part) == pytest.approx([1 / 3] * 3)
    assert np.bincount(k, part) == pytest.approx([1 / 2] * 2)


# -- the published instance ----------------------------------------------------------------------


@pytest.mark.skipif(
    not GAVEL.is_dir(), reason="the published throughputs are not beside the project"
)
@pytest.mark.parametrize("merge", [True, False])
def test_the_published_optimum_of_2048_jobs_is_found(merge: bool) -> None:
    gpus = dict.fromkeys(("v100", "p100", "k80"), 512)
    asked = gavel.contest([GAVEL / "jobs_2048.csv"], GAVEL / gavel.MATRIX, gpus)
    shares = max_min(asked, merge=merge)
    assert shares.level == pytest.approx(1.1109128864, abs=1e-9)
    assert shares.gap_fraction < 1e-9
