"""The report as a JSON document: the same facts as the page, and every line of the ledger."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from cost_models.ledger import Key, Ledger, Line, Totals
from cost_models.report.values import Outcome, Proof, Report


def document(report: Report) -> dict[str, Any]:
    """What `json.dumps` takes. Money is in USD; the ledger's lines are exact to the millionth."""
    ledger, proof = report.plan.ledger, report.proof
    return {
        "title": report.title,
        "from": _time(ledger.start),
        "to": _time(ledger.end),
        **(_proof(proof) if proof else {}),
        "plan": _outcome(report.plan),
        "baseline": _outcome(report.baseline) if report.baseline else None,
        "by": {key.value: _groups(ledger, key) for key in Key},
        "measured": [
            {
                "job": run.job,
                "pool": run.pool,
                "status": run.status,
                "plannedFrom": _time(run.planned_start),
                "plannedTo": _time(run.planned_end),
                "from": _time(run.start),
                "to": _time(run.end),
            }
            for run in report.measured
        ],
        "standIns": report.stand_ins,
        "gpuWork": [
            {
                "job": work.job,
                "plannedGpuHours": work.planned_gpu_hours,
                "plannedJoules": work.planned_joules,
                "plannedFlops": work.planned_flops,
                "gpuHours": work.gpu_hours,
                "activeGpuHours": work.active_gpu_hours,
                "utilisedGpuHours": work.utilised_gpu_hours,
                "joules": work.joules,
                "flops": work.flops,
            }
            for work in report.gpu_work
        ],
        "gpuSource": report.gpu_source,
        "assumptions": [
            {"what": a.what, "value": a.value, "source": a.source} for a in report.assumptions
        ],
        "lines": [_line(line) for line in ledger.lines],
    }


def _proof(proof: Proof) -> dict[str, Any]:
    return {
        "status": proof.status,
        "boundUsd": proof.bound_usd,
        "gapFraction": proof.gap_fraction if math.isfinite(proof.gap_fraction) else None,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        **_totals(outcome.ledger.total),
        "movingUsd": outcome.moving_usd,
        "latenessUsd": outcome.lateness_usd,
        "notRunningUsd": outcome.not_running_usd,
        "objectiveUsd": outcome.objective_usd,
        "jobs": outcome.jobs,
        "unplaced": [
            {"job": j.job, "team": j.team, "reason": j.reason, "message": j.message}
            for j in outcome.left_out
        ],
    }


def _groups(ledger: Ledger, key: Key) -> list[dict[str, Any]]:
    return [{key.value: name, **_totals(sums)} for name, sums in ledger.by(key).items()]


def _totals(sums: Totals) -> dict[str, Any]:
    return {
        "costUsd": sums.usd,
        "fullCostUsd": sums.full_usd,
        "usdPerPflop": sums.usd_per_pflop,
        "gpuHours": sums.gpu_hours,
        "workGpuHours": sums.work_gpu_hours,
        "joules": sums.joules,
        "gramsCo2": sums.grams_co2,
        "usefulFlops": sums.useful_flops,
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "from": _time(line.start),
        "to": _time(line.end),
        "kind": line.kind.value,
        "team": line.team,
        "project": line.project,
        "queue": line.queue,
        "job": line.job,
        "pool": line.pool,
        "site": line.site,
        "accelerator": line.accelerator,
        "purchase": line.purchase,
        "nodes": list(line.nodes),
        "gpus": line.gpus,
        "gpuHours": line.gpu_hours,
        "costUsd": line.usd_micros / 1e6,
        "fullCostUsd": line.full_usd_micros / 1e6,
        "joules": line.joules,
        "gramsCo2": line.grams_co2,
        "usefulFlops": line.useful_flops,
    }


def _time(when: datetime) -> str:
    return when.isoformat()
