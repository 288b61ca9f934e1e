"""What is left of a fleet as jobs come and go."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.fast import Placed, decide
from planner.live import Live
from planner.problem import Problem
from tests.planner.worlds import larger_problem

worlds = st.integers(0, 200).map(larger_problem)
orders = st.randoms(use_true_random=False)


def filled(world: Problem) -> Live:
    """A live index with every job that finds a place."""
    live = Live(replace(world, jobs=()))
    for one in world.jobs:
        answer = decide(live, replace(one, after=()), one.release)
        if isinstance(answer, Placed):
            live.book(one, answer.segments)
    return live


def state(live: Live) -> list[list[int]]:
    found = [live.rows.ravel().tolist(), np.round(live.purse_usd * 1e6).astype(int).tolist()]
    for left in live.left.values():
        found += [left.gpu_milli.ravel().tolist(), left.gpu_memory_bytes.ravel().tolist()]
        found += [left.cpu_milli.ravel().tolist(), left.memory_bytes.ravel().tolist()]
    return found


@settings(max_examples=25, deadline=None)
@given(worlds, orders)
def test_what_all_give_back_is_what_there_was(world: Problem, order: random.Random) -> None:
    live = filled(world)
    names = sorted(live.booked)
    order.shuffle(names)
    for name in names:
        live.release(name)
    assert state(live) == state(Live(replace(world, jobs=())))


@settings(max_examples=25, deadline=None)
@given(worlds)
def test_nothing_is_ever_overbooked(world: Problem) -> None:
    live = filled(world)
    assert np.all(live.rows >= 0)
    assert np.all(live.purse_usd > -1e-6)
    for left in live.left.values():
        for column in (left.gpu_milli, left.gpu_memory_bytes, left.cpu_milli, left.memory_bytes):
            assert np.all(column >= 0)


@settings(max_examples=25, deadline=None)
@given(worlds)
def test_the_rows_are_the_sums_of_what_the_devices_have_left(world: Problem) -> None:
    for left in (live := filled(world)).left.values():
        rows = live.rows[left.row : left.row + 4]
        assert (rows[0] == (left.gpu_milli == 1000).sum(axis=(1, 2))).all()
        assert (rows[1] == left.gpu_milli.sum(axis=(1, 2))).all()
        assert (rows[2] == left.cpu_milli.sum(axis=1)).all()
        assert (rows[3] == left.memory_bytes.sum(axis=1)).all()
