"""What would have been done and saved by an operator that only looks on."""

from __future__ import annotations

from dataclasses import replace

from scheduler.controller.decide import Decider
from scheduler.controller.shadow import compare, obeyed
from scheduler.controller.state import JobArrived, Phase, State, Tracked
from tests.planner.worlds import START, job, mode, pool
from tests.scheduler.controller.play import SLOTS, at, hours, world

DEAR = pool("dear", nodes=1, gpus=8, slots=SLOTS, usd=3.0)
CHEAP = pool("cheap", nodes=1, gpus=8, slots=SLOTS, usd=1.0)


def arrived(decider: Decider, state: State, name: str, length: float, when: float = 0.0) -> State:
    both = (mode(DEAR, hours=length, gpus=8), mode(CHEAP, hours=length, gpus=8))
    one = Tracked(job=job(name, *both, slots=SLOTS), arrived=at(when))
    return decider.run(JobArrived(at=at(when), job=one), state)


def test_the_world_that_would_be_does_what_was_decided() -> None:
    # Two jobs of two hours on the cheap node, one after the other.
    decider = Decider()
    state = arrived(decider, world(CHEAP), "a", 2)
    state = arrived(decider, state, "b", 2)
    now = obeyed(decider, state, at(2.5))
    assert [one.phase for one in now.jobs.values()] == [Phase.DONE, Phase.RUNNING]
    assert now.jobs["b"].started == at(2)
    assert obeyed(decider, now, at(5)).jobs["b"].phase is Phase.DONE


def test_a_job_that_others_put_on_dear_nodes_would_have_cost_less() -> None:
    # Two hours of 8 GPUs: $48 where it runs, $16 where it would.
    decider = Decider()
    would_be = arrived(decider, world(DEAR, CHEAP), "a", 2)
    theirs = would_be.jobs["a"]
    on_dear = replace(theirs.segments[0], mode=0)
    started = replace(theirs, segments=(on_dear,), phase=Phase.RUNNING, started=START + hours(0.5))
    actual = replace(would_be, jobs={"a": started})
    found = compare(actual, obeyed(decider, would_be, at(0.1)))
    (one,) = found.jobs
    assert (one.usd, one.would_usd, found.saved_usd) == (48.0, 16.0, 32.0)
    assert (found.compared, one.sooner) == (1, hours(0.5))


def test_a_job_without_a_place_in_one_world_saves_nothing_yet() -> None:
    decider = Decider()
    would_be = arrived(decider, world(DEAR, CHEAP), "a", 2)
    waits = replace(would_be.jobs["a"], segments=(), phase=Phase.WAITING)
    found = compare(replace(would_be, jobs={"a": waits}), would_be)
    assert (found.compared, found.saved_usd) == (0, 0.0)


def test_what_was_saved_on_a_job_stays_saved_when_it_has_ended() -> None:
    decider = Decider()
    would_be = arrived(decider, world(DEAR, CHEAP), "a", 2)
    theirs = would_be.jobs["a"]
    on_dear = replace(theirs.segments[0], mode=0)
    actual = replace(would_be, jobs={"a": replace(theirs, segments=(on_dear,))})
    before = compare(actual, would_be)
    ended = obeyed(decider, would_be, at(3))
    assert ended.jobs["a"].phase is Phase.DONE
    assert compare(actual, ended, before).saved_usd == 32.0
    assert compare(replace(actual, jobs={}), replace(ended, jobs={}), before) == before
