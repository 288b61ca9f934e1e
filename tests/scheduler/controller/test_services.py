"""A service follows its demand: it lends what it does not need, and has it back in time.

An hour a slot. The service takes whole nodes, one by night and more by day; a replica serves ten
requests an hour.
"""

from __future__ import annotations

from dataclasses import replace

from planner.plan import Reason
from planner.problem import Demand, Interruption, Job
from planner.solve.clock import Limits
from planner.solve.pick import solve
from scheduler.controller.actions import (
    Being,
    Observed,
    Report,
    Scale,
    Workload,
    diff,
    recalled,
    record_of,
    status_of,
)
from scheduler.controller.decide import run
from scheduler.controller.state import (
    Cause,
    JobArrived,
    NodeChanged,
    NodeLost,
    Phase,
    PlanArrived,
    State,
    Tracked,
)
from tests.planner.worlds import START, job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, at, world

ROW = pool("row", nodes=4, gpus=8, slots=SLOTS)
SAVES = Interruption(checkpoint_seconds=600, save_seconds=30, restart_seconds=60)
NOTICE = 30 / 3600  # hours


def curve(*stretches: tuple[int, float]) -> tuple[float, ...]:
    """Demand of a day in replicas, as (hours, replicas) one after the other."""
    return tuple(10 * replicas for hours, replicas in stretches for _ in range(hours))


DAY = curve((6, 1), (12, 4), (6, 1))  # one replica by night, four from 6 to 18


def chat(per_slot: tuple[float, ...] = DAY, name: str = "chat", **fields: object) -> Job:
    most = max(1, round(max(per_slot) / 10 + 0.49))
    serves = mode(ROW, replicas=most, gpus=8, serves=10.0)
    need = Demand(per_slot=per_slot)
    return job(name, serves, slots=SLOTS, need=need, unplaced_usd=1e6, **fields)


def gang(name: str, nodes: int, hours: float, **fields: object) -> Job:
    """A job of whole nodes that saves checkpoints."""
    stated = {"interruption": SAVES, **fields}
    return job(name, mode(ROW, hours=hours, replicas=nodes, gpus=8), slots=SLOTS, **stated)


def served(play: Player, name: str = "chat") -> int:
    return play.state.jobs[name].replicas


def playing(made: Job | None = None, **fields: object) -> Player:
    play = Player(world(ROW, **fields))  # type: ignore[arg-type]  # queues, by name
    play.run(made or chat(), scales=True)
    return play


# -- following -------------------------------------------------------------------------------------


def test_a_service_begins_with_what_its_demand_takes_now_and_has_the_rest_booked() -> None:
    play = playing()
    one = play.state.jobs["chat"]
    assert [(s.start, s.end, s.replicas) for s in one.segments] == [
        (0, 6, 1),
        (6, 18, 4),
        (18, 24, 1),
    ]
    assert one.nodes == ("row-0",)


def test_when_the_slot_turns_its_replicas_follow_up_and_down() -> None:
    play = playing()
    seen = []
    for hour in range(1, 20):
        play.tick(hour)
        seen.append(served(play))
    # From 1 to 5 one; from 6 to 17 four; one again from 18.
    assert seen == [1] * 5 + [4] * 12 + [1] * 2
    assert play.phase("chat") is Phase.RUNNING


def test_a_replica_that_takes_time_to_load_is_there_before_the_demand() -> None:
    play = playing(chat(interruption=Interruption(restart_seconds=600)))
    play.tick(4.5)
    assert served(play) == 1
    play.tick(5)  # the slot before the demand rises: ten minutes are less than an hour
    assert served(play) == 4


def test_a_curve_that_wiggles_by_less_than_a_replica_changes_nothing() -> None:
    wiggle = tuple(10 * (1.9 if hour % 2 else 2.1) for hour in range(SLOTS))
    play = playing(chat(wiggle))
    for hour in range(1, 12):
        play.tick(hour)
        assert served(play) == 3


def test_a_service_whose_workload_cannot_change_holds_its_peak() -> None:
    play = Player(world(ROW))
    play.run(chat())
    play.tick(1)
    assert served(play) == 4


def test_on_a_grid_that_moves_on_the_next_day_is_as_this_one() -> None:
    play = playing()
    seen = {}
    for hour in range(1, 49):
        play.tick(hour)
        seen[hour] = served(play)
    assert [seen[hour] for hour in (5, 6, 17, 18, 29, 30, 41, 42)] == [1, 4, 4, 1, 1, 4, 4, 1]


# -- lending ---------------------------------------------------------------------------------------


def test_what_it_does_not_need_by_night_is_free_for_a_job_that_ends_by_then() -> None:
    play = playing()
    one = play.arrive(gang("night", 3, 5))
    assert (one.phase, one.nodes) == (Phase.LAUNCHING, ("row-1", "row-2", "row-3"))
    play.start("night", 0.0)
    play.finish("night", 5.0)
    play.tick(6)
    assert served(play) == 4


def test_a_job_that_never_saves_is_not_started_where_it_would_be_stopped() -> None:
    # Seven hours on three nodes: the service has them from 6 to 18, and 18 to 24 is too short.
    play = playing()
    one = play.arrive(gang("long", 3, 7, interruption=Interruption()))
    assert (one.phase, one.why.reason) == (Phase.WAITING, Reason.CAPACITY)


def test_a_job_that_saves_borrows_the_night_and_is_stopped_with_notice_in_the_morning() -> None:
    play = playing()
    play.run(gang("long", 3, 10), 1.0)
    assert play.state.jobs["long"].segments[0].end == 6  # and not eleven
    play.tick(5.9)
    assert play.phase("long") is Phase.RUNNING
    play.tick(6 - NOTICE)
    stopped = play.state.jobs["long"]
    assert (stopped.phase, stopped.why.reason) == (Phase.STOPPING, Cause.RECLAIMED)
    assert stopped.why.message == "chat takes back for its demand what it had lent"
    assert play.state.grid.time(stopped.segments[0].end) == at(6)
    play.stop("long", 5.999, saved=True)
    play.tick(6)
    assert (served(play), play.phase("long"), play.starts("long")) == (4, Phase.RESERVED, 18.0)
    # It worked from 1 to 5.999, which was half of its ten hours; it goes on in the evening.
    play.tick(18)
    evening = play.state.jobs["long"]
    assert evening.phase is Phase.LAUNCHING
    assert abs(evening.work_done - 0.4999) < 1e-9


def test_what_is_given_back_in_the_evening_is_offered_at_once() -> None:
    # A night has ten hours, the job takes fourteen.
    play = playing(chat(curve((6, 1), (14, 4), (4, 1))))
    play.tick(6)
    waiting = play.arrive(gang("long", 3, 14), 7.0)
    assert waiting.phase is Phase.WAITING
    play.tick(20)
    assert play.phase("long") is Phase.LAUNCHING
    assert play.state.jobs["long"].nodes == ("row-1", "row-2", "row-3")


def test_a_job_that_runs_longer_than_it_was_to_is_stopped_for_the_service() -> None:
    # Five hours from 0 on, and it is still there when the slot turns.
    play = playing()
    play.check = lambda state: []  # both are on the nodes until it has gone
    play.run(gang("late", 3, 6, interruption=Interruption()))
    play.tick(6)
    assert play.phase("late") is Phase.STOPPING
    play.stop("late", 6.01)
    play.tick(6.02)
    assert served(play) == 4


def test_a_job_that_ends_in_time_is_left_alone() -> None:
    # It began at 0 and takes 5.9 hours: at 6 less the notice it has ended.
    play = playing()
    play.run(gang("fits", 3, 5.9))
    play.tick(5.89)
    assert play.phase("fits") is Phase.RUNNING


def test_a_job_beside_the_service_on_its_node_is_left_where_it_is() -> None:
    # Half a node each: the service takes the first half of row-0 by night, and of row-1 by day.
    # Three halves: it rises on row-0 and row-1.
    halves = mode(ROW, replicas=3, gpus=4, serves=10.0)
    made = replace(chat(curve((6, 1), (12, 3), (6, 1))), modes=(halves,))
    play = playing(made)
    play.run(job("small", mode(ROW, hours=20, gpus=4), slots=SLOTS, interruption=SAVES), 0.5)
    assert not {"row-0", "row-1"}.isdisjoint(play.state.jobs["small"].nodes)
    play.tick(6 - NOTICE)
    play.tick(6)
    assert (served(play), play.phase("small")) == (3, Phase.RUNNING)


def test_a_job_that_may_not_be_stopped_does_not_borrow() -> None:
    play = playing()
    one = play.arrive(gang("fixed", 3, 7, preemptible=False))
    assert one.phase is Phase.WAITING


# -- where there is too little ---------------------------------------------------------------------


def test_a_service_begins_on_what_is_free_and_takes_more_as_soon_as_there_is() -> None:
    # Two nodes are taken until 8: two of four are enough until 6, and too few until 8.
    play = Player(world(ROW))
    play.run(gang("before", 2, 8, interruption=Interruption(), preemptible=False))
    play.run(chat(), scales=True)
    assert served(play) == 1
    play.tick(6)
    assert served(play) == 2  # all that there is
    play.finish("before", 8.0)
    play.tick(9)
    assert served(play) == 4


def test_without_room_for_what_it_needs_now_it_waits() -> None:
    play = Player(world(ROW))
    play.run(gang("before", 3, 8, preemptible=False))
    one = play.arrive(chat(curve((24, 2))), scales=True)
    assert one.phase is Phase.WAITING


def test_a_node_that_goes_while_it_is_lent_is_made_good_elsewhere() -> None:
    play = Player(world(pool("row", nodes=5, gpus=8, slots=SLOTS)))
    play.run(chat(), scales=True)
    assert {p.node for p in play.state.jobs["chat"].spots} == {"row-0", "row-1", "row-2", "row-3"}
    play.tell(NodeLost(at=at(2), node="row-3"))
    assert play.phase("chat") is Phase.RUNNING
    for hour in (3, 6):
        play.tick(hour)
    assert play.state.jobs["chat"].nodes == ("row-0", "row-1", "row-2", "row-4")


def test_a_node_that_is_cordoned_while_it_is_lent_is_made_good_elsewhere() -> None:
    play = Player(world(pool("row", nodes=5, gpus=8, slots=SLOTS)))
    play.run(chat(), scales=True)
    (node,) = (n for n in play.state.nodes if n.name == "row-2")
    play.tell(NodeChanged(at=at(2), node=replace(node, cordoned="drained")))
    for hour in (3, 6):
        play.tick(hour)
    assert play.state.jobs["chat"].nodes == ("row-0", "row-1", "row-3", "row-4")


def test_a_node_that_goes_under_a_replica_stops_the_service() -> None:
    play = playing()
    play.tell(NodeLost(at=at(2), node="row-0"))
    assert play.phase("chat") is Phase.STOPPING


# -- the plan of the whole queue -------------------------------------------------------------------


def test_what_the_plan_has_for_a_service_is_held_slot_by_slot() -> None:
    play = Player(world(ROW))
    play.run(gang("before", 4, 1))
    play.arrive(chat(), scales=True)
    assert play.phase("chat") is Phase.WAITING
    problem = play.state.problem()
    plan = solve(problem, Limits(seconds=5.0, gap=None))
    assert {s.replicas for s in plan.segments if s.job == "chat"} == {1, 4}
    play.tell(PlanArrived(at=at(0.5), plan=plan, grid=problem.grid))
    play.finish("before", 1.0)
    play.tick(1.1)
    assert play.phase("chat") is Phase.LAUNCHING
    assert [s.replicas for s in play.state.jobs["chat"].segments] == [1, 4, 1]


# -- what is done and told -------------------------------------------------------------------------


def workload(one: Tracked, placed: tuple[tuple[str, int], ...], ready: int = 0) -> Workload:
    return Workload(
        job=one.name, being=Being.WORKING, attempt=1, placed=placed, started=START, ready=ready
    )


def actions(state: State, placed: tuple[tuple[str, int], ...]) -> list[object]:
    one = state.jobs["chat"]
    found = diff(Observed(workloads={"chat": workload(one, placed)}), state)
    return [each for each in found if not isinstance(each, Report)]


def test_the_workload_is_scaled_when_it_is_not_where_it_is_to_be() -> None:
    play = playing()
    assert actions(play.state, (("row-0", 1),)) == []
    play.tick(6)
    (scale,) = actions(play.state, (("row-0", 1),))
    assert isinstance(scale, Scale)
    assert [(p.node, p.replicas) for s in scale.segments for p in s.placement] == [
        ("row-0", 1),
        ("row-1", 1),
        ("row-2", 1),
        ("row-3", 1),
    ]
    assert actions(play.state, tuple((f"row-{i}", 1) for i in range(4))) == []


def test_what_is_told_are_the_replicas_wanted_and_ready_and_what_they_cost() -> None:
    # Eight GPUs at a dollar by night, 32 by day.
    play = playing()
    assert (status_of(play.state.jobs["chat"], play.state).usd_per_hour) == 8.0
    play.tick(6)
    told = status_of(play.state.jobs["chat"], play.state)
    assert (told.replicas, told.gpus, told.usd_per_hour) == (4, 32.0, 32.0)
    seen = Observed(workloads={"chat": workload(play.state.jobs["chat"], (), ready=3)})
    (report,) = (each for each in diff(seen, play.state) if isinstance(each, Report))
    assert (report.status.replicas, report.status.ready) == (4, 3)


def test_an_operator_that_comes_after_goes_on_with_what_the_service_holds() -> None:
    # Inside a shallow dip: whoever only knew the curve would give one back and take it again.
    wiggle = curve((1, 2.1), (3, 1.9), (20, 2.1))
    play = playing(chat(wiggle))
    play.tick(2)
    one = play.state.jobs["chat"]
    assert one.replicas == 3
    status = replace(status_of(one, play.state), record=record_of(one, play.state.grid))
    new = Tracked(job=one.job, arrived=START, scales=True, uid="chat")
    found = recalled(new, status, workload(one, ()), play.state.grid)
    after = replace(play.state, jobs={})
    after = run(JobArrived(at=at(2.5), job=found), after)
    assert after.jobs["chat"].replicas == 3
    assert after.jobs["chat"].phase is Phase.RUNNING
    assert [p.node for p in after.jobs["chat"].spots] == [p.node for p in one.spots]
