"""What is told of queues."""

from __future__ import annotations

from collections import Counter

from scheduler.controller.summary import Sums, queue_status, sums
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
        "a": Sums(waiting=0, running=1, used=Counter({on: 4})),
        "b": Sums(waiting=1, running=1, used=Counter({on: 4})),
        "all": Sums(waiting=1, running=2, used=Counter({on: 8})),
    }
    play.start("one", 0.0)
    play.finish("one", 1.0)  # the third takes its place
    found = sums(play.state)
    assert "a" not in found
    status = queue_status({"metadata": {"name": "all", "generation": 3}}, found["all"])
    assert (status["waitingJobs"], status["runningJobs"], status["used"]) == (0, 2, {on: 8})
    assert status["observedGeneration"] == 3
