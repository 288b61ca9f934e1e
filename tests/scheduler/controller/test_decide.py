"""Arrivals, reservations, backfill, faults: whole worlds, each step checked."""

from __future__ import annotations

from dataclasses import replace

from planner.manifests.schema import IdleAction
from planner.plan import Reason
from planner.problem import Interruption, Job
from scheduler.controller.state import (
    Cause,
    JobArrived,
    JobChanged,
    JobDeleted,
    JobFailed,
    JobIdle,
    NodeChanged,
    NodeLost,
    Phase,
)
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, at, queue, world

ROW = pool("row", nodes=4, gpus=8, slots=SLOTS)


def gang(name: str, nodes: int, hours: float, **fields: object) -> Job:
    """A job of whole nodes."""
    return job(name, mode(ROW, hours=hours, replicas=nodes, gpus=8), slots=SLOTS, **fields)


# -- arrivals --------------------------------------------------------------------------------------


def test_a_job_that_fits_is_launched_on_its_nodes_at_once() -> None:
    play = Player(world(ROW))
    one = play.arrive(gang("train", 2, 3))
    assert (one.phase, one.attempt, len(one.nodes)) == (Phase.LAUNCHING, 1, 2)
    play.start("train", 0.1)
    assert play.phase("train") is Phase.RUNNING


def test_what_was_told_twice_is_done_once() -> None:
    play = Player(world(ROW))
    play.arrive(gang("train", 2, 3))
    before = play.state
    play.arrive(gang("train", 2, 3))
    assert play.state == before


def test_a_gang_that_has_to_wait_is_promised_nodes_and_a_start() -> None:
    # Two nodes until 3, two until 5: a gang of three starts at 5.
    play = Player(world(ROW))
    play.run(gang("a", 2, 3))
    play.run(gang("b", 2, 5))
    one = play.arrive(gang("wide", 3, 2))
    assert (one.phase, one.why.reason, play.starts("wide")) == (
        Phase.RESERVED,
        Reason.CAPACITY,
        5.0,
    )


def test_a_small_job_is_backfilled_and_never_puts_off_what_was_promised() -> None:
    # `wide` is promised all at 5. Two nodes are free: 4 hours end before that, 6 do not.
    play = Player(world(ROW))
    play.run(gang("a", 2, 5))
    play.arrive(gang("wide", 4, 2))
    short = play.arrive(gang("short", 1, 4))
    long = play.arrive(gang("long", 1, 6))
    assert (short.phase, long.phase) == (Phase.LAUNCHING, Phase.RESERVED)
    assert (play.starts("wide"), play.starts("long")) == (5.0, 7.0)


def test_a_job_that_starts_inside_a_slot_is_taken_to_end_inside_one() -> None:
    # At 0.5, four hours end at 4.5: in the slot from 4 to 5, before `wide` at 5. 4.6 hours do not.
    play = Player(world(ROW))
    play.run(gang("a", 2, 5))
    play.arrive(gang("wide", 4, 2))
    fits = play.arrive(gang("fits", 1, 4.5), 0.5)
    late = play.arrive(gang("late", 1, 4.6), 0.5)
    assert (fits.phase, late.phase) == (Phase.LAUNCHING, Phase.RESERVED)
    assert play.starts("wide") == 5.0


def test_what_ends_early_lets_the_next_in_line_start_at_once() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 10))
    play.arrive(gang("first", 4, 2))
    play.arrive(gang("second", 2, 2))
    play.finish("a", 1.5)
    assert play.phases() == {"a": "Done", "first": "Launching", "second": "Reserved"}


def test_a_promised_start_comes() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 2))
    play.arrive(gang("next", 4, 2))
    play.finish("a", 1.99)
    assert play.phase("next") is Phase.LAUNCHING


def test_what_takes_longer_than_it_was_to_keeps_its_nodes_and_promises_give_way() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 2))
    play.arrive(gang("next", 4, 2))
    play.tick(2.0)
    assert (play.phase("a"), play.phase("next"), play.starts("next")) == (
        Phase.RUNNING,
        Phase.RESERVED,
        3.0,
    )
    play.finish("a", 2.25)
    assert play.phase("next") is Phase.LAUNCHING


def test_a_job_that_can_never_fit_is_told_so_at_once() -> None:
    # 80 GPUs of a fleet of 32.
    play = Player(world(ROW))
    one = play.arrive(gang("eighty", 10, 1))
    assert (one.phase, one.why.reason) == (Phase.WAITING, Reason.NO_OPTION)
    assert one.why.message != ""


def test_a_job_of_a_queue_that_does_not_exist_is_told_so() -> None:
    one = Player(world(ROW)).arrive(gang("lost", 1, 1, queue="nowhere"))
    assert (one.phase, one.why.message) == (Phase.WAITING, "queue nowhere does not exist")


def test_a_job_stays_on_the_nodes_that_its_owner_allows() -> None:
    play = Player(world(ROW))
    one = play.arrive(gang("pinned", 1, 2), pinned=("row-3",))
    assert one.nodes == ("row-3",)
    second = play.arrive(gang("behind", 1, 2), pinned=("row-3",))
    assert (second.phase, play.starts("behind")) == (Phase.RESERVED, 2.0)


def test_a_job_starts_when_what_it_waits_for_has_ended_and_not_before() -> None:
    play = Player(world(ROW))
    play.run(gang("first", 1, 2))
    then = play.arrive(gang("then", 1, 1, after=("first",)))
    assert (then.phase, play.starts("then")) == (Phase.RESERVED, 2.0)
    play.finish("first", 0.5)
    assert play.phase("then") is Phase.LAUNCHING


def test_a_job_whose_forerunner_failed_is_told_so() -> None:
    play = Player(world(ROW))
    play.run(gang("first", 1, 2))
    play.arrive(gang("then", 1, 1, after=("first",)))
    play.tell(JobFailed(at=at(1), name="first", message="exit status 1", final=True))
    then = play.state.jobs["then"]
    assert (then.phase, then.why.reason) == (Phase.WAITING, Reason.DEPENDENCY)


def test_a_changed_job_is_decided_on_anew_and_one_that_runs_goes_on() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 3))
    play.arrive(gang("b", 2, 2))
    play.tell(JobChanged(at=at(0), job=gang("b", 5, 2), generation=2))
    assert (play.phase("b"), play.state.jobs["b"].generation) == (Phase.WAITING, 2)
    play.tell(JobChanged(at=at(0), job=gang("a", 1, 1, tier=7), generation=2))
    a = play.state.jobs["a"]
    assert (a.phase, len(a.nodes), a.job.tier) == (Phase.RUNNING, 4, 7)


def test_a_deleted_job_is_stopped_and_then_forgotten() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 3))
    play.arrive(gang("b", 4, 2))
    play.tell(JobDeleted(at=at(1), name="a"))
    assert (play.phase("a"), play.phase("b")) == (Phase.STOPPING, Phase.RESERVED)
    play.stop("a", 1.1)
    assert play.phases() == {"b": "Launching"}


# -- failures --------------------------------------------------------------------------------------


def test_a_job_that_fails_is_tried_again_after_a_while_and_not_for_ever() -> None:
    play = Player(world(ROW))
    for failures in (1, 2, 3):
        when = float(failures)
        if failures == 1:
            play.run(gang("flaky", 1, 3), when)
        else:
            play.start("flaky", when)
        play.tell(JobFailed(at=at(when), name="flaky", message="exit status 1"))
        if failures < 3:
            assert play.state.jobs["flaky"].why.reason == Cause.BACK_OFF
            assert play.phase("flaky") is Phase.SUSPENDED
            play.tick(when + 9 / 3600)  # 10 s after the first time, 20 s after the second
            assert play.phase("flaky") is Phase.SUSPENDED
            play.tick(when + 21 / 3600)
            assert play.phase("flaky") is Phase.LAUNCHING
    one = play.state.jobs["flaky"]
    assert (one.phase, one.why.message) == (Phase.FAILED, "exit status 1 (3 of 3)")


def test_a_lost_node_stops_its_gang_which_goes_on_elsewhere_from_its_checkpoint() -> None:
    # At 2.5 the last checkpoint of three hours' work was at 2: 2 of 3 are done.
    saves = Interruption(checkpoint_seconds=3600, save_seconds=0, restart_seconds=360)
    play = Player(world(ROW))
    play.run(gang("train", 2, 3, interruption=saves))
    lost = play.state.jobs["train"].nodes[0]
    play.tell(NodeLost(at=at(2.5), node=lost))
    assert (play.phase("train"), play.state.jobs["train"].why.reason) == (
        Phase.STOPPING,
        Cause.NODE_LOST,
    )
    play.stop("train", 2.6)
    one = play.state.jobs["train"]
    assert (one.phase, one.attempt, lost in one.nodes) == (Phase.LAUNCHING, 2, False)
    assert abs(one.work_done - 2 / 3) < 1e-9


def test_a_promise_on_a_node_that_goes_is_given_elsewhere() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 4, 2))
    promised = play.arrive(gang("b", 1, 2)).nodes[0]
    play.tell(NodeLost(at=at(0.5), node=promised))
    play.stop("a", 0.6)
    b = play.state.jobs["b"]
    assert b.phase is Phase.LAUNCHING
    assert promised not in b.nodes
    assert play.state.jobs["a"].why.reason == Reason.NO_OPTION  # four nodes of three


def test_a_cordoned_node_gets_nothing_new_and_keeps_what_it_has() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 1, 2))
    held = play.state.jobs["a"].nodes[0]
    node = next(n for n in play.state.nodes if n.name == held)
    play.tell(NodeChanged(at=at(0.5), node=replace(node, cordoned="under repair")))
    assert play.phase("a") is Phase.RUNNING
    others = play.arrive(gang("b", 3, 1), 0.5)
    assert (others.phase, held in others.nodes) == (Phase.LAUNCHING, False)
    play.finish("a", 1.0)
    assert play.arrive(gang("c", 1, 1), 1.0).phase is Phase.RESERVED


def test_a_node_that_comes_back_is_offered_to_those_that_wait() -> None:
    play = Player(world(ROW))
    node = play.state.nodes[0]
    play.tell(NodeLost(at=at(0), node=node.name))
    assert play.arrive(gang("all", 4, 1)).phase is Phase.WAITING
    play.tell(NodeChanged(at=at(0.5), node=node))
    assert play.phase("all") is Phase.LAUNCHING


# -- time ------------------------------------------------------------------------------------------


def test_the_grid_moves_on_under_what_runs_and_what_is_promised() -> None:
    play = Player(world(ROW))
    play.run(gang("long", 4, 6))
    play.arrive(gang("next", 4, 2))
    play.tick(4.0)
    assert play.state.grid.start == at(4)
    assert (play.phase("long"), play.starts("next")) == (Phase.RUNNING, 6.0)


def test_work_that_outlasts_the_grid_runs_to_its_end() -> None:
    # 40 hours on a grid of 24: it holds its nodes as long as it works.
    play = Player(world(ROW))
    play.run(gang("long", 4, 40, unplaced_usd=1e6))
    play.pass_time(39.5)
    assert play.phase("long") is Phase.RUNNING
    play.pass_time(40.5, when=39.5)
    assert play.phase("long") is Phase.DONE


def test_what_runs_by_a_record_of_a_clock_that_was_ahead_holds_its_nodes_now() -> None:
    # Its operator's clock was two hours ahead: it is on its nodes all the same.
    play = Player(world(ROW))
    play.run(gang("a", 4, 3))
    there = play.state.jobs["a"]
    ahead = replace(there.segments[0], start=2, end=5)
    after = Player(world(ROW))
    after.tell(JobArrived(at=at(0), job=replace(there, segments=(ahead,))))
    assert after.arrive(gang("b", 1, 1)).phase is Phase.RESERVED
    assert after.starts("b") == 5.0


# -- idle GPUs -------------------------------------------------------------------------------------


def idle_play(action: IdleAction, **fields: object) -> Player:
    """A job of all nodes in a queue that allows half an hour, an hour after its start."""
    play = Player(world(ROW, queues=[queue("q", idle_seconds=1800.0, idle_action=action)]))
    play.run(gang("a", 4, 10, queue="q", **fields))
    play.tick(1.0)
    return play


def test_a_job_that_leaves_its_gpus_idle_is_said_to_and_works_again_when_it_does() -> None:
    play = idle_play(IdleAction.WARN)
    play.tell(JobIdle(at=at(1.0), name="a", since=at(0.75)))  # a quarter of an hour only
    assert play.state.jobs["a"].idle_since is None
    play.tell(JobIdle(at=at(1.0), name="a", since=at(0.25)))
    warned = play.state.jobs["a"]
    assert (warned.phase, warned.idle_since) == (Phase.RUNNING, at(0.25))
    play.tell(JobIdle(at=at(1.1), name="a", since=None))
    assert play.state.jobs["a"].idle_since is None


def test_where_its_queue_says_so_an_idle_job_is_suspended_until_its_owner_changes_it() -> None:
    play = idle_play(IdleAction.SUSPEND)
    play.tell(JobIdle(at=at(1.0), name="a", since=at(0.25)))
    assert (play.phase("a"), play.state.jobs["a"].why.reason) == (Phase.STOPPING, Cause.IDLE)
    play.stop("a", 1.1, saved=True)
    play.tick(3.0)
    assert play.phase("a") is Phase.SUSPENDED  # though all nodes are free
    assert play.arrive(gang("b", 4, 1), 3.0).phase is Phase.LAUNCHING
    assert "a" not in play.state.problem().job_by_name
    play.finish("b", 4.0)
    assert play.phase("a") is Phase.SUSPENDED
    same = play.state.jobs["a"].job
    play.tell(JobChanged(at=at(4.0), job=same, generation=1))
    assert play.phase("a") is Phase.LAUNCHING


def test_a_job_that_may_not_be_stopped_and_one_of_a_queue_that_never_minds_go_on() -> None:
    play = idle_play(IdleAction.SUSPEND, preemptible=False)
    play.tell(JobIdle(at=at(1.0), name="a", since=at(0.25)))
    assert (play.phase("a"), play.state.jobs["a"].idle_since) == (Phase.RUNNING, at(0.25))
    never = idle_play(IdleAction.NEVER)
    never.tell(JobIdle(at=at(1.0), name="a", since=at(0.25)))
    assert (never.phase("a"), never.state.jobs["a"].idle_since) == (Phase.RUNNING, None)


def test_a_job_is_not_idle_for_what_its_gpus_did_before_it_came() -> None:
    play = Player(world(ROW))
    play.arrive(gang("a", 1, 10), 1.0)
    play.start("a", 1.0)
    play.tell(JobIdle(at=at(1.25), name="a", since=at(0)))
    assert play.state.jobs["a"].idle_since is None
