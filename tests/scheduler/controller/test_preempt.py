"""Whose place a job may have, at what price, and that nobody takes turns."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from planner.manifests.schema import Preempts
from planner.plan import Reason
from planner.problem import Interruption, Job, Pool
from scheduler.controller.state import Cause, Phase, State
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, at, queue, world

ROW = pool("row", nodes=4, gpus=8, slots=SLOTS)
SAVES = Interruption(checkpoint_seconds=3600, save_seconds=60, restart_seconds=240)


def gang(name: str, nodes: int, hours: float, **fields: object) -> Job:
    """A job of whole nodes that saves each hour."""
    made = mode(ROW, hours=hours, replicas=nodes, gpus=8)
    fields = {"interruption": SAVES, "unplaced_usd": 1e5, **fields}
    return job(name, made, slots=SLOTS, **fields)


def few(name: str, gpus: int, hours: float, **fields: object) -> Job:
    """A job of some GPUs of one node."""
    made = mode(ROW, hours=hours, gpus=gpus)
    fields = {"interruption": SAVES, "unplaced_usd": 1e5, **fields}
    return job(name, made, slots=SLOTS, **fields)


# -- priority --------------------------------------------------------------------------------------


def test_a_higher_priority_stops_the_cheapest_that_are_enough() -> None:
    # At 2.5 `old` would lose half an hour on two nodes, `new`, since 2.4, six minutes on two.
    play = Player(world(ROW))
    play.run(gang("old", 2, 9), 0.0)
    play.run(gang("new", 2, 9), 2.4)
    urgent = play.arrive(gang("urgent", 2, 1, tier=5), 2.5)
    assert play.phases() == {"old": "Running", "new": "Stopping", "urgent": "Reserved"}
    assert (urgent.why.reason, urgent.why.binds) == (Reason.CAPACITY, ("new",))
    assert play.state.jobs["new"].why.reason == Cause.PREEMPTED
    play.stop("new", 2.52, saved=True)
    assert play.phases() == {"old": "Running", "new": "Reserved", "urgent": "Launching"}
    assert play.starts("new") == 4.0  # `urgent` works from 2.52 to 3.52


def test_who_was_stopped_goes_on_from_what_was_saved() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 8), 0.0)
    play.arrive(gang("high", 4, 1, tier=1), 2.0)
    play.stop("low", 2.0, saved=True)
    play.start("high", 2.0)
    play.finish("high", 3.0)
    one = play.state.jobs["low"]
    assert (one.phase, one.attempt, one.work_done) == (Phase.LAUNCHING, 2, 0.25)


def test_equal_priority_waits_and_any_lets_who_came_first_go_first() -> None:
    for policy, expected in ((Preempts.LOWER_PRIORITY, "Reserved"), (Preempts.ANY, "Reserved")):
        play = Player(world(ROW, queues=[queue("q", within_queue=policy)]))
        play.run(gang("a", 4, 8, queue="q"), 0.0)
        later = play.arrive(gang("b", 4, 8, queue="q"), 1.0)
        assert str(later.phase) == expected
    play = Player(world(ROW, queues=[queue("q", within_queue=Preempts.ANY)]))
    play.run(gang("a", 4, 8, queue="q"), 1.0)
    first = play.arrive(gang("b", 4, 8, queue="q"), 1.0, arrived=at(0.5))
    assert (first.phase, play.phase("a")) == (Phase.RESERVED, Phase.STOPPING)


def test_never_means_never() -> None:
    play = Player(world(ROW, queues=[queue("q", within_queue=Preempts.NEVER)]))
    play.run(gang("a", 4, 8, queue="q"), 0.0)
    assert play.arrive(gang("b", 4, 8, queue="q", tier=9), 1.0).phase is Phase.RESERVED
    assert play.phase("a") is Phase.RUNNING


@pytest.mark.parametrize("field", ["foreign", "preemptible"])
def test_what_may_not_be_stopped_is_not(field: str) -> None:
    play = Player(world(ROW))
    if field == "foreign":
        play.run(gang("a", 4, 8), 0.0, foreign=True)
    else:
        play.run(gang("a", 4, 8, preemptible=False), 0.0)
    assert play.arrive(gang("b", 4, 8, tier=9), 1.0).phase is Phase.RESERVED
    assert play.phase("a") is Phase.RUNNING


def test_priority_counts_within_a_queue_and_not_across_queues() -> None:
    play = Player(world(ROW, queues=[queue("a"), queue("b")]))
    play.run(gang("low", 4, 8, queue="a"), 0.0)
    assert play.arrive(gang("high", 4, 8, queue="b", tier=9), 1.0).phase is Phase.RESERVED
    assert play.phase("low") is Phase.RUNNING


def test_nobody_is_stopped_for_a_job_that_would_start_as_soon_without() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 3), 0.0)
    high = play.arrive(gang("high", 4, 1, tier=5), 2.5)  # notice ends in the slot from 3, too
    assert (high.phase, play.starts("high"), play.phase("low")) == (
        Phase.RESERVED,
        3.0,
        Phase.RUNNING,
    )


def test_promises_to_lower_priorities_give_way_before_anybody_is_stopped() -> None:
    # Two nodes until 4, two free from now on; `low` was promised all at 4, `mid` fits till then.
    play = Player(world(ROW))
    play.run(gang("runs", 2, 4), 0.0)
    play.arrive(gang("low", 4, 2), 0.0)
    mid = play.arrive(gang("mid", 2, 6, tier=1), 0.0)
    assert (mid.phase, play.phase("runs")) == (Phase.LAUNCHING, Phase.RUNNING)
    assert play.starts("low") == 6.0


def test_single_jobs_of_one_node_are_stopped_rather_than_pieces_of_several() -> None:
    # On each node 2 x 4 GPUs. Eight whole ones: both of one node, the pair that costs least.
    play = Player(world(replace(ROW)))
    for i in range(8):
        play.run(few(f"f{i}", 4, 9), 0.1 * i)
    play.arrive(few("whole", 8, 1, tier=1), 0.9)
    stopped = [n for n, p in play.phases().items() if p == "Stopping"]
    nodes = {play.state.jobs[n].nodes for n in stopped}
    assert (len(stopped), len(nodes)) == (2, 1)
    # All have worked less than an hour: the youngest pair has least to lose.
    assert stopped == ["f6", "f7"]


# -- what was lent ---------------------------------------------------------------------------------

LENT = (queue("a", guaranteed={"row": 16}), queue("b", guaranteed={"row": 16}))


def test_what_was_lent_is_taken_back_and_no_more_than_that() -> None:
    # b has all four nodes, by jobs of one; a is guaranteed two.
    play = Player(world(ROW, queues=LENT))
    for i in range(4):
        play.run(gang(f"b{i}", 1, 9, queue="b"), 0.1 * i)
    mine = play.arrive(gang("mine", 2, 1, queue="a"), 0.5)
    assert mine.phase is Phase.RESERVED
    assert play.phases() == {
        "b0": "Running",  # covered: the first two nodes of b are its own
        "b1": "Running",
        "b2": "Stopping",
        "b3": "Stopping",
        "mine": "Reserved",
    }
    assert play.state.jobs["b2"].why.reason == Cause.RECLAIMED
    more = play.arrive(gang("more", 1, 1, queue="a"), 0.5)  # above the guarantee of a
    assert (more.phase, play.phase("b0"), play.phase("b1")) == (
        Phase.RESERVED,
        Phase.RUNNING,
        Phase.RUNNING,
    )


def test_reclaim_may_be_limited_to_lower_priorities_or_forbidden() -> None:
    for policy, tier, expected in (
        (Preempts.LOWER_PRIORITY, 0, Phase.RUNNING),
        (Preempts.LOWER_PRIORITY, 1, Phase.STOPPING),
        (Preempts.NEVER, 1, Phase.RUNNING),
    ):
        queues = (queue("a", guaranteed={"row": 32}, reclaim=policy), queue("b"))
        play = Player(world(ROW, queues=queues))
        play.run(gang("theirs", 4, 9, queue="b"), 0.0)
        play.arrive(gang("mine", 4, 1, queue="a", tier=tier), 0.5)
        assert play.phase("theirs") is expected


def test_what_is_not_lent_stays_free() -> None:
    keeps = queue("a", guaranteed={"row": 16}, lendable={"row": 0})
    play = Player(world(ROW, queues=(keeps, queue("b"))))
    first = play.arrive(gang("b1", 2, 9, queue="b"))
    second = play.arrive(gang("b2", 1, 9, queue="b"))
    assert (first.phase, second.phase) == (Phase.LAUNCHING, Phase.RESERVED)
    assert (second.why.reason, second.why.binds) == (Reason.KEPT_BACK, ("a",))
    assert play.starts("b2") == 9.0
    assert play.arrive(gang("a1", 2, 9, queue="a")).phase is Phase.LAUNCHING


def test_a_limit_holds_and_is_named() -> None:
    play = Player(world(ROW, queues=[queue("q", limit={"row": 16})]))
    play.run(gang("a", 2, 3, queue="q"))
    b = play.arrive(gang("b", 1, 3, queue="q"))
    assert (b.phase, b.why.reason, play.starts("b")) == (Phase.RESERVED, Reason.QUEUE_LIMIT, 3.0)


def test_a_higher_priority_takes_the_place_of_another_under_its_queues_limit() -> None:
    # Two nodes are idle, but the queue may hold two nodes only.
    play = Player(world(ROW, queues=[queue("q", limit={"row": 16})]))
    play.run(gang("low", 2, 8, queue="q"))
    play.arrive(gang("high", 2, 3, queue="q", tier=1), 1.0)
    assert play.phases() == {"low": "Stopping", "high": "Reserved"}


# -- nobody takes turns ----------------------------------------------------------------------------


def random_world(rng: random.Random) -> tuple[State, list[Job]]:
    """Two pools, queues two deep, and jobs of all sizes and priorities."""
    big = pool("row", nodes=4, gpus=8, slots=SLOTS)
    small = pool("col", nodes=3, gpus=4, slots=SLOTS, usd=rng.choice([0.5, 1.0, 2.0]))
    never, lower, any_one = Preempts

    def rules() -> dict[str, Preempts]:
        return {
            "within_queue": rng.choice([never, lower, lower, any_one, any_one]),
            "reclaim": rng.choice([never, lower, any_one, any_one]),
        }

    def guarantee(most: int) -> dict[str, object]:
        gpus = rng.choice([0, most // 2, most])
        lent = {"lendable": {"row": rng.choice([0, gpus // 2])}} if rng.random() < 0.3 else {}
        return {"guaranteed": {"row": gpus, "col": rng.choice([0, 4])}, **lent}

    queues = [
        queue("a", **guarantee(16), **rules()),
        queue("b", **guarantee(16), **rules()),
        queue("a1", parent="a", **guarantee(8), **rules()),
        queue("a2", parent="a", limit={"row": rng.choice([8, 16, 32])}, **rules()),
        queue("b1", parent="b", **rules()),
    ]
    jobs = [random_job(rng, i, big, small) for i in range(rng.randint(12, 24))]
    return world(big, small, queues=queues), jobs


def random_job(rng: random.Random, number: int, big: Pool, small: Pool) -> Job:
    """The first are long and of no priority, so that there is whom to stop."""
    hours = rng.choice([1.0, 2.5, 6.0]) if number >= 8 else rng.choice([4.0, 8.0])
    whole = mode(big, hours=hours, replicas=rng.randint(1, 4), gpus=8)
    part = mode(big, hours=hours, replicas=rng.randint(1, 3), gpus=rng.choice([1, 2, 4]))
    other = mode(small, hours=2 * hours, replicas=rng.randint(1, 3), gpus=rng.choice([1, 4]))
    modes = rng.choice([(whole,), (part,), (whole, other), (part, other), (other,)])
    return job(
        f"j{number:02}",
        *modes,
        slots=SLOTS,
        queue=rng.choice(["a", "b", "b", "a1", "a2", "b1", ""] if number >= 8 else ["b", "a2"]),
        tier=rng.choice([0, 1, 5]) if number >= 8 else 0,
        preemptible=rng.random() < 0.9,
        interruption=rng.choice([SAVES, Interruption()]),
        unplaced_usd=1e5,
    )


def until_it_rests(play: Player, when: float) -> None:
    """Nothing happens but what the operator wants; it has to want nothing more in the end."""
    for _ in range(60):
        before = play.state
        play.obey(when)
        play.tick(when)
        if play.state == before:
            return
    raise AssertionError("it never comes to rest")


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_a_world_in_which_nothing_more_happens_comes_to_rest_and_nobody_takes_turns(
    first: int,
) -> None:
    evictions = 0
    for seed in range(first, first + 8):
        rng = random.Random(seed)
        state, jobs = random_world(rng)
        play = Player(state)
        for i, one in enumerate(jobs):
            play.arrive(one, 0.05 * i)
            if rng.random() < 0.7:
                play.obey(0.05 * i)
        known = len(play.evictions)
        until_it_rests(play, 1.5)
        pairs, last = set(play.evictions), play.evictions[known:]
        assert not any((victim, by) in pairs for by, victim in pairs), seed
        assert len(set(last)) == len(last), seed  # nobody stops another twice for nothing new
        evictions += len(pairs)
    assert evictions > 5  # or the worlds were too quiet to say anything


@pytest.mark.parametrize("seed", range(3))
def test_every_job_that_can_run_is_done_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    state, jobs = random_world(rng)
    play = Player(state)
    for i, one in enumerate(jobs):
        play.arrive(one, 0.1 * i)
    play.pass_time(60.0, step=0.5, when=2.5)
    left = {n: o.why.reason for n, o in play.state.jobs.items() if o.phase is not Phase.DONE}
    assert set(left.values()) <= {Reason.NO_OPTION, Reason.QUEUE_LIMIT, Reason.KEPT_BACK}
