"""The loop closed: a job says how fast it ran, and the next plan goes by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cost_models.calibration import read
from planner.planfile import read_plan
from scheduler.executor.clock import PlanClock
from scheduler.executor.journal import Journal, StateDirectory
from scheduler.executor.launches import launches
from scheduler.executor.records import Ended, Ending, RunOpened, RunStatus, SubmitIntended
from telemetry.served import Served
from tests.flopwise.command import Command, job, pool

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
WORK = "training: {model: llama-3.1-8b, tokens: 1.0e9, gpus: 8}"


class World:
    """One training job on one pool, planned, and a folder where it runs."""

    def __init__(self, flopwise: Command, folder: Path) -> None:
        self.flopwise, self.folder = flopwise, folder
        self.manifests = folder / "all.yaml"
        self.manifests.write_text(pool("h100", "h100-sxm5-80gb", 3.5) + job("sft", work=WORK))
        self.state = StateDirectory(root=folder / "runs")
        self.state.create()

    def plan(self, *options: object) -> dict[str, Any]:
        """The segment of the job."""
        out = self.folder / "plan.json"
        done = self.flopwise("plan", "-f", self.manifests, "--slot", "1m", "--out", out, *options)
        assert done.code == 0, done.err
        (segment,) = json.loads(out.read_text())["segments"]
        assert isinstance(segment, dict)
        return segment

    def ran(self, log: str, hours: float = 1.0, speed: float = 1.0) -> None:
        """Carry the plan out: the job ends well after so many hours, and has written ``log``."""
        read_back = read_plan(self.folder / "plan.json")
        made = launches(read_back.problem, read_back.plan)
        clock = PlanClock(real=NOON, plan=read_back.problem.grid.start, speed=speed)
        journal = Journal(self.state.journal)
        journal.append(RunOpened(run="r1", at=NOON, clock=clock, launches=made, planned=True))
        journal.append(SubmitIntended(run="r1", launch="sft", attempt=1, head="h", at=NOON))
        end = NOON + timedelta(hours=hours)
        ending = Ending(status=RunStatus.SUCCEEDED, start=NOON, end=end, exit_code=0)
        journal.append(Ended(run="r1", launch="sft", attempt=1, ending=ending))
        self.state.log("r1-sft-1").write_text(log)

    def calibrate(self, *options: object) -> Any:
        out = self.folder / "calibration.json"
        return self.flopwise(
            *("calibrate", "-f", self.manifests, "--runs", self.state.root, "--out", out), *options
        )


@pytest.fixture
def world(flopwise: Command, tmp_path: Path) -> World:
    return World(flopwise, tmp_path)


def promised(world: World) -> float:
    """Tokens a second and GPU of the model, by the plan: 1e9 tokens on 8 GPUs."""
    mode = read_plan(world.folder / "plan.json").problem.jobs[0].modes[0]
    return mode.work_per_replica_hour / 3600 / 8


def test_a_job_that_ran_at_half_the_promised_speed_is_planned_longer(world: World) -> None:
    before = world.plan()
    rate = promised(world)
    world.ran(f"loading\nflopwise: throughput={rate * 8 / 2:.3f} tokens/s\n")
    done = world.calibrate("-o", "json")
    assert done.code == 0, done.err
    (factor,) = json.loads(done.out)["factors"]
    # log(1/2) x 0.87097 = -0.60371: 0.5468.
    assert factor["value"] == pytest.approx(0.5468, abs=1e-3)
    (drift,) = json.loads(done.out)["drifts"]
    assert drift["since"] == (NOON + timedelta(hours=1)).isoformat()
    assert " TFLOP/s a GPU (50%) since 2027-01-01 13:00 UTC" in drift["text"]
    after = world.plan("--calibration", world.folder / "calibration.json")
    # To within the minute that work is rounded up to.
    assert after["hours"] == pytest.approx(before["hours"] / 0.5468, abs=0.05)
    assert after["costUsd"] > before["costUsd"]


def test_what_is_measured_is_set_beside_the_model_not_beside_the_last_calibration(
    world: World,
) -> None:
    world.plan()
    rate = promised(world)
    world.ran(f"flopwise: throughput={rate / 2:.3f} tokens/s/gpu\n")
    world.calibrate()
    world.plan("--calibration", world.folder / "calibration.json")
    assert promised(world) == pytest.approx(rate * 0.5468, rel=1e-3)
    again = world.calibrate()
    (one,) = read(world.folder / "calibration.json").measurements
    assert one.ratio == pytest.approx(0.5, rel=1e-3)
    assert "1 measured now, 1 in all" in again.err


def test_a_pushed_number_goes_before_what_the_log_says(world: World) -> None:
    world.plan()
    rate = promised(world)
    world.ran("flopwise: throughput=1 tokens/s\n")
    told = ("telemetry", "push", "sft", rate, "--per-gpu", "--state-dir", world.state.root)
    assert world.flopwise(*told).code == 0
    world.calibrate()
    (one,) = read(world.folder / "calibration.json").measurements
    assert one.ratio == pytest.approx(1.0)


@pytest.fixture
def page() -> Iterator[dict[str, str]]:
    """A page of metrics at ``url``, with whatever ``text`` is put there."""
    shown = {"text": ""}
    served = Served(0, {"/metrics": lambda: (200, "text/plain", shown["text"].encode())})
    shown["url"] = f"http://127.0.0.1:{served.port}/metrics"
    yield shown
    served.close()


def test_a_metric_of_the_job_is_a_speed_as_a_pushed_number_is(
    world: World, page: dict[str, str]
) -> None:
    world.plan()
    rate = promised(world)
    world.ran("flopwise: throughput=1 tokens/s\n")
    # Eight workers, each with its GPU's part: half of what was promised.
    page["text"] = "".join(f'ray_tokens{{job="sft",WorkerId="{n}"}} {rate / 2}\n' for n in range(8))
    told = ("telemetry", "pull", page["url"], "tokens", "--state-dir", world.state.root)
    done = world.flopwise(*told)
    assert (done.code, done.err) == (0, f"sft: {rate * 4:,.6g} tokens/s\n")
    world.calibrate()
    (one,) = read(world.folder / "calibration.json").measurements
    assert one.ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("other 1\n", 1, "found no metric 'tokens', allowed: one that the page has"),
        ("tokens 5\n", 4, "found no speed of a job, allowed: a number above 0 with a label 'job'"),
        ('tokens{job="a"} 0\n', 4, "found no speed of a job"),
        ("<html>", 1, "allowed: metrics in Prometheus' format"),
    ],
)
def test_a_metric_that_says_no_speed_is_named(
    world: World, page: dict[str, str], text: str, code: int, why: str
) -> None:
    page["text"] = text
    told = ("telemetry", "pull", page["url"], "tokens", "--state-dir", world.state.root)
    done = world.flopwise(*told)
    assert (done.code, why in done.err) == (code, True), done.err


def test_a_silent_job_is_measured_by_its_hours(world: World) -> None:
    # 1e9 tokens in 10 hours on 8 GPUs: 3,472.2 tokens a second and GPU.
    world.plan()
    world.ran("nothing to say\n", hours=10.0)
    world.calibrate()
    (one,) = read(world.folder / "calibration.json").measurements
    assert one.measured_per_gpu_second == pytest.approx(1e9 / 36_000 / 8)
    assert (one.subject.model, one.subject.method, one.gpus) == ("llama-3.1-8b", "Full", 8)


def test_compressed_time_measures_nothing(world: World) -> None:
    world.plan()
    world.ran("nothing to say\n", speed=3600.0)
    done = world.calibrate()
    assert (done.code, done.lines) == (
        4,
        [f"flopwise: --runs: {world.state.root}: found no job that says how fast it ran"],
    )


def test_a_pattern_of_ones_own_reads_the_log(world: World) -> None:
    world.plan()
    world.ran("step 5 tps: 4000\n")
    done = world.calibrate("--pattern", r"tps: (?P<value>\d+)")
    assert done.out.splitlines()[1].split()[:5] == [
        *("llama-3.1-8b", "h100-sxm5-80gb", "bf16", "Full", "1")
    ]
    (one,) = read(world.folder / "calibration.json").measurements
    assert one.measured_per_gpu_second == 500.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pattern", "x"], "allowed: one with a group (?P<value>...)"),
        (["--runs", "nowhere"], "found no state of the executor there"),
    ],
)
def test_wrong_options_are_said(world: World, arguments: list[str], said: str) -> None:
    world.plan()
    world.ran("")
    done = world.calibrate(*arguments)
    assert done.code in (2, 4)
    assert said in " ".join(done.err.split())


def test_a_wrong_calibration_is_one_line(world: World) -> None:
    (world.folder / "c.json").write_text('{"kind": "Plan"}')
    done = world.flopwise("plan", "-f", world.manifests, "--calibration", world.folder / "c.json")
    assert (done.code, done.lines) == (
        2,
        [f"flopwise: {world.folder}/c.json: kind: found 'Plan', allowed: 'Calibration'"],
    )


def test_pushing_no_speed_is_a_usage_error(world: World) -> None:
    done = world.flopwise("telemetry", "push", "sft", 0, "--state-dir", world.state.root)
    assert done.code == 2
    assert "per_second: found 0.0, allowed: a number above 0" in " ".join(done.err.split())
