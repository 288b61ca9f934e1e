"""Domains by hand, and plans that hold to them."""

from __future__ import annotations

from dataclasses import replace

from planner.check import violations
from planner.plan import Plan, Reason, Status
from planner.problem import Pool, Problem
from planner.solve.pick import solve
from planner.topology import HOSTNAME, NOWHERE, domains
from tests.planner.worlds import RACK, job, mode, nodes_of, pool, problem

ROW = pool("a", nodes=4, gpus=2, levels=(RACK,))  # racks of two nodes


def held_by(asked: Problem, plan: Plan) -> dict[str, list[str]]:
    """The nodes of each job."""
    assert violations(asked, plan) == ()
    return {s.job: sorted(p.node for p in s.placement) for s in plan.segments}


def test_a_domain_is_known_by_its_name_and_those_above_it() -> None:
    levels = replace(ROW, topology_levels=("rack", "zone"))
    paths = (("r0", "north"), ("r0", "south"), ("r0", "north"), ())
    nodes = [replace(n, topology=t) for n, t in zip(nodes_of((levels,)), paths, strict=True)]
    assert domains(levels, nodes, "rack") == (0, 1, 0, NOWHERE)
    assert domains(levels, nodes, "zone") == (0, 1, 0, NOWHERE)
    assert domains(levels, nodes, HOSTNAME) == (0, 1, 2, 3)
    assert domains(levels, nodes, "block") == (NOWHERE,) * 4


def test_a_gang_held_by_a_rack_waits_until_a_rack_is_free() -> None:
    # A node of each rack is held until slot 2: two nodes are free, but no rack is.
    first = job("first", mode(ROW, hours=2, gpus=2, replicas=2, spread=RACK), deadline=2)
    gang = job("gang", mode(ROW, gpus=2, replicas=2, together=RACK), due=0, lateness_usd_per_hour=1)
    asked = problem((ROW,), (first, gang))
    plan = solve(asked)
    assert plan.status is Status.OPTIMAL
    nodes = held_by(asked, plan)
    assert nodes["gang"] in (["a-0", "a-1"], ["a-2", "a-3"])
    assert {s.job: s.start for s in plan.segments} == {"first": 0, "gang": 2}


def test_a_gang_that_would_rather_be_in_a_rack_goes_on_without_one() -> None:
    first = job("first", mode(ROW, hours=2, gpus=2, replicas=2, spread=RACK), deadline=2)
    wish = replace(mode(ROW, gpus=2, replicas=2), together=RACK)
    gang = job("gang", wish, due=0, lateness_usd_per_hour=1)
    asked = problem((ROW,), (first, gang))
    plan = solve(asked)
    assert held_by(asked, plan).keys() == {"first", "gang"}
    assert {s.start for s in plan.segments} == {0}


def test_more_replicas_than_racks_cannot_be_spread_over_them() -> None:
    asked = problem((ROW,), (job("three", mode(ROW, replicas=3, spread=RACK)),))
    plan = solve(asked)
    assert [(u.job, u.reason) for u in plan.unplaced] == [("three", Reason.NO_OPTION)]


def test_a_gang_wider_than_a_rack_cannot_be_held_by_one() -> None:
    asked = problem((ROW,), (job("wide", mode(ROW, gpus=2, replicas=3, together=RACK)),))
    plan = solve(asked)
    assert [(u.job, u.reason) for u in plan.unplaced] == [("wide", Reason.NO_OPTION)]


def with_a_broken_gpu(of: Pool) -> frozenset[tuple[str, int]]:
    return frozenset([(f"{of.name}-0", 1)])


def test_an_unhealthy_gpu_takes_itself_and_not_its_node() -> None:
    # Of eight GPUs one is out: seven jobs run in the first hour, the last in the second.
    jobs = tuple(job(f"j{i}", mode(ROW), due=1, lateness_usd_per_hour=1.0) for i in range(8))
    asked = problem((ROW,), jobs, unhealthy=with_a_broken_gpu(ROW))
    plan = solve(asked)
    assert violations(asked, plan) == ()
    assert sorted(s.start for s in plan.segments) == [0] * 7 + [1]
    on_broken = [p.devices for s in plan.segments for p in s.placement if p.node == "a-0"]
    assert set(on_broken) == {(0,)}


def test_a_node_with_an_unhealthy_gpu_is_too_small_for_a_replica_that_needs_all() -> None:
    one = pool("a", gpus=2)
    asked = problem((one,), (job("both", mode(one, gpus=2)),), unhealthy=with_a_broken_gpu(one))
    assert [u.reason for u in solve(asked).unplaced] == [Reason.NO_OPTION]
