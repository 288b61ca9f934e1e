"""Everything happens at random, and no world is ever impossible."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from planner.problem import Node
from scheduler.controller.state import (
    Event,
    JobChanged,
    JobCheckpointed,
    JobDeleted,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    NodeChanged,
    NodeLost,
    Phase,
    QueuesChanged,
    Tick,
)
from tests.scheduler.controller.play import Player, at
from tests.scheduler.controller.test_preempt import random_job, random_world


def of_a_job(rng: random.Random, play: Player, when: float) -> Event:
    """Something that happens to a job in its phase, as a cluster would tell it."""
    one = rng.choice(list(play.state.jobs.values()))
    name, now = one.name, at(when)
    if one.phase is Phase.LAUNCHING:
        failed = JobFailed(at=now, name=name, message="no image")
        return rng.choice([JobStarted(at=now, name=name), JobStarted(at=now, name=name), failed])
    if one.phase is Phase.STOPPING:
        return JobStopped(at=now, name=name, saved=rng.random() < 0.5)
    if one.phase is Phase.RUNNING:
        ended = JobFinished(at=now, name=name)
        return rng.choice([ended, JobFailed(at=now, name=name), JobCheckpointed(at=now, name=name)])
    if rng.random() < 0.1:
        return JobDeleted(at=now, name=name)
    return Tick(at=now)


def of_the_fleet(rng: random.Random, play: Player, whole: list[Node], when: float) -> Event:
    """A node goes, comes back, is cordoned, or has others' work on it."""
    node = rng.choice(whole)
    there = {n.name for n in play.state.nodes}
    if node.name in there and rng.random() < 0.3:
        return NodeLost(at=at(when), node=node.name)
    less = rng.choice([0, 0, 1000, 3000])
    free = replace(node.capacity, gpu_milli=node.capacity.gpu_milli - less)
    cordoned = rng.choice(["", "", "drained"])
    changed = replace(node, capacity=free, devices=(), cordoned=cordoned)
    return NodeChanged(at=at(when), node=changed)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_no_world_is_impossible(seed: int) -> None:
    rng = random.Random(1000 + seed)
    state, jobs = random_world(rng)
    big, small = state.pools
    whole = list(state.nodes)
    play = Player(state, others_take=True)
    when = 0.0
    for step in range(120):
        when += rng.choice([0.0, 0.01, 0.1, 0.4, 1.3])
        draw = rng.random()
        if jobs and (draw < 0.25 or not play.state.jobs):
            play.arrive(jobs.pop(), when)
        elif not play.state.jobs or draw < 0.35:
            play.tell(of_the_fleet(rng, play, whole, when))
        elif draw < 0.38:
            play.tell(QueuesChanged(at=at(when), queues=random_world(rng)[0].queues))
        elif draw < 0.42:
            changed = random_job(rng, step, big, small)
            name = rng.choice(list(play.state.jobs))
            play.tell(JobChanged(at=at(when), job=replace(changed, name=name), generation=step))
        else:
            play.tell(*(of_a_job(rng, play, when) for _ in range(rng.randint(1, 3))))
