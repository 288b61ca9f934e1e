"""``flopwise plan`` as a user calls it: what it prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flopwise import plan_text
from flopwise.errors import FAILED, INFEASIBLE, INTERRUPTED, OUT_OF_TIME
from planner.check import violations
from planner.plan import Bound, Costs, Plan, Status
from planner.planfile import PlanFile, read_plan
from planner.problem import Billing, Demand, Problem, Queue
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.flopwise.command import HOURS, POOLS, ROOT, Command, job, on_its_own
from tests.planner import worlds

START = "earliestStart: 2026-12-01T00:00:00Z"
SOON = f"{START}, due: 2026-12-01T04:00:00Z, latenessUsdPerHour: 1"
# Eight GPUs each. On H100 4 h x 8 x $3.50 = $112, on A100 10 h x 8 x $2.00 = $160: both go to H100,
# which has room for two, at once. First come, first served takes the cheapest GPU-hour, so A100,
# one by one: $320, and they are 6 h and 16 h late.
TWO_JOBS = POOLS + job("sft", SOON) + job("tune", SOON)


def timeless(text: str) -> str:
    """The text without the seconds that the solver took."""
    return re.sub(r"(in|after) \d+\.\d s", r"\1 0.0 s", text)


@pytest.fixture
def two_jobs(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(TWO_JOBS, encoding="utf-8")
    return path


def test_a_plan_is_totals_pools_and_jobs(flopwise: Command, two_jobs: Path) -> None:
    ended = flopwise("plan", "-f", two_jobs, "--horizon", "24h")
    assert (ended.code, ended.err) == (0, "")
    assert (
        timeless(ended.out)
        == """\
2 of 2 jobs on 2 pools, Tue 01 Dec 2026 00:00 to Wed 02 Dec 2026 00:00 UTC

                            MONEY  LATENESS    TOTAL
this plan                 $224.00         -  $224.00  proved optimal in 0.0 s
proved minimum                  -         -  $224.00
first come, first served  $320.00    $22.00  $342.00

Saves $118.00 (34.5 %) against first come, first served on the cheapest GPU that fits.

POOL  ACCELERATOR     PURCHASE   GPUS  BUSY  JOBS    MONEY  IN USE, 1 H A MARK
a100  a100-sxm4-80gb  on_demand     8   0 %     0    $0.00
h100  h100-sxm5-80gb  on_demand    16  17 %     2  $224.00  ████

JOB   POOL  GPUS  START             END               HOURS     COST
sft   h100     8  Tue 01 Dec 00:00  Tue 01 Dec 04:00    4.0  $112.00
tune  h100     8  Tue 01 Dec 00:00  Tue 01 Dec 04:00    4.0  $112.00
"""
    )


def test_wide_names_the_nodes(flopwise: Command, two_jobs: Path) -> None:
    out = flopwise("plan", "-f", two_jobs, "-o", "wide").out
    assert sorted(re.findall(r"h100-\d$", out, re.MULTILINE)) == ["h100-0", "h100-1"]


def test_json_has_the_fields_that_people_script_against(flopwise: Command, two_jobs: Path) -> None:
    plan = json.loads(flopwise("plan", "-f", two_jobs, "-o", "json").out)
    assert (plan["status"], plan["objectiveUsd"], plan["boundUsd"]) == ("optimal", 224.0, 224.0)
    assert (plan["gapFraction"], plan["costUsd"], plan["fullCostUsd"]) == (0.0, 224.0, 224.0)
    assert {"usdPerPflop", "solveSeconds", "shadowPrices"} <= plan.keys()
    assert plan["unplaced"] == []
    (first, _) = sorted(plan["segments"], key=lambda s: str(s["job"]))
    del first["nodes"], first["devices"]
    assert first == {
        "job": "sft",
        "pool": "h100",
        "gpus": 8,
        "replicas": 1,
        "start": "2026-12-01T00:00:00+00:00",
        "end": "2026-12-01T04:00:00+00:00",
        "hours": 4.0,
        "costUsd": 112.0,
        "flops": 0.0,
        "layout": "",
    }


PARTS = """\
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: h100}
spec:
  accelerator: h100-sxm5-80gb
  gpusPerNode: 2
  nodes: 2
  price: {purchase: on_demand, usdPerGpuHour: 2.0, billing: gpu}
  topologyLevels: [rack]
  topology: {nodesPerDomain: [2]}
  migGeometries: [[3g.40gb, 3g.40gb]]
---
"""


def test_parts_of_gpus_are_named_with_device_geometry_and_instance(
    flopwise: Command, tmp_path: Path
) -> None:
    # In the first 2 h a share on one GPU and two instances on another, $1 + $4; behind them a
    # gang of both nodes of the rack: 4 GPUs x 2 h x $2 = $16.
    asked = (
        PARTS
        + job("share", START, "task: {gpuFraction: 0.25, hours: {h100-sxm5-80gb: 2}}")
        + job("half", START, "task: {replicas: 2, migProfile: 3g.40gb, hours: {h100-sxm5-80gb: 2}}")
        + job(
            "gang",
            "earliestStart: 2026-12-01T02:00:00Z, "
            "placement: {together: {level: rack, required: true}}",
            "task: {replicas: 2, gpus: 2, hours: {h100-sxm5-80gb: 2}}",
        )
    )
    path = tmp_path / "parts.yaml"
    path.write_text(asked, encoding="utf-8")
    ended = flopwise("plan", "-f", path, "--horizon", "4h", "--slot", "1h", "-o", "json")
    plan = json.loads(ended.out)
    assert (ended.code, plan["status"], plan["costUsd"]) == (0, "optimal", 21.0)
    share, half, gang = (
        next(s for s in plan["segments"] if s["job"] == name) for name in ("share", "half", "gang")
    )
    assert (share["gpus"], half["gpus"], gang["gpus"]) == (0.25, 1, 4)
    assert sorted(gang["nodes"]) == ["h100-0", "h100-1"]
    (instances,) = half["mig"].values()
    assert [each["geometry"] for each in instances] == [["3g.40gb", "3g.40gb"]] * 2
    assert len({(each["device"], each["instance"]) for each in instances}) == 2


def test_yaml_says_what_json_says(flopwise: Command, two_jobs: Path) -> None:
    as_json = json.loads(flopwise("plan", "-f", two_jobs, "-o", "json").out)
    as_yaml = yaml.safe_load(flopwise("plan", "-f", two_jobs, "-o", "yaml").out)
    for each in (as_json, as_yaml):
        del each["solveSeconds"], each["answer"]["solve_seconds"]
    assert as_yaml == as_json


def test_csv_has_a_line_for_each_segment_and_each_job_left_out(
    flopwise: Command, tmp_path: Path
) -> None:
    manifests = tmp_path / "three.yaml"
    manifests.write_text(
        TWO_JOBS + job("vast", START, HOURS.replace("gpus: 8", "gpus: 16")), encoding="utf-8"
    )
    lines = list(csv.DictReader(io.StringIO(flopwise("plan", "-f", manifests, "-o", "csv").out)))
    assert [(r["job"], r["pool"], r["costUsd"], r["reason"]) for r in lines] == [
        ("sft", "h100", "112.0", ""),
        ("tune", "h100", "112.0", ""),
        ("vast", "", "", "no-option"),
    ]


def test_files_a_folder_and_standard_input_are_one_question(
    flopwise: Command, tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "pools.yaml").write_text(POOLS, encoding="utf-8")
    (tmp_path / "jobs" / "sft.yaml").write_text(job("sft", START), encoding="utf-8")
    files = flopwise("plan", "-f", tmp_path / "pools.yaml", "-f", tmp_path / "jobs")
    piped = flopwise("plan", "-f", tmp_path / "jobs", "-f", "-", stdin=POOLS)
    assert files.out.startswith("1 of 1 job on 2 pools")
    assert timeless(piped.out) == timeless(files.out)


def test_a_written_plan_reads_back_as_proved(flopwise: Command, two_jobs: Path) -> None:
    out = two_jobs.with_name("plan.json")
    out.write_text("an older plan", encoding="utf-8")
    ended = flopwise("plan", "-f", two_jobs, "--out", out)
    assert (ended.code, ended.err) == (0, f"wrote {out}\n")
    made = read_plan(out)
    assert made.plan.costs == Costs(money=224.0)
    assert not violations(made.problem, made.plan)
    assert sorted(p.name for p in out.parent.iterdir()) == ["plan.json", "two.yaml"]


def test_a_required_job_that_cannot_run_is_no_plan_and_nothing_is_written(
    flopwise: Command, tmp_path: Path
) -> None:
    manifests, out = tmp_path / "all.yaml", tmp_path / "plan.json"
    out.write_text("an older plan", encoding="utf-8")
    # Its quickest way takes 4 h, and it has 3.
    must = job("must", f"{START}, required: true, deadline: 2026-12-01T03:00:00Z")
    manifests.write_text(TWO_JOBS + must, encoding="utf-8")
    ended = flopwise("plan", "-f", manifests, "--out", out)
    why = "no way to run it fits the 3 h from its start to its deadline"
    assert ended.code == INFEASIBLE
    assert ended.err == f"flopwise: no feasible plan: must is required: {why}\n"
    assert ended.out.startswith("NO FEASIBLE PLAN: this is what could run if no job were required.")
    assert re.search(rf"^must +required +window +{why}$", ended.out, re.MULTILINE)
    assert out.read_text(encoding="utf-8") == "an older plan"


def test_a_job_that_is_left_out_is_a_failure_only_if_all_are_required(
    flopwise: Command, tmp_path: Path
) -> None:
    manifests = tmp_path / "all.yaml"
    late = job("late", f"{START}, deadline: 2026-12-01T03:00:00Z, unplacedUsd: 50")
    manifests.write_text(TWO_JOBS + late, encoding="utf-8")
    ended = flopwise("plan", "-f", manifests)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^this plan +\$224.00 +- +\$50.00 +\$274.00  proved", ended.out, re.MULTILINE)
    strict = flopwise("plan", "-f", manifests, "--require-all")
    assert strict.code == INFEASIBLE
    assert strict.err == "flopwise: 1 job is left out, and --require-all asks for none\n"
    assert timeless(strict.out) == timeless(ended.out)


def test_a_ray_is_not_started_for_what_is_too_small_for_one(
    flopwise: Command, two_jobs: Path
) -> None:
    ended = flopwise("plan", "-f", two_jobs, "--on", "ray")
    note = "note: too small to be spread over a Ray: solved here\n"
    assert (ended.code, ended.err) == (0, note)
    assert timeless(ended.out) == timeless(flopwise("plan", "-f", two_jobs).out)
    alone = flopwise("plan", "-f", two_jobs, "--address", "host:6379")
    assert (alone.code, "allowed with --on ray only" in alone.err) == (2, True)


def test_out_of_time_with_nothing_to_show_is_said(
    flopwise: Command, two_jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = late_world()
    left_out = Costs(not_running=sum(j.unplaced_usd for j in problem.jobs))
    nothing = PlanFile(problem=problem, plan=Plan(status=Status.TIMEOUT, costs=left_out))
    monkeypatch.setattr("flopwise.plan.solved", lambda *_, **__: nothing)
    said = "flopwise: out of time with no plan to show: raise --time-limit\n"
    out = two_jobs.with_name("plan.json")
    assert flopwise("plan", "-f", two_jobs, "--out", out) == (OUT_OF_TIME, "", said)
    assert not out.exists()
    as_json = flopwise("plan", "-f", two_jobs, "-o", "json")
    assert (as_json.code, as_json.err) == (OUT_OF_TIME, said)
    plan = json.loads(as_json.out)
    assert (plan["status"], plan["gapFraction"], plan["segments"]) == ("timeout", None, [])


def test_an_error_of_ours_is_one_line_and_its_traceback_is_for_who_asks(
    flopwise: Command, two_jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> PlanFile:
        raise ValueError("no such\nthing")

    monkeypatch.setattr("flopwise.plan.solved", broken)
    ended = flopwise("plan", "-f", two_jobs)
    assert (ended.code, ended.out) == (FAILED, "")
    assert ended.err == (
        "flopwise: internal error: ValueError: no such thing;"
        " please report it with what FLOPWISE_DEBUG=1 prints\n"
    )
    monkeypatch.setenv("FLOPWISE_DEBUG", "1")
    with pytest.raises(ValueError, match="no such"):
        flopwise("plan", "-f", two_jobs)


def stopped_by_hand(*arguments: str, signals: int) -> tuple[int, str, str]:
    """Exit code, output and terminal of a plan that a person stops once it has a plan."""
    person, terminal = pty.openpty()
    command = [sys.executable, "-m", "flopwise", "plan", "-f", "examples", "--gap", "0", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        seen = b""
        while b"best $" not in seen:
            seen += os.read(person, 1000)
        for i in range(signals):
            process.send_signal(signal.SIGINT)
            while i + 1 < signals and b"stopping" not in seen:
                seen += os.read(person, 1000)
        out, _ = process.communicate(timeout=60)
    seen += read_all(person)
    return process.returncode, out.decode(), seen.decode()


def test_a_person_sees_how_far_it_is_and_ctrl_c_ends_it_with_the_best_plan() -> None:
    code, out, seen = stopped_by_hand(signals=1)
    assert code == 0
    assert re.search(
        r"\[#*\.+\] +\d+\.\d s +\w+: best \$[\d,]+, bound \$[\d,]+, gap [\d.]+ %", seen
    )
    assert seen.endswith("\r\x1b[Kstopped by Ctrl-C: this is the best plan found until then\r\n")
    assert re.search(r"^this plan .* gap \d+\.\d\d % when stopped after \d", out, re.MULTILINE)


def test_a_second_ctrl_c_leaves_at_once() -> None:
    code, out, seen = stopped_by_hand("--time-limit", "600s", signals=2)
    if code == INTERRUPTED:  # else the first one had already ended it
        assert out == ""
        assert seen.endswith("\r\x1b[Kflopwise: interrupted\r\n")
    else:
        assert (code, out[:2]) == (0, "41")


def read_all(terminal: int) -> bytes:
    """What is left to read of a terminal that nobody writes to any more."""
    seen = b""
    try:
        while more := os.read(terminal, 1000):
            seen += more
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(terminal)
    return seen


def test_a_terminal_without_our_letters_is_no_error(two_jobs: Path) -> None:
    ended = on_its_own("plan", "-f", two_jobs, PYTHONIOENCODING="latin-1")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^h100 .* \?", ended.out, re.MULTILINE)  # its hours are drawn


def test_a_reader_that_goes_away_sees_no_traceback(two_jobs: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flopwise", "plan", "-f", str(two_jobs)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (FAILED, b"")


def test_times_are_printed_in_utc_whatever_zone_they_were_given_in(
    flopwise: Command, tmp_path: Path
) -> None:
    manifests = tmp_path / "all.yaml"
    manifests.write_text(POOLS + job("sft"), encoding="utf-8")
    out = flopwise("plan", "-f", manifests, "--start", "2026-12-01T02:00+02:00").out
    assert "on 2 pools, Tue 01 Dec 2026 00:00 to Tue 08 Dec 2026 00:00 UTC" in out
    assert re.search(r"^sft .*  Tue 01 Dec 00:00  Tue 01 Dec 04:00 ", out, re.MULTILINE)


# -- the text of plans by hand ---------------------------------------------------------------------


def late_world() -> Problem:
    """Two jobs of 2 h on one GPU at $3, both due after 2 h, and $10 for each hour late."""
    gpu = worlds.pool("h100", usd=3.0)
    mode = worlds.mode(gpu, hours=2.0)
    jobs = [
        worlds.job(name, mode, due=2, lateness_usd_per_hour=10.0, team="nlp") for name in ("a", "b")
    ]
    return worlds.problem((gpu,), tuple(jobs))


def text_of(problem: Problem, *, wide: bool = False) -> str:
    return plan_text.as_text(PlanFile(problem=problem, plan=solve(problem)), wide=wide)


def test_lateness_is_shown_by_its_hours_and_its_price() -> None:
    # 2 x 2 h x $3 = $12; the second ends at 4 h, 2 h late: $20.
    text = text_of(late_world())
    assert re.search(r"^ +MONEY +LATENESS +TOTAL$", text, re.MULTILINE)
    assert re.search(r"^this plan +\$12.00 +\$20.00 +\$32.00  proved", text, re.MULTILINE)
    assert re.search(r"^JOB .* LATE +HOURS +COST$", text, re.MULTILINE)
    assert len(re.findall(r"^[ab] +nlp .* 04:00 +2.0 h +2.0  \$6.00$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^[ab] +nlp .* 02:00 +- +2.0  \$6.00$", text, re.MULTILINE)) == 1


def test_prices_that_are_not_unique_are_shown_as_a_range() -> None:
    # Two jobs of 2 h fill the four hours: one hour more saves nothing, one less costs $2 more.
    cheap, dear = worlds.pool("a", slots=4), worlds.pool("b", usd=3.0, slots=4)
    modes = (worlds.mode(cheap, hours=2), worlds.mode(dear, hours=2))
    jobs = tuple(worlds.job(name, *modes, slots=4) for name in ("x", "y"))
    text = text_of(worlds.problem((cheap, dear), jobs, slots=4))
    assert re.search(r"^a .* \$0\.00 to \$2\.00/h$", text, re.MULTILINE)


def test_what_a_queue_is_short_of_has_its_price() -> None:
    # $4 to run, $10 to leave out, $6 to spend: a dollar more saves 10 / 4 - 1 = $1.50.
    gpu = worlds.pool("a", nodes=2)
    team = Queue(name="team", budget_usd_per_month=6.0)
    jobs = tuple(
        worlds.job(n, worlds.mode(gpu, hours=4), queue="team", unplaced_usd=10.0) for n in "xy"
    )
    text = text_of(worlds.problem((gpu,), jobs, queues=(team,)))
    assert re.search(r"^team +budget of a month +\$1\.50 a dollar$", text, re.MULTILINE)


def test_the_hours_of_a_pool_are_drawn_against_what_is_there_of_it() -> None:
    # Two nodes for four hours, then one for two; at least one replica.
    gpu = worlds.pool("h100", nodes=2, windows=((0, 4, 2), (4, 6, 1)))
    demand = Demand(per_slot=(0.0, 1.0, 2.0, 1.0, 1.0, 0.0), min_replicas=1)
    chat = worlds.job("chat", worlds.mode(gpu, serves=1.0), need=demand)
    text = text_of(worlds.problem((gpu,), (chat,)))
    assert "IN USE, 1 H A MARK" in text
    assert "▄▄█▄██" in text
    assert " 70 % " in text  # 7 GPU-hours of 10


def test_whole_gpus_that_do_nothing_are_a_blank_and_the_least_use_is_a_mark() -> None:
    # 16 GPUs, one in use in the first of six slots: a sixteenth of full height is still a mark.
    gpu = worlds.pool("h100", nodes=2, gpus=8)
    text = text_of(worlds.problem((gpu,), (worlds.job("a", worlds.mode(gpu)),)))
    (line,) = (line for line in text.splitlines() if line.startswith("h100 "))
    assert line.endswith("  ▁")


def test_more_jobs_than_a_screen_holds_are_counted_and_wide_shows_them() -> None:
    gpu = worlds.pool("h100", nodes=102)
    jobs = tuple(worlds.job(f"j{i:03}", worlds.mode(gpu)) for i in range(102))
    problem = worlds.problem((gpu,), jobs)
    made = PlanFile(problem=problem, plan=solve(problem, Limits(gap=0.01)))
    short, wide = (plan_text.as_text(made, wide=wide) for wide in (False, True))
    assert len(re.findall(r"^j\d", short, re.MULTILINE)) == plan_text.MOST_JOBS
    assert short.endswith("… and 2 more jobs (-o wide has all)\n")
    assert len(re.findall(r"^j\d", wide, re.MULTILINE)) == 102


def test_what_owned_hardware_costs_beside_its_energy_is_said() -> None:
    gpu = worlds.pool("h100", usd=3.0, billing=Billing.SUNK)
    text = text_of(worlds.problem((gpu,), (worlds.job("a", worlds.mode(gpu, usd=0.5)),)))
    # Energy: 1 h x $0.50. The node stands there for 6 h at $3: $18.
    assert re.search(r"^this plan +\$0.50  proved optimal", text, re.MULTILINE)
    assert "with all they cost: $18.50." in text


def test_a_plan_that_costs_more_than_first_come_first_served_says_so() -> None:
    problem = late_world()
    made = solve(problem)
    dear = replace(made, status=Status.FEASIBLE, costs=Costs(money=12.0, lateness=28.0))
    file = PlanFile(problem=problem, plan=replace(dear, bound=Bound(usd=30.0)), baseline=made)
    text = plan_text.as_text(file, wide=False)
    # $40 against $32 is $8 more, a quarter; (40 - 30) / 40 may be saved at most.
    assert re.search(r"^this plan .* \$40.00  gap 25.00 % after ", text, re.MULTILINE)
    assert "Costs $8.00 (25.0 %) more than first come, first served" in text
    same = plan_text.as_text(replace(file, plan=made), wide=False)
    assert "Costs as much as first come, first served" in same


ELSEWHERE = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: virginia}
spec:
  accelerator: h100
  gpusPerNode: 8
  nodes: 1
  site: {provider: aws, region: us-east-1, jurisdiction: US}
  price: {usdPerGpuHour: 4.0, billing: gpu}
---
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: kansas}
spec:
  accelerator: h100
  gpusPerNode: 8
  nodes: 1
  site: {provider: nebius, region: us-central1, jurisdiction: US}
  price: {usdPerGpuHour: 2.0, billing: gpu}
---
apiVersion: flopwise.dev/v1alpha1
kind: GpuJob
metadata: {name: tune}
spec:
  placement: {near: aws/us-east-1, dataGib: %s, maxLatencyMs: %s}
  task: {gpus: 8, hours: {h100: 4}}
"""


@pytest.mark.parametrize(("gib", "money", "moving"), [(500, 64.0, 45.0), (1000, 128.0, 0.0)])
def test_data_are_moved_to_cheaper_gpus_where_that_pays(
    flopwise: Command, tmp_path: Path, gib: int, money: float, moving: float
) -> None:
    # 32 GPU-hours are $128 in Virginia and $64 in Kansas; a GiB leaves AWS for $0.09.
    path = tmp_path / "data.yaml"
    path.write_text(ELSEWHERE % (gib, 0), encoding="utf-8")
    ended = flopwise("plan", "-f", path, "-o", "json")
    assert ended.code == 0
    plan = json.loads(ended.out)
    assert (plan["costUsd"], plan["movingUsd"]) == pytest.approx((money, moving))
    (segment,) = plan["segments"]
    assert segment.get("egressUsd", 0.0) == pytest.approx(moving)


def test_what_moving_data_costs_is_shown_beside_the_money(
    flopwise: Command, tmp_path: Path
) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(ELSEWHERE % (500, 0), encoding="utf-8")
    lines = flopwise("plan", "-f", path).out.splitlines()
    (head,) = (line.split() for line in lines if "MOVING" in line)
    (this,) = (line.split() for line in lines if line.startswith("this plan"))
    assert head == ["MONEY", "MOVING", "TOTAL"]
    assert this[2:5] == ["$64.00", "$45.00", "$109.00"]
    (job_line,) = (line.split() for line in lines if line.startswith("tune"))
    assert job_line[-1] == "$109.00"


def test_explain_says_that_a_pool_is_too_far(flopwise: Command, tmp_path: Path) -> None:
    # Ashburn to Kansas City: 1,475 km, 2 x 1,475 / 199.86 x 1.4 + 2 = 22.7 ms.
    path, plan = tmp_path / "data.yaml", tmp_path / "plan.json"
    path.write_text(ELSEWHERE % (500, 20), encoding="utf-8")
    assert flopwise("plan", "-f", path, "--out", plan).code == 0
    out = flopwise("explain", "tune", "-f", plan).out
    assert "kansas" in out
    assert "about 23 ms from aws/us-east-1 and back, allowed: 20 ms" in out


def test_what_a_queue_keeps_back_has_its_price_and_its_name(
    flopwise: Command, tmp_path: Path
) -> None:
    # Of 16 H100, 8 are kept back. Each job takes 8 for 12 of 24 h: two run one by one, and one is
    # left out, for $1,000. It would cost 12 h x 8 x $3.50 = $336, for 96 GPU-hours.
    keeper = "{guaranteed: {h100: 16}, lendable: {h100: 8}}"
    queue = "---\napiVersion: flopwise.dev/v1alpha1\nkind: GpuQueue\n"
    queue += f"metadata: {{name: research}}\nspec: {keeper}\n"
    hours = "task: {gpus: 8, hours: {h100: 12}}"
    asked = "".join(
        "---\napiVersion: flopwise.dev/v1alpha1\nkind: GpuJob\n"
        f"metadata: {{name: {name}}}\nspec: {{unplacedUsd: 1000, {hours}}}\n"
        for name in ("x", "y", "z")
    )
    path = tmp_path / "kept.yaml"
    path.write_text(POOLS + queue + asked, encoding="utf-8")
    out = tmp_path / "plan.json"
    ended = flopwise("plan", "-f", path, "--horizon", "24h", "--out", out)
    assert "\nresearch  kept back of h100-sxm5-80gb  $6.92 a GPU-hour\n" in ended.out
    (price,) = json.loads(out.read_text(encoding="utf-8"))["queuePrices"]
    assert (price["queue"], price["keptBackBy"]) == ("research", ["research"])
    assert price["usd"] == pytest.approx((1000 - 336) / 96)
