"""A true plan has no violation; each way of making it false is named, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from planner import cost
from planner.check import violations
from planner.check_nodes import _plainly_right
from planner.plan import Bound, Placement, Plan, Reason, Segment, Status, Unplaced
from planner.problem import (
    Amounts,
    Billing,
    Demand,
    Device,
    Interruption,
    Job,
    Mode,
    Pool,
    Problem,
    Queue,
    Running,
    Work,
)
from planner.solve.pick import solve
from tests.planner.worlds import GIB, HOSTNAME, MONTH_END, job, mode, pool, problem, random_problem

POOL = pool("a", nodes=2, gpus=2, cpus=4, gib=4)  # $1 a GPU-hour, billed by GPU, 6 slots of 1 h
Place = tuple[str, int, tuple[int, ...]]  # node, replicas, GPUs


def seg(
    name: str, start: int, end: int, *places: Place, work: float = 1.0, which: int = 0
) -> Segment:
    """A segment with the replicas that its places hold."""
    return Segment(
        job=name,
        mode=which,
        replicas=sum(n for _, n, _ in places),
        start=start,
        end=end,
        work=work,
        placement=tuple(Placement(node=a, replicas=n, devices=d) for a, n, d in places),
    )


def answer(question: Problem, *segments: Segment, out: Sequence[str] = ()) -> Plan:
    """A plan of these segments whose sums are right."""
    costs = cost.costs(question, segments, out)
    return Plan(
        status=Status.OPTIMAL,
        segments=segments,
        unplaced=tuple(Unplaced(job=j, reason=Reason.CAPACITY, message="full") for j in out),
        costs=costs,
        useful_flops=sum(cost.segment_flops(question, s) for s in segments),
        bound=Bound(usd=costs.objective),
    )


def asked(*jobs: Job, of: Sequence[Pool] = (POOL,), queues: Sequence[Queue] = ()) -> Problem:
    return problem(tuple(of), jobs, queues=tuple(queues))


GANG = job("gang", mode(POOL, hours=2, replicas=2))
SOLO = job("solo", mode(POOL, hours=1))
PAIR = asked(GANG, SOLO)
ON_BOTH = (("a-0", 1, (0,)), ("a-1", 1, (0,)))
GANG_RUN = seg("gang", 0, 2, *ON_BOTH)
SOLO_RUN = seg("solo", 0, 1, ("a-0", 1, (1,)))
TRUE = answer(PAIR, GANG_RUN, SOLO_RUN)


def test_a_true_plan_has_no_violation() -> None:
    # The gang: 2 h x 2 GPUs x $1 = $4; the other: 1 h x 1 GPU x $1 = $1.
    assert TRUE.costs.money == 5.0
    assert violations(PAIR, TRUE) == ()


def test_the_best_plans_of_random_worlds_are_true_until_something_is_changed() -> None:
    for seed in range(60):
        question = random_problem(seed)
        plan = solve(question)
        assert violations(question, plan) == ()
        dearer = replace(plan.costs, money=plan.costs.money + 1)
        assert violations(question, replace(plan, costs=dearer))
        assert violations(question, replace(plan, bound=Bound(usd=plan.costs.objective + 1)))
        assert not plan.segments or violations(question, replace(plan, segments=plan.segments[1:]))


# -- names that are not there --------------------------------------------------------------------

UNKNOWN = {
    "segment of nobody: no such job": replace(SOLO_RUN, job="nobody"),
    "segment of solo: no mode 1": replace(SOLO_RUN, mode=1),
    "segment of solo: no mode -1": replace(SOLO_RUN, mode=-1),
    "segment of solo: [5, 7) is not a stretch of the grid": replace(SOLO_RUN, start=5, end=7),
    "segment of solo: [-1, 1) is not a stretch of the grid": replace(SOLO_RUN, start=-1),
    "segment of solo: [3, 3) is not a stretch of the grid": replace(SOLO_RUN, start=3, end=3),
    "segment of solo: no node a-9": seg("solo", 0, 1, ("a-9", 1, (1,))),
    "segment of solo: a node stands twice in its placement": seg(
        "solo", 0, 1, ("a-0", 1, (0,)), ("a-0", 1, (1,))
    ),
}


@pytest.mark.parametrize("said", UNKNOWN)
def test_what_is_not_there_is_named_before_anything_else(said: str) -> None:
    plan = replace(TRUE, segments=(GANG_RUN, UNKNOWN[said]))
    assert violations(PAIR, plan) == (said,)


def test_a_node_of_another_pool_is_named() -> None:
    other = pool("b")
    question = asked(SOLO, of=(POOL, other))
    plan = answer(question, seg("solo", 0, 1, ("b-0", 1, (0,))))
    assert violations(question, plan) == ("segment of solo: node b-0 is of pool b, not a",)


def test_an_unknown_job_among_those_left_out_is_named() -> None:
    nobody = Unplaced(job="nobody", reason=Reason.CAPACITY, message="full")
    assert violations(PAIR, replace(TRUE, unplaced=(nobody,))) == ("unplaced nobody: no such job",)


# -- every job once ------------------------------------------------------------------------------


def test_a_job_that_is_neither_placed_nor_left_out_is_named() -> None:
    assert violations(PAIR, answer(PAIR, GANG_RUN)) == ("solo: neither placed nor left out",)


def test_a_job_that_is_placed_and_left_out_is_named() -> None:
    plan = answer(PAIR, GANG_RUN, SOLO_RUN, out=["solo"])
    assert violations(PAIR, plan) == ("solo: both placed and left out",)


def test_a_job_left_out_twice_is_named() -> None:
    plan = answer(PAIR, GANG_RUN, out=["solo", "solo"])
    assert violations(PAIR, plan) == ("solo: left out twice",)


def test_a_required_job_is_left_out_of_no_plan_but_one_called_infeasible() -> None:
    question = asked(GANG, replace(SOLO, required=True))
    plan = answer(question, GANG_RUN, out=["solo"])
    said = "solo: required, yet left out of a plan called optimal"
    assert violations(question, plan) == (said,)
    assert violations(question, replace(plan, status=Status.INFEASIBLE)) == ()


# -- a job's own terms ---------------------------------------------------------------------------


def alone(segment: Segment, *, of: Sequence[Pool] = (POOL,), **terms: Any) -> tuple[str, ...]:
    """Violations of a plan that runs only ``segment``, of a job with these terms."""
    made = replace(job(segment.job, mode(of[0], hours=1)), **terms)
    question = asked(made, of=of)
    return violations(question, answer(question, segment))


LATER = seg("solo", 2, 3, ("a-0", 1, (0,)))


def test_a_start_before_the_release_is_named() -> None:
    assert alone(LATER, release=2) == ()
    assert alone(LATER, release=3) == ("solo: starts at slot 2, before its release 3",)


def test_an_end_after_the_deadline_is_named() -> None:
    assert alone(LATER, deadline=3) == ()
    assert alone(LATER, deadline=2) == ("solo: ends at slot 3, after its deadline 2",)


def test_a_rented_node_that_cannot_be_ready_yet_is_named() -> None:
    # 1.5 h from launch at the grid's start: ready in slot 2, where LATER starts; not in slot 1.
    slow = pool("a", startup_seconds=5400)
    assert alone(LATER, of=(slow,)) == ()
    soon = seg("solo", 1, 2, ("a-0", 1, (0,)))
    assert alone(soon, of=(slow,)) == ("solo: starts before a node of a can be ready",)
    assert alone(soon, of=(replace(slow, billing=Billing.SUNK),)) == ()


def test_a_job_that_may_not_be_interrupted_is_named_where_it_can_be() -> None:
    spot = pool("a", interruptions_per_hour=0.1)
    assert alone(LATER, of=(spot,)) == ()
    assert alone(LATER, of=(spot,), preemptible=False) == (
        "solo: may not be interrupted, but a can be",
    )


def test_more_than_a_job_may_cost_is_named() -> None:
    # 1 h x 1 GPU x $1
    assert alone(LATER, max_cost_usd=1.0) == ()
    assert alone(LATER, max_cost_usd=0.9) == ("solo: $1.00, allowed $0.90",)


def test_work_that_is_not_done_and_work_that_does_not_fit_are_named() -> None:
    assert alone(replace(LATER, work=0.5)) == ("solo: does 0.5 of 1 hours",)
    assert alone(LATER, need=Work(amount=2.0)) == ("solo: does 1 of 2 hours",)
    assert alone(replace(LATER, work=2.0), need=Work(amount=2.0)) == (
        "solo: 2 h of work do not fit its 1 slots",
    )


def test_work_without_a_replica_never_ends_and_is_no_crash() -> None:
    nobody = replace(LATER, replicas=0, placement=())
    found = alone(nobody)
    assert "solo: runs 0 replicas of a gang of 1" in found
    assert "solo: inf h of work do not fit its 1 slots" in found


# Two hours of work; a checkpoint takes 6 min to save and 12 min to restore, a tenth and a fifth.
SAVES = Interruption(checkpoint_seconds=600, save_seconds=360, restart_seconds=720)
STOPS = job("solo", mode(POOL, hours=2), interruption=SAVES)
FIRST = replace(seg("solo", 1, 2, ("a-0", 1, (0,)), work=0.45), save_seconds=360)
REST = replace(seg("solo", 3, 5, ("a-0", 1, (0,)), work=0.55), restart_seconds=720)


def test_a_job_that_saves_may_stop_and_go_on_and_pays_for_both() -> None:
    # 0.9 h and 1.1 h of work make 2 h; saving and restoring take 0.3 h more, at $1.
    question = asked(STOPS)
    plan = answer(question, FIRST, REST)
    assert violations(question, plan) == ()
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((2.0, 0.3))
    free = answer(question, FIRST, replace(REST, restart_seconds=0.0))
    assert "solo: 0 s to restore from slot 3, 720 needed" in violations(question, free)
    unsaved = answer(question, replace(FIRST, save_seconds=0.0), REST)
    assert "solo: 0 s to save from slot 1, 360 needed" in violations(question, unsaved)


def test_pieces_of_a_job_do_not_overlap() -> None:
    question = asked(STOPS)
    overlap = answer(question, FIRST, replace(REST, start=1, end=3))
    assert "solo: two segments overlap at slot 1" in violations(question, overlap)


def test_a_job_works_all_the_time_that_it_holds_before_it_stops() -> None:
    question = asked(STOPS)
    lazy = answer(question, replace(FIRST, work=0.4), replace(REST, work=0.6))
    said = "solo: stops at slot 2, yet has worked 0.9 of 1 h there"
    assert violations(question, lazy) == (said,)
    hasty = answer(question, replace(FIRST, work=0.5), replace(REST, work=0.5))
    assert violations(question, hasty) == ("solo: 1.1 h of work do not fit its 1 slots",)


@pytest.mark.parametrize(
    "rigid",
    [replace(STOPS, preemptible=False), replace(STOPS, interruption=Interruption())],
    ids=["not preemptible", "never saves"],
)
def test_a_job_that_may_not_be_interrupted_neither_pauses_nor_moves(rigid: Job) -> None:
    question = asked(rigid)
    half = seg("solo", 2, 3, ("a-0", 1, (0,)), work=0.5)
    joined = answer(question, half, replace(half, start=3, end=4))
    assert violations(question, joined) == ()
    said = "solo: may not be interrupted, but stops at slot 3"
    assert said in violations(question, answer(question, half, replace(half, start=4, end=5)))
    moved = seg("solo", 3, 4, ("a-1", 1, (0,)), work=0.5)
    assert said in violations(question, answer(question, half, moved))


def test_more_changes_of_mode_than_allowed_are_named() -> None:
    # 0.5 h of the slower mode do a quarter; the faster one does the rest in 0.75 h.
    quick = Interruption(checkpoint_seconds=600)
    fast = replace(STOPS, modes=(*STOPS.modes, mode(POOL, hours=1, gpus=2)), interruption=quick)
    parts = (
        seg("solo", 0, 1, ("a-0", 1, (0,)), work=0.5),
        seg("solo", 1, 2, ("a-0", 1, (0, 1)), work=0.5, which=1),
    )
    question = asked(fast)
    said = "solo: changes mode more often than 0 times"
    assert violations(question, answer(question, *parts)) == (said,)
    allowed = asked(replace(fast, switches=1))
    assert violations(allowed, answer(allowed, *parts)) == ()
    back = seg("solo", 2, 3, ("a-0", 1, (0,)), work=0.0)
    twice = violations(allowed, answer(allowed, *parts, back))
    assert twice[0] == "solo: changes mode more often than 1 times"


# -- jobs that run already -----------------------------------------------------------------------

# Half of 4 h is done, an hour of it since the checkpoint.
RUNS = job("runs", mode(POOL, hours=4), interruption=SAVES)
STANDS = Running(job="runs", mode=0, nodes=("a-0",), work_done=0.5, work_since_checkpoint=0.25)
GOES_ON = seg("runs", 0, 2, ("a-0", 1, (0,)), work=0.5)
MOVED = replace(
    seg("runs", 0, 4, ("a-1", 1, (0,)), work=0.75), restart_seconds=720, redone_work=0.25
)


def test_a_job_that_goes_on_where_it_runs_costs_nothing_more() -> None:
    question = replace(asked(RUNS), running=(STANDS,))
    plan = answer(question, GOES_ON)
    assert violations(question, plan) == ()
    assert (plan.costs.money, plan.costs.moving) == (2.0, 0.0)


def test_a_job_that_is_moved_restores_and_does_what_it_lost_again() -> None:
    # 2 h of work; 0.2 h to restore and 1 h of lost work are moving.
    question = replace(asked(RUNS), running=(STANDS,))
    plan = answer(question, MOVED)
    assert violations(question, plan) == ()
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((2.0, 1.2))
    forgets = answer(question, replace(MOVED, redone_work=0.0))
    assert "runs: does 0 hours again, 0.25 are lost" in violations(question, forgets)
    short = answer(question, replace(MOVED, work=0.5))
    assert "runs: does 0.5 of 0.75 hours" in violations(question, short)


def test_a_job_that_may_not_be_interrupted_stays_where_it_runs() -> None:
    rigid = replace(asked(replace(RUNS, preemptible=False)), running=(STANDS,))
    assert violations(rigid, answer(rigid, GOES_ON)) == ()
    said = "runs: may not be interrupted, but is moved from where it runs"
    assert violations(rigid, answer(rigid, MOVED)) == (said,)
    node, *others = rigid.nodes
    lost = replace(rigid, nodes=(replace(node, cordoned="broken"), *others))
    assert violations(lost, answer(lost, MOVED)) == ()


# -- gangs ---------------------------------------------------------------------------------------


def test_a_gang_without_one_of_its_replicas_is_named() -> None:
    # One of two replicas would take twice as long: 4 h.
    short = seg("gang", 0, 4, ("a-1", 1, (0,)))
    question = asked(GANG)
    assert violations(question, answer(question, short)) == (
        "gang: runs 1 replicas of a gang of 2",
    )


def test_replicas_without_a_node_are_named() -> None:
    lost = replace(GANG_RUN, placement=GANG_RUN.placement[:1])
    assert violations(PAIR, answer(PAIR, lost, SOLO_RUN)) == (
        "gang: 2 replicas, but its nodes hold another number",
    )


def test_a_node_that_holds_no_replica_is_named() -> None:
    question = asked(SOLO)
    idle = seg("solo", 0, 1, ("a-0", 1, (0,)), ("a-1", 0, ()))
    said = "solo: a node of its placement holds no replica"
    assert violations(question, answer(question, idle)) == (said,)


def gang_of_two(*, spread: str = "", together: str = "") -> Problem:
    return asked(job("gang", mode(POOL, hours=2, replicas=2, spread=spread, together=together)))


ON_ONE = (("a-0", 2, (0, 1)),)


def test_a_gang_that_is_to_be_apart_is_named_on_one_node() -> None:
    question = gang_of_two(spread=HOSTNAME)
    assert violations(question, answer(question, seg("gang", 0, 2, *ON_BOTH))) == ()
    assert violations(question, answer(question, seg("gang", 0, 2, *ON_ONE))) == (
        f"gang: two replicas share a {HOSTNAME}",
    )


def test_a_gang_that_must_be_together_is_named_on_two_nodes() -> None:
    question = gang_of_two(together=HOSTNAME)
    assert violations(question, answer(question, seg("gang", 0, 2, *ON_ONE))) == ()
    assert violations(question, answer(question, seg("gang", 0, 2, *ON_BOTH))) == (
        f"gang: its gang is in two domains of {HOSTNAME}",
    )


def test_a_domain_above_the_node_is_read_from_the_nodes_topology() -> None:
    racks = replace(POOL, topology_levels=("rack",))
    gang = job("gang", mode(racks, hours=2, replicas=2, together="rack"))
    question = asked(gang, of=(racks,))
    for names, said in (
        (("r0", "r0"), ()),
        (("r0", "r1"), ("gang: its gang is in two domains of rack",)),
        (("", ""), ("gang: its gang is on a node of no known rack",)),
    ):
        placed = in_racks(question, *names)
        assert violations(placed, answer(placed, seg("gang", 0, 2, *ON_BOTH))) == said


def in_racks(question: Problem, *names: str) -> Problem:
    nodes = zip(question.nodes, names, strict=True)
    return replace(question, nodes=tuple(replace(n, topology=(r,) if r else ()) for n, r in nodes))


def test_replicas_spread_over_racks_are_named_where_two_share_one() -> None:
    racks = replace(POOL, topology_levels=("rack",))
    question = asked(job("gang", mode(racks, hours=2, replicas=2, spread="rack")), of=(racks,))
    for names, said in (
        (("r0", "r1"), ()),
        (("r0", "r0"), ("gang: two replicas share a rack",)),
        (("r0", ""), ("gang: spread to a node of no known rack",)),
    ):
        placed = in_racks(question, *names)
        assert violations(placed, answer(placed, seg("gang", 0, 2, *ON_BOTH))) == said


def test_two_racks_of_one_name_in_two_zones_are_two() -> None:
    racks = replace(POOL, topology_levels=("rack", "zone"))
    question = asked(job("gang", mode(racks, hours=2, replicas=2, together="rack")), of=(racks,))
    paths = zip(question.nodes, (("r0", "north"), ("r0", "south")), strict=True)
    placed = replace(question, nodes=tuple(replace(n, topology=path) for n, path in paths))
    said = ("gang: its gang is in two domains of rack",)
    assert violations(placed, answer(placed, seg("gang", 0, 2, *ON_BOTH))) == said


# -- nodes ---------------------------------------------------------------------------------------


def two_on_one(takes: Mode, *devices: tuple[int, ...]) -> tuple[str, ...]:
    """Violations where jobs of this mode share node a-0 in slot 0."""
    names = [f"j{i}" for i in range(len(devices))]
    question = asked(*(job(name, takes) for name in names))
    runs = (seg(n, 0, 1, ("a-0", 1, d)) for n, d in zip(names, devices, strict=True))
    return violations(question, answer(question, *runs))


def test_an_overbooked_cpu_is_named() -> None:
    assert two_on_one(mode(POOL, cpus=2), (0,), (1,)) == ()
    assert two_on_one(mode(POOL, cpus=3), (0,), (1,)) == ("a-0: cpu_milli overbooked at slot 0",)


def test_overbooked_memory_is_named() -> None:
    assert two_on_one(mode(POOL, gib=2), (0,), (1,)) == ()
    said = ("a-0: memory_bytes overbooked at slot 0",)
    assert two_on_one(mode(POOL, gib=3), (0,), (1,)) == said


def test_overbooked_gpus_are_named_with_those_that_share_one() -> None:
    assert two_on_one(mode(POOL), (0,), (1,), (1,)) == (
        "a-0: gpu_milli overbooked at slot 0",
        "a-0: j2 and j1 overbook GPU 1 at slot 0",
    )


SLICED = pool("a", gpus=2, mig=(("3g.40gb", "3g.40gb"), ("3g.40gb", "2g.20gb")))
HALF = mode(SLICED, profile="3g.40gb")
FIFTH = mode(SLICED, profile="2g.20gb")


def on_gpu_0(*held: tuple[Mode, int, int]) -> tuple[str, ...]:
    """Violations where jobs share GPU 0 in slot 0, each as (mode, geometry, instance)."""
    names = [f"j{i}" for i in range(len(held))]
    question = asked(*(job(n, m) for n, (m, _, _) in zip(names, held, strict=True)), of=(SLICED,))
    runs = tuple(
        replace(
            seg(name, 0, 1),
            replicas=1,
            placement=(
                Placement(
                    node="a-0",
                    replicas=1,
                    devices=(0,),
                    geometries=(g,) if g >= 0 else (),
                    instances=(i,) if g >= 0 else (),
                ),
            ),
        )
        for name, (_, g, i) in zip(names, held, strict=True)
    )
    return violations(question, answer(question, *runs))


def test_instances_of_one_geometry_share_a_gpu_and_no_instance_is_held_twice() -> None:
    assert on_gpu_0((HALF, 0, 0), (HALF, 0, 1)) == ()
    assert on_gpu_0((HALF, 1, 0), (FIFTH, 1, 1)) == ()
    said = ("a-0: j1 and j0 on one MIG instance of GPU 0 at slot 0",)
    assert on_gpu_0((HALF, 0, 1), (HALF, 0, 1)) == said


def test_a_gpu_is_in_one_geometry_or_whole() -> None:
    said = ("a-0: j1 and j0 on GPU 0 in two partitions at slot 0",)
    assert on_gpu_0((HALF, 0, 0), (FIFTH, 1, 1)) == said
    assert on_gpu_0((HALF, 0, 0), (mode(SLICED), -1, 0)) == said


@pytest.mark.parametrize("named", [(0, 2), (1, 1), (2, 0)])
def test_an_instance_of_another_profile_or_that_is_not_there_is_named(
    named: tuple[int, int],
) -> None:
    said = f"j0: instance {named[1]} of geometry {named[0]} on a-0 is not what it takes"
    assert on_gpu_0((HALF, *named)) == (said,)


def test_a_job_on_mig_names_its_instances() -> None:
    assert on_gpu_0((HALF, -1, 0)) == ("j0: 1 MIG instances on a-0, named are others",)


def test_shares_of_a_gpu_sum_to_one_of_thousandths_and_of_memory() -> None:
    one = pool("a", gpus=2, gpu_gib=4)
    for milli, gib, said in (
        (500, 2, ()),
        (501, 2, ("a-0: j1 and j0 overbook GPU 0 at slot 0",)),
        (500, 3, ("a-0: memory of GPU 0 overbooked at slot 0",)),
    ):
        share = mode(one, milli=milli, gpu_gib=gib)
        question = asked(job("j0", share), job("j1", share), of=(one,))
        runs = (seg("j0", 0, 1, ("a-0", 1, (0,))), seg("j1", 0, 1, ("a-0", 1, (0,))))
        assert violations(question, answer(question, *runs)) == said


def test_two_shares_of_one_job_may_share_a_gpu() -> None:
    one = pool("a", gpus=2)
    question = asked(job("j0", mode(one, replicas=2, milli=500)), of=(one,))
    run = seg("j0", 0, 1, ("a-0", 2, (0, 0)))
    assert violations(question, answer(question, run)) == ()


def test_two_jobs_on_one_gpu_are_named_and_nothing_else_where_the_node_has_room() -> None:
    assert two_on_one(mode(POOL), (0,), (0,)) == ("a-0: j1 and j0 overbook GPU 0 at slot 0",)


@pytest.mark.parametrize("devices", [(0, 0), (0, 2), (-1, 0)])
def test_a_gpu_named_twice_or_not_there_is_named(devices: tuple[int, ...]) -> None:
    said = ("j0: names a GPU of a-0 twice, or one it does not have",)
    assert two_on_one(mode(POOL, gpus=2), devices) == said


def test_another_number_of_gpus_than_taken_is_named() -> None:
    assert two_on_one(mode(POOL, gpus=2), (0,)) == ("j0: 1 GPUs named on a-0, 2 taken",)


def test_more_device_memory_than_a_gpu_has_is_named() -> None:
    greedy = mode(POOL)
    greedy = replace(greedy, amounts=replace(greedy.amounts, gpu_memory_bytes=80 * GIB))
    assert two_on_one(greedy, (0,)) == ("j0: needs more memory than a GPU of a-0 has",)


def test_a_gpu_out_of_order_is_named() -> None:
    bad = (Device(uuid="GPU-0"), Device(uuid="GPU-1", unhealthy="Xid 79"))
    nodes = tuple(replace(n, devices=bad) for n in PAIR.nodes)
    question = replace(PAIR, nodes=nodes)
    assert violations(question, TRUE) == ("solo: on GPU 1 of a-0: Xid 79",)


def test_a_cordoned_node_is_named() -> None:
    question = problem((POOL,), (GANG, SOLO), cordoned=frozenset(["a-1"]))
    assert violations(question, TRUE) == ("gang: on a-1, which is cordoned: under repair",)


def test_a_node_in_maintenance_is_named() -> None:
    # The second node is away in slot 1: the gang of [0, 2) needs it, the other job does not.
    window = pool("a", gpus=2, cpus=4, gib=4, windows=((0, 1, 2), (1, 2, 1), (2, 6, 2)))
    question = asked(GANG, SOLO, of=(window,))
    assert violations(question, TRUE) == ("gang: on a-1, which is not there for all of [0, 2)",)
    moved = answer(question, replace(GANG_RUN, start=2, end=4), SOLO_RUN)
    assert violations(question, moved) == ()


@pytest.mark.parametrize("seed", range(60))
def test_a_look_at_all_nodes_at_once_hides_nothing_that_is_wrong_on_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten gangs anywhere on two pools of three nodes; in most worlds some GPUs are held twice.
    rng = random.Random(seed)
    away = ((0, 3, 3), (3, 6, 2)) if rng.random() < 0.3 else ()
    pools = (
        pool("a", nodes=3, gpus=4, cpus=8, gib=8, windows=away),
        pool("b", nodes=3, gpus=8, cpus=8, gib=8),
    )
    modes = [
        mode(p, gpus=gpus, cpus=gpus * rng.choice((1, 2, 3)))
        for p in pools
        for gpus in (1, 2, 4)
        for _ in range(2)
    ]
    chosen = [rng.choice(modes) for _ in range(rng.choice((1, 3, 10)))]
    question = problem(pools, tuple(job(f"j{n}", m) for n, m in enumerate(chosen)))
    runs = []
    for n, m in enumerate(chosen):
        start = rng.randrange(6)
        of = {"a": 4, "b": 8}[m.pool]
        gpus = tuple(rng.sample(range(of), m.amounts.gpus))
        if rng.random() < 0.1:
            gpus = (*gpus[:-1], rng.choice((gpus[0], -1, of)))
        place = (f"{m.pool}-{rng.randrange(3)}", 1, gpus)
        runs.append(seg(f"j{n}", start, rng.randint(start + 1, 6), place))
    quick = sorted(violations(question, answer(question, *runs)))
    monkeypatch.setattr("planner.check_nodes._plainly_right", lambda *_: set())
    assert quick == sorted(violations(question, answer(question, *runs)))


def test_the_look_at_all_nodes_at_once_finds_those_where_nothing_is_wrong() -> None:
    assert _plainly_right(PAIR, POOL, [GANG_RUN, SOLO_RUN]) == {"a-0", "a-1"}
    twice = replace(SOLO_RUN, start=GANG_RUN.start, end=GANG_RUN.end, placement=GANG_RUN.placement)
    assert _plainly_right(PAIR, POOL, [GANG_RUN, twice]) == set()


# -- services ------------------------------------------------------------------------------------

SERVICE = job(
    "chat",
    mode(POOL, serves=1.0),
    need=Demand(per_slot=(1.0, 1.0, 2.0, 2.0, 1.0, 1.0)),
)
CHAT = asked(SERVICE)
UP = (
    seg("chat", 0, 2, ("a-0", 1, (0,)), work=2.0),
    seg("chat", 2, 4, ("a-0", 1, (0,)), ("a-1", 1, (0,)), work=4.0),
    seg("chat", 4, 6, ("a-1", 1, (0,)), work=2.0),
)


def served(*segments: Segment, question: Problem = CHAT) -> tuple[str, ...]:
    return violations(question, answer(question, *segments))


def test_a_service_may_grow_on_one_node_and_shrink_on_another() -> None:
    assert served(*UP) == ()


def test_a_service_that_is_down_in_a_slot_is_named() -> None:
    said = "chat: a service that is not up in every slot from 0 to 6"
    assert served(*UP[:2]) == (said,)
    assert served(*UP[:2], replace(UP[2], end=5, work=1.0)) == (said,)


def test_a_service_with_too_few_replicas_is_named() -> None:
    thin = replace(UP[1], replicas=1, placement=UP[1].placement[:1])
    one_node = replace(UP[2], placement=UP[1].placement[:1])
    assert served(UP[0], thin, one_node) == ("chat: 1 replicas do not carry 2 requests an hour",)


def test_a_service_below_its_least_replicas_is_named() -> None:
    twice = asked(replace(SERVICE, need=Demand(per_slot=(1.0,) * 6, min_replicas=2)))
    one = seg("chat", 0, 6, ("a-0", 1, (0,)), work=6.0)
    said = ("chat: 1 replicas do not carry 1 requests an hour",)
    assert served(one, question=twice) == said


def test_a_segment_that_serves_another_amount_than_asked_is_named() -> None:
    said = "chat: a segment serves 3 where 4 are asked"
    assert served(UP[0], replace(UP[1], work=3.0), UP[2]) == (said,)


def test_a_replica_that_moves_is_named() -> None:
    moved = seg("chat", 2, 4, ("a-1", 2, (0, 1)), work=4.0)
    assert served(UP[0], moved, UP[2]) == ("chat: moves a replica at slot 2",)


# -- dependencies --------------------------------------------------------------------------------


def test_a_job_that_runs_before_what_it_waits_for_is_named() -> None:
    question = asked(GANG, replace(SOLO, after=("gang",)))
    assert violations(question, TRUE) == ("solo: starts before gang has ended",)
    waits = answer(question, GANG_RUN, replace(SOLO_RUN, start=2, end=3))
    assert violations(question, waits) == ()


def test_a_job_that_runs_without_what_it_waits_for_is_named() -> None:
    question = asked(GANG, replace(SOLO, after=("gang",)))
    plan = answer(question, SOLO_RUN, out=["gang"])
    said = "solo: runs, but gang, which it depends on, does not"
    assert violations(question, plan) == (said,)


# -- queues --------------------------------------------------------------------------------------


def queued(*queues: Queue) -> Problem:
    return asked(replace(GANG, queue="team"), replace(SOLO, queue="root"), queues=queues)


def test_a_queue_above_its_limit_is_named_with_the_slot() -> None:
    # Slot 0: the gang's 2 GPUs and the other's 1, all under root; slot 1: the gang alone.
    team = Queue(name="team", parent="root")
    for limit, said in ((3, ()), (2, ("queue root: 3 of 2 a at slot 0",))):
        question = queued(Queue(name="root", limit=(("a", limit),)), team)
        assert violations(question, TRUE) == said


def test_a_limit_of_another_accelerator_does_not_bind() -> None:
    question = queued(Queue(name="root", limit=(("b", 0),)), Queue(name="team", parent="root"))
    assert violations(question, TRUE) == ()


def test_a_queue_above_its_budget_is_named_with_the_month() -> None:
    # $4 of the gang under team, $5 of both under root.
    team = Queue(name="team", parent="root", budget_usd_per_month=3.5)
    question = queued(Queue(name="root", budget_usd_per_month=5.0), team)
    assert violations(question, TRUE) == ("queue team: $4.00 in 2026-12, budget $3.50",)


def test_a_budget_is_one_of_each_month() -> None:
    # The gang's $4 over slots [1, 3), and December begins at slot 2: $2 in each month.
    for budget, said in (
        (2.0, ()),
        (
            1.5,
            (
                "queue team: $2.00 in 2026-11, budget $1.50",
                "queue team: $2.00 in 2026-12, budget $1.50",
            ),
        ),
    ):
        team = Queue(name="team", budget_usd_per_month=budget)
        question = problem((POOL,), (replace(GANG, queue="team"),), start=MONTH_END, queues=(team,))
        plan = answer(question, replace(GANG_RUN, start=1, end=3))
        assert violations(question, plan) == said


# -- tiers ---------------------------------------------------------------------------------------


def tiered(**high: Any) -> tuple[str, ...]:
    """Violations where a low job holds the only GPU for all six slots and a high one is out."""
    one = pool("a")
    low = job("low", mode(one, hours=6))
    wanted = replace(job("high", mode(one, hours=1), tier=1), **high)
    question = asked(low, wanted, of=(one,))
    return violations(question, answer(question, seg("low", 0, 6, ("a-0", 1, (0,))), out=["high"]))


def test_a_job_crowded_out_by_a_lower_tier_is_named() -> None:
    assert tiered() == ("high: left out, though it fits a once lower priorities are dropped",)


def test_a_job_that_would_not_run_anyway_is_not_crowded_out() -> None:
    assert tiered(deadline=0) == ()  # no room before its deadline
    assert tiered(unplaced_usd=1.0) == ()  # running it costs $1, not running it as much
    assert tiered(max_cost_usd=0.5) == ()
    assert tiered(tier=0) == ()  # equals do not yield


def test_what_could_not_run_it_is_no_place_for_a_job_that_is_left_out() -> None:
    spot = pool("a", interruptions_per_hour=0.1)
    low = job("low", mode(spot, hours=6))
    steady = job("high", mode(spot, hours=1), tier=1, preemptible=False)
    greedy = replace(mode(spot), amounts=Amounts(gpu_milli=1000, gpu_memory_bytes=GIB))
    endless = replace(mode(spot, usd=0.0), work_per_replica_hour=0.0)
    for high in (steady, job("high", greedy, tier=1), job("high", endless, tier=1)):
        question = asked(low, high, of=(spot,))
        plan = answer(question, seg("low", 0, 6, ("a-0", 1, (0,))), out=["high"])
        assert violations(question, plan) == ()


def test_a_gpu_out_of_order_is_no_place_for_a_job_that_is_left_out() -> None:
    bad = (Device(uuid="GPU-0", unhealthy="Xid 79"), Device(uuid="GPU-1"))
    two = pool("a", nodes=2, gpus=2)
    low, high = (
        job("low", mode(two, gpus=2, hours=6)),
        job("high", mode(two, gpus=2, replicas=2), tier=1),
    )
    question = asked(low, high, of=(two,))
    broken = replace(question.nodes[1], devices=bad)
    question = replace(question, nodes=(question.nodes[0], broken))
    plan = answer(question, seg("low", 0, 6, ("a-0", 1, (0, 1))), out=["high"])
    assert violations(question, plan) == ()
    narrow = job("narrow", mode(two), tier=1)  # fits beside the GPU that is out of order
    question = replace(question, jobs=(low, narrow))
    plan = answer(question, seg("low", 0, 6, ("a-0", 1, (0, 1))), out=["narrow"])
    # ... so nothing lower has to be dropped for it: no violation of priorities either
    assert violations(question, plan) == (
        "narrow: left out, though it fits a once lower priorities are dropped",
    )


def test_a_lower_job_that_a_required_one_waits_for_is_not_dropped() -> None:
    one = pool("a")
    base = job("base", mode(one, hours=5))
    must = job("must", mode(one, hours=1), after=("base",), required=True)
    high = job("high", mode(one, hours=1), tier=1)
    question = asked(base, must, high, of=(one,))
    runs = (seg("base", 0, 5, ("a-0", 1, (0,))), seg("must", 5, 6, ("a-0", 1, (0,))))
    assert violations(question, answer(question, *runs, out=["high"])) == ()


def test_a_gang_is_crowded_out_only_where_its_nodes_are_free_at_the_same_time() -> None:
    # Without the low job both nodes are free in [0, 2) and [4, 6), one of them in [2, 4).
    two = pool("a", nodes=2)
    low, same = job("low", mode(two, hours=6)), job("same", mode(two, hours=2), tier=1)
    held = (seg("low", 0, 6, ("a-0", 1, (0,))), seg("same", 2, 4, ("a-1", 1, (0,))))
    for hours, said in ((2, True), (2.5, False)):
        gang = job("gang", mode(two, hours=hours, replicas=2), tier=1)
        question = asked(low, same, gang, of=(two,))
        found = violations(question, answer(question, *held, out=["gang"]))
        assert (
            found == ("gang: left out, though it fits a once lower priorities are dropped",) * said
        )


# -- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["money", "moving", "lateness", "not_running"])
def test_a_cost_that_its_segments_do_not_add_up_to_is_named(part: str) -> None:
    was = getattr(TRUE.costs, part)
    plan = replace(TRUE, costs=replace(TRUE.costs, **{part: was + 1}))
    shown = part.replace("_", " ")
    assert violations(PAIR, plan) == (
        f"{shown}: the plan says {was + 1:,.6f}, its segments add up to {was:,.6f}",
    )


def test_useful_work_that_is_made_up_is_named() -> None:
    # Two jobs of one unit of 1e15 FLOPs.
    plan = replace(TRUE, useful_flops=3e15)
    (said,) = violations(PAIR, plan)
    assert said.startswith("useful FLOPs: the plan says 3,000,000,000,000,000")


def test_a_bound_above_the_objective_is_named() -> None:
    plan = replace(TRUE, bound=Bound(usd=5.5))
    assert violations(PAIR, plan) == ("bound: 5.500000 is above the objective 5.000000",)


def test_lateness_is_counted_from_the_last_end() -> None:
    # Due at slot 1, ends at 3: 2 h x $7 = $14, beside $1 of money.
    question = asked(replace(SOLO, due=1, lateness_usd_per_hour=7.0))
    plan = answer(question, LATER)
    assert plan.costs.lateness == 14.0
    assert violations(question, plan) == ()
    free = replace(plan, costs=replace(plan.costs, lateness=0.0), bound=Bound(usd=1.0))
    assert violations(question, free) == (
        "lateness: the plan says 0.000000, its segments add up to 14.000000",
    )


def test_whole_nodes_are_billed_from_launch_to_termination() -> None:
    # $2 an hour a node. Start-up 1 h + [1, 2) + a kept hour [2, 3) + [3, 4) = 4 h: $8. A gap of
    # two hours is dearer to keep than a start-up: 1 + 1, and again 1 + 1 = 4 h.
    rented = pool("a", gpus=2, billing=Billing.NODE, startup_seconds=3600)
    names = (job("j0", mode(rented)), job("j1", mode(rented)))
    question = asked(*names, of=(rented,))
    first = seg("j0", 1, 2, ("a-0", 1, (0,)))
    for start, usd in ((1, 4.0), (2, 6.0), (3, 8.0), (4, 8.0), (5, 8.0)):
        plan = answer(question, first, seg("j1", start, start + 1, ("a-0", 1, (1,))))
        assert plan.costs.money == usd
        assert violations(question, plan) == ()
        cheaper = replace(plan.costs, money=usd - 2)
        plan = replace(plan, costs=cheaper, bound=Bound(usd=0.0))
        (said,) = violations(question, plan)
        assert said.startswith("money: the plan says")


def test_a_bound_that_is_no_number_is_no_bound() -> None:
    (said,) = violations(PAIR, replace(TRUE, bound=Bound(usd=float("nan"))))
    assert said.startswith("bound: nan is above the objective")
