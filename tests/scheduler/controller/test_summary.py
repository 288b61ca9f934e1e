"""What is told of pools and queues: who waits, what is used, what is free."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from planner.manifests.status import GpuPoolStatus, GpuQueueStatus
from scheduler.controller.summary import (
    Stock,
    Sums,
    pool_status,
    queue_status,
    stocks,
    sums,
)
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import SLOTS, Player, queue, world

ROW = pool("row", nodes=1, gpus=8, slots=SLOTS)


def test_a_queue_counts_what_the_queues_under_it_have_and_what_has_ended_no_more() -> None:
    # 8 GPUs, jobs of 4: one of a's and one of b's run, the second of b's waits.
    tree = (queue("all"), queue("a", parent="all"), queue("b", parent="all"))
    play = Player(world(ROW, queues=tree))
    for name, of in (("one", "a"), ("two", "b"), ("three", "b")):
        play.arrive(job(name, mode(ROW, hours=2, gpus=4), slots=SLOTS, queue=of))
    on = ROW.accelerator
    assert sums(play.state) == {
        "a": Sums(waiting=0, running=1, used={on: 4.0}),
        "b": Sums(waiting=1, running=1, used={on: 4.0}),
        "all": Sums(waiting=1, running=2, used={on: 8.0}),
    }
    play.start("one", 0.0)
    play.finish("one", 1.0)  # the third takes its place
    found = sums(play.state)
    assert "a" not in found
    status = queue_status({"metadata": {"name": "all", "generation": 3}}, found["all"])
    assert (status["waitingJobs"], status["runningJobs"], status["used"]) == (0, 2, {on: 8})
    assert status["observedGeneration"] == 3


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "generation": 3}}


def test_what_jobs_hold_is_not_free_and_a_share_of_a_gpu_is_a_share() -> None:
    # 4 GPUs are held, and a quarter of one more: 3.75 of 8 are left.
    play = Player(world(ROW, queues=(queue("a"),)))
    play.run(job("one", mode(ROW, hours=2, gpus=4), slots=SLOTS, queue="a"))
    play.run(job("part", mode(ROW, hours=2, milli=250), slots=SLOTS, queue="a"))
    assert stocks(play.state) == {"row": Stock(nodes=1, gpus=8, free_gpus=3.75)}
    assert sums(play.state)["a"].used == {ROW.accelerator: 4.25}


def test_a_node_that_takes_nothing_new_has_nothing_free_nor_takes_it_from_others() -> None:
    # `one` runs on the node that is cordoned then: the other is free as a whole, but a bad GPU.
    two = pool("two", nodes=2, gpus=8, slots=SLOTS)
    play = Player(world(two))
    play.run(job("one", mode(two, hours=2, gpus=8), slots=SLOTS))
    (on,) = play.state.jobs["one"].nodes
    nodes = []
    for node in play.state.nodes:
        first, *others = node.devices
        bad = replace(first, unhealthy="Xid 79")
        cordoned = "kubectl cordon" if node.name == on else ""
        nodes.append(replace(node, cordoned=cordoned, devices=(bad, *others)))
    state = replace(play.state, nodes=tuple(nodes))
    assert stocks(state) == {"two": Stock(nodes=1, gpus=8, free_gpus=7.0)}


def test_a_pool_is_ready_when_it_has_nodes_and_its_object_can_be_used() -> None:
    def ready(*of: Any) -> tuple[str, str]:
        (found,) = pool_status(named("a"), *of)["conditions"]
        return found["status"], found["message"]

    some = Stock(nodes=2, gpus=16, free_gpus=7.5)
    assert ready(some) == ("True", "")
    assert ready(Stock()) == ("False", "no node that is ready")
    assert ready(some, "spec.price: found none") == ("False", "spec.price: found none")
    assert ready(some, "", "it shares a node") == ("True", "it shares a node")


def test_what_is_told_is_of_the_schema_and_a_condition_keeps_its_time_until_it_turns() -> None:
    raw = named("a")
    told = pool_status(raw, Stock(nodes=2, gpus=16, free_gpus=7.5))
    made = GpuPoolStatus.model_validate(told)
    assert (made.nodes, made.gpus, made.free_gpus, made.observed_generation) == (2, 16, 7.5, 3)
    then = "2026-12-01T00:00:00Z"
    raw["status"] = copy.deepcopy(told)
    raw["status"]["conditions"][0]["lastTransitionTime"] = then
    same, turned = pool_status(raw, Stock(nodes=1)), pool_status(raw, Stock())
    assert same["conditions"][0]["lastTransitionTime"] == then
    assert turned["conditions"][0]["lastTransitionTime"] != then
    queue_made = queue_status(named("q"), Sums(waiting=3, running=1, used={"l4": 12.5}))
    assert GpuQueueStatus.model_validate(queue_made).used == {"l4": 12.5}
