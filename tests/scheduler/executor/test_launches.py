"""What a plan starts: hand-made segments, and what must come of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Placement, Plan, Segment, Status
from planner.problem import (
    Amounts,
    Billing,
    Demand,
    Grid,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    Run,
    Window,
    Work,
)
from scheduler.executor.launches import (
    Launch,
    launches,
    node_gpu_milli,
    run_id,
    with_stand_ins,
)

START = datetime(2026, 12, 1, tzinfo=UTC)
GRID = Grid(start=START, slot_seconds=3600, slots=24)
NODE = Amounts(gpu_milli=8000)
POOL = Pool(
    name="h100",
    accelerator="h100-sxm5-80gb",
    gpus_per_node=8,
    capacity=NODE,
    windows=(Window(start=0, end=24, nodes=2, usd_per_node_hour=8, marginal_usd_per_node_hour=8),),
    billing=Billing.GPU,
    purchase="on_demand",
)
NODES = tuple(Node(name=f"h100-{i}", pool="h100", index=i, capacity=NODE) for i in range(2))


def mode(gpu_milli: int = 1000, replicas: int = 8) -> Mode:
    return Mode(
        pool="h100",
        replicas=replicas,
        amounts=Amounts(gpu_milli=gpu_milli),
        work_per_replica_hour=1.0,
        usd_per_replica_hour=1.0,
        full_usd_per_replica_hour=1.0,
    )


def batch(name: str, after: tuple[str, ...] = (), gpu_milli: int = 1000) -> Job:
    return Job(
        name=name,
        need=Work(amount=8.0),
        modes=(mode(gpu_milli),),
        deadline=24,
        after=after,
        team="nlp",
        run=Run(entrypoint=f"run {name}"),
    )


def service(name: str) -> Job:
    need = Demand(per_slot=(1.0,) * 24)
    return Job(name=name, need=need, modes=(mode(),), deadline=24, run=Run(entrypoint="serve"))


def segment(job: str, start: int, end: int, **replicas_by_node: int) -> Segment:
    total = sum(replicas_by_node.values())
    return Segment(
        job=job,
        mode=0,
        replicas=total,
        start=start,
        end=end,
        work=float(total * (end - start)),
        placement=tuple(
            Placement(node=node.replace("_", "-"), replicas=n)
            for node, n in replicas_by_node.items()
        ),
    )


def problem(*jobs: Job) -> Problem:
    return Problem(grid=GRID, pools=(POOL,), nodes=NODES, jobs=jobs)


def made(jobs: tuple[Job, ...], *segments: Segment) -> tuple[Launch, ...]:
    return launches(problem(*jobs), Plan(status=Status.OPTIMAL, segments=segments))


def hours(launch: Launch) -> tuple[float, float]:
    return (
        (launch.start - START) / timedelta(hours=1),
        (launch.end - START) / timedelta(hours=1),
    )


def test_a_gang_over_two_nodes_is_one_request_for_gpus_of_both() -> None:
    [launch] = made((batch("a"),), segment("a", 3, 5, h100_0=8, h100_1=4))
    assert launch == Launch(
        name="a",
        job="a",
        entrypoint="run a",
        pool="h100",
        team="nlp",
        replicas=12,
        gpu_milli=(("h100-0", 8000), ("h100-1", 4000)),
        start=START + timedelta(hours=3),
        end=START + timedelta(hours=5),
        work=24.0,
    )
    assert launch.resources == {"flopwise-node-h100-0": 8000, "flopwise-node-h100-1": 4000}
    assert launch.gpus == 12


def test_a_share_of_a_gpu_is_a_whole_number_for_ray() -> None:
    [launch] = made((batch("a", gpu_milli=250),), segment("a", 0, 1, h100_0=6))
    assert launch.resources == {"flopwise-node-h100-0": 1500}
    assert launch.gpus == 1.5


def test_a_preempted_job_is_one_launch_a_segment_and_only_the_last_ends_by_itself() -> None:
    first, second = made((batch("a"),), segment("a", 0, 2, h100_0=8), segment("a", 5, 6, h100_1=8))
    assert (first.name, first.after, first.stops_at_end) == ("a_1", (), True)
    assert (second.name, second.after, second.stops_at_end) == ("a_2", ("a_1",), False)


def test_a_job_waits_for_every_launch_of_the_job_it_depends_on() -> None:
    found = made(
        (batch("a"), batch("b", after=("a",))),
        segment("a", 0, 2, h100_0=8),
        segment("a", 3, 4, h100_0=8),
        segment("b", 5, 6, h100_0=8),
    )
    assert found[-1].name == "b"
    assert found[-1].after == ("a_1", "a_2")


def test_the_replicas_of_a_service_that_run_through_are_one_launch() -> None:
    # Demand 2, 5, 2, 5 replicas: two run through, three come twice.
    found = made(
        (service("chat"),),
        segment("chat", 0, 6, h100_0=2),
        segment("chat", 6, 10, h100_0=5),
        segment("chat", 10, 18, h100_0=2),
        segment("chat", 18, 20, h100_0=5),
    )
    assert [(x.name, hours(x), x.replicas) for x in found] == [
        ("chat_1", (0, 20), 2),
        ("chat_2", (6, 10), 3),
        ("chat_3", (18, 20), 3),
    ]
    assert all(x.stops_at_end and x.after == () for x in found)
    # Work: 2 * 20; of 5 * 4 three fifths; of 5 * 2 three fifths.
    assert [x.work for x in found] == pytest.approx([40.0, 12.0, 6.0])


def test_bands_on_two_nodes_with_the_same_hours_start_together() -> None:
    [launch] = made((service("chat"),), segment("chat", 0, 4, h100_0=2, h100_1=1))
    assert launch.name == "chat"
    assert launch.gpu_milli == (("h100-0", 2000), ("h100-1", 1000))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=24))
def test_the_bands_of_a_service_hold_exactly_its_replicas_at_each_hour(curve: list[int]) -> None:
    segments = [
        segment("chat", hour, hour + 1, h100_0=count) for hour, count in enumerate(curve) if count
    ]
    found = made((service("chat"),), *segments)
    held = [
        sum(x.replicas for x in found if hours(x)[0] <= hour < hours(x)[1])
        for hour in range(len(curve))
    ]
    assert held == curve
    assert sum(x.work for x in found) == pytest.approx(sum(curve))


def test_launches_are_in_plan_order_and_carry_the_limit_of_attempts() -> None:
    both = (batch("b"), batch("a"))
    plan = Plan(
        status=Status.OPTIMAL,
        segments=(segment("b", 0, 1, h100_0=1), segment("a", 0, 1, h100_1=1)),
    )
    found = launches(problem(*both), plan, retries=4)
    assert [x.name for x in found] == ["a", "b"]
    assert {x.attempt_limit for x in found} == {5}


def test_the_local_ray_stands_in_for_the_nodes_of_the_plan_and_no_more() -> None:
    both = (batch("a"),)
    found = made(both, segment("a", 0, 1, h100_1=1))
    assert node_gpu_milli(problem(*both), found) == {"h100-1": 8000}


def test_the_same_plan_at_another_speed_is_another_run() -> None:
    found = made((batch("a"),), segment("a", 0, 1, h100_0=1))
    assert run_id(found, 1.0) == run_id(found, 1.0)
    assert run_id(found, 1.0) != run_id(found, 60.0)
    assert run_id(found, 1.0) != run_id((replace(found[0], entrypoint="other"),), 1.0)


def test_a_stand_in_runs_for_the_planned_hours_over_the_speed() -> None:
    found = made((batch("a"),), segment("a", 0, 2, h100_0=4))
    [launch] = with_stand_ins(found, 3600.0)
    # 2 h = 7200 s at 3600 plan seconds a second: 2 s; 4 replicas do 8 hours of work.
    assert launch.entrypoint.endswith("--job a --work 8 --unit hours --seconds 2")
    assert not launch.stops_at_end
