"""What is done in a cluster: in order, once, and whenever the operator is killed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from planner.problem import Interruption, Job
from scheduler.controller.actions import (
    AWAKE,
    Action,
    Being,
    Delete,
    Launch,
    Observed,
    Record,
    Release,
    Report,
    Resume,
    Status,
    Stop,
    Workload,
    diff,
    learned,
    recalled,
    status_of,
)
from scheduler.controller.decide import Decider
from scheduler.controller.state import (
    JobArrived,
    JobDeleted,
    Phase,
    State,
    Tick,
    Tracked,
    end_of,
)
from tests.planner.worlds import START, job, mode, pool
from tests.scheduler.controller.checker import faults
from tests.scheduler.controller.play import SLOTS, Player, at, world

ROW = pool("row", nodes=4, gpus=8, slots=SLOTS)
SAVES = Interruption(checkpoint_seconds=3600, save_seconds=60, restart_seconds=240)


def gang(name: str, nodes: int, hours: float, **fields: object) -> Job:
    made = mode(ROW, hours=hours, replicas=nodes, gpus=8)
    fields = {"interruption": SAVES, "unplaced_usd": 1e5, **fields}
    return job(name, made, slots=SLOTS, **fields)


def what(actions: tuple[Action, ...]) -> list[tuple[str, str, int]]:
    """(action, job, attempt), without the reports."""
    return [(type(a).__name__, a.job, a.attempt) for a in actions if not isinstance(a, Report)]


def seen(*workloads: Workload) -> Observed:
    return Observed(workloads={w.job: w for w in workloads})


# -- one step --------------------------------------------------------------------------------------


def test_a_job_is_launched_suspended_and_then_released() -> None:
    play = Player(world(ROW))
    play.arrive(gang("train", 2, 3))
    assert what(diff(seen(), play.state)) == [("Launch", "train", 1)]
    made = Workload(job="train", being=Being.HELD, attempt=1)
    assert what(diff(seen(made), play.state)) == [("Release", "train", 1)]
    assert what(diff(seen(replace(made, being=Being.RELEASED)), play.state)) == []


def test_what_gives_room_comes_first_and_the_rest_by_name() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 9))
    play.arrive(gang("z", 1, 1, tier=1), 1.0)
    observed = seen(Workload(job="low", being=Being.WORKING, attempt=1, started=START))
    first, *rest = diff(observed, play.state)
    assert isinstance(first, Stop)
    assert (first.job, first.notice_seconds) == ("low", 60.0)
    assert [(type(a).__name__, a.job) for a in rest] == [("Report", "low"), ("Report", "z")]


def test_a_stop_tells_first_and_suspends_when_the_notice_is_over() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 9))
    play.arrive(gang("high", 4, 1, tier=1), 1.0)
    told = Workload(job="low", being=Being.WORKING, attempt=1, started=START, told=at(1))
    assert what(diff(seen(told), play.state)) == []
    play.tick(1 + 59 / 3600)
    assert what(diff(seen(told), play.state)) == []
    play.tick(1 + 60 / 3600)
    (stop,) = [a for a in diff(seen(told), play.state) if isinstance(a, Stop)]
    assert stop.notice_seconds == 0.0


def test_a_suspended_workload_is_pinned_anew_before_it_is_released() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 9))
    play.arrive(gang("high", 4, 1, tier=1), 1.0)
    play.stop("low", 1.0)
    play.start("high", 1.0)
    play.finish("high", 2.0)
    assert play.phase("low") is Phase.LAUNCHING
    held = Workload(job="low", being=Being.HELD, attempt=1, told=at(1))
    assert what(diff(seen(held), play.state)) == [("Resume", "low", 2)]
    again = replace(held, attempt=2, told=None)
    assert what(diff(seen(again), play.state)) == [("Release", "low", 2)]


def test_a_workload_that_is_pinned_elsewhere_is_pinned_anew() -> None:
    play = Player(world(ROW))
    play.arrive(gang("a", 1, 3))
    elsewhere = Record(attempt=1, nodes=(("row-3", 1),))
    assert play.state.jobs["a"].nodes != ("row-3",)
    made = Workload(job="a", being=Being.HELD, attempt=1, record=elsewhere)
    assert what(diff(seen(made), play.state)) == [("Resume", "a", 1)]


def test_what_belongs_to_others_is_left_alone() -> None:
    play = Player(world(ROW))
    play.arrive(gang("theirs", 1, 9), foreign=True)
    assert what(diff(seen(), play.state)) == []
    adopted = Workload(job="gone", being=Being.HELD, adopted=True)
    assert what(diff(seen(adopted), play.state)) == []


def test_what_has_ended_and_still_holds_its_pods_is_removed_once_that_is_told() -> None:
    play = Player(world(ROW))
    play.run(gang("done", 4, 1))
    ended = Workload(job="done", being=Being.SUCCEEDED, attempt=1, lingers=True)
    assert what(diff(seen(ended), play.state)) == []  # nobody knows yet that it has ended
    play.finish("done", 1.0)
    found = diff(seen(ended), play.state)
    assert [type(each) for each in found] == [Report, Delete]
    assert what(diff(seen(replace(ended, lingers=False)), play.state)) == []


def test_what_no_job_stands_for_is_removed() -> None:
    orphan = Workload(job="orphan", being=Being.WORKING, attempt=3)
    assert diff(seen(orphan), world(ROW)) == (Delete(job="orphan", attempt=3),)


def test_what_is_told_already_is_not_told_again() -> None:
    play = Player(world(ROW))
    play.arrive(gang("train", 2, 3))
    (report,) = [a for a in diff(seen(), play.state) if isinstance(a, Report)]
    assert report.status.cost_usd == pytest.approx(3 * 16)  # 3 h of 16 GPUs at $1
    assert report.status.usd_per_pflop == pytest.approx(48.0)  # one unit of work is a PFLOP
    told = Observed(statuses={"train": report.status})
    assert [a for a in diff(told, play.state) if isinstance(a, Report)] == []


def test_the_same_input_gives_the_same_actions_whatever_the_order_it_came_in() -> None:
    play = Player(world(ROW))
    for i in range(4):
        play.arrive(gang(f"j{i}", 1, 3))
    turned = replace(play.state, jobs=dict(reversed(list(play.state.jobs.items()))))
    assert diff(seen(), play.state) == diff(seen(), turned)


# -- a cluster, and an operator that is killed -----------------------------------------------------


class Cluster:
    """Does what it is told, remembers what was written, and counts what ran."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self.statuses: dict[str, Status] = {}
        self.released: Counter[tuple[str, int]] = Counter()
        self.done: Counter[str] = Counter()

    def observed(self) -> Observed:
        return Observed(workloads=dict(self.workloads), statuses=dict(self.statuses))

    def apply(self, action: Action, now: float) -> None:
        old = self.workloads.get(action.job)
        if isinstance(action, Report):
            self.statuses[action.job] = action.status
        elif isinstance(action, Launch):
            if old is None:
                self.workloads[action.job] = self._made(action)
        elif old is None or (old.attempt != action.attempt and not isinstance(action, Resume)):
            return
        else:
            self._change(old, action, now)

    def _made(self, action: Launch | Resume) -> Workload:
        return Workload(
            job=action.job, being=Being.HELD, attempt=action.attempt, record=action.record
        )

    def _change(self, old: Workload, action: Action, now: float) -> None:
        name = action.job
        if isinstance(action, Resume) and old.being is Being.HELD and old.attempt <= action.attempt:
            self.workloads[name] = self._made(action)
        elif isinstance(action, Release) and old.being is Being.HELD and not old.told:
            self.released[name, action.attempt] += 1
            self.workloads[name] = replace(old, being=Being.WORKING, started=at(now))
        elif isinstance(action, Stop) and old.being in AWAKE and action.notice_seconds:
            self.workloads[name] = replace(old, told=at(now))
        elif isinstance(action, Stop) and old.being in AWAKE:
            held = replace(old, being=Being.HELD, ended=at(now), told=old.told or at(now))
            self.workloads[name] = replace(held, saved=True)
        elif isinstance(action, Delete):
            del self.workloads[name]

    def work(self, now: float, hours_left: dict[str, float], rng: random.Random) -> None:
        """What has run long enough ends, mostly well."""
        for name, w in list(self.workloads.items()):
            if w.being is not Being.WORKING or w.started is None:
                continue
            if at(now) - w.started >= timedelta(hours=hours_left[name]):
                fails = rng.random() < 0.1
                being = Being.FAILED if fails else Being.SUCCEEDED
                self.done[name] += not fails
                self.workloads[name] = replace(w, being=being, ended=at(now))


class Killed(Exception):
    """The operator is no more."""


class Operator:
    """Observes, decides, acts, as the loop does; may be killed between any two actions."""

    def __init__(self, cluster: Cluster, empty: State, manifests: dict[str, Tracked]) -> None:
        self.cluster, self.decider = cluster, Decider()
        observed = cluster.observed()
        found = {
            name: recalled(
                one, observed.statuses.get(name), observed.workloads.get(name), empty.grid
            )
            for name, one in manifests.items()
            if name in observed.statuses or name in observed.workloads
        }
        arrivals = [JobArrived(at=empty.now, job=one) for one in found.values()]
        self.state = self.decider.run_all(arrivals, empty)

    def step(self, now: float, arrivals: list[Tracked], rng: random.Random, kill: float) -> None:
        observed = self.cluster.observed()
        new = [
            JobArrived(at=at(now), job=one) for one in arrivals if one.name not in self.state.jobs
        ]
        self.state = self.decider.run_all([Tick(at=at(now)), *new], self.state)
        events = learned(observed, self.state)
        self.state = self.decider.run_all(events, self.state)
        assert faults(self.state) == []
        for action in diff(observed, self.state):
            if rng.random() < kill:
                raise Killed
            self.cluster.apply(action, now)


@pytest.mark.parametrize("seed", range(8))
def test_killed_between_any_two_actions_it_converges_and_no_launch_is_lost_or_done_twice(
    seed: int,
) -> None:
    rng = random.Random(seed)
    manifests = {
        f"j{i}": Tracked(
            job=gang(
                f"j{i}", rng.randint(1, 3), rng.choice([0.5, 1, 2]), tier=rng.choice([0, 0, 1])
            ),
            arrived=at(0.1 * i),
            uid=f"j{i}",
        )
        for i in range(12)
    }
    cluster, kills, when = Cluster(), 0, 0.0
    empty = world(ROW)
    operator = Operator(cluster, empty, manifests)
    hours = {
        n: 1 / m.job.modes[0].work_per_replica_hour / m.job.modes[0].replicas
        for n, m in manifests.items()
    }
    for step in range(400):
        when = 0.05 * step
        cluster.work(when, hours, rng)
        arrived = [m for m in manifests.values() if m.arrived <= at(when)]
        try:
            operator.step(when, arrived, rng, kill=0.15 if step < 300 else 0.0)
        except Killed:
            kills += 1
            operator = Operator(cluster, replace(empty, now=at(when)), manifests)
        busy = [w for w in cluster.workloads.values() if w.being in AWAKE]
        nodes = Counter(node for w in busy for node, _ in w.record.nodes)
        assert max(nodes.values(), default=0) <= 1  # a gang takes whole nodes
    assert kills > 5
    assert max(cluster.released.values()) == 1  # each attempt runs once
    assert set(cluster.done.values()) == {1}  # no work is done twice ...
    failed = {n for n, one in operator.state.jobs.items() if one.phase is Phase.FAILED}
    assert set(cluster.done) | failed == set(manifests)  # ... and none is lost
    assert what(diff(cluster.observed(), operator.state)) == []


def test_a_deleted_job_leaves_nothing_behind() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 1, 3))
    play.tell(JobDeleted(at=at(1), name="a"))
    held = Workload(job="a", being=Being.HELD, attempt=1, started=START, told=at(1), ended=at(1.1))
    assert what(diff(seen(held), play.state)) == [("Delete", "a", 1)]
    play.tell(*learned(seen(held), play.state))
    assert play.state.jobs == {}


def test_a_job_is_recalled_as_it_was_left() -> None:
    play = Player(world(ROW))
    play.run(gang("a", 2, 6), 0.5)
    play.tick(2.0)
    left = play.state.jobs["a"]
    status = status_of(left, play.state)
    bare = Tracked(job=left.job, arrived=left.arrived, uid="a")
    found = recalled(bare, status, None, play.state.grid)
    assert (found.phase, found.attempt, found.started) == (Phase.RUNNING, 1, left.started)
    assert (found.nodes, end_of(found)) == (left.nodes, end_of(left))


def test_who_was_told_to_go_still_goes_when_the_operator_was_killed_meanwhile() -> None:
    play = Player(world(ROW))
    play.run(gang("low", 4, 9))
    play.arrive(gang("high", 4, 1, tier=1), 1.0)
    anew, left = Player(replace(play.state, jobs={})), []
    for name, one in play.state.jobs.items():
        bare = Tracked(job=one.job, arrived=one.arrived, uid=name)
        left.append(recalled(bare, status_of(one, play.state), None, play.state.grid))
    anew.tell(*(JobArrived(at=at(1), job=one) for one in left))
    assert anew.phases() == {"low": "Stopping", "high": "Reserved"}
    anew.stop("low", 1.1)
    assert anew.phase("high") is Phase.LAUNCHING


def test_a_launch_that_was_never_told_of_is_believed() -> None:
    play = Player(world(ROW))
    play.arrive(gang("a", 2, 6))
    (launch,) = [a for a in diff(seen(), play.state) if isinstance(a, Launch)]
    made = Workload(job="a", being=Being.HELD, attempt=1, record=launch.record)
    found = recalled(Tracked(job=gang("a", 2, 6), arrived=START), None, made, play.state.grid)
    assert (found.phase, found.nodes) == (Phase.LAUNCHING, play.state.jobs["a"].nodes)
    assert Record() != launch.record
