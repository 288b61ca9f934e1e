"""Ruin and recreate: what it takes out together, and puts back in order."""

from __future__ import annotations

import random
from itertools import count

from planner.booking import Booking
from planner.problem import Job
from planner.solve import ruin
from planner.solve.build import Bookings
from planner.table import Table
from planner.table import build as tabulate
from tests.planner.worlds import job, mode, pool, problem

ONE = pool("a")  # one GPU for 6 slots
STEPS = 200


def improved(table: Table, *starts: int) -> Bookings:
    """The best plan found from jobs of one option each on the one node; -1 leaves one out."""
    best = {
        j: Booking(option=j, start=at, counts=((1,),)) for j, at in enumerate(starts) if at >= 0
    }

    def offer(bookings: Bookings) -> bool:
        best.clear()
        best.update(bookings)
        return False

    steps = count()
    ruin.improve(table, dict(best), share=lambda: next(steps) / STEPS, seed=0, offer=offer)
    return best


def asked(*jobs: Job) -> Table:
    return tabulate(problem((ONE,), jobs))


def test_jobs_that_wait_for_one_another_make_room_for_who_is_left_out() -> None:
    # 2 + 2 + 2 hours fill the 6 slots; while ``then`` stands at 3, no two in a row are free.
    table = asked(
        job("first", mode(ONE, hours=2)),
        job("then", mode(ONE, hours=2), after=("first",)),
        job("other", mode(ONE, hours=2)),
    )
    best = improved(table, 0, 3, -1)
    assert sorted(best) == [0, 1, 2]
    assert best[0].end(table) <= best[1].start


def test_who_waits_is_put_in_though_what_it_waits_for_stands_in_its_way() -> None:
    # ``first`` in the last slots leaves ``then`` none behind it: only together do they fit.
    table = asked(job("first", mode(ONE, hours=3)), job("then", mode(ONE, hours=3), after=("first",)))
    best = improved(table, 3, -1)
    assert {j: b.start for j, b in best.items()} == {0: 0, 1: 3}


def test_a_chain_too_long_to_be_taken_out_at_once_stays_where_it_is() -> None:
    names = [f"j{n}" for n in range(ruin.MOST_OUT + 1)]
    wide = pool("a", slots=40)
    links = [
        job(name, mode(wide, hours=1), slots=40, after=(names[n - 1],) if n else ())
        for n, name in enumerate(names)
    ]
    table = tabulate(problem((wide,), tuple(links), slots=40))
    apart = ruin.Ruin(table, {}, random.Random(0))
    assert apart.movable == []


def test_groups_are_what_waits_for_one_another_each_behind_what_it_awaits() -> None:
    # 0 waits for 1 and 2, 2 for 3; 4 for nobody.
    assert ruin.groups(((1, 2), (), (3,), (), ())) == [(1, 3, 2, 0)] * 4 + [(4,)]
