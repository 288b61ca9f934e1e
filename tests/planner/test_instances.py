"""Instances of MIG devices, named one segment after the other."""

from __future__ import annotations

from planner.instances import name_instances
from planner.plan import Placement, Segment
from planner.problem import Problem
from tests.planner.worlds import job, mode, pool, problem

A = pool("a", mig=(("3g.40gb", "2g.20gb", "1g.10gb"),))


def on_its_device(name: str, number: int, start: int, end: int) -> Segment:
    place = Placement(node="a-0", replicas=1, devices=(0,), geometries=(0,))
    return Segment(
        job=name, mode=number, replicas=1, start=start, end=end, work=0, placement=(place,)
    )


def instances(world: Problem, *segments: Segment) -> list[tuple[int, ...]]:
    return [s.placement[0].instances for s in name_instances(world, segments)]


def test_a_job_that_goes_on_in_its_mode_keeps_its_instance() -> None:
    world = problem((A,), (job("j", mode(A, profile="2g.20gb")),))
    assert instances(world, on_its_device("j", 0, 0, 1), on_its_device("j", 0, 1, 2)) == [
        (1,),
        (1,),
    ]


def test_a_job_that_changes_its_mode_takes_an_instance_of_the_new_profile() -> None:
    # 1g.10gb is the last instance of the geometry, 3g.40gb the first
    world = problem((A,), (job("j", mode(A, profile="1g.10gb"), mode(A, profile="3g.40gb")),))
    assert instances(world, on_its_device("j", 0, 0, 2), on_its_device("j", 1, 2, 4)) == [
        (2,),
        (0,),
    ]
