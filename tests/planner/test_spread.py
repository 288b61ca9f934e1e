"""Arrays spread over the workers of a real Ray: the answers are those of one machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from planner.scenarios import Ray, ScenarioError, connected
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import ascent, engine
from planner.solve.fleet.columns import Priced
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.reading import read
from planner.solve.fleet.spread import Share, SpreadPricer, Values, pricers, split, values_of
from planner.spread import Workers, shares, workers
from tests.planner.test_fleet import fleet

Floats = npt.NDArray[np.float64]
Taken = tuple[Floats, Floats]  # what each job costs, and what it takes: (jobs, resources)


def priced(share: Taken, prices: Floats) -> Floats:
    """A stand-in for pricing: each job's cost at ``prices``, exactly."""
    usd, takes = share
    cost: Floats = usd + takes @ prices
    return cost


def broken(share: int, asked: str) -> int:
    """Fails as a worker may: by an error, by its end, by taking too long."""
    if asked == "error" and share == 1:
        raise ValueError("no such thing")
    if asked == "end" and share == 1:
        os._exit(1)
    if asked == "late":
        time.sleep(30)
    return share


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_shares_are_all_there_is_once_and_nearly_equal(count: int, parts: int) -> None:
    made = shares(count, parts)
    assert [i for a, b in made for i in range(a, b)] == list(range(count))
    lengths = [b - a for a, b in made]
    assert max(lengths) - min(lengths) <= 1
    assert len(made) == min(count, parts)


def test_nothing_has_no_shares() -> None:
    assert shares(0, 4) == []


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    """A Ray of two CPUs that serves all tests of this file."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with connected(Ray(), most=2):
        yield Ray()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
class TestOnRay:
    """One head serves them all."""

    def test_the_answers_are_those_of_one_machine_number_by_number(self, ray: Ray) -> None:
        rng = np.random.default_rng(0)
        usd, takes = rng.random(1001), rng.random((1001, 7))

        def split(parts: int) -> list[Taken]:
            return [(usd[a:b], takes[a:b]) for a, b in shares(usd.size, parts)]

        with workers(ray, priced, split) as held:
            assert len(held.actors) == 2
            for _ in range(3):  # the shares stay where they are
                prices = rng.random(7)
                there = np.concatenate(held.ask(prices, seconds=60))
                one_by_one = np.concatenate([priced(share, prices) for share in split(2)])
                assert np.array_equal(there, one_by_one)

    @pytest.mark.parametrize(
        ("asked", "seconds", "said"),
        [
            ("error", 60.0, "no such thing"),
            ("end", 60.0, "Ray: "),
            ("late", 0.1, "no answer within 0 s"),
        ],
    )
    def test_a_worker_that_fails_is_told(
        self, ray: Ray, asked: str, seconds: float, said: str
    ) -> None:
        def split(parts: int) -> list[int]:
            return [0, 1]

        with workers(ray, broken, split) as held, pytest.raises(ScenarioError, match=said):
            held.ask(asked, seconds=seconds)


# -- the pricing of a fleet ------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_shares_of_a_fleet_are_priced_as_the_whole_of_it(parts: int) -> None:
    c = read(fleet(3))
    pricer = Pricer(c)
    priced = pricer.priced(np.random.default_rng(0).random(c.capacity.shape) * 0.002)
    whole = pricer.values(priced)
    made = [values_of(share, priced) for share in split(c, parts)]
    assert len(made) == parts
    for one, all_parts in zip(whole, zip(*made, strict=True), strict=True):
        assert np.array_equal(np.asarray(one), np.concatenate(all_parts))


class LostWorkers(Workers[Share, Priced, Values]):
    """Workers that are gone when they are asked."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, asked: Priced, *, seconds: float) -> list[Values]:
        self.asked += 1
        raise ScenarioError("Ray: they are gone")


def test_a_fleet_whose_workers_are_lost_is_priced_here() -> None:
    c, lost = read(fleet(3)), LostWorkers()
    pricer, spread = Pricer(c), SpreadPricer(c, lost)
    priced = pricer.priced(np.zeros(c.capacity.shape))
    for _ in range(2):
        for here, there in zip(pricer.values(priced), spread.values(priced), strict=True):
            assert np.array_equal(np.asarray(here), np.asarray(there))
    assert lost.asked == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_fleet_priced_on_workers_has_the_same_bound_and_the_same_plan(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ascent, "PASSES", 40)  # enough to differ, were there a difference
    limits = Limits(seconds=600.0, seed=7, moves=20_000)
    here = engine.solve(fleet(1), Clock(limits))
    with pricers(ray) as make:
        there = engine.solve(fleet(1), Clock(limits), make)
    assert (there.bound, there.segments) == (here.bound, here.segments)
