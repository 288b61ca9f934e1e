"""A real Ray on this machine: what is promised of kills, crashes, cancels and logs.

One head serves all tests but the one that kills it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from planner.plan import Placement, Plan, Segment, Status
from planner.problem import (
    Amounts,
    Billing,
    Grid,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    Run,
    Window,
    Work,
)
from scheduler.executor import local_ray
from scheduler.executor.control import (
    JobView,
    cancel,
    cancel_all,
    find,
    look,
    observed_runs,
    read_log,
    submit_job,
    views_of,
)
from scheduler.executor.errors import ExecutorError
from scheduler.executor.executor import Options, World, apply_plan
from scheduler.executor.journal import Journal, StateDirectory
from scheduler.executor.launches import Launch
from scheduler.executor.ray_jobs import RayJobs
from scheduler.executor.records import Outcome, RunStatus

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]

START = datetime(2026, 12, 1, tzinfo=UTC)
SPEED = 7200.0  # an hour in half a second
ROOT = Path(__file__).parents[3]


def problem_and_plan(**jobs: tuple[int, str] | tuple[int, str, str]) -> tuple[Problem, Plan]:
    """``name=(start hour, entrypoint[, after])``: one hour each, two GPUs on each of two nodes."""
    node = Amounts(gpu_milli=8000)
    window = Window(start=0, end=48, nodes=2, usd_per_node_hour=8, marginal_usd_per_node_hour=8)
    pool = Pool(
        name="h100",
        accelerator="h100-sxm5-80gb",
        gpus_per_node=8,
        capacity=node,
        windows=(window,),
        billing=Billing.GPU,
        purchase="on_demand",
    )
    mode = Mode(
        pool="h100",
        replicas=4,
        amounts=Amounts(gpu_milli=1000),
        work_per_replica_hour=1,
        usd_per_replica_hour=1,
        full_usd_per_replica_hour=1,
    )
    problem = Problem(
        grid=Grid(start=START, slot_seconds=3600, slots=48),
        pools=(pool,),
        nodes=tuple(Node(name=f"h-{i}", pool="h100", index=i, capacity=node) for i in range(2)),
        jobs=tuple(
            Job(
                name=name.replace("_", "-"),
                need=Work(amount=4),
                modes=(mode,),
                deadline=48,
                after=tuple(spec[2:]),
                run=Run(entrypoint=spec[1]),
            )
            for name, spec in jobs.items()
        ),
    )
    segments = tuple(
        Segment(
            job=name.replace("_", "-"),
            mode=0,
            replicas=4,
            start=spec[0],
            end=spec[0] + 1,
            work=4,
            placement=tuple(Placement(node=f"h-{i}", replicas=2) for i in range(2)),
        )
        for name, spec in jobs.items()
    )
    return problem, Plan(status=Status.OPTIMAL, segments=segments)


def world_in(root: Path, said: list[str] | None = None) -> World:
    state = StateDirectory(root=root)
    state.create()
    return World(
        state=state,
        journal=Journal(state.journal),
        say=(said if said is not None else []).append,
        now=lambda: datetime.now(UTC),
        sleep=time.sleep,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory with a living Ray."""
    folder = tmp_path_factory.mktemp("state")
    yield folder
    state = StateDirectory(root=folder)
    if head := local_ray.recorded(state):
        local_ray.stop(state, head)


def options(*, keep_ray: bool = True, retries: int = 2) -> Options:
    return Options(speed=SPEED, keep_ray=keep_ray, retries=retries)


def carried_out(
    root: Path, retries: int = 2, **jobs: tuple[int, str] | tuple[int, str, str]
) -> dict[str, JobView]:
    world = world_in(root)
    problem, plan = problem_and_plan(**jobs)
    run = apply_plan(problem, plan, options(retries=retries), world, ROOT)
    return {view.launch.name: view for view in views_of(run)}


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def appends(tally: Path, name: str) -> str:
    """A command that leaves one line a run."""
    return f"sleep 0.3; echo {name} >> {tally}"


def test_a_plan_runs_in_order_with_logs_exit_codes_and_times(root: Path, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    views = carried_out(
        root,
        first=(0, appends(tally, "first") + "; echo on $FLOPWISE_NODES with $FLOPWISE_GPUS"),
        second=(1, appends(tally, "second"), "first"),
        third=(1, appends(tally, "third"), "second"),
    )
    assert tally.read_text().split() == ["first", "second", "third"]
    assert {v.status for v in views.values()} == {Outcome.SUCCEEDED}
    assert {v.exit_code for v in views.values()} == {0}
    log = read_log(views["first"], options(), world_in(root))
    assert log == "on h-0,h-1 with 4\n"
    seen = {o.launch: o for o in observed_runs(root) if o.run == views["first"].run}
    assert seen["first"].end <= seen["second"].start
    # Half a second of sleep is at least 0.3 s x 7200 = 36 minutes of the plan.
    assert seen["first"].plan_end - seen["first"].plan_start >= timedelta(minutes=36)
    assert (seen["third"].gpus, seen["third"].nodes) == (4.0, ("h-0", "h-1"))


def test_applied_twice_is_applied_once(root: Path, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    for _ in range(2):
        carried_out(root, once=(0, appends(tally, "once")))
    assert tally.read_text().split() == ["once"]


def test_a_crash_is_tried_again_and_a_hopeless_job_holds_back_what_waits_for_it(
    root: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    views = carried_out(
        root,
        retries=1,
        flaky=(0, f"test -e {mark} || {{ touch {mark}; exit 7; }}"),
        hopeless=(0, "echo why >&2; exit 3"),
        waiting=(1, "true", "hopeless"),
    )
    assert (views["flaky"].status, views["flaky"].attempts) == (Outcome.SUCCEEDED, 2)
    assert (views["hopeless"].status, views["hopeless"].exit_code) == (Outcome.FAILED, 3)
    assert views["hopeless"].attempts == 2
    assert views["waiting"].status == Outcome.NOT_STARTED
    assert views["waiting"].message == "waits for hopeless, which is failed"
    assert read_log(views["hopeless"], options(), world_in(root)) == "why\n"


def test_a_submitted_job_runs_at_once_and_can_be_cancelled(root: Path, tmp_path: Path) -> None:
    world = world_in(root)
    now = datetime.now(UTC)
    mark = tmp_path / "mark"
    command = f"trap 'echo saved; exit 0' TERM; touch {mark}; sleep 60 & wait"
    launch = Launch(name="alone", job="alone", entrypoint=command, start=now, end=now)
    submit_job(launch, options(), world)
    until(mark.exists)

    def view() -> JobView:
        return find(look(options(), world), "alone")[0]

    assert view().status == "running"
    assert cancel([view()], options(), world) == ("alone",)
    until(lambda: view().settled)
    assert view().status == Outcome.CANCELLED
    assert "saved\n" in read_log(view(), options(), world)
    assert cancel([view()], options(), world) == ()


def test_our_ray_listens_to_this_machine_alone_and_asks_for_its_token(root: Path) -> None:
    state = StateDirectory(root=root)
    head = local_ray.recorded(state)
    assert head is not None
    port = head.dashboard_port
    with pytest.raises(ExecutorError, match="does not take our token"):
        RayJobs(url=head.url, token="wrong").jobs()
    assert (state.ray / "token").stat().st_mode & 0o777 == 0o600
    token = (state.ray / "token").read_text()
    assert token not in "".join(" ".join(args) for _, args in local_ray._processes())
    for address in _other_addresses():
        with socket.socket() as attempt:
            assert attempt.connect_ex((address, port)) != 0


def test_a_given_ray_runs_a_plan_and_is_left_as_it_is(root: Path, tmp_path: Path) -> None:
    state = StateDirectory(root=root)
    head = local_ray.recorded(state)
    assert head is not None
    problem, plan = problem_and_plan(given=(0, "echo $FLOPWISE_NODES"))
    token = {"RAY_AUTH_TOKEN_PATH": str(state.ray / "token")}
    address = Options(speed=SPEED, address=head.url, environment=token)
    world = world_in(tmp_path / "other")
    [view] = views_of(apply_plan(problem, plan, address, world, ROOT))
    assert (view.status, view.exit_code) == (Outcome.SUCCEEDED, 0)
    assert read_log(view, address, world) == "h-0,h-1\n"
    assert local_ray.recorded(world.state) is None
    assert local_ray.alive(head)


def test_nothing_is_written_down_for_a_ray_that_does_not_take_us(
    root: Path, tmp_path: Path
) -> None:
    head = local_ray.recorded(StateDirectory(root=root))
    assert head is not None
    problem, plan = problem_and_plan(given=(0, "true"))
    wrong = Options(speed=SPEED, address=head.url, environment={"RAY_AUTH_TOKEN": "wrong"})
    world = world_in(tmp_path)
    with pytest.raises(ExecutorError, match="does not take our token"):
        apply_plan(problem, plan, wrong, world, ROOT)
    assert world.journal.refresh() == {}


def _other_addresses() -> set[str]:
    infos = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    return {str(info[4][0]) for info in infos} - {"127.0.0.1", "127.0.1.1"}


EXECUTOR = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_on_ray as t
problem, plan = t.problem_and_plan(**{jobs!r})
t.apply_plan(problem, plan, t.options(), t.world_in(Path({state!r})), t.ROOT)
"""


def executor(state: Path, jobs: dict[str, tuple[int, str]]) -> subprocess.Popen[bytes]:
    script = EXECUTOR.format(
        root=str(ROOT), tests=str(Path(__file__).parent), jobs=jobs, state=str(state)
    )
    return subprocess.Popen([sys.executable, "-c", script], start_new_session=True)


def test_killed_at_any_moment_and_run_again_it_neither_loses_nor_doubles_a_job(
    root: Path, tmp_path: Path
) -> None:
    tally = tmp_path / "tally"
    jobs = {f"k{i}": (i, appends(tally, f"k{i}")) for i in range(8)}
    chance = random.Random(7)
    kills = 0
    while (process := executor(root, jobs)).poll() is None:
        try:
            process.wait(timeout=chance.uniform(0.3, 2.0) if kills < 8 else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
            process.wait()
            continue
        break
    assert process.returncode == 0
    assert kills >= 3
    assert Counter(tally.read_text().split()) == Counter(jobs.keys())
    runs = [o for o in observed_runs(root) if o.job in jobs]
    assert [(o.attempt, o.status) for o in runs] == [(1, RunStatus.SUCCEEDED)] * len(jobs)


def test_when_ray_dies_it_is_started_again_and_finished_jobs_are_not_repeated(
    root: Path, tmp_path: Path
) -> None:
    tally, gate = tmp_path / "tally", tmp_path / "gate"
    state = StateDirectory(root=root)
    jobs = {
        "done": (0, appends(tally, "done")),
        "cut": (0, f"until test -e {gate}; do sleep 0.1; done; echo cut >> {tally}"),
    }
    process = executor(root, jobs)
    until(lambda: tally.exists() and _running(state, "cut"))
    before = local_ray.recorded(state)
    assert before is not None
    for pid in local_ray._members(before):
        with suppress(ProcessLookupError):  # a member may end by itself meanwhile: its ``sleep``
            os.kill(pid, signal.SIGKILL)
    until(lambda: _answers(state, before), 60)  # by then nothing of the dead one is left
    gate.touch()
    assert process.wait(timeout=90) == 0
    assert Counter(tally.read_text().split()) == Counter(jobs.keys())
    ends = {(o.job, o.attempt): o.status for o in observed_runs(root) if o.job in jobs}
    assert ends == {
        ("done", 1): RunStatus.SUCCEEDED,
        ("cut", 1): RunStatus.LOST,
        ("cut", 2): RunStatus.SUCCEEDED,
    }
    assert not Path(before.folder).exists()


def _answers(state: StateDirectory, before: local_ray.Head) -> bool:
    head = local_ray.recorded(state)
    return head not in (before, None) and local_ray.client(state, head).ready()


def _running(state: StateDirectory, job: str) -> bool:
    return any(job in path.stem.split("-") for path in state.report("_").parent.glob("*.json"))


def test_cancel_all_ends_what_runs_and_stops_ray(root: Path, tmp_path: Path) -> None:
    state = StateDirectory(root=root)
    head = local_ray.recorded(state)
    assert head is not None
    mark = tmp_path / "mark"
    process = executor(root, {"endless": (0, f"touch {mark}; sleep 600"), "later": (40, "true")})
    until(mark.exists)
    process.kill()
    process.wait()
    world = world_in(root)
    assert cancel_all(options(), world) == ("endless", "later")
    views = {v.launch.name: v for v in look(options(), world)}
    assert views["endless"].status == Outcome.CANCELLED
    assert views["later"].status == Outcome.CANCELLED
    assert local_ray.recorded(state) is None
    assert not local_ray._members(head)
