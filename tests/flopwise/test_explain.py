"""``flopwise explain``: what it prints, for people and for scripts, and how it says no."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flopwise.errors import BAD_INPUT, NOT_FOUND
from tests.flopwise.command import POOLS, Command, job

LATE = "earliestStart: 2026-12-01T00:00:00Z, deadline: 2026-12-01T03:00:00Z"


@pytest.fixture
def plan(flopwise: Command, tmp_path: Path) -> Path:
    """Three jobs of 4 h on H100, of which two have a node each, and one that cannot be in time."""
    manifests, out = tmp_path / "all.yaml", tmp_path / "plan.json"
    jobs = "".join(job(n, "earliestStart: 2026-12-01T00:00:00Z") for n in ("sft-a", "sft-b"))
    manifests.write_text(POOLS + jobs + job("rushed", LATE), encoding="utf-8")
    assert flopwise("plan", "-f", manifests, "--out", out).code == 0
    return out


def test_a_job_is_explained_with_its_other_ways(flopwise: Command, plan: Path) -> None:
    ended = flopwise("explain", "sft-a", "-f", plan)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "sft-a runs on h100, 8 GPUs, Tue 01 Dec 00:00 to Tue 01 Dec 04:00 UTC."
    assert lines[1] == "No other way that it has costs it less."
    # 4 h x 8 x $3.50 = $112; on A100 10 h x 8 x $2 = $160, $48 more.
    assert re.search(r"(?m)^this plan  h100 .* \$112.00  \$112.00 +\$0.00  yes$", ended.out)
    assert re.search(r"(?m)^other 1    a100 .* \$160.00  \$160.00 +\+\$48.00  yes$", ended.out)


def test_a_job_left_out_is_told_why_and_when_it_would_fit(flopwise: Command, plan: Path) -> None:
    out = flopwise("explain", "rushed", "-f", plan).out
    assert out.startswith("rushed is not in the plan.\nIt is left out: no way to run it fits")
    assert "it would fit first Tue 01 Dec 00:00 UTC on a100: it would end 7 h after" in out
    assert re.search(r"(?m)^deadline  on h100 it could not end by 01 Dec 03:00$", out)
    assert re.search(r"(?m)^a100       window  8 GPUs there could not end it in time$", out)


def test_scripts_get_the_same_in_camel_case(flopwise: Command, plan: Path) -> None:
    found = json.loads(flopwise("explain", "sft-a", "-f", plan, "-o", "json").out)
    assert found["plan"]["pool"] == "h100"
    assert [(w["pool"], w["planChangeUsd"]) for w in found["ways"]] == [("a100", 48.0)]
    assert found["expected"] is None
    out = json.loads(flopwise("explain", "rushed", "-f", plan, "-o", "json").out)
    assert out["plan"] is None
    assert out["expected"]["start"] == "2026-12-01T00:00:00+00:00"
    as_yaml = flopwise("explain", "rushed", "-f", plan, "-o", "yaml").out
    assert "job: rushed\n" in as_yaml
    wide = flopwise("explain", "sft-a", "-f", plan, "-o", "wide").out
    assert "LAYOUT" not in wide  # a column that says nothing is left out
    assert len(wide.splitlines()) == 6


def test_a_job_that_is_not_in_the_plan_is_not_found(flopwise: Command, plan: Path) -> None:
    ended = flopwise("explain", "sft-aa", "-f", plan)
    assert (ended.code, ended.out) == (NOT_FOUND, "")
    assert ended.err == f"flopwise: {plan}: found no job 'sft-aa', nearest: sft-a, sft-b\n"


def test_a_file_that_is_no_plan_is_bad_input(flopwise: Command, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    ended = flopwise("explain", "sft", "-f", other)
    assert (ended.code, ended.out) == (BAD_INPUT, "")
    assert len(ended.lines) == 1
    missing = flopwise("explain", "sft", "-f", tmp_path / "none.json")
    assert missing.err == f"flopwise: {tmp_path / 'none.json'}: No such file or directory\n"


def test_a_plan_that_does_not_hold_is_not_explained(flopwise: Command, plan: Path) -> None:
    data = json.loads(plan.read_text())
    data["answer"]["segments"][0]["end"] += 1000
    plan.write_text(json.dumps(data))
    ended = flopwise("explain", "sft-a", "-f", plan)
    assert ended.code == BAD_INPUT
    assert ended.err.startswith(f"flopwise: {plan}: answer: segment of sft-")
