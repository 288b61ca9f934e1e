"""The tree of guarantees, by hand."""

from __future__ import annotations

from planner.problem import Queue
from scheduler.controller.quotas import Claim, borrowed, covered, misplaced
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, at, queue, world

H100 = "h100"


def claim(job: str, queue: str, gpus: int, *, tier: int = 0, came: float = 0.0) -> Claim:
    return Claim(job=job, queue=queue, order=(-tier, at(came), job), milli={H100: 1000 * gpus})


def test_what_is_borrowed_is_what_is_held_above_the_guarantee_with_those_below() -> None:
    # b, under a, holds 6 GPUs and a itself 1, of the 4 that a is guaranteed.
    row = pool("row", nodes=1, gpus=8, slots=SLOTS)
    play = Player(world(row, queues=[queue("a", guaranteed={"row": 4}), queue("b", parent="a")]))
    play.arrive(job("six", mode(row, gpus=6), slots=SLOTS, queue="b"))
    play.arrive(job("one", mode(row, gpus=1), slots=SLOTS, queue="a"))
    play.arrive(job("waits", mode(row, gpus=2), slots=SLOTS, queue="b"))
    found = [(b.queue, b.used_milli, b.milli) for b in borrowed(play.state)]
    assert found == [("a", 7000, 3000), ("b", 6000, 6000)]


# -- who is covered --------------------------------------------------------------------------------


def test_the_first_by_priority_and_arrival_that_fit_are_covered() -> None:
    # 8 guaranteed: 4 of priority 5, then 3 that came first; 2 more do not fit.
    queues = (Queue(name="a", guaranteed=((H100, 8),)),)
    claims = [
        claim("late", "a", 2, came=2),
        claim("first", "a", 3, came=1),
        claim("high", "a", 4, tier=5, came=3),
    ]
    assert covered(queues, claims) == {"high": frozenset({H100}), "first": frozenset({H100})}


def test_the_first_that_does_not_fit_ends_the_row() -> None:
    queues = (Queue(name="a", guaranteed=((H100, 8),)),)
    claims = [claim("big", "a", 9, came=1), claim("small", "a", 1, came=2)]
    assert covered(queues, claims) == {}


def test_a_queue_above_covers_what_its_guarantee_leaves_beyond_those_below() -> None:
    # top has 8, x 4 of it. x1 is covered by x, then 4 are left: y1 takes 3, x2 not 2.
    queues = (
        Queue(name="top", guaranteed=((H100, 8),)),
        Queue(name="x", parent="top", guaranteed=((H100, 4),)),
        Queue(name="y", parent="top"),
    )
    claims = [
        claim("x1", "x", 4, came=3),
        claim("y1", "y", 3, came=1),
        claim("x2", "x", 2, came=4),
    ]
    assert set(covered(queues, claims)) == {"x1", "y1"}


def test_no_queue_covers_nobody() -> None:
    queues = (Queue(name="a", guaranteed=((H100, 8),)),)
    assert covered(queues, [claim("free", "", 1)]) == {}


def test_a_queue_deeper_than_a_hundred_levels_is_a_root_meanwhile_and_says_so() -> None:
    parents = {f"q{n}": f"q{n - 1}" if n > 1 else "" for n in range(1, 103)}
    assert list(misplaced(parents)) == ["q101", "q102"]
    assert misplaced(parents)["q101"] == (
        "spec.parent: found q100, which is as deep as a queue may be; allowed: one less deep. "
        "It is a root meanwhile"
    )
