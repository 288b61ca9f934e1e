"""The bill of a cluster's GpuJobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cost_models.report import document, page
from flopwise.cluster_bill import report

NOW = datetime(2026, 12, 1, 3, tzinfo=UTC)


def gpu_job(name: str, *runs: dict[str, Any], **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ml", "labels": {"flopwise.dev/team": "nlp"}}
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": metadata,
        "spec": {"queue": "research"},
        "status": {"runs": list(runs), **status},
    }


def run(pool: str, start: str, end: str = "", usd: float = 16.0) -> dict[str, Any]:
    made = {
        "attempt": 1,
        "pool": pool,
        "nodes": ["n0"],
        "gpus": 8,
        "start": f"2026-12-01T{start}:00Z",
        "usdPerHour": usd,
        "fullUsdPerHour": usd + 4.0,
    }
    return made | ({"end": f"2026-12-01T{end}:00Z"} if end else {})


def pool(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": name},
        "spec": {
            "accelerator": "h100",
            "gpusPerNode": 8,
            "price": {"purchase": "spot", "usdPerGpuHour": 2.0},
            "site": {"provider": "aws", "region": "us-east-1"},
        },
    }


def test_each_stretch_is_a_line_and_the_lines_sum_to_the_bill() -> None:
    # $16 an hour: half an hour, then an hour so far. $20 in full.
    twice = gpu_job("twice", run("h100", "00:00", "00:30"), run("h100", "02:00"))
    made = report([twice], [pool("h100")], NOW, title="Bill")
    assert made is not None
    told = document(made)
    assert (told["plan"]["costUsd"], told["plan"]["fullCostUsd"]) == (24.0, 30.0)
    assert [line["costUsd"] for line in told["lines"]] == [8.0, 16.0]
    first = told["lines"][0]
    assert (first["accelerator"], first["purchase"]) == ("h100-sxm5-80gb", "spot")
    assert (first["site"], first["job"], first["team"]) == ("aws us-east-1", "ml/twice", "nlp")
    assert (first["gpus"], first["gpuHours"], first["nodes"]) == (8, 4.0, ["n0"])
    assert (told["from"], told["to"]) == ("2026-12-01T00:00:00+00:00", NOW.isoformat())
    assert "gapFraction" not in told


def test_a_pool_that_is_gone_is_billed_still() -> None:
    made = report([gpu_job("old", run("gone", "00:00", "01:00"))], [], NOW, title="Bill")
    assert made is not None
    (line,) = document(made)["lines"]
    assert (line["costUsd"], line["pool"], line["accelerator"]) == (16.0, "gone", "unknown")


def test_who_waits_is_listed_with_why_and_costs_nothing() -> None:
    full = {"type": "Planned", "status": "False", "reason": "Capacity", "message": "no room"}
    jobs = [gpu_job("runs", run("h100", "00:00", "01:00")), gpu_job("waits", conditions=[full])]
    made = report(jobs, [pool("h100")], NOW, title="Bill")
    assert made is not None
    told = document(made)["plan"]
    assert told["unplaced"] == [
        {"job": "ml/waits", "team": "nlp", "reason": "Capacity", "message": "no room"}
    ]
    assert (told["jobs"], told["objectiveUsd"]) == (1, 16.0)


def test_without_a_stretch_there_is_no_bill() -> None:
    assert report([gpu_job("waits")], [pool("h100")], NOW, title="Bill") is None


def test_the_page_promises_no_proof_of_what_has_happened() -> None:
    made = report([gpu_job("one", run("h100", "00:00", "01:00"))], [], NOW, title="Bill")
    assert made is not None
    text = page(made).partition('<script type="application/json"')[0].replace("\u00a0", " ")
    assert "1 job held GPUs in 1 December 2026, for $16." in text
    assert "$2.00 per GPU-hour" in text
    for word in ("proven", "bound", "Gap"):
        assert word not in text
