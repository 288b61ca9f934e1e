"""Everything happens at random, and no world is ever impossible."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from planner.problem import Demand, Interruption, Job, Node, Pool
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
    Tracked,
)
from tests.planner.worlds import job, mode
from tests.scheduler.controller.play import SLOTS, Player, at
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


def random_service(rng: random.Random, number: int, pool: Pool) -> Job:
    """A service of whole or half nodes, with a demand that wanders."""
    per_slot, level = [], rng.uniform(1, 30)
    for _ in range(SLOTS):
        level = min(40.0, max(0.0, level + rng.choice([0, 0, 1, 4, 15, -1, -4, -15])))
        per_slot.append(level)
    gpus = rng.choice([1, 2, pool.gpus_per_node])
    serves = mode(pool, gpus=gpus, replicas=max(1, math.ceil(max(per_slot) / 10)), serves=10.0)
    return job(
        f"service-{number}",
        serves,
        slots=SLOTS,
        need=Demand(per_slot=tuple(per_slot)),
        unplaced_usd=1e6,
        interruption=Interruption(restart_seconds=rng.choice([0, 240, 5000])),
    )


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_beside_services_no_world_is_impossible(seed: int) -> None:
    rng = random.Random(2000 + seed)
    state, jobs = random_world(rng)
    whole = list(state.nodes)
    play = Player(state, others_take=True)
    for number in range(3):
        made = random_service(rng, number, rng.choice(state.pools))
        play.arrive(made, 0.0, scales=True)
    when = 0.0
    for _ in range(120):
        when += rng.choice([0.0, 0.01, 0.1, 0.4, 0.9])
        draw = rng.random()
        if jobs and draw < 0.25:
            play.arrive(jobs.pop(), when)
        elif draw < 0.32:
            play.tell(of_the_fleet(rng, play, whole, when))
        elif draw < 0.45:
            play.tick(when)
        else:
            play.tell(*(beside(rng, play, when) for _ in range(rng.randint(1, 3))))
        for one in play.state.jobs.values():
            if one.scales and one.phase in (Phase.LAUNCHING, Phase.RUNNING):
                assert_enough(play, one)


def beside(rng: random.Random, play: Player, when: float) -> Event:
    """What happens to a job; a service neither ends nor fails."""
    found = of_a_job(rng, play, when)
    if isinstance(found, JobFinished | JobFailed) and found.name.startswith("service"):
        return Tick(at=at(when))
    return found


def assert_enough(play: Player, one: Tracked) -> None:
    """It has what its demand takes now, or all the places that it has, and a segment to the end."""
    assert isinstance(one.job.need, Demand)
    slot, mode = play.state.slot, one.job.modes[one.segments[0].mode]
    held = next(s for s in one.segments if s.end > slot)
    wanted = max(1, math.ceil(one.job.need.per_slot[slot] / 10 - 1e-9))
    places = sum(spot.replicas for spot in one.spots)
    assert held.start <= slot
    assert held.replicas >= min(wanted, places)
    assert places <= mode.replicas
