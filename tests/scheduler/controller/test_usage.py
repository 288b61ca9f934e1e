"""What pools and queues look like: nodes, free GPUs, who waits, by queue and all below it."""

from __future__ import annotations

from dataclasses import replace

from planner.problem import Amounts
from scheduler.controller.usage import PoolUse, QueueUse, pool_use, queue_use
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, queue, world

H100 = pool("h100", nodes=2, gpus=8, usd=2.0, slots=SLOTS)


def player() -> Player:
    queues = (queue("company"), queue("nlp", parent="company"), queue("vision", parent="company"))
    return Player(world(H100, queues=queues))


def test_an_empty_pool_is_free() -> None:
    assert pool_use(player().state) == {"h100": PoolUse(nodes=2, gpus=16.0, free_gpus=16.0)}


def test_what_jobs_hold_is_not_free() -> None:
    # 8 of 16 GPUs run, 4 more were launched: 4 are left.
    play = player()
    play.run(job("one", mode(H100, hours=2, gpus=8), queue="nlp", slots=SLOTS))
    play.arrive(job("two", mode(H100, hours=2, gpus=4), queue="vision", slots=SLOTS))
    assert pool_use(play.state)["h100"].free_gpus == 4.0


def test_a_cordoned_node_has_nothing_free() -> None:
    state = player().state
    first, second = state.nodes
    state = replace(state, nodes=(replace(first, cordoned="kubectl cordon"), second))
    assert pool_use(state)["h100"] == PoolUse(nodes=2, gpus=16.0, free_gpus=8.0)


def test_what_others_use_of_a_node_is_not_ours_to_count() -> None:
    state = player().state
    first, second = state.nodes
    less = replace(first.capacity, gpu_milli=2500)
    state = replace(state, nodes=(replace(first, capacity=less), second))
    assert isinstance(less, Amounts)
    assert pool_use(state)["h100"] == PoolUse(nodes=2, gpus=10.5, free_gpus=10.5)


def test_a_job_counts_in_its_queue_and_in_all_above_it() -> None:
    # 16 GPUs: `one` runs on 8, `two` has 8, `three` waits.
    play = player()
    play.run(job("one", mode(H100, hours=2, gpus=8), queue="nlp", slots=SLOTS))
    play.run(job("two", mode(H100, hours=2, gpus=8), queue="vision", slots=SLOTS))
    play.arrive(job("three", mode(H100, hours=2, gpus=8), queue="nlp", slots=SLOTS))
    assert queue_use(play.state) == {
        "company": QueueUse(waiting_jobs=1, running_jobs=2, used={"h100": 16.0}),
        "nlp": QueueUse(waiting_jobs=1, running_jobs=1, used={"h100": 8.0}),
        "vision": QueueUse(waiting_jobs=0, running_jobs=1, used={"h100": 8.0}),
    }


def test_what_has_ended_is_neither_waiting_nor_running() -> None:
    play = player()
    play.run(job("one", mode(H100, hours=2, gpus=8), queue="nlp", slots=SLOTS))
    play.finish("one", 2.0)
    assert queue_use(play.state)["company"] == QueueUse()
