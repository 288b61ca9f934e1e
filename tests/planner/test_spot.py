"""Expected hours on nodes that are taken away, against a simulation of the same story."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.spot import expected_hours


def simulated_hours(
    rng: random.Random, hours: float, rate: float, stretch: float, save: float, restart: float
) -> float:
    """One run: stretches with a save each; an interruption loses one and costs a restart."""
    clock, done = 0.0, 0.0
    while done < hours - 1e-9:
        until = rng.expovariate(rate)
        if until >= stretch + save:
            clock += stretch + save
            done += stretch
            continue
        clock += until
        while (until := rng.expovariate(rate)) < restart:
            clock += until
        clock += restart
    return clock


@pytest.mark.parametrize(
    ("rate", "stretch", "save", "restart"),
    [(0.1, 1.0, 0.05, 0.1), (0.5, 0.5, 0.02, 0.25), (1.0, 0.25, 0.1, 0.5)],
)
def test_the_formula_is_the_mean_of_what_happens(
    rate: float, stretch: float, save: float, restart: float
) -> None:
    rng = random.Random(1)
    runs = [simulated_hours(rng, 10.0, rate, stretch, save, restart) for _ in range(3000)]
    told = expected_hours(
        10.0,
        interruptions_per_hour=rate,
        checkpoint_seconds=3600 * stretch,
        save_seconds=3600 * save,
        restart_seconds=3600 * restart,
    )
    assert told == pytest.approx(math.fsum(runs) / len(runs), rel=0.02)


def on(rate: float, *, checkpoint: float = 0.0, save: float = 0.0, restart: float = 0.0) -> float:
    return expected_hours(
        10.0,
        interruptions_per_hour=rate,
        checkpoint_seconds=checkpoint,
        save_seconds=save,
        restart_seconds=restart,
    )


def test_without_interruptions_only_saving_takes_time() -> None:
    assert on(0.0) == 10.0
    assert on(0.0, restart=3600) == 10.0
    assert on(0.0, save=3600) == 10.0  # it never saves
    # 20 stretches of half an hour, each with a save of 6 minutes: 2 h more.
    assert on(0.0, checkpoint=1800, save=360) == pytest.approx(12.0)


def test_a_checkpoint_longer_than_the_work_is_one_stretch() -> None:
    assert on(0.1, checkpoint=36_000) == pytest.approx(10 * math.expm1(1.0))
    assert on(0.1, checkpoint=10**6) == pytest.approx(10 * math.expm1(1.0))


def test_what_is_interrupted_too_often_never_ends() -> None:
    assert on(1000.0) == math.inf
    assert on(1000.0, restart=3600, checkpoint=1) == math.inf


def test_no_work_takes_no_time() -> None:
    none = expected_hours(
        0.0, interruptions_per_hour=1.0, checkpoint_seconds=0, save_seconds=60, restart_seconds=60
    )
    assert none == 0.0


rates = st.floats(0.001, 3.0)


@given(rates, rates, st.floats(0, 7200), st.floats(0, 300), st.floats(0, 600))
def test_more_interruptions_never_help(
    one: float, other: float, checkpoint: float, save: float, restart: float
) -> None:
    few, many = (
        on(rate, checkpoint=checkpoint, save=save, restart=restart) for rate in sorted((one, other))
    )
    assert 10.0 <= few <= many * (1 + 1e-12)
