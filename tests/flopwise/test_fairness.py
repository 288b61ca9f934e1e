"""``flopwise fairness`` as its user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flopwise.errors import NOT_FOUND
from tests.flopwise.command import Command, job, pool, queue

FIRST = "earliestStart: 2026-12-01T00:00:00Z"


@pytest.fixture
def plan(flopwise: Command, tmp_path: Path) -> Path:
    """One node of H100; two jobs of 4 h on it, in queues of weight 3 and 1."""
    manifests, out = tmp_path / "all.yaml", tmp_path / "plan.json"
    manifests.write_text(
        pool("h100", "h100-sxm5-80gb", 3.5)
        + queue("research", "weight: 3")
        + queue("other", "weight: 1")
        + job("a", f"{FIRST}, queue: research")
        + job("b", f"{FIRST}, queue: other, due: 2026-12-01T04:00:00Z, latenessUsdPerHour: 50"),
        encoding="utf-8",
    )
    assert flopwise("plan", "-f", manifests, "--out", out).code == 0
    return out


def test_each_queue_is_held_against_its_weight(flopwise: Command, plan: Path) -> None:
    # Fairly a has 3/4 of the node's time and b 1/4. The plan runs b first, in time, at speed 1, and
    # a behind it: 4 h of work in 8 h, speed 0.5, a third of all.
    ended = flopwise("fairness", "-f", plan)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "QUEUE     JOBS  WEIGHT   FAIR   PLAN  SLOWEST FAIR  SLOWEST PLAN",
        "other        1   25.0%  25.0%  66.7%          0.25          1.00",
        "research     1   75.0%  75.0%  33.3%          0.75          0.50",
    ]


def test_scripts_get_the_same_in_camel_case(flopwise: Command, plan: Path) -> None:
    other, research = json.loads(flopwise("fairness", "-f", plan, "-o", "json").out)["queues"]
    assert (other["queue"], research["queue"]) == ("other", "research")
    assert research["fairFraction"] == pytest.approx(0.75)
    assert research["leastPlanSpeed"] == pytest.approx(0.5)


def test_a_plan_of_no_batch_job_has_nothing_to_share(flopwise: Command, tmp_path: Path) -> None:
    manifests, out = tmp_path / "all.yaml", tmp_path / "plan.json"
    large = job("large", work="task: {gpus: 16, hours: {h100-sxm5-80gb: 4}}")
    manifests.write_text(pool("h100", "h100-sxm5-80gb", 3.5) + large, encoding="utf-8")
    assert flopwise("plan", "-f", manifests, "--out", out).code == 0
    ended = flopwise("fairness", "-f", out)
    assert (ended.code, ended.out) == (NOT_FOUND, "")
    assert ended.lines == [
        f"flopwise: {out}: nothing to share: no batch job fits the GPUs that are there at the start"
    ]
