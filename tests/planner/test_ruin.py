"""Ruin and recreate: what it takes out together, and puts back in order."""

from __future__ import annotations

import random
from itertools import count

from planner.booking import Booking
from planner.occupancy import Occupancy
from planner.problem import Interruption, Job
from planner.solve import build, ruin
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
    table = asked(
        job("first", mode(ONE, hours=3)), job("then", mode(ONE, hours=3), after=("first",))
    )
    best = improved(table, 3, -1)
    assert {j: b.start for j, b in best.items()} == {0: 0, 1: 3}


def test_a_job_stops_for_another_where_who_waits_for_it_would_else_not_fit() -> None:
    # ``noon`` can only run in slot 2. In one piece ``long`` fits from 3 to 6 alone, and ``then``
    # not behind it; from 0 to 2 and from 3 to 4 it does as much, and leaves 4 to 6.
    table = asked(
        job("long", mode(ONE, hours=3), interruption=Interruption(checkpoint_seconds=600)),
        job("then", mode(ONE, hours=2), after=("long",)),
        job("noon", mode(ONE, hours=1), slots=3, release=2),
    )
    best = improved(table, 3, -1, 2)
    assert [(p.start, p.until(table)) for p in best[0].pieces()] == [(0, 2), (3, 4)]
    assert (best[1].start, best[2].start) == (4, 2)


def in_pieces(hours: float, *, saves: Interruption) -> list[tuple[int, int]] | None:
    """Where a job of so many hours runs beside one that holds slot 2."""
    table = asked(
        job("x", mode(ONE, hours=hours), interruption=saves),
        job("noon", mode(ONE, hours=1), slots=3, release=2),
    )
    occupancy = Occupancy(table)
    occupancy.take(Booking(option=1, start=2, counts=((1,),)))
    made = build.best_in_pieces(table, occupancy, {}, 0)
    return None if made is None else [(p.start, p.until(table)) for p in made.pieces()]


def test_pieces_are_longer_by_what_is_saved_and_restored() -> None:
    # 0.1 h to save: 1.9 h are done by slot 2. 0.1 h to restore and the other 1.1 h: two slots.
    saves = Interruption(checkpoint_seconds=600, save_seconds=360, restart_seconds=360)
    assert in_pieces(3, saves=saves) == [(0, 2), (3, 5)]


def test_a_piece_that_would_do_too_little_beside_its_save_and_restart_is_not_begun() -> None:
    # 4 x (0.3 + 0.3) h are more than the two slots before noon: all 3 h behind it, in one piece.
    saves = Interruption(checkpoint_seconds=600, save_seconds=1080, restart_seconds=1080)
    assert in_pieces(3, saves=saves) == [(3, 6)]


def test_who_may_not_stop_or_has_too_little_time_has_no_pieces() -> None:
    assert in_pieces(3, saves=Interruption()) is None
    assert in_pieces(5.5, saves=Interruption(checkpoint_seconds=600)) is None  # 5 h are free


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
