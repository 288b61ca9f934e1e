"""Plans of the whole queue that arrive some moments late: what of them is adopted."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime

import pytest

from planner.plan import Placement, Plan, Price, Segment, Status
from planner.problem import Grid, Interruption, Job
from planner.solve.clock import Limits
from planner.solve.pick import solve
from scheduler.controller.state import Cause, JobDeleted, NodeLost, Phase, PlanArrived, rolled
from tests.planner.worlds import START, grid, job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, at, world
from tests.scheduler.controller.test_preempt import random_world, until_it_rests

ROW = pool("row", nodes=4, gpus=8, slots=SLOTS)
CHEAP = pool("cheap", nodes=2, gpus=8, slots=SLOTS, usd=0.5)
SAVES = Interruption(checkpoint_seconds=3600, save_seconds=60, restart_seconds=240)


def gang(name: str, nodes: int, hours: float, **fields: object) -> Job:
    made = mode(ROW, hours=hours, replicas=nodes, gpus=8)
    fields = {"interruption": SAVES, "unplaced_usd": 1e5, **fields}
    return job(name, made, slots=SLOTS, **fields)


def place(name: str, start: int, end: int, *nodes: str, mode: int = 0) -> Segment:
    placement = tuple(Placement(node=n, replicas=1, devices=tuple(range(8))) for n in nodes)
    return Segment(
        job=name,
        mode=mode,
        replicas=len(nodes),
        start=start,
        end=end,
        work=1.0,
        placement=placement,
    )


def plan(*segments: Segment, prices: tuple[Price, ...] = ()) -> Plan:
    return Plan(status=Status.FEASIBLE, segments=segments, prices=prices)


def tell(play: Player, found: Plan, when: float, since: Grid | None = None) -> None:
    play.tell(PlanArrived(at=at(when), plan=found, grid=since or grid(SLOTS)))


def test_what_waits_is_promised_what_the_plan_has_for_it() -> None:
    # The plan lets `b` go first, though it came later.
    play = Player(world(ROW))
    play.run(gang("runs", 4, 3))
    play.arrive(gang("a", 4, 2))
    play.arrive(gang("b", 4, 1))
    assert (play.starts("a"), play.starts("b")) == (3.0, 5.0)
    nodes = [f"row-{i}" for i in range(4)]
    tell(play, plan(place("b", 3, 4, *nodes), place("a", 4, 6, *nodes)), 1.0)
    assert (play.starts("b"), play.starts("a")) == (3.0, 4.0)
    assert play.state.jobs["b"].why.message == "by the plan of the whole queue"


def test_a_plan_on_a_grid_that_has_moved_on_is_read_by_the_clock() -> None:
    play = Player(world(ROW))
    play.run(gang("runs", 4, 6))
    play.arrive(gang("a", 1, 2))
    later = Grid(start=at(2), slot_seconds=3600, slots=SLOTS)
    tell(play, plan(place("a", 5, 7, "row-3")), 2.5, later)
    assert (play.starts("a"), play.state.jobs["a"].nodes) == (7.0, ("row-3",))


def test_what_started_meanwhile_keeps_its_nodes_and_who_was_to_have_them_is_placed_anew() -> None:
    play = Player(world(ROW))
    play.run(gang("runs", 3, 6))
    play.arrive(gang("wide", 4, 2))
    play.arrive(gang("quick", 1, 3))  # backfilled
    free = play.state.jobs["quick"].nodes
    tell(play, plan(place("wide", 6, 8, *(f"row-{i}" for i in range(4)))), 0.5)
    assert play.starts("wide") == 6.0
    tell(play, plan(place("wide", 1, 3, *(f"row-{i}" for i in range(4)))), 0.5)
    assert (play.starts("wide"), play.state.jobs["quick"].nodes) == (6.0, free)


def test_a_start_that_has_come_by_the_time_the_plan_does_is_a_launch() -> None:
    play = Player(world(ROW))
    play.run(gang("runs", 2, 6))
    play.arrive(gang("wide", 4, 2))
    play.arrive(gang("next", 3, 2))
    free = sorted({f"row-{i}" for i in range(4)} - set(play.state.jobs["runs"].nodes))
    narrow = replace(gang("narrow", 2, 9), due=0, lateness_usd_per_hour=1.0)
    play.arrive(narrow)
    assert play.phase("narrow") is Phase.RESERVED  # it would put `wide` off
    later = (place("wide", 9, 11, *(f"row-{i}" for i in range(4))),)
    tell(play, plan(place("narrow", 0, 9, *free), *later), 0.0)
    assert (play.phase("narrow"), play.starts("wide")) == (Phase.LAUNCHING, 9.0)


def test_prices_of_the_plan_decide_the_next_arrival() -> None:
    # Two hours at $0.50 and 8 GPUs are $8, at $1 $16; a price of $2 on the cheap ones turns that.
    play = Player(world(ROW, CHEAP))
    both = (mode(CHEAP, hours=2, gpus=8), mode(ROW, hours=2, gpus=8))
    assert play.arrive(job("a", *both, slots=SLOTS)).nodes == ("cheap-0",)
    dear = Price(pool="cheap", start=0, end=SLOTS, usd_per_gpu_hour=2.0)
    tell(play, plan(prices=(dear,)), 0.0)
    assert play.arrive(job("b", *both, slots=SLOTS)).nodes == ("row-0",)


def moving(name: str, hours: float) -> Job:
    """Twice as dear on the row as on the cheap nodes, and as fast."""
    both = (mode(ROW, hours=hours, gpus=8), mode(CHEAP, hours=hours, gpus=8))
    return job(name, *both, slots=SLOTS, interruption=SAVES, unplaced_usd=1e5)


@pytest.mark.parametrize(("hours", "moves"), [(10.0, True), (3.1, False)])
def test_what_runs_is_moved_where_that_pays(hours: float, moves: bool) -> None:
    # At 3.0 a save is made: nothing is at risk but a restart of 4 minutes of 8 GPUs at $0.50,
    # $0.27. Seven hours at $4 less are worth it, six minutes ($0.40, less what is done again
    # since the checkpoint at 2.0 ...) are not: at 2.9 the work of 0.9 h is at risk, $3.60.
    play = Player(world(ROW, CHEAP))
    play.run(job("x", mode(CHEAP, hours=21, replicas=2, gpus=8), slots=SLOTS))
    play.run(moving("train", hours))
    assert play.state.jobs["train"].mode is not None
    assert play.state.jobs["train"].nodes[0].startswith("row")
    play.finish("x", 2.5)
    cheap = place("train", 2, 2 + round(hours), "cheap-0", mode=1)
    tell(play, plan(cheap), 2.9)
    assert (play.phase("train") is Phase.STOPPING) == moves
    if moves:
        assert play.state.jobs["train"].why.reason == Cause.MOVED
        play.stop("train", 2.92, saved=True)
        assert play.phase("train") is Phase.LAUNCHING
        assert play.state.jobs["train"].nodes[0].startswith("cheap")


def moved_play() -> Player:
    """`train` is on the row, and is being moved to a cheap node: it was given notice at 2.9."""
    play = Player(world(ROW, CHEAP))
    play.run(job("x", mode(CHEAP, hours=21, replicas=2, gpus=8), slots=SLOTS))
    play.run(moving("train", 10.0))
    play.finish("x", 2.5)
    tell(play, plan(place("train", 2, 12, "cheap-0", mode=1)), 2.9)
    assert play.phase("train") is Phase.STOPPING
    return play


def on_cheap(name: str, hours: float, nodes: int = 1) -> Job:
    made = mode(CHEAP, hours=hours, replicas=nodes, gpus=8)
    return job(name, made, slots=SLOTS, interruption=SAVES, unplaced_usd=1e5)


def test_where_a_moved_job_is_to_go_is_kept_for_it_while_it_saves() -> None:
    # Two jobs of 5 hours come during the notice: one cheap node is theirs, the other is not.
    play = moved_play()
    assert [play.arrive(on_cheap(name, 5.0), 2.91).phase for name in "ab"] == [
        Phase.LAUNCHING,
        Phase.RESERVED,
    ]
    play.stop("train", 2.92, saved=True)
    (there,) = play.state.jobs["train"].nodes
    assert there.startswith("cheap")
    assert there not in play.state.jobs["a"].nodes
    play.tick(3.0)
    assert play.phase("train") is Phase.LAUNCHING
    assert play.state.jobs["train"].nodes == (there,)


def then_at(play: Player) -> datetime:
    """When `train` is promised to go on."""
    return play.state.grid.time(play.state.jobs["train"].then[0].start)


def test_the_place_of_a_moved_job_that_takes_long_to_stop_is_put_off_and_nobody_s() -> None:
    # Its notice ends in the slot of 2.9; it stops at 4.5.
    play = moved_play()
    play.tick(3.5)
    assert then_at(play) == at(4)
    assert play.arrive(on_cheap("wide", 3.0, nodes=2), 3.5).phase is Phase.RESERVED
    play.tick(4.2)
    assert then_at(play) == at(5)
    play.stop("train", 4.5, saved=True)
    play.tick(5.0)
    assert play.phase("train") is Phase.LAUNCHING
    assert play.state.jobs["train"].nodes[0].startswith("cheap")


def test_a_moved_job_whose_place_is_lost_goes_on_where_it_can() -> None:
    play = moved_play()
    (there,) = {p.node for s in play.state.jobs["train"].then for p in s.placement}
    play.tell(NodeLost(at=at(2.91), node=there))
    assert play.state.jobs["train"].then == ()
    play.stop("train", 2.92, saved=True)
    assert play.phase("train") is Phase.LAUNCHING
    assert there not in play.state.jobs["train"].nodes


def test_a_moved_job_that_is_deleted_keeps_nothing() -> None:
    play = moved_play()
    play.tell(JobDeleted(at=at(2.91), name="train"))
    assert play.arrive(on_cheap("wide", 3.0, nodes=2), 2.91).phase is Phase.LAUNCHING


def test_a_job_planned_in_several_stretches_is_decided_on_by_itself() -> None:
    play = Player(world(ROW))
    play.run(gang("runs", 4, 3))
    play.arrive(gang("a", 1, 2))
    tell(play, plan(place("a", 5, 6, "row-0"), place("a", 8, 9, "row-0")), 0.5)
    assert play.starts("a") == 3.0


def test_the_solvers_plan_of_any_world_is_adopted_without_a_fault() -> None:
    adopted = 0
    for seed in range(4):
        rng = random.Random(seed)
        state, jobs = random_world(rng)
        play = Player(state)
        for i, one in enumerate(jobs[:12]):
            play.arrive(one, 0.05 * i)
            if rng.random() < 0.7:
                play.obey(0.05 * i)
        asked = play.state.problem()
        found = solve(asked, Limits(seconds=1.0))
        play.tick(0.9)
        play.tell(PlanArrived(at=at(0.95), plan=found, grid=asked.grid))
        told = [one.why.message for one in play.state.jobs.values()]
        adopted += told.count("by the plan of the whole queue")
        until_it_rests(play, 1.0)
    assert adopted >= 4


def test_rolling_twice_is_rolling_once() -> None:
    play = Player(world(ROW))
    play.run(gang("runs", 4, 3))
    state = replace(play.state, now=START)
    assert rolled(rolled(state, 2), 3) == rolled(state, 5)
