"""The commands around a plan's execution, as a user calls them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.planfile import PlanFile, write_plan
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
from planner.solve.pick import solve
from scheduler.executor.clock import PlanClock
from scheduler.executor.journal import Journal, StateDirectory
from scheduler.executor.launches import Launch
from scheduler.executor.local_ray import recorded, stop
from scheduler.executor.records import RunOpened
from tests.flopwise.command import Command, Ended

ROOT = Path(__file__).parents[2]


def job(name: str, entrypoint: str = "", after: tuple[str, ...] = ()) -> Job:
    """Two hours on four GPUs."""
    mode = Mode(
        pool="h100",
        replicas=4,
        amounts=Amounts(gpu_milli=1000),
        work_per_replica_hour=1.0,
        usd_per_replica_hour=2.0,
        full_usd_per_replica_hour=2.0,
    )
    return Job(
        name=name,
        need=Work(amount=8.0),
        modes=(mode,),
        deadline=24,
        unplaced_usd=1000.0,
        after=after,
        run=Run(entrypoint=entrypoint),
    )


def plan_file(path: Path, *jobs: Job) -> PlanFile:
    node = Amounts(gpu_milli=8000)
    window = Window(start=0, end=24, nodes=1, usd_per_node_hour=16, marginal_usd_per_node_hour=16)
    pool = Pool(
        name="h100",
        accelerator="h100-sxm5-80gb",
        gpus_per_node=8,
        capacity=node,
        windows=(window,),
        billing=Billing.GPU,
        purchase="on_demand",
    )
    problem = Problem(
        grid=Grid(start=datetime(2026, 12, 1, tzinfo=UTC), slot_seconds=3600, slots=24),
        pools=(pool,),
        nodes=(Node(name="h100-0", pool="h100", index=0, capacity=node),),
        jobs=jobs,
    )
    made = PlanFile(problem=problem, plan=solve(problem))
    write_plan(path, made)
    return made


def on_its_own(
    folder: Path, *arguments: str, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """The command as a process; its state, and everything else of a user, is below ``folder``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    own = {"HOME": str(folder), "FLOPWISE_STATE_DIR": str(folder / "state")}
    return subprocess.run(
        [sys.executable, "-m", "flopwise", *arguments],
        env={**kept, **own, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture
def here(flopwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The same in this process: for what ends before any Ray starts."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLOPWISE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return flopwise


def refused(done: Ended, code: int, message: str) -> None:
    """One line that says it, the exit code, and nothing on standard output."""
    assert done.code == code
    assert done.out == ""
    [line] = done.lines
    assert message in line


def test_a_job_without_an_entrypoint_is_named_before_anything_starts(
    here: Command, tmp_path: Path
) -> None:
    plan_file(tmp_path / "plan.json", job("bare"), job("also"), job("fine", "true"))
    done = here("apply", "-f", "plan.json")
    refused(done, 2, "also, bare: spec.run.entrypoint: found nothing, allowed: a command")
    assert not (tmp_path / "state" / "journal.jsonl").exists()


def test_a_plan_that_is_not_true_is_refused(here: Command, tmp_path: Path) -> None:
    made = plan_file(tmp_path / "plan.json", job("a", "true"), job("b", "true"), job("c", "true"))
    # Three jobs of four GPUs each at once on a node of eight.
    moved = tuple(replace(s, start=0, end=2) for s in made.plan.segments)
    write_plan(tmp_path / "bad.json", replace(made, plan=replace(made.plan, segments=moved)))
    done = here("apply", "-f", "bad.json", "--stand-in")
    refused(done, 2, "bad.json: not a true plan:")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not JSON"), ("{}", "not a plan"), ('{"kind": "Plan"}', "not a plan")],
)
def test_what_is_no_plan_is_refused(here: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    refused(here("apply", "-f", "plan.json"), 2, message)
    refused(here("apply", "-f", "none.json"), 2, "none.json: No such file")


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_a_speed_that_is_no_speed_is_bad_usage(here: Command, speed: str) -> None:
    done = here("apply", "-f", "plan.json", f"--speed={speed}")
    assert done.code == 2
    assert "allowed: a number above 0" in done.err


def test_a_dry_run_lists_what_would_start_and_starts_nothing(here: Command, tmp_path: Path) -> None:
    plan_file(tmp_path / "plan.json", job("a", "true"), job("b", "true", after=("a",)))
    done = here("apply", "-f", "plan.json", "--dry-run=client", "-o", "json")
    assert done.code == 0
    first, second = json.loads(done.out)
    assert (first["name"], first["gpus"], first["nodes"]) == ("a", 4.0, "h100-0")
    assert (second["name"], second["after"]) == ("b", "a")
    assert not (tmp_path / "state").exists()


def test_an_unfinished_plan_is_not_forgotten_for_another(here: Command, tmp_path: Path) -> None:
    start = datetime(2026, 12, 1, tzinfo=UTC)
    state = StateDirectory(root=tmp_path / "state")
    state.create()
    begun = Launch(name="old", job="old", entrypoint="true", start=start, end=start)
    Journal(state.journal).append(
        RunOpened(
            run="other",
            at=start,
            clock=PlanClock(real=start, plan=start),
            launches=(begun,),
            planned=True,
        )
    )
    plan_file(tmp_path / "plan.json", job("a", "true"))
    done = here("apply", "-f", "plan.json")
    refused(done, 1, "holds an unfinished plan of 2026-12-01 00:00")
    assert here("cancel", "--all").out == "old cancelled\n"
    [row] = json.loads(here("get", "-o", "json").out)
    assert (row["name"], row["status"]) == ("old", "cancelled")


def test_a_plan_that_places_nothing_starts_nothing(here: Command, tmp_path: Path) -> None:
    plan_file(tmp_path / "plan.json")
    refused(here("apply", "-f", "plan.json"), 2, "places no job")


def test_a_job_that_is_not_there_is_exit_code_4(here: Command) -> None:
    for command in ("status", "logs", "cancel"):
        refused(here(command, "nobody"), 4, "no job named nobody")


def test_nothing_is_listed_where_nothing_ran(here: Command) -> None:
    done = here("get", "-o", "json")
    assert (done.code, json.loads(done.out)) == (0, [])


def test_cancel_wants_jobs_or_all_of_them(here: Command) -> None:
    for arguments in ((), ("a", "--all")):
        assert here("cancel", *arguments).code == 2


def test_submit_wants_one_job_with_something_to_run(here: Command, tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "idle"},
        "spec": {"queue": "elsewhere", "task": {"gpus": 1, "hours": {"h100-sxm5-80gb": 1}}},
    }
    (tmp_path / "job.json").write_text(json.dumps(manifest))
    done = here("submit", "-f", "job.json")
    refused(done, 2, "job.json: idle: spec.run.entrypoint: found nothing to run")


@pytest.fixture
def ray_home(tmp_path: Path) -> Iterator[Path]:
    """A user's home, whose Ray does not outlive the test."""
    pytest.importorskip("ray", reason="Ray is not installed")
    yield tmp_path
    state = StateDirectory(root=tmp_path / "state")
    if head := recorded(state):
        stop(state, head)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_stand_ins_carry_a_plan_out_and_every_command_tells_of_it(ray_home: Path) -> None:
    plan_file(ray_home / "plan.json", job("a"), job("b", after=("a",)))
    manifest = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "alone"},
        "spec": {
            "task": {"gpus": 1, "hours": {"h100-sxm5-80gb": 1}},
            "run": {"entrypoint": "echo out; exit 5"},
        },
    }
    (ray_home / "job.json").write_text(json.dumps(manifest))
    apply = ("apply", "-f", "plan.json", "--stand-in", "--speed=7200")

    done = on_its_own(ray_home, *apply, "--keep-ray", "-o", "csv")
    assert done.returncode == 0, done.stderr
    assert "stand-ins: small CPU programs" in done.stderr
    rows = {row["name"]: row for row in csv.DictReader(done.stdout.splitlines())}
    assert {(row["status"], row["exitCode"]) for row in rows.values()} == {("succeeded", "0")}
    assert rows["a"]["end"] <= rows["b"]["start"]

    measured = json.loads(on_its_own(ray_home, "logs", "a").stdout.splitlines()[-1])
    # 8 GPU-hours of work; 2 h at 7200 plan seconds a second: one second.
    assert (measured["work"], measured["standIn"]) == (8.0, True)
    assert measured["seconds"] == pytest.approx(1.0, abs=0.5)

    submitted = on_its_own(ray_home, "submit", "-f", "job.json")
    assert (submitted.returncode, submitted.stdout) == (0, "alone\n")
    followed = on_its_own(ray_home, "logs", "-f", "alone")
    assert followed.stdout == "out\n"
    [told] = json.loads(on_its_own(ray_home, "status", "alone", "-o", "json").stdout)
    assert (told["status"], told["exitCode"]) == ("failed", 5)
    listed = on_its_own(ray_home, "get").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["NAME", "STATUS"],
        ["a", "succeeded"],
        ["b", "succeeded"],
        ["alone", "failed"],
    ]

    ended = on_its_own(ray_home, "cancel", "--all")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert recorded(StateDirectory(root=ray_home / "state")) is None
    again = on_its_own(ray_home, *apply)
    assert again.returncode == 0
    assert "carried out already" in again.stderr
