"""What a cluster does beside what an operator that only looks on would have done."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from scheduler.controller.actions import Being
from scheduler.controller.decide import Decider
from scheduler.controller.shadow import OTHERS, Books, Real, advanced, opened, played
from scheduler.controller.state import Event, JobArrived, JobDeleted, Phase, State, Tick, Tracked
from scheduler.kube.holders import Holding
from tests.planner.worlds import START, job, mode, pool
from tests.scheduler.controller.play import SLOTS, at, world

DEAR = pool("dear", nodes=1, gpus=8, slots=SLOTS, usd=3.0)
CHEAP = pool("cheap", nodes=1, gpus=8, slots=SLOTS, usd=1.0)


class Onlooker:
    """Both worlds, step by step."""

    def __init__(self) -> None:
        self.decider = Decider()
        self.state: State = world(DEAR, CHEAP)
        self.books: Books = opened(START)
        self.real = Real()

    def arrive(self, name: str, when: float, **hours: float) -> None:
        pools = {"dear": DEAR, "cheap": CHEAP}
        modes = [mode(pools[on], hours=length, gpus=8) for on, length in hours.items()]
        one = Tracked(job=job(name, *modes, slots=SLOTS), arrived=at(when))
        self.state = self.decider.run(JobArrived(at=at(when), job=one), self.state)

    def step(self, when: float, real: Real) -> list[Event]:
        """It is so in the cluster from ``when`` on; what is played in the other world."""
        self.real = real
        self.state = self.decider.run(Tick(at=at(when)), self.state)
        self.books = advanced(self.books, real, self.state, at(when))
        events: list[Event] = []
        for _ in range(3):
            now = list(played(self.state, self.books, real))
            self.state = self.decider.run_all(now, self.state) if now else self.state
            events += now
        self.books = advanced(self.books, real, self.state, at(when))  # no time has passed
        return events


def on(node: str, job: str = "a", since: float = 0.0, gpus: float = 8.0) -> Real:
    """A job that holds GPUs of a node."""
    held = Holding(job=job, node=node, gpus=gpus, since=at(since))
    return Real(holdings=(held,), looked_at=frozenset({"a"}))


def over(being: Being = Being.SUCCEEDED) -> Real:
    return Real(looked_at=frozenset({"a"}), over={"a": being})


def test_a_job_that_others_put_on_dear_nodes_would_have_cost_less() -> None:
    # Two hours of 8 GPUs: $48 at $3 where it ran, $16 at $1 where it would. It waited half an hour.
    watch = Onlooker()
    watch.arrive("a", 0, dear=2, cheap=2)
    watch.step(0.0, Real(looked_at=frozenset({"a"})))
    watch.step(0.5, on("dear-0", since=0.5))
    watch.step(1.5, on("dear-0", since=0.5))
    account = watch.books.accounts[""]
    assert (account.runs.usd_per_hour, account.would.usd_per_hour) == (24.0, 8.0)
    assert (account.runs.usd, account.would.usd) == (24.0, 12.0)
    watch.step(2.5, over())
    watch.step(2.6, over())
    account = watch.books.accounts[""]
    assert watch.state.jobs["a"].phase is Phase.DONE
    assert (account.compared, account.runs.ended, account.would.ended) == (1, 1, 1)
    assert account.saved_usd == pytest.approx(48.0 - 16.0)
    assert account.sooner_hours == pytest.approx(0.5)
    watch.step(3.0, over())
    assert watch.books.accounts[""] == account  # it is counted once


def test_a_job_that_takes_longer_than_it_said_does_so_in_both() -> None:
    # An hour was stated, three it took: $24 and $72 are not set against $8 for an hour.
    watch = Onlooker()
    watch.arrive("a", 0, dear=1, cheap=1)
    watch.step(0.0, on("dear-0"))
    watch.step(2.0, on("dear-0"))
    assert watch.state.jobs["a"].phase is Phase.RUNNING
    watch.step(3.0, over())
    watch.step(3.1, over())
    assert watch.books.accounts[""].saved_usd == pytest.approx(72.0 - 24.0)


def test_a_slower_way_takes_longer_in_proportion() -> None:
    # The cheap GPUs take twice as long: 2 h at $24 an hour against 4 h at $8.
    watch = Onlooker()
    watch.arrive("a", 0, dear=1, cheap=2)
    watch.step(0.0, on("dear-0"))
    watch.step(2.0, over())
    assert watch.state.jobs["a"].phase is Phase.RUNNING
    watch.step(4.0, over())
    watch.step(4.1, over())
    assert watch.books.accounts[""].saved_usd == pytest.approx(48.0 - 32.0)


def test_a_job_that_failed_saves_nothing_however_little_it_would_have_cost() -> None:
    watch = Onlooker()
    watch.arrive("a", 0, dear=2, cheap=2)
    watch.step(0.0, on("dear-0"))
    watch.step(1.0, over(Being.FAILED))
    account = watch.books.accounts[""]
    assert watch.state.jobs["a"].phase is Phase.FAILED
    assert (account.compared, account.saved_usd, account.would.ended) == (0, 0.0, 0)


def test_a_job_that_ran_before_we_looked_on_is_not_compared() -> None:
    watch = Onlooker()
    watch.arrive("a", -1.0, dear=2, cheap=2)
    watch.step(0.0, on("dear-0", since=-1.0))
    watch.step(1.0, over())
    watch.step(1.1, over())
    assert watch.books.accounts[""].compared == 0
    assert watch.books.accounts[""].runs.usd == pytest.approx(24.0)  # what it held before is not in


def test_a_job_that_arrives_in_the_second_in_which_we_begin_to_look_on_is_compared() -> None:
    # We begin at 0.9 s; the job came at 0.95 s, of which its object says 0 s.
    watch = Onlooker()
    watch.books = opened(START + timedelta(seconds=0.9))
    watch.arrive("a", 0, dear=2, cheap=2)
    watch.step(0.1, on("dear-0"))
    watch.step(1.1, over())
    watch.step(1.3, over())
    assert watch.books.accounts[""].compared == 1


def test_pods_of_nobody_who_is_looked_at_cost_the_same_in_both() -> None:
    watch = Onlooker()
    watch.step(0.0, on("dear-0", job=OTHERS, gpus=2.0))
    watch.step(2.0, on("dear-0", job=OTHERS, gpus=2.0))
    account = watch.books.accounts[""]
    assert account.runs == account.would
    assert (account.runs.gpus, account.runs.usd_per_hour, account.runs.usd) == (2.0, 6.0, 12.0)


def test_what_a_short_job_held_before_it_was_seen_is_counted() -> None:
    # It began at 0.2 and is seen at 0.5: $24 an hour from then on.
    watch = Onlooker()
    watch.arrive("a", 0.1, dear=1, cheap=1)
    watch.step(0.1, Real(looked_at=frozenset({"a"})))
    watch.step(0.5, on("dear-0", since=0.2))
    watch.step(0.7, over())
    assert watch.books.accounts[""].runs.usd == pytest.approx(0.5 * 24.0)


def test_a_job_whose_workload_is_deleted_once_it_ended_goes_on_until_it_would_have_ended() -> None:
    watch = Onlooker()
    watch.arrive("a", 0, dear=1, cheap=2)
    watch.step(0.0, on("dear-0"))
    watch.step(1.0, over())
    gone = Real(over={"a": Being.SUCCEEDED})
    watch.step(1.5, gone)
    assert watch.state.jobs["a"].phase is Phase.RUNNING
    watch.step(2.0, gone)
    assert watch.step(2.1, gone) == [JobDeleted(at=at(2.1), name="a")]
    assert "a" not in watch.state.jobs
    assert watch.books.accounts[""].saved_usd == pytest.approx(24.0 - 16.0)


def test_books_go_on_from_what_an_observer_before_us_has_counted() -> None:
    watch = Onlooker()
    watch.step(0.0, on("dear-0", job=OTHERS, gpus=1.0))
    watch.step(1.0, on("dear-0", job=OTHERS, gpus=1.0))
    later: datetime = at(5)
    books = opened(later, watch.books.accounts)
    again = advanced(books, on("dear-0", job=OTHERS, gpus=1.0), watch.state, at(6))
    assert again.accounts[""].since == START
    assert again.accounts[""].runs.usd == pytest.approx(3.0 + 3.0)  # nobody looked on in between
