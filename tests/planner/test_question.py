"""From manifests to one problem on one grid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from planner import question as module
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import read
from planner.problem import Demand, Problem
from planner.question import Horizon, build

NOW = datetime(2026, 11, 25, 10, 40, tzinfo=UTC)
POOL = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: p}
spec: {accelerator: l4, gpusPerNode: 2, nodes: 3, price: {purchase: on_demand, usdPerGpuHour: 1}%s}
"""
MANY = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: many}
spec: {accelerator: l4, gpusPerNode: 2, nodes: 10000000, price: {usdPerGpuHour: 1}"""
JOB = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuJob
metadata: {name: %s}
spec: {%s}
"""


def question(folder: Path, *jobs: str, pool: str = "", horizon: Horizon | None = None) -> Problem:
    """The problem of a pool of 3 nodes of 2 L4 and of ``jobs``, each a spec."""
    documents = [POOL % pool, *(JOB % (f"j{i}", spec) for i, spec in enumerate(jobs))]
    file = folder / "all.yaml"
    file.write_text("---".join(documents))
    return build(read([file]), horizon or Horizon(), NOW).problem


@pytest.mark.parametrize(
    ("spec", "start"),
    [
        ("task: {hours: {l4: 1}}", datetime(2026, 11, 25, 10, tzinfo=UTC)),
        (
            "earliestStart: 2026-12-07T00:00:00Z, task: {hours: {l4: 1}}",
            datetime(2026, 12, 7, tzinfo=UTC),
        ),
    ],
)
def test_the_grid_starts_this_hour_or_when_the_first_job_may(
    tmp_path: Path, spec: str, start: datetime
) -> None:
    assert question(tmp_path, spec).grid.start == start


def test_a_deadline_before_any_named_start_begins_the_grid_this_hour(
    tmp_path: Path,
) -> None:
    later = "earliestStart: 2026-12-07T00:00:00Z, task: {hours: {l4: 1}}"
    sooner = "deadline: 2026-11-27T00:00:00Z, task: {hours: {l4: 1}}"
    made = question(tmp_path, later, sooner)
    assert made.grid.start == datetime(2026, 11, 25, 10, tzinfo=UTC)
    assert made.job_by_name["j1"].deadline == made.grid.floor(datetime(2026, 11, 27, tzinfo=UTC))


def test_the_slot_is_the_coarsest_that_rounds_work_up_by_a_thousandth(tmp_path: Path) -> None:
    # 10.5 h: an hour a slot makes it 11 h (4.8 % more), half an hour is exact.
    assert question(tmp_path, "task: {hours: {l4: 10.5}}").grid.slot_seconds == 1800


def test_in_a_slot_that_maintenance_cuts_the_fewer_nodes_count(tmp_path: Path) -> None:
    # 3 nodes, 1 from 02:30 to 04:00: slots of an hour from 00:00, so [2, 4) has 1.
    window = "{from: 2026-12-01T02:30:00Z, to: 2026-12-01T04:00:00Z, nodes: 1}"
    made = question(
        tmp_path,
        "task: {hours: {l4: 1}}",
        pool=f", availability: [{window}]",
        horizon=Horizon(
            start=datetime(2026, 12, 1, tzinfo=UTC),
            length=timedelta(hours=6),
            slot=timedelta(hours=1),
        ),
    )
    assert [made.pools[0].nodes_at(t) for t in range(6)] == [3, 3, 1, 1, 3, 3]


def test_hourly_demand_follows_the_clock_of_utc_from_the_start_of_the_grid(tmp_path: Path) -> None:
    # The grid starts at 22:00, so its first slots are the hours 22, 23, 0, 1 of the day.
    rates = ", ".join(str(hour) for hour in range(24))
    service = (
        "inference: {model: llama-3.2-1b, promptTokens: 100, outputTokens: 10, "
        f"hourlyRequestsPerSecond: [{rates}]}}"
    )
    made = question(
        tmp_path,
        service,
        horizon=Horizon(
            start=datetime(2026, 12, 1, 22, tzinfo=UTC),
            length=timedelta(hours=4),
            slot=timedelta(hours=1),
        ),
    )
    need = made.job_by_name["j0"].need
    assert isinstance(need, Demand)
    assert need.per_slot == tuple(3600.0 * hour for hour in (22, 23, 0, 1))


def test_leaving_a_job_out_costs_more_than_a_node_of_its_own(tmp_path: Path) -> None:
    # 1 of 2 GPUs for 4 h on a pool billed by node: a node alone is 2 x $1 x 4 h = $8.
    made = question(tmp_path, "task: {hours: {l4: 4}}")
    assert made.job_by_name["j0"].unplaced_usd > 8.0


def test_leaving_a_short_job_out_costs_more_than_the_slot_that_its_node_is_billed_for(
    tmp_path: Path,
) -> None:
    # A minute in slots of an hour: a node alone is 2 x $1 x 1 h, and an hour to start it: $4.
    made = question(
        tmp_path,
        "task: {hours: {l4: 0.0166666667}}",
        pool=", startupSeconds: 3600",
        horizon=Horizon(slot=timedelta(hours=1)),
    )
    assert made.job_by_name["j0"].unplaced_usd > 4.0


def test_a_horizon_shorter_than_any_slot_is_one_slot(tmp_path: Path) -> None:
    made = question(
        tmp_path, "task: {hours: {l4: 0.001}}", horizon=Horizon(length=timedelta(seconds=30))
    )
    assert (made.grid.slot_seconds, made.grid.slots) == (30, 1)


def test_more_nodes_than_can_be_planned_are_refused_before_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(ManifestErrors) as refused:
        question(tmp_path, "task: {hours: {l4: 1}}", pool="}\n---\n" + MANY)
    (error,) = refused.value.errors
    assert "GpuPool many): spec.nodes: found 10,000,000, allowed: pools of 1,000,000" in error


def test_what_was_due_before_the_grid_starts_is_late_since_then(tmp_path: Path) -> None:
    made = question(
        tmp_path,
        "due: 2026-11-30T22:00:00Z, latenessUsdPerHour: 1, task: {hours: {l4: 1}}",
        horizon=Horizon(start=datetime(2026, 12, 1, tzinfo=UTC)),
    )
    assert made.job_by_name["j0"].due == -2


CHAT = (
    "inference: {model: llama-3.1-8b, precision: fp8, promptTokens: 512, outputTokens: 128,"
    " hourlyRequestsPerSecond: [4,4,4,4,4,4,9,9,9,9,9,9,9,9,9,9,9,9,9,9,9,9,4,4],"
    " objective: {ttftMs: 5000, tpotMs: 200}}"
)


def test_a_service_is_offered_mixes_of_its_pools_unless_there_are_many_jobs_or_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "}\n---\n" + (POOL % "").replace("name: p", "name: q").strip().removesuffix("}")
    day = Horizon(start=datetime(2026, 12, 1, tzinfo=UTC), length=timedelta(hours=24))
    chat, task = question(tmp_path, CHAT, "task: {hours: {l4: 1}}", pool=two, horizon=day).jobs
    assert {(chat.modes[m.base].pool, chat.modes[m.rest].pool) for m in chat.mixes} == {
        ("p", "q"),
        ("q", "p"),
    }
    assert task.mixes == ()
    with monkeypatch.context() as many:
        many.setattr(module, "MOST_JOBS", 1)
        assert question(tmp_path, CHAT, CHAT, pool=two, horizon=day).jobs[0].mixes == ()
    monkeypatch.setattr(module, "FEW_NODES", 1)
    assert question(tmp_path, CHAT, pool=two, horizon=day).jobs[0].mixes == ()
