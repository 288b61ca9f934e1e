"""What queues keep back of what is guaranteed to them, as rows and in plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.check import violations
from planner.explain import explain
from planner.fast import Placed, decide
from planner.live import Live
from planner.plan import Plan, QueuePrice, Reason, Status, Unplaced
from planner.problem import Job, Pool, Problem, Queue
from planner.quotas import caps, kept_back
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from planner.solve.master import Master
from planner.solve.pick import solve
from planner.solve.ranging import ranged
from planner.table import Unsupported, build
from planner.worth import Worth
from tests.planner.worlds import job, mode, pool, problem

FOUR = pool("a", nodes=4)


def keeper(name: str, gpus: int, *, parent: str = "", lent: int = 0) -> Queue:
    """Guaranteed ``gpus`` + ``lent`` of accelerator a, of which it lends ``lent``."""
    return Queue(
        name=name, parent=parent, guaranteed=(("a", gpus + lent),), lendable=(("a", lent),)
    )


def rows(*queues: Queue, of: Pool = FOUR) -> dict[str, list[int]]:
    """By the queues that keep back, the GPUs that are left to others, by slot."""
    found = caps(problem((of,), (), queues=queues))
    return {" ".join(cap.keepers): (cap.milli // 1000).tolist() for cap in found}


def out(plan: Plan) -> list[str]:
    return [u.job for u in plan.unplaced]


# -- rows ------------------------------------------------------------------------------------------


def test_what_is_not_named_is_lent_whole() -> None:
    whole = Queue(name="q", guaranteed=(("a", 8), ("b", 4)))
    assert kept_back(whole) == {}
    assert kept_back(replace(whole, lendable=(("a", 3),))) == {"a": 5}
    assert rows(Queue(name="q", guaranteed=(("a", 4),))) == {}


def test_each_set_of_queues_side_by_side_leaves_the_others_what_it_does_not_keep() -> None:
    # 4 GPUs: 4 - 1 beside q, 4 - 2 beside r, 4 - 3 for those under neither.
    assert rows(keeper("q", 1, lent=1), keeper("r", 2)) == {
        "q": [3] * 6,
        "r": [2] * 6,
        "q r": [1] * 6,
    }


def test_what_children_keep_is_part_of_what_their_parent_keeps() -> None:
    below = keeper("b", 1, parent="q"), keeper("c", 1, parent="q")
    assert rows(keeper("q", 3), *below) == {
        "b": [3] * 6,
        "c": [3] * 6,
        "b c": [2] * 6,
        "q": [1] * 6,
    }
    # Where they keep as much as it does, looking at them is enough: it implies the parent's row.
    assert "q" not in rows(keeper("q", 2), *below)


def test_where_there_are_fewer_gpus_than_are_kept_each_keeps_its_part_of_them() -> None:
    # Of 6 kept, q keeps 2 and r keeps 4. In slots 2 and 3 there are 3 GPUs: 1 and 2.
    fewer = pool("a", nodes=6, windows=((0, 2, 6), (2, 4, 3), (4, 6, 6)))
    assert rows(keeper("q", 2), keeper("r", 4), of=fewer) == {
        "q": [4, 4, 2, 2, 4, 4],
        "r": [2, 2, 1, 1, 2, 2],
        "q r": [0] * 6,
    }


def test_nodes_that_may_not_be_used_are_no_part_of_what_is_left() -> None:
    asked = problem(
        (FOUR,),
        (),
        queues=(keeper("q", 1),),
        cordoned=frozenset({"a-0"}),
        unhealthy=frozenset({("a-1", 0)}),
    )
    (cap,) = caps(asked)
    assert cap.milli.tolist() == [1000] * 6  # 4 - 2 - 1


def test_more_sets_than_can_be_planned_are_refused_by_name() -> None:
    queues = tuple(keeper(f"q{n}", 1) for n in range(8))  # 2^8 - 1 sets
    asked = problem((pool("a", nodes=9),), (job("j", mode(FOUR)),), queues=queues)
    with pytest.raises(Unsupported, match=r"8 queues \(q0 to q7\) keep back a that they do not"):
        solve(asked)


# -- plans -----------------------------------------------------------------------------------------


def borrowers(*queues: Queue, count: int = 4) -> Problem:
    """``count`` jobs without a queue that take a GPU for all six slots, on four GPUs."""
    names = [f"j{n}" for n in range(count)]
    return problem((FOUR,), tuple(job(n, mode(FOUR, hours=6)) for n in names), queues=queues)


@pytest.mark.parametrize(
    ("queues", "left"),
    [
        ((), 4),
        ((keeper("q", 1),), 3),
        ((keeper("q", 1, lent=1), keeper("r", 2)), 1),
        ((keeper("q", 3), keeper("b", 2, parent="q")), 1),
        ((keeper("q", 0, lent=3),), 4),
    ],
)
def test_others_have_what_queues_do_not_keep_back(queues: tuple[Queue, ...], left: int) -> None:
    asked = borrowers(*queues)
    plan = solve(asked)
    assert plan.status is Status.OPTIMAL
    assert len(plan.segments) == left
    assert violations(asked, plan) == ()


def test_a_queue_has_what_it_keeps_back_and_what_others_leave() -> None:
    asked = borrowers(keeper("q", 2))
    mine = replace(asked, jobs=tuple(replace(j, queue="q") for j in asked.jobs))
    assert out(solve(mine)) == []


def test_a_sibling_has_no_part_of_what_is_kept_back_inside_their_parent() -> None:
    # Root keeps 3 of 4, of which b keeps 2: of c's jobs, 2 run (4 - 2), of those beside root 1.
    queues = (keeper("root", 3), keeper("b", 2, parent="root"), Queue(name="c", parent="root"))
    asked = borrowers(*queues)
    inside = replace(asked, jobs=tuple(replace(j, queue="c") for j in asked.jobs))
    assert len(solve(asked).segments) == 1
    assert len(solve(inside).segments) == 2


def test_a_fleet_keeps_back_what_its_queues_do_not_lend() -> None:
    asked = borrowers(keeper("q", 1, lent=1), keeper("r", 2))
    plan = engine.solve(asked, Clock(Limits(seconds=60.0, moves=2000)))
    assert len(plan.segments) == 1
    assert violations(asked, plan) == ()
    # 3 are left out for $1000 each, which a GPU of the set of both would change.
    assert plan.bound.usd <= 3 * 1000 + 6 + 1e-6


def test_the_check_finds_gpus_that_were_not_lent() -> None:
    free = borrowers()
    plan = solve(free)
    asked = replace(free, queues=(keeper("q", 1, lent=1), keeper("r", 2)))
    assert violations(asked, plan) == ("3 a at slot 0 are taken of what q, r do not lend",)
    mine = replace(asked, jobs=tuple(replace(j, queue="r") for j in asked.jobs))
    assert violations(mine, plan) == ("1 a at slot 0 are taken of what q, r do not lend",)


# -- prices and reasons ----------------------------------------------------------------------------


def test_what_is_kept_back_has_a_price_of_what_others_would_save() -> None:
    # Four jobs of 6 h that cost $6 to run and $30 to leave out; 3 GPUs are left to them. One GPU
    # more lets the last run, one less leaves another out: $24 by 6 h.
    asked = borrowers(keeper("q", 1))
    asked = replace(asked, jobs=tuple(replace(j, unplaced_usd=30.0) for j in asked.jobs))
    master = Master(build(asked))
    (found,) = ranged(master, master.relax(seconds=5.0), seconds=5.0).queue_prices
    assert (found.queue, found.what, found.keepers) == ("q", "a", ("q",))
    assert (found.low_usd, found.usd, found.high_usd) == pytest.approx((4.0, 4.0, 4.0))


def test_only_jobs_outside_pay_for_what_is_kept_back() -> None:
    asked = borrowers(keeper("q", 1), count=1)
    (one,) = asked.jobs
    price = QueuePrice(queue="q", what="a", usd=2.0, keepers=("q",))
    worth = Worth(asked, Plan(status=Status.FEASIBLE, queue_prices=(price,)))
    mine = replace(one, queue="q")
    # 6 GPU-hours at $2.
    assert worth.of_queues(one, one.modes[0], 6, 0.0) == pytest.approx(12.0)
    assert worth.of_queues(mine, one.modes[0], 6, 0.0) == 0.0


def test_who_is_left_out_for_what_is_kept_back_is_told_by_whom() -> None:
    asked = borrowers(keeper("q", 1, lent=1), keeper("r", 2), count=2)
    plan = solve(asked)
    (left,) = plan.unplaced
    assert left == Unplaced(
        job=left.job,
        reason=Reason.KEPT_BACK,
        message="queues q and r keep back a that it would need",
        binds=("q", "r"),
    )
    bind = explain(asked, plan, left.job).ways[0].binds[0]
    assert (bind.what.value, bind.name) == ("kept-back", "q")


# -- the fast path ---------------------------------------------------------------------------------


def booked(live: Live, one: Job) -> bool:
    answer = decide(live, one, 0)
    if isinstance(answer, Placed):
        live.book(one, answer.segments)
    return isinstance(answer, Placed)


def test_an_arrival_does_not_take_what_is_kept_back() -> None:
    live = Live(problem((FOUR,), (), queues=(keeper("q", 1), keeper("r", 1))))
    jobs = [job(f"j{n}", mode(FOUR, hours=6)) for n in range(3)]
    assert [booked(live, one) for one in jobs] == [True, True, False]
    refused = decide(live, jobs[2], 0)
    assert isinstance(refused, Unplaced)
    assert (refused.reason, refused.binds) == (Reason.KEPT_BACK, ("q", "r"))
    said = "0 of the 1 a that it takes are left beside what queues q and r keep back"
    assert refused.message == said
    assert booked(live, replace(jobs[2], queue="q"))
    assert booked(live, replace(jobs[2], name="other", queue="r"))


def test_when_a_node_is_lost_less_is_left_beside_what_is_kept() -> None:
    live = Live(problem((FOUR,), (), queues=(keeper("q", 2),)))
    assert booked(live, job("j0", mode(FOUR, hours=6)))
    assert live.lose("a-3", 0) == ()
    # 3 GPUs, 2 of them kept, 1 taken.
    assert not booked(live, job("j1", mode(FOUR, hours=6)))
    assert booked(live, job("mine", mode(FOUR, hours=6), queue="q"))
