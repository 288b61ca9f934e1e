"""Changes: how they are written, what they make of a problem, and how a wrong one is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from planner.changes import ChangeError, apply, parse
from planner.problem import Amounts, Billing, Demand, Problem, Queue, Running, Work
from planner.solve.pick import solve
from tests.planner.worlds import job, mode, pool, problem

RENTED = pool("h100", nodes=2, gpus=8, usd=3.5, windows=((0, 2, 2), (2, 4, 1), (4, 6, 2)))
OWNED = pool("own", gpus=8, usd=2.0, billing=Billing.SUNK)
TEAM = Queue(name="team", limit=(("h100-sxm5-80gb", 8),), budget_usd_per_month=100.0)


def world() -> Problem:
    sft = job("sft", mode(RENTED, hours=2, gpus=8), mode(OWNED, hours=2, gpus=8, usd=0.1), due=4)
    demand = Demand(per_slot=(1.0, 2.0, 3.0, 3.0, 2.0, 1.0))
    chat = job("chat", mode(RENTED, serves=2.0, gpus=1, replicas=2), need=demand)
    return problem((RENTED, OWNED), (sft, chat), queues=(TEAM,))


def after(*texts: str) -> Problem:
    return apply(world(), parse(",".join(texts)))


# -- pools -----------------------------------------------------------------------------------------


def nodes(asked: Problem) -> list[int]:
    return [w.nodes for w in asked.pool_by_name["h100"].windows]


def test_nodes_come_and_go_in_every_window_alike() -> None:
    assert nodes(world()) == [2, 1, 2]
    more = after("pool/h100.nodes+=3")
    assert nodes(more) == [5, 4, 5]
    assert [n.name for n in more.nodes_of("h100")] == [f"h100-{i}" for i in range(5)]
    less = after("pool/h100.nodes-=1")
    assert nodes(less) == [1, 0, 1]
    assert [n.name for n in less.nodes_of("h100")] == ["h100-0"]


def test_nodes_set_are_the_most_there_are() -> None:
    assert nodes(after("pool/h100.nodes=4")) == [4, 3, 4]
    assert nodes(after("pool/h100.nodes=0")) == [0, 0, 0]


def test_a_new_node_has_a_name_that_no_other_has() -> None:
    asked = world()
    first, other = asked.nodes_of("h100")
    named = tuple(replace(n, name="h100-2") if n is first else n for n in asked.nodes)
    made = apply(replace(asked, nodes=named), parse("pool/h100.nodes+=1"))
    assert [n.name for n in made.nodes_of("h100")] == ["h100-2", other.name, "h100-added-2"]


def test_a_dearer_pool_makes_its_modes_dearer() -> None:
    made = after("pool/h100.price+=0.5")
    assert [w.usd_per_node_hour for w in made.pool_by_name["h100"].windows] == [32.0] * 3
    sft = made.job_by_name["sft"]
    # 8 GPUs at $4.00; the owned pool's energy stays.
    assert [m.usd_per_replica_hour for m in sft.modes] == pytest.approx([32.0, 0.8])


def test_owned_hardware_dearer_to_buy_changes_its_full_cost_alone() -> None:
    made = after("pool/own.price*=2")
    before, now = (p.job_by_name["sft"].modes[1] for p in (world(), made))
    assert now.usd_per_replica_hour == before.usd_per_replica_hour
    # $2.00 a GPU-hour more, for 8 GPUs.
    assert now.full_usd_per_replica_hour - before.full_usd_per_replica_hour == pytest.approx(16.0)


def test_parts_of_a_gpu_are_dearer_by_their_part() -> None:
    # $0.50 more a GPU-hour: half a GPU $0.25; of geometries of seven slices, three are 3/7.
    cut = replace(RENTED, mig_geometries=(("4g.40gb", "3g.40gb"),))
    shares = (Amounts(gpu_milli=500), Amounts(mig=(("3g.40gb", 1),)))
    modes = tuple(replace(mode(RENTED, usd=1.0), amounts=amounts) for amounts in shares)
    made = apply(problem((cut,), (job("x", *modes),)), parse("pool/h100.price+=0.5"))
    found = [m.usd_per_replica_hour for m in made.job_by_name["x"].modes]
    assert found == pytest.approx([1.25, 1 + 0.5 * 3 / 7])


def test_a_change_of_nothing_changes_no_plan() -> None:
    asked = world()
    changed = after("pool/h100.nodes+=0", "pool/h100.price*=1", "job/sft.demand*=1")
    assert changed == asked
    assert solve(changed).costs == solve(asked).costs


# -- queues and jobs -------------------------------------------------------------------------------


def test_limits_and_budgets_move_and_an_alias_is_resolved() -> None:
    made = after("queue/team.limit.h100+=8", "queue/team.budget*=0.5").queue_by_name["team"]
    assert (made.limit, made.budget_usd_per_month) == ((("h100-sxm5-80gb", 16),), 50.0)
    new = after("queue/team.limit.a100-sxm4-80gb=4").queue_by_name["team"]
    assert dict(new.limit) == {"a100-sxm4-80gb": 4, "h100-sxm5-80gb": 8}


def test_demand_scales_the_work_of_a_job_and_the_replicas_of_a_service() -> None:
    made = after("job/sft.demand*=1.5", "job/chat.demand*=2")
    assert made.job_by_name["sft"].need == Work(amount=1.5)
    chat = made.job_by_name["chat"]
    assert isinstance(chat.need, Demand)
    assert chat.need.per_slot == (2.0, 4.0, 6.0, 6.0, 4.0, 2.0)
    assert chat.modes[0].replicas == 3  # six an hour by two a replica


def test_times_move_by_lengths_and_to_instants() -> None:
    made = after("job/sft.deadline-=90m", "job/sft.due=2026-12-01T03:00").job_by_name["sft"]
    assert (made.deadline, made.due) == (4, 3)  # half an hour into slot 4: it ends by its start
    late = after("job/sft.deadline+=3d").job_by_name["sft"]
    assert late.deadline == 6  # everything ends within the horizon
    assert after("job/sft.due+=1h").job_by_name["sft"].due == 5


def test_the_price_of_leaving_out_moves() -> None:
    assert after("job/sft.unplaced+=50").job_by_name["sft"].unplaced_usd == 1050.0


def test_a_name_may_hold_dots_and_a_namespace() -> None:
    change = parse("job/nlp/sft.v2.deadline+=1h").changes[0]
    assert (change.name, change.field) == ("nlp/sft.v2", "deadline")
    instant = parse("job/sft.deadline=2026-12-01T03:00:00+02:00").changes[0]
    assert instant.value == datetime(2026, 12, 1, 1, tzinfo=UTC)


# -- what is refused -------------------------------------------------------------------------------

REFUSED = {
    "pool/h100": "found 'pool/h100', allowed: a change such as pool/NAME.nodes+=8",
    "node/h100.count=1": "found 'node', allowed: pool, queue, job",
    "pool/h100.gpus=1": "found 'gpus', allowed: nodes, price",
    "pool/h100.node=1": "found 'node', allowed: nodes, price (nearest: nodes)",
    "pool/h100.nodes*=2": "found '*=', allowed: += -= =",
    "pool/h100.nodes+=1.5": "found '1.5', allowed: a whole number, 0 or more",
    "pool/h100.nodes+=-1": "found '-1', allowed: a whole number, 0 or more",
    "pool/h100.price=nan": "found 'nan', allowed: a number, 0 or more",
    "pool/h100.price=1e400": "found '1e400', allowed: a number, 0 or more",
    "pool/h100.nodes-=3": "found '-1 after it', allowed: 0 or more",
    "pool/h100.nodes=9000000": "found '9000000', allowed: 1,000,000 nodes at most",
    "pool/h100.price-=4": "found '-0.5 after it', allowed: 0 or more",
    "pool/h200.nodes+=1": "found no pool 'h200', nearest: h100",
    "queue/research.budget=1": "found no queue 'research'",
    "queue/team.limit=1": "found 'limit', allowed: limit.ACCELERATOR, guaranteed.ACCELERATOR, "
    "lendable.ACCELERATOR, budget (nearest: limit.ACCELERATOR)",
    "queue/team.guaranteed.l4+=1": "found 'no guarantee of l4', allowed: those it has: none; "
    "= sets one",
    "queue/team.limit.l4+=1": "found 'no limit of l4', allowed: those it has: h100-sxm5-80gb",
    "job/sft.demand+=1": "found '+=', allowed: *=",
    "job/sft.demand*=0": "found '0', allowed: a number above 0",
    "job/sft.deadline+=12": "found '12', allowed: a length such as 90m, 12h, 2d",
    "job/sft.deadline=soon": "found 'soon', allowed: a time such as 2026-12-07T00:00Z",
    "job/sft.deadline-=6h": "found '21600.0', allowed: an end after 2026-12-01T00:00:00+00:00",
    "job/chat.due+=1h": "found 'a service', allowed: jobs that end",
    "job/sftt.demand*=2": "found no job 'sftt', nearest: sft",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_change_that_cannot_be_made_is_told_by_what_is_found_and_allowed(text: str) -> None:
    with pytest.raises(ChangeError) as raised:
        after(text)
    assert str(raised.value) == f"--change {text}: {REFUSED[text]}"


def test_an_accelerator_that_no_catalog_knows_has_its_nearest_names() -> None:
    with pytest.raises(ChangeError, match="an accelerator of the catalog, nearest: h100"):
        after("queue/team.limit.h1000=1")


def test_a_queue_without_budget_is_given_one_by_a_value_only() -> None:
    free = replace(world(), queues=(Queue(name="free"),))
    with pytest.raises(ChangeError, match="found 'no budget', allowed: = sets one"):
        apply(free, parse("queue/free.budget+=1"))
    made = apply(free, parse("queue/free.budget=10"))
    assert made.queue_by_name["free"].budget_usd_per_month == 10.0


def test_a_node_that_holds_a_running_job_stays() -> None:
    running = Running(
        job="sft", mode=0, nodes=("h100-1",), work_done=0.0, work_since_checkpoint=0.0
    )
    asked = replace(world(), running=(running,))
    with pytest.raises(ChangeError, match="node h100-1 holds sft, which is running"):
        apply(asked, parse("pool/h100.nodes-=1"))
    assert nodes(apply(asked, parse("pool/h100.nodes+=1"))) == [3, 2, 3]
