"""From a plan's segments to gangs on named nodes."""

from __future__ import annotations

from datetime import UTC, datetime

from planner.plan import Placement, Segment
from planner.problem import Amounts, Job, Mode, Work
from scheduler.kube.affinity import Taint
from scheduler.kube.launch import Gang, Launch, gangs
from scheduler.kube.observe import fleet, machines
from tests.scheduler.kube.objects import H100, job, node, pool

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
NODES = [
    node("a", taints=[TAINT]),
    node("b", taints=[TAINT]),
    node("m", product=f"{H100}-MIG-1g.10gb", gpus=56),
]
POOLS = [pool("whole"), pool("parts", migGeometries=[["1g.10gb"] * 7])]
FOUND = fleet(machines(NODES, ()), POOLS)
WHOLE, PART = Amounts(gpu_milli=8000), Amounts(mig=(("1g.10gb", 1),))


def mode(pool_name: str, amounts: Amounts) -> Mode:
    return Mode(
        pool=pool_name,
        replicas=2,
        amounts=amounts,
        work_per_replica_hour=1.0,
        usd_per_replica_hour=1.0,
        full_usd_per_replica_hour=1.0,
        layout="tp8",
    )


JOB = Job(
    name="j",
    need=Work(amount=1.0),
    modes=(mode("whole", WHOLE), mode("parts", PART)),
    deadline=10,
)


def segment(number: int, *nodes: tuple[str, int]) -> Segment:
    placed = tuple(Placement(node=name, replicas=count) for name, count in nodes)
    replicas = sum(count for _, count in nodes)
    return Segment(
        job="j", mode=number, replicas=replicas, start=0, end=1, work=1.0, placement=placed
    )


def test_a_segment_is_a_gang_on_the_host_names_of_its_nodes() -> None:
    assert gangs(JOB, [segment(0, ("b", 1), ("a", 1))], FOUND) == (
        Gang(
            pool="whole",
            accelerator="h100-sxm5-80gb",
            replicas=(("host-a", 1), ("host-b", 1)),
            amounts=WHOLE,
            taints=(Taint(key="nvidia.com/gpu", value="present"),),
            layout="tp8",
        ),
    )


def test_a_mix_is_a_gang_a_pool_and_knows_how_each_is_asked_for() -> None:
    parts, whole = gangs(JOB, [segment(0, ("a", 1)), segment(1, ("m", 3))], FOUND)
    assert (parts.pool, parts.count, parts.gpu_request()) == ("parts", 3, ("nvidia.com/gpu", 1))
    assert (whole.pool, whole.count, whole.gpu_request()) == ("whole", 1, ("nvidia.com/gpu", 8))


def test_a_deadline_counts_from_the_start_and_never_to_nothing() -> None:
    start = datetime(2026, 12, 1, tzinfo=UTC)
    due = Launch(job=job(deadline="2026-12-01T02:00:00Z"), uid="", gangs=(), start=start)
    assert due.deadline_seconds == 7200
    over = Launch(job=job(deadline="2026-11-30T00:00:00Z"), uid="", gangs=(), start=start)
    assert over.deadline_seconds == 1
    assert Launch(job=job(), uid="", gangs=(), start=start).deadline_seconds is None
