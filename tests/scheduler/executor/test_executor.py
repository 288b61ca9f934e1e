"""The loop against a Ray of a few lines, killed between any two of its steps."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scheduler.executor.clock import PlanClock
from scheduler.executor.decide import RayJob
from scheduler.executor.errors import RayRefusedError, RayUnreachableError
from scheduler.executor.executor import World, carry_out
from scheduler.executor.journal import Journal, StateDirectory
from scheduler.executor.launches import Launch
from scheduler.executor.records import CancelRequested, Event, Outcome, Run, RunOpened, RunStatus

T0 = datetime(2026, 12, 1, tzinfo=UTC)
NODES = {"n0": 8000}


class KilledError(Exception):
    """The process is gone."""


class Fuse:
    """Kills at one step, counted over everything that reaches the outside."""

    def __init__(self, at: int | None = None) -> None:
        self.left = at

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError


class Clock:
    """Time passes only while someone sleeps."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.now = T0
        self.meanwhile = meanwhile

    def sleep(self, _seconds: float) -> None:
        self.meanwhile()
        self.now += timedelta(minutes=10)


class FakeRay:
    """Jobs take half an hour; it outlives the executor, and takes a name only once."""

    def __init__(self, clock: Clock, crashes: Mapping[str, int]) -> None:
        self.clock = clock
        self.crashes = dict(crashes)
        self.head = "ray1"
        self.started: dict[str, datetime] = {}
        self.stopped: set[str] = set()
        self.ran: Counter[str] = Counter()
        self.fuse = Fuse()
        self.unreachable = 0
        self.refuses: Collection[str] = ()
        self.job_length = timedelta(minutes=30)

    def jobs(self, wanted: Collection[str]) -> Mapping[str, RayJob]:
        if self.unreachable:
            self.unreachable -= 1
            raise RayUnreachableError("not now")
        return {name: self._job(name) for name in wanted if name in self.started}

    def _job(self, name: str) -> RayJob:
        start = self.started[name]
        end = start + self.job_length
        if name in self.stopped:
            return RayJob(status=RunStatus.STOPPED, start=start, end=self.clock.now)
        if self.clock.now < end:
            return RayJob(status=RunStatus.RUNNING, start=start)
        launch, _, attempt = name.removeprefix("r-").rpartition("-")
        crashed = int(attempt) <= self.crashes.get(launch, 0)
        status = RunStatus.FAILED if crashed else RunStatus.SUCCEEDED
        return RayJob(status=status, start=start, end=end, exit_code=int(crashed))

    def submit(self, submission_id: str, launch: Launch) -> None:
        self.fuse.burn()
        if launch.name in self.refuses:
            raise RayRefusedError("no")
        if submission_id not in self.started:
            self.started[submission_id] = self.clock.now
            self.ran[launch.name] += 1
        self.fuse.burn()

    def stop(self, submission_id: str) -> None:
        self.fuse.burn()
        self.stopped.add(submission_id)
        self.fuse.burn()

    def log(self, submission_id: str) -> str:
        self.fuse.burn()
        return f"log of {submission_id}\n"

    def revive(self) -> bool:
        return False


class BurningJournal(Journal):
    """May be killed before a line is written, or after."""

    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def append(self, *events: Event) -> None:
        self._fuse.burn()
        super().append(*events)
        self._fuse.burn()


def launch(name: str, start: int, after: tuple[str, ...] = (), **other: bool) -> Launch:
    return Launch(
        name=name,
        job=name,
        entrypoint="run",
        gpu_milli=(("n0", 4000),),
        start=T0 + timedelta(hours=start),
        end=T0 + timedelta(hours=start + 1),
        after=after,
        stops_at_end=other.get("stops_at_end", False),
    )


PLAN = (
    launch("a", 0),
    launch("b", 0),
    launch("c", 1, after=("a", "b")),
    launch("d", 2, after=("c",)),
)


def opened(state: StateDirectory, plan: tuple[Launch, ...] = PLAN) -> None:
    state.create()
    clock = PlanClock(real=T0, plan=T0)
    Journal(state.journal).append(
        RunOpened(run="r", at=T0, clock=clock, launches=plan, planned=True)
    )


def life(state: StateDirectory, ray: FakeRay, fuse: Fuse) -> Run:
    """One life of the executor: to the end, or to where the fuse kills it."""
    ray.fuse = fuse
    world = World(
        state=state,
        journal=BurningJournal(state.journal, fuse),
        say=lambda _line: None,
        now=lambda: ray.clock.now,
        sleep=ray.clock.sleep,
    )
    return carry_out("r", ray, NODES, world)


@pytest.mark.parametrize("crashes", [{}, {"b": 1}])
def test_killed_at_every_step_and_run_again_each_job_runs_as_often_as_it_should(
    tmp_path: Path, crashes: dict[str, int]
) -> None:
    steps = 0
    while True:
        state = StateDirectory(root=tmp_path / str(steps))
        opened(state)
        ray = FakeRay(Clock(), crashes)
        fuse = Fuse(steps)
        try:
            life(state, ray, fuse)
        except KilledError:
            run = life(state, ray, Fuse())
        else:
            break  # it ended before the fuse did: every step has been tried
        assert ray.ran == Counter({x.name: 1 + crashes.get(x.name, 0) for x in PLAN})
        assert {r.outcome for r in run.records.values()} == {Outcome.SUCCEEDED}
        assert state.log("r-d-1").read_text() == "log of r-d-1\n"
        steps += 1
    # Each of four jobs: intent, hand-over, done, log, end, outcome; two moments in most.
    assert steps > 4 * 8


def test_killed_at_every_step_of_a_stop_it_is_stopped_and_counts_as_planned(tmp_path: Path) -> None:
    service = (launch("s", 0, stops_at_end=True),)
    for steps in range(14):
        state = StateDirectory(root=tmp_path / str(steps))
        opened(state, service)
        ray = FakeRay(Clock(), {})
        ray.job_length = timedelta(days=1)
        with contextlib.suppress(KilledError):
            life(state, ray, Fuse(steps))
        run = life(state, ray, Fuse())
        assert run.records["s"].outcome is Outcome.SUCCEEDED
        assert run.records["s"].message == "stopped at its planned end"
        assert ray.stopped == {"r-s-1"}


def test_a_cancel_by_another_program_is_seen_at_the_next_pass(tmp_path: Path) -> None:
    state = StateDirectory(root=tmp_path)
    opened(state)
    request = CancelRequested(run="r", launch="b", at=T0)
    ray = FakeRay(Clock(meanwhile=lambda: Journal(state.journal).append(request)), {})
    run = life(state, ray, Fuse())
    outcomes = {name: record.outcome for name, record in run.records.items()}
    assert outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.CANCELLED,
        "c": Outcome.NOT_STARTED,
        "d": Outcome.NOT_STARTED,
    }
    assert ray.stopped == {"r-b-1"}


def test_a_ray_that_does_not_answer_for_a_while_is_asked_again(tmp_path: Path) -> None:
    state = StateDirectory(root=tmp_path)
    opened(state)
    ray = FakeRay(Clock(), {})
    ray.unreachable = 5
    run = life(state, ray, Fuse())
    assert {r.outcome for r in run.records.values()} == {Outcome.SUCCEEDED}
    assert max(ray.ran.values()) == 1


def test_a_job_that_ray_refuses_fails_with_what_ray_said(tmp_path: Path) -> None:
    state = StateDirectory(root=tmp_path)
    opened(state)
    ray = FakeRay(Clock(), {})
    ray.refuses = ("a",)
    run = life(state, ray, Fuse())
    assert run.records["a"].outcome is Outcome.FAILED
    assert run.records["a"].message == "no"
    assert len(run.records["a"].attempts) == 3
    assert run.records["c"].message == "waits for a, which is failed"
