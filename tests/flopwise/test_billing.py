"""A plan's bill, by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.ledger import Key, Ledger, Line, LineKind
from flopwise import billing
from planner import cost
from planner.plan import Bound, Placement, Plan, Reason, Segment, Status, Unplaced
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
    Site,
    Window,
    Work,
)

START = datetime(2026, 12, 1, tzinfo=UTC)
NODE = Amounts(gpu_milli=8000, cpu_milli=64_000)


def pool(name: str, billing_: Billing, *windows: tuple[int, int, int, float], **more: Any) -> Pool:
    """A pool of 8-GPU nodes; windows are (start, end, nodes, $ per node-hour)."""
    purchase = "owned" if billing_ is Billing.SUNK else "on_demand"
    return Pool(
        name=name,
        gpus_per_node=8,
        capacity=NODE,
        windows=tuple(
            Window(start=a, end=b, nodes=n, usd_per_node_hour=usd, marginal_usd_per_node_hour=0.0)
            for a, b, n, usd in windows
        ),
        billing=billing_,
        accelerator="h100",
        purchase=purchase,
        **more,
    )


def job(name: str, pool_: str, *, gpus: float, usd: float, full: float, hours: float) -> Job:
    mode = Mode(
        pool=pool_,
        replicas=1,
        amounts=Amounts(gpu_milli=round(gpus * 1000)),
        work_per_replica_hour=1.0,
        usd_per_replica_hour=usd,
        full_usd_per_replica_hour=full,
        watts_per_replica=1000.0,
        flops_per_work=1e15,
    )
    return Job(
        name=name, need=Work(amount=hours), modes=(mode,), deadline=10, team="nlp", project="bot"
    )


def problem(pools: tuple[Pool, ...], *jobs: Job, nodes: int = 2) -> Problem:
    return Problem(
        grid=Grid(start=START, slot_seconds=3600, slots=10),
        pools=pools,
        nodes=tuple(
            Node(name=f"{p.name}-{i}", pool=p.name, index=i, capacity=NODE)
            for p in pools
            for i in range(nodes)
        ),
        jobs=jobs,
    )


def segment(name: str, start: int, end: int, *, work: float, node: str) -> Segment:
    place = Placement(node=node, replicas=1)
    return Segment(
        job=name, mode=0, replicas=1, start=start, end=end, work=work, placement=(place,)
    )


def plan(asked: Problem, *segments: Segment, unplaced: tuple[Unplaced, ...] = ()) -> Plan:
    costs = cost.costs(asked, segments, [u.job for u in unplaced])
    return Plan(
        status=Status.FEASIBLE,
        segments=segments,
        unplaced=unplaced,
        costs=costs,
        full_cost_usd=costs.money + cost.sunk_usd(asked),
        useful_flops=sum(cost.segment_flops(asked, s) for s in segments),
        bound=Bound(usd=1.0, method="LP", relaxes=("nodes",)),
        method="CP-SAT",
    )


def hour(at: float) -> datetime:
    return START + timedelta(hours=at)


def told(ledger: Ledger) -> list[tuple[str, float, float, float, float]]:
    """(kind, from hour, to hour, GPUs, USD) of each line."""
    return [
        (
            line.kind.value,
            (line.start - START) / timedelta(hours=1),
            (line.end - START) / timedelta(hours=1),
            line.gpus,
            line.usd_micros / 1e6,
        )
        for line in ledger.lines
    ]


def test_a_whole_node_bill_is_work_idleness_and_start_up() -> None:
    # $80 a node-hour, half an hour to start. 4 of 8 GPUs work 2.5 h of the 3 h held (from 1 to 4):
    # launched at 0.5; bill 3.5 h x $80 = $280. Work 2.5 h x $40 = $100; start-up 0.5 h x $80 = $40;
    # idle 4 GPUs x 2.5 h = $100, then all 8 for the 0.5 h to the end of the slot: $40.
    asked = problem(
        (pool("rent", Billing.NODE, (0, 10, 2, 80.0), startup_seconds=1800),),
        job("a", "rent", gpus=4, usd=40.0, full=40.0, hours=2.5),
    )
    bill = billing.ledger(asked, plan(asked, segment("a", 1, 4, work=2.5, node="rent-0")))
    assert told(bill) == [
        ("startup", 0.5, 1.0, 8.0, 40.0),
        ("idle", 1.0, 3.5, 4.0, 100.0),
        ("work", 1.0, 3.5, 4.0, 100.0),
        ("idle", 3.5, 4.0, 8.0, 40.0),
    ]
    assert bill.total.usd == bill.total.full_usd == 280.0


def test_owned_nodes_cost_their_annuity_all_the_time_and_work_adds_energy() -> None:
    # 2 nodes x 10 h x $16 = $320 sunk. Work: 8 GPUs, 4 h: energy $1 an hour is the $4 of money, and
    # 4 h x $16 of the sunk: full $68. Idle: 8 GPUs for 4 h ($64) and 16 for 6 h ($192).
    asked = problem(
        (pool("own", Billing.SUNK, (0, 10, 2, 16.0)),),
        job("a", "own", gpus=8, usd=1.0, full=17.0, hours=4),
    )
    answer = plan(asked, segment("a", 0, 4, work=4, node="own-0"))
    bill = billing.ledger(asked, answer)
    assert told(bill) == [
        ("idle", 0.0, 4.0, 8.0, 0.0),
        ("work", 0.0, 4.0, 8.0, 4.0),
        ("idle", 4.0, 10.0, 16.0, 0.0),
    ]
    assert [x.full_usd_micros / 1e6 for x in bill.lines] == [64.0, 68.0, 192.0]
    assert bill.total.full_usd == answer.full_cost_usd == 324.0


def test_a_pool_billed_by_gpu_has_only_work_and_shares_of_a_gpu() -> None:
    # half a GPU at $2 a GPU-hour, 3 h: $3
    asked = problem(
        (pool("gpu", Billing.GPU, (0, 10, 2, 16.0)),),
        job("a", "gpu", gpus=0.5, usd=1.0, full=1.0, hours=3),
    )
    bill = billing.ledger(asked, plan(asked, segment("a", 0, 3, work=3, node="gpu-0")))
    assert told(bill) == [("work", 0.0, 3.0, 0.5, 3.0)]
    assert bill.total.gpu_hours == 1.5


def test_a_line_of_work_says_whose_it_is_and_what_it_took() -> None:
    place = pool("gpu", Billing.GPU, (0, 10, 2, 16.0), grams_co2_per_kwh=380.0)
    place = replace(place, site=Site(provider="aws", region="us-east-1"))
    asked = problem((place,), job("a", "gpu", gpus=8, usd=16.0, full=16.0, hours=2))
    (line,) = billing.ledger(asked, plan(asked, segment("a", 1, 3, work=2, node="gpu-1"))).lines
    # 1 kW for 2 h is 2 kWh: 7.2e6 J, and 760 g at 380 g per kWh; 2 units of 1e15 FLOPs
    assert line == Line(
        start=hour(1),
        end=hour(3),
        kind=LineKind.WORK,
        team="nlp",
        project="bot",
        job="a",
        pool="gpu",
        site="aws us-east-1",
        accelerator="h100",
        purchase="on_demand",
        nodes=("gpu-1",),
        gpus=8.0,
        gpu_hours=16.0,
        usd_micros=32_000_000,
        full_usd_micros=32_000_000,
        joules=7.2e6,
        grams_co2=760.0,
        useful_flops=2e15,
    )


def test_a_price_that_changes_keeps_the_bill() -> None:
    # $80 to hour 2, then $40: from 0 to 4 the bill is 2 x 80 + 2 x 40 = $240, though the
    # mode's share says 4 x $80 = $320: the work carries the bill, and nothing more.
    asked = problem(
        (pool("rent", Billing.NODE, (0, 2, 2, 80.0), (2, 10, 2, 40.0)),),
        job("a", "rent", gpus=8, usd=80.0, full=80.0, hours=4),
    )
    bill = billing.ledger(asked, plan(asked, segment("a", 0, 4, work=4, node="rent-0")))
    assert told(bill) == [("work", 0.0, 4.0, 8.0, 240.0)]


def test_maintenance_takes_the_nodes_that_are_away_out_of_idleness() -> None:
    # 2 nodes but for hours 4 to 6, when there is one: 16 x 4 + 8 x 2 + 16 x 4 = 144 GPU-hours
    asked = problem(
        (pool("own", Billing.SUNK, (0, 4, 2, 16.0), (4, 6, 1, 16.0), (6, 10, 2, 16.0)),)
    )
    bill = billing.ledger(asked, plan(asked))
    assert [(x.gpus, x.gpu_hours) for x in bill.lines] == [(16, 64), (8, 16), (16, 64)]
    assert bill.total.full_usd == cost.sunk_usd(asked) == 288.0


def test_a_plan_whose_money_is_not_that_of_its_segments_is_refused() -> None:
    asked = problem(
        (pool("gpu", Billing.GPU, (0, 10, 2, 16.0)),),
        job("a", "gpu", gpus=8, usd=16.0, full=16.0, hours=2),
    )
    answer = plan(asked, segment("a", 1, 3, work=2, node="gpu-1"))
    false = replace(answer, costs=replace(answer.costs, money=31.0))
    with pytest.raises(ValueError, match=r"\$31\.00, its parts \$32\.00"):
        billing.ledger(asked, false)


def test_a_service_is_billed_for_its_replicas() -> None:
    mode = Mode(
        pool="gpu",
        replicas=4,
        amounts=Amounts(gpu_milli=2000),
        work_per_replica_hour=100.0,
        usd_per_replica_hour=5.0,
        full_usd_per_replica_hour=5.0,
        flops_per_work=1e12,
    )
    need = Demand(per_slot=(300.0,) * 10)
    asked = problem(
        (pool("gpu", Billing.GPU, (0, 10, 2, 16.0)),),
        Job(name="chat", need=need, modes=(mode,), deadline=10),
    )
    served = Segment(
        job="chat",
        mode=0,
        replicas=3,
        start=0,
        end=10,
        work=3000.0,
        placement=(Placement(node="gpu-0", replicas=3),),
    )
    (line,) = billing.ledger(asked, plan(asked, served)).lines
    # 3 replicas x 2 GPUs, 10 h x 3 x $5 = $150, 3000 requests x 1e12 FLOPs
    assert (line.gpus, line.gpu_hours, line.usd_micros / 1e6) == (6.0, 60.0, 150.0)
    assert line.useful_flops == 3e15


prices = st.floats(0.01, 200.0)
stretches = st.tuples(st.integers(0, 8), st.integers(1, 6), st.floats(0.05, 1.0), st.integers(1, 8))


@given(st.lists(stretches, min_size=1, max_size=6), prices, prices, st.integers(0, 5400))
def test_every_ledger_sums_to_its_invoice_and_its_gpu_hours(
    drawn: list[tuple[int, int, float, int]], node_usd: float, energy_usd: float, startup: int
) -> None:
    kinds = (Billing.NODE, Billing.SUNK, Billing.GPU)
    pools = tuple(
        pool(
            kind.value, kind, (0, 4, 6, node_usd), (4, 10, 6, node_usd / 3), startup_seconds=startup
        )
        for kind in kinds
    )
    jobs, segments = [], []
    for i, (start, length, fill, gpus) in enumerate(drawn):
        kind = kinds[i % 3]
        end = min(10, start + length)
        hours = (end - start) * fill
        share = node_usd * gpus / 8
        usd, full = (energy_usd, energy_usd + share) if kind is Billing.SUNK else (share, share)
        jobs.append(job(f"j{i}", kind.value, gpus=gpus, usd=usd, full=full, hours=hours))
        segments.append(segment(f"j{i}", start, end, work=hours, node=f"{kind.value}-{i}"))
    asked = problem(pools, *jobs, nodes=6)
    answer = plan(asked, *segments)
    bill = billing.ledger(asked, answer)
    assert bill.total.usd_micros == round(answer.costs.money * 1e6)
    assert bill.total.full_usd == pytest.approx(answer.full_cost_usd, abs=2e-6)
    assert all(x.usd_micros >= 0 and x.full_usd_micros >= x.usd_micros for x in bill.lines)
    by_pool = bill.by(Key.POOL)
    assert by_pool["sunk"].gpu_hours == pytest.approx(6 * 8 * 10)
    held = sum((r.end_seconds - r.launch_seconds) / 3600 * 8 for r in cost.rentals(asked, segments))
    assert by_pool["node"].gpu_hours == pytest.approx(held)


def test_spare_gpus_are_told_by_stretches_of_one_number() -> None:
    assert billing.spare([(0, 4, 8), (4, 8, 8), (1, 2, -8)]) == [(0, 1, 8), (2, 8, 8)]
    assert billing.spare([]) == []


def test_a_report_says_what_the_plan_and_first_come_first_served_do() -> None:
    asked = problem(
        (pool("gpu", Billing.GPU, (0, 10, 2, 16.0), startup_seconds=300),),
        job("a", "gpu", gpus=8, usd=16.0, full=16.0, hours=2),
        replace(job("b", "gpu", gpus=8, usd=16.0, full=16.0, hours=2), unplaced_usd=90.0),
    )
    missed = Unplaced(job="b", reason=Reason.CAPACITY, message="gpu is full")
    ours = plan(asked, segment("a", 0, 2, work=2, node="gpu-0"), unplaced=(missed,))
    both = plan(
        asked,
        segment("a", 0, 2, work=2, node="gpu-0"),
        segment("b", 0, 2, work=2, node="gpu-1"),
    )
    made = billing.report(asked, ours, both, title="Week 49")
    assert made.title == "Week 49"
    assert made.plan.jobs == 1
    assert made.plan.objective_usd == ours.costs.objective == 32 + 90
    assert [(j.job, j.team, j.reason, j.not_running_usd) for j in made.plan.left_out] == [
        ("b", "nlp", "capacity", 90.0)
    ]
    assert made.baseline is not None
    assert made.baseline.ledger.total.usd == 64.0
    assert made.proof is not None
    assert made.proof.relaxes == ("nodes",)
    assert [(c.pool, c.start, c.end, c.gpus) for c in made.capacity] == [
        ("gpu", hour(0), hour(10), 16)
    ]
    assert made.assumptions[0].value == (
        "$2.00 per GPU-hour, on-demand, rented by GPU, 300 s to start"
    )


def test_runs_stand_beside_the_launch_that_they_carried_out() -> None:
    asked = problem(
        (pool("gpu", Billing.GPU, (0, 10, 2, 16.0)),),
        job("a", "gpu", gpus=8, usd=16.0, full=16.0, hours=2),
    )
    answer = plan(asked, segment("a", 1, 3, work=2, node="gpu-0"))
    ran = [
        billing.Ran(launch="a", status="succeeded", start=hour(1.1), end=hour(3.2)),
        billing.Ran(launch="of-another-plan", status="failed", start=hour(0), end=hour(1)),
    ]
    (run,) = billing.report(asked, answer, runs=ran).measured
    assert (run.job, run.pool, run.status) == ("a", "gpu", "succeeded")
    assert (run.planned_start, run.planned_end) == (hour(1), hour(3))
    assert (run.start, run.end) == (hour(1.1), hour(3.2))


def test_data_brought_to_a_pool_have_a_line_and_are_money_on_the_bill() -> None:
    # 2 h of eight GPUs at $4 a GPU-hour: $64; the data $12.50, paid as the job starts.
    cloud = pool("cloud", Billing.GPU, (0, 10, 2, 32.0))
    one = job("x", "cloud", gpus=8, usd=32.0, full=32.0, hours=2.0)
    asked = problem((cloud,), replace(one, modes=(replace(one.modes[0], egress_usd=12.5),)))
    made = plan(asked, replace(segment("x", 3, 5, work=2.0, node="cloud-0"), egress_usd=12.5))
    assert (made.costs.money, made.costs.moving) == (64.0, 12.5)
    found = billing.outcome(asked, made)
    assert told(found.ledger) == [("egress", 3.0, 3.0, 0.0, 12.5), ("work", 3.0, 5.0, 8.0, 64.0)]
    assert found.ledger.by(Key.TEAM)["nlp"].usd == 76.5
    assert found.moving_usd == 0.0
    assert found.objective_usd == made.costs.objective


def test_data_brought_to_whole_nodes_are_beside_their_bill() -> None:
    # A node of $32 an hour for 2 h, half of it idle: $64, and $5 of data that no node's bill holds.
    rented = pool("cloud", Billing.NODE, (0, 10, 2, 32.0))
    one = job("x", "cloud", gpus=4, usd=16.0, full=16.0, hours=2.0)
    asked = problem((rented,), replace(one, modes=(replace(one.modes[0], egress_usd=5.0),)))
    made = plan(asked, replace(segment("x", 0, 2, work=2.0, node="cloud-0"), egress_usd=5.0))
    by_kind = billing.ledger(asked, made).by(Key.KIND)
    assert {kind: sums.usd for kind, sums in by_kind.items()} == {
        "work": 32.0,
        "idle": 32.0,
        "egress": 5.0,
    }
