"""``flopwise report`` as a user calls it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flopwise.errors import BAD_INPUT, NOT_FOUND, Fail
from flopwise.report import app
from planner import cost
from planner.plan import Bound, Placement, Plan, Segment, Status
from planner.planfile import PlanFile, PlanFileError, write_plan
from planner.problem import Amounts, Billing, Grid, Job, Mode, Node, Pool, Problem, Window, Work
from scheduler.executor.clock import PlanClock
from scheduler.executor.journal import Journal, StateDirectory
from scheduler.executor.launches import launches, with_stand_ins
from scheduler.executor.records import Ended, Ending, RunOpened, RunStatus, SubmitIntended
from telemetry.samples import GpuSample, append
from telemetry.store import Ring
from telemetry.uses import Owner, Use

START = datetime(2026, 12, 1, tzinfo=UTC)
GPU = Amounts(gpu_milli=8000)


@pytest.fixture
def planned() -> PlanFile:
    """One job of 2 h on a node of 8 GPUs at $2 each: $32, and 2 PFLOP."""
    mode = Mode(
        pool="h100",
        replicas=1,
        amounts=GPU,
        work_per_replica_hour=1.0,
        usd_per_replica_hour=16.0,
        full_usd_per_replica_hour=16.0,
        flops_per_work=1e15,
    )
    window = Window(
        start=0, end=10, nodes=1, usd_per_node_hour=16.0, marginal_usd_per_node_hour=0.0
    )
    problem = Problem(
        grid=Grid(start=START, slot_seconds=3600, slots=10),
        pools=(
            Pool(
                name="h100",
                accelerator="h100-sxm5-80gb",
                gpus_per_node=8,
                capacity=GPU,
                windows=(window,),
                billing=Billing.GPU,
                purchase="on_demand",
            ),
        ),
        nodes=(Node(name="h100-0", pool="h100", index=0, capacity=GPU),),
        jobs=(Job(name="sft", need=Work(amount=2), modes=(mode,), deadline=10, team="nlp"),),
    )
    segment = Segment(
        job="sft",
        mode=0,
        replicas=1,
        start=1,
        end=3,
        work=2.0,
        placement=(Placement(node="h100-0", replicas=1, devices=tuple(range(8))),),
    )
    costs = cost.costs(problem, [segment], [])
    plan = Plan(
        status=Status.OPTIMAL,
        segments=(segment,),
        costs=costs,
        full_cost_usd=costs.money,
        useful_flops=2e15,
        bound=Bound(usd=32.0),
    )
    return PlanFile(problem=problem, plan=plan, baseline=plan)


@pytest.fixture
def file(planned: PlanFile, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(path, planned)
    return path


def test_html_writes_the_page_and_prints_its_name(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "cost.html"
    done = CliRunner().invoke(
        app, ["html", "-f", str(file), "--out", str(out), "--title", "Week 49"]
    )
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    text = out.read_text(encoding="utf-8")
    assert "<h1>Week 49</h1>" in text
    assert '<dd class="value">$32.00</dd>' in text


def test_json_prints_totals_and_lines(file: Path) -> None:
    done = CliRunner().invoke(app, ["json", "-f", str(file)])
    facts = json.loads(done.stdout)
    assert facts["plan"]["costUsd"] == 32.0
    assert facts["plan"]["usdPerPflop"] == 16.0
    assert [(line["job"], line["gpuHours"]) for line in facts["lines"]] == [("sft", 16.0)]
    assert facts["by"]["team"][0]["team"] == "nlp"
    assert facts["baseline"]["objectiveUsd"] == 32.0


def test_a_plan_that_breaks_its_own_problem_is_refused(planned: PlanFile, tmp_path: Path) -> None:
    late = replace(planned.plan.segments[0], start=8, end=11)
    write_plan(
        tmp_path / "plan.json", replace(planned, plan=replace(planned.plan, segments=(late,)))
    )
    done = CliRunner().invoke(app, ["json", "-f", str(tmp_path / "plan.json")])
    assert isinstance(done.exception, PlanFileError)
    assert str(done.exception).startswith(f"{tmp_path / 'plan.json'}: answer: ")


def test_a_place_that_cannot_be_written_is_named(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "report.html"
    done = CliRunner().invoke(app, ["html", "-f", str(file), "--out", str(out)])
    assert isinstance(done.exception, Fail)
    assert (str(done.exception), done.exception.code) == (
        f"--out: {out}: No such file or directory",
        BAD_INPUT,
    )


def test_a_state_folder_where_nothing_ran_is_named(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["json", "-f", str(file), "--runs", str(tmp_path / "none")])
    assert isinstance(done.exception, Fail)
    assert done.exception.code == NOT_FOUND


def test_runs_of_stand_ins_stand_beside_the_plan_and_are_called_so(
    planned: PlanFile, file: Path, tmp_path: Path
) -> None:
    # At 3600 times the plan's speed, a run from 3.6 s to 11.16 s is hours 3.6 to 11.16 of the plan.
    state = StateDirectory(root=tmp_path / "state")
    state.create()
    real = datetime(2027, 1, 1, tzinfo=UTC)
    made = with_stand_ins(launches(planned.problem, planned.plan), 3600)
    began, ended = real + timedelta(seconds=3.6), real + timedelta(seconds=11.16)
    journal = Journal(state.journal)
    journal.append(
        RunOpened(
            run="r1",
            at=real,
            clock=PlanClock(real=real, plan=START, speed=3600),
            launches=made,
            planned=True,
        )
    )
    journal.append(SubmitIntended(run="r1", launch="sft", attempt=1, head="h", at=began))
    ending = Ending(status=RunStatus.SUCCEEDED, start=began, end=ended, exit_code=0)
    journal.append(Ended(run="r1", launch="sft", attempt=1, ending=ending))
    done = CliRunner().invoke(app, ["json", "-f", str(file), "--runs", str(state.root)])
    facts = json.loads(done.stdout)
    (run,) = facts["measured"]
    assert (run["job"], run["status"]) == ("sft", "succeeded")
    assert run["from"] == (START + timedelta(hours=3.6)).isoformat()
    assert run["to"] == (START + timedelta(hours=11.16)).isoformat()
    assert "compressed 3,600 times" in facts["standIns"]


def test_what_the_gpus_did_stands_beside_what_was_planned(
    planned: PlanFile, file: Path, tmp_path: Path
) -> None:
    # 90 minutes at 60 % and 500 W: 1.5 GPU-hours, 0.9 of them utilised, 2.7 MJ.
    store = tmp_path / "ring.db"
    with Ring(store) as ring:
        for minute in range(91):
            sample = GpuSample(
                time=START + timedelta(minutes=minute),
                node="n",
                uuid="GPU-1",
                name="NVIDIA L4",
                utilisation_fraction=0.6,
                power_watts=500.0,
            )
            ring.append([Use(sample=sample, owner=Owner(job="sft"))])
    done = CliRunner().invoke(app, ["json", "-f", str(file), "--samples", str(store)])
    (work,) = json.loads(done.stdout)["gpuWork"]
    lines = [line for line in json.loads(done.stdout)["lines"] if line["job"] == "sft"]
    assert work["job"] == "sft"
    assert work["gpuHours"] == pytest.approx(1.5)
    assert work["activeGpuHours"] == pytest.approx(1.5)
    assert work["utilisedGpuHours"] == pytest.approx(0.9)
    assert work["joules"] == pytest.approx(2.7e6)
    assert work["plannedGpuHours"] == pytest.approx(sum(line["gpuHours"] for line in lines))
    html = CliRunner().invoke(
        app,
        ["html", "-f", str(file), "--samples", str(store), "--out", str(tmp_path / "r.html")],
    )
    assert html.exit_code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "GPUs were watched for 1.50 GPU-hours, utilised to 60%" in page


def test_samples_of_nobody_are_one_row_and_wrong_ones_are_refused(
    file: Path, tmp_path: Path
) -> None:
    samples = tmp_path / "s.jsonl"
    append(
        samples,
        [
            GpuSample(
                time=START + timedelta(minutes=minute),
                node="n",
                uuid="GPU-1",
                name="NVIDIA L4",
                utilisation_fraction=0.5,
            )
            for minute in range(61)
        ],
    )
    done = CliRunner().invoke(app, ["json", "-f", str(file), "--samples", str(samples)])
    (work,) = json.loads(done.stdout)["gpuWork"]
    assert (work["job"], work["activeGpuHours"], work["plannedGpuHours"]) == ("", None, 0.0)
    assert (work["gpuHours"], work["utilisedGpuHours"]) == (
        pytest.approx(1.0),
        pytest.approx(0.5),
    )
    samples.write_text("{}\n")
    wrong = CliRunner().invoke(app, ["json", "-f", str(file), "--samples", str(samples)])
    assert isinstance(wrong.exception, Fail)
    assert "line 1: time: found nothing" in str(wrong.exception)
